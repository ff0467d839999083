"""What is fed to which command: sound files of each kind, spoilt anew for every example."""

import csv
import io
import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
from hypothesis import reject
from hypothesis import strategies as st

from tools.fuzz.strategies import ODD_TEXTS, Draw, garbled, spoilt

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
Words = Sequence[object]


class Place(NamedTuple):
    """Folders of one example."""

    given: Path
    """What the command is given."""
    out: Path
    """Where it may write."""


SUITE = """
question = "What is fed?"
baseline = "full"
tasks = ["mine"]
seeds = [0, 1]
[backbone]
name = "tiny"
weights = "random"
[recipe]
steps = 3
batch_size = 4
max_length = 12
train_rows = 32
test_rows = 16
curve_points = 2
[recipe.task.mine]
steps = 2
[[task]]
name = "mine"
kind = "classes"
text = "text"
label = "label"
train = "rows.csv"
test_share = 0.3
metrics = ["accuracy", "macro_f1"]
[[cost]]
batch = 2
length = 8
blocks = 2
rounds = 2
latency_length = 8
latency_batches = [1]
[[sweep]]
vary = "config.rank"
values = [1, 2]
batch = 2
length = 8
[[method]]
name = "full"
learning_rate = 1e-4
[[method]]
name = "lora"
config = { rank = 2, targets = ["query", "value"] }
learning_rate = 1e-3
[[claim]]
name = "c"
says = "half of it"
metric = "flops.backward"
method = "lora(rank=2, targets=['query', 'value'])"
versus = "full"
ratio = { max = 0.6 }
"""
COSTLESS: dict[str, Any] = {"cost": [], "sweep": [], "claim": []}
"""Of a suite that is asked about its rows alone."""
CONFIG = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 100, "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "architectures": ["BertModel"],
}  # fmt: skip
DECODER = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "num_key_value_heads": 1, "vocab_size": 100, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True, "torch_dtype": "float32", "rope_theta": 10000.0,
}  # fmt: skip
THEIRS = {
    "run_info": {
        "experiment_name": "lora/x", "error_msg": "", "peft_config": {"peft_type": "LORA", "r": 8},
        "train_config": {"model_id": "x/y", "dtype": "float32", "batch_size": 4, "max_seq_length": 768,
                         "max_steps": 20, "use_gc": False},
    },
    "train_info": {
        "accelerator_memory_reserved_avg": 5e6, "accelerator_memory_reserved_99th": 8e6,
        "accelerator_memory_max": 9e6, "train_time": 40.5, "file_size": 296_112, "num_trainable_params": 73_728,
        "status": "success", "metrics": [{"step": 1, "test accuracy": 0.4}],
    },
    "meta_info": {"system_info": {"accelerator": "x"}},
}  # fmt: skip
METHODS = ("full", "lora(rank=8)", "lora(rank=4, alpha=8, dropout=0.1, targets=['query'])", "prefix_tuning(length=4)",
           "lst(reduction=8, layers=[0, 1])", "houlsby_adapter(bottleneck=8, activation='relu')", "head", "all", "*",
           "peft(peft_type='LORA', r=4, target_modules=['query'])", "bitfit(biases='all')")  # fmt: skip
ROWS = [{"text": f"the {word} of {number}", "label": ("good", "bad")[number % 2], "score": number / 7}
        for number in range(40) for word in ("parcel",)]  # fmt: skip


def _csv(rows: Sequence[dict[str, Any]], mark: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=mark)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _toml(values: dict[str, Any]) -> bytes:
    try:
        return tomli_w.dumps(values).encode()
    except (TypeError, ValueError, AttributeError):  # TOML has no null, and keys are text
        reject()


def _json(values: Any) -> bytes:
    return json.dumps(values).encode("utf-8", "surrogatepass")


def _with_rows(place: Place) -> None:
    (place.given / "rows.csv").write_bytes(_csv(ROWS))


def suites(draw: Draw, place: Place) -> Words:
    """A suite file, as tables or as text."""
    _with_rows(place)
    values = tomllib.loads(SUITE)
    if draw(st.booleans()):
        del values["task"], values["recipe"]["task"]
        values |= {"tasks": ["sst2"], "data": "synthetic"}
    content = garbled(draw, SUITE.encode()) if draw(st.integers(0, 3)) == 3 else _toml(spoilt(draw, values))
    (place.given / "suite.toml").write_bytes(content)
    return ["plan", "--suite", place.given / "suite.toml", *draw(st.sampled_from([[], ["--json"], ["--counts"]]))]


def tasks(draw: Draw, place: Place) -> Words:
    """The table of a task of one's own."""
    _with_rows(place)
    values = tomllib.loads(SUITE)
    kind = draw(st.sampled_from([{}, {"kind": "score", "label": "score", "metrics": ["pearson"]}, {"kind": "text"}]))
    values["task"] = [spoilt(draw, values["task"][0] | kind)]
    (place.given / "suite.toml").write_bytes(_toml(values | COSTLESS))
    return ["plan", "--suite", place.given / "suite.toml"]


def data_files(draw: Draw, place: Place) -> Words:
    """A file of rows: spoilt rows, or spoilt bytes."""
    ending = draw(st.sampled_from(["csv", "tsv", "jsonl", "json"]))
    rows = [dict(row) for row in ROWS]
    if spoil := draw(st.booleans()):
        rows = [row if isinstance(row, dict) else {"text": row} for row in spoilt(draw, rows)]
    made: dict[str, Callable[[], bytes]] = {
        "csv": lambda: _csv([{key: row.get(key) for key in ROWS[0]} for row in rows]),
        "tsv": lambda: _csv([{key: row.get(key) for key in ROWS[0]} for row in rows], "\t"),
        "jsonl": lambda: b"".join(_json(row) + b"\n" for row in rows),
        "json": lambda: _json(rows),
    }
    try:
        content = made[ending]()
    except UnicodeEncodeError:
        reject()
    path = place.given / f"rows.{ending}"
    path.write_bytes(content if spoil else garbled(draw, content))
    if draw(st.booleans()):
        return ["init", path, "-o", place.out / "suite.toml"]
    values = tomllib.loads(SUITE)
    values["task"][0]["train"] = path.name
    (place.given / "suite.toml").write_bytes(_toml(values | COSTLESS))
    return ["plan", "--suite", place.given / "suite.toml"]


def methods(draw: Draw, place: Place) -> Words:
    """A method as the command line spells it."""
    spec = draw(st.sampled_from(METHODS))
    field = st.sampled_from(["rank", "alpha", "targets", "dropout", "length", "layers", "x", "init", "peft_type", "r"])
    value = st.one_of(
        st.sampled_from([repr(text) for text in ODD_TEXTS]), st.integers(-3, 70).map(str), st.floats().map(repr),
        st.sampled_from(["[]", "None", "[1, 'x']", "{'a': 1}", "(1, 2)", "true"]),
    )  # fmt: skip
    name = st.sampled_from([text.partition("(")[0] for text in METHODS])
    pairs = st.lists(st.tuples(field, value).map("=".join), max_size=3)
    made = st.tuples(name, pairs.map(", ".join)).map(lambda parts: f"{parts[0]}({parts[1]})")
    text = draw(made) if draw(st.booleans()) else garbled(draw, spec.encode()).decode("utf-8", "replace")
    text = text.replace("\x00", "")  # no command line can hold one
    if draw(st.booleans()):
        return ["predict", "--backbone", "tiny", "--method", text, "--batch", 2, "--seq", 8, "--json"]
    _with_rows(place)
    (place.given / "suite.toml").write_text(SUITE)
    return ["plan", "--suite", place.given / "suite.toml", "--methods", text]


def configs(draw: Draw, place: Place) -> Words:
    """The ``config.json`` of a backbone."""
    values = draw(st.sampled_from([CONFIG, DECODER]))
    content = garbled(draw, _json(values)) if draw(st.integers(0, 3)) == 3 else _json(spoilt(draw, values))
    (place.given / "config.json").write_bytes(content)
    method = draw(st.sampled_from(["head", "lora(rank=2)", "full"]))
    return ["predict", "--backbone", place.given / "config.json", "--method", method, "--batch", 2, "--seq", 8]


TWO = ("full", "lora(rank=8)")


def _asked() -> dict[str, Any]:
    """The resolved suite of a published run, narrowed to two methods and three seeds."""
    values = tomllib.loads((PUBLISHED / "glue-small" / "suite.toml").read_text())
    claims = [one for one in values["claims"] if {*one["method"], one.get("versus", "full")} <= {*TWO}]
    methods = {label: values["method"][label] for label in TWO}
    return values | {"methods": [*TWO], "scored": [*TWO], "method": methods, "seeds": [0, 1, 2], "claims": claims}


def _lines() -> Iterator[dict[str, Any]]:
    """Its records."""
    for line in (PUBLISHED / "glue-small" / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["method"]["label"] in TWO and record.get("seed", 0) < 3:
            yield record


def _run(place: Place, records: Sequence[Any] | bytes, suite: bytes | None = None) -> Path:
    run = place.given / "run"
    run.mkdir()
    (run / "suite.toml").write_bytes(suite or _toml(_asked()))
    lines = records if isinstance(records, bytes) else b"".join(_json(record) + b"\n" for record in records)
    (run / "records.jsonl").write_bytes(lines)
    return run


def _reading(draw: Draw, run: Path, place: Place) -> Words:
    """A command that reads a run."""
    return draw(st.sampled_from([
        ["report", run, "--format", "csv"], ["report", run, "--format", "markdown"], ["compare", run, run, "--json"],
        ["report", run, "--format", "pytest-benchmark"], ["reference", run, "-o", place.out / "reference.json"],
        ["compare", run, run, "--format", "csv"], ["report", run, "--format", "parquet", "-o", place.out / "x.parquet"],
    ]))  # fmt: skip


def records(draw: Draw, place: Place) -> Words:
    """The records of a run."""
    whole = list(_lines())
    if draw(st.integers(0, 3)) == 3:
        content: Sequence[Any] | bytes = garbled(draw, b"".join(_json(record) + b"\n" for record in whole))
    else:
        content = spoilt(draw, whole)
    return _reading(draw, _run(place, content), place)


def resolved(draw: Draw, place: Place) -> Words:
    """The resolved suite of a run."""
    return _reading(draw, _run(place, list(_lines()), _toml(spoilt(draw, _asked()))), place)


def references(draw: Draw, place: Place) -> Words:
    """The reference of a gate."""
    run, path = _run(place, list(_lines())), place.given / "reference.json"
    whole = _reference(place)
    content = garbled(draw, whole) if draw(st.integers(0, 3)) == 3 else _json(spoilt(draw, json.loads(whole)))
    path.write_bytes(content)
    return [
        "gate",
        run,
        "--reference",
        path,
        *draw(st.sampled_from([[], ["--json"], ["--junit", place.out / "x.xml"]])),
    ]


_MADE: dict[str, bytes] = {}


def _reference(place: Place) -> bytes:
    """A sound reference of the run that lies in ``place``."""
    if "reference" not in _MADE:
        from bench.analysis.results import Results
        from bench.verdicts.reference import reference_of, write_reference

        write_reference(reference_of(Results(place.given / "run")), place.given / "sound.json")
        _MADE["reference"] = (place.given / "sound.json").read_bytes()
    return _MADE["reference"]


def others(draw: Draw, place: Place) -> Words:
    """Results that others measured, beside a run."""
    content = garbled(draw, _json(THEIRS)) if draw(st.integers(0, 3)) == 3 else _json(spoilt(draw, THEIRS))
    (place.given / "theirs.json").write_bytes(content)
    return ["compare", _run(place, list(_lines())), "--with", place.given / "theirs.json",
            *draw(st.sampled_from([[], ["--json"], ["--format", "markdown"]]))]  # fmt: skip


def reports(draw: Draw, place: Place) -> Words:
    """The whole report of spoilt records, plots and page."""
    return ["report", _run(place, spoilt(draw, list(_lines())))]


TARGETS: dict[str, tuple[Callable[[Draw, Place], Words], float]] = {
    "suites": (suites, 0.16), "methods": (methods, 0.12), "tasks": (tasks, 0.12), "data files": (data_files, 0.14),
    "configs": (configs, 0.12), "records": (records, 0.14), "resolved suites": (resolved, 0.06),
    "references": (references, 0.08), "results of others": (others, 0.05), "whole reports": (reports, 0.01),
}  # fmt: skip
"""By name: how an example is made, and its share of all."""
