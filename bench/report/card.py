"""The model card of an exported folder: what it is, how to load it, and the figures that the run measured."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.schema.delta import Delta, Form
from bench.schema.record import ScoreRecord

if TYPE_CHECKING:
    from bench.export.folder import Exported

LIBRARY: dict[Form, str] = {"native": "peft-ledger", "peft": "peft", "merged": "transformers"}
"""What loads a folder, by the names that model hubs know."""
METRICS = {"pearson": "pearsonr", "spearman": "spearmanr"}
"""Names that model hubs have for metrics of ours."""


def card(results: Results, made: "Exported", folder: str) -> str:
    """Text of ``README.md``.

    Args:
        results: The run.
        made: What is exported.
        folder: Name of the folder.
    """
    about = made.about
    parts = [
        _front(about),
        f"# {fmt.markdown(about.method.label)} on {fmt.markdown(about.base.name)}: {fmt.markdown(about.task)}",
        _what(about, made.apart),
        f"## Load it\n\n```python\n{loading(about, made.auto, folder)}\n```",
        f"It reads {_reads(about)} and answers with {_answers(about)}. From the command line: "
        f"`python -m bench use {folder} --data FILE`.",
        "## What was measured\n\n" + "\n".join(_table(results, about)),
        "## Where it comes from\n\n" + "\n".join(f"- {line}" for line in _origin(results, about)),
    ]
    return "\n\n".join(parts) + "\n"


def _front(about: Delta) -> str:
    """YAML that model hubs read."""
    import yaml

    values: dict[str, Any] = {"library_name": LIBRARY[about.form], "pipeline_tag": "text-classification"}
    if about.base.weights == "pretrained" and about.base.folder is None and _of_hub(about):
        values |= {"base_model": about.base.name}
        values |= {"base_model_relation": "finetune" if about.form == "merged" else "adapter"}
    metric = METRICS.get(about.score.metric, about.score.metric)
    values |= {"metrics": [metric], "tags": ["peft-ledger", about.method.name.partition("/")[2] or about.method.name]}
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _what(about: Delta, apart: float | None) -> str:
    held = {
        "native": "`delta.safetensors` holds what the method trained, and the task head.",
        "peft": "`adapter_config.json` and `adapter_model.safetensors` are an adapter for the bare backbone, as the "
        "`peft` library reads it. The task head, which is this project's own, lies beside it in `head.safetensors`.",
        "merged": "`model.safetensors` is the whole backbone with the update folded into its weights, as "
        "`transformers` reads it. The task head, which is this project's own, lies beside it in `head.safetensors`.",
    }[about.form]
    by = f" Loaded from here, hidden states differ from those of what was trained by at most {fmt.three(apart)} of the"
    compared = "" if apart is None else f"{by} largest."
    if about.form != "native" and about.dtype != "float32":
        compared += f" It was trained in {about.dtype} and is stored for float32."
    return held + compared


def loading(about: Delta, auto: str, folder: str) -> str:
    """Python that loads the folder: with its head, and the body alone with the library that it is written for."""
    own = f'from bench import load_adapted\n\nadapted = load_adapted("{folder}")'
    own += f"\nprint(adapted.predict({_example(about)}))"
    alone = f"{own}\n\n# or the body alone, without the task head:"
    if about.form == "merged":
        return f'{alone}\nfrom transformers import {auto}\n\nbody = {auto}.from_pretrained("{folder}")'
    if about.form == "native" or about.base.weights == "random":
        return own
    revision = f', revision="{about.base.revision}"' if about.base.revision else ""
    where, find = f'"{about.base.folder or about.base.name}"{revision}', ""
    if about.base.folder is None and not _of_hub(about):
        where = f'resolve("{about.base.name}", "pretrained").folder'
        find = "from bench.models.backbone import resolve\n"
    return (
        f"{alone}\n{find}from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f"body = {auto}.from_pretrained({where})\n"
        f'body = PeftModel.from_pretrained(body, "{folder}")'
    )


def _of_hub(about: Delta) -> bool:
    """Whether the backbone's name is an id of the hub; one that is made of the package index has a name alone."""
    return "/" in about.base.name


def _example(about: Delta) -> str:
    return '["a text"]' if len(about.text) == 1 else '[("a text", "another one")]'


def _reads(about: Delta) -> str:
    columns = " and ".join(f"`{column}`" for column in about.text)
    return f"{'one text' if len(about.text) == 1 else 'two texts'} a row ({columns}), cut to {about.max_length} tokens,"


def _answers(about: Delta) -> str:
    if about.labels:
        return "one of " + ", ".join(f"`{fmt.markdown(label)}`" for label in about.labels)
    assert about.label_scale is not None, "a delta has labels or a scale"
    return f"a number; those that it was trained on have the mean {about.label_scale.mean:.4g}"


def _table(results: Results, about: Delta) -> Iterator[str]:
    """Figures of the run as its report has them."""
    yield "| figure | value |\n| --- | --- |"
    costs = _of_costs(results, about.method.label, _record(results, about))
    yield from (f"| {name} | {value} |" for name, value in (*costs, *_of_scores(results, about)))


def _record(results: Results, about: Delta) -> ScoreRecord:
    found = (record for record in results.run.records if isinstance(record, ScoreRecord))
    return next(record for record in found if record.id == about.cell)


def _of_costs(results: Results, label: str, record: ScoreRecord) -> Iterator[tuple[str, str]]:
    if record.trainable_parameters is not None:
        yield "trainable parameters, head excluded", fmt.exact(record.trainable_parameters.method)
        yield "trainable parameters of the head", fmt.exact(record.trainable_parameters.head)
    yield "stored for the task, head excluded", fmt.size(record.delta_bytes)
    table = results.costs
    if "method" not in table.columns or label not in set(table["method"]):
        return
    row = table[table["method"] == label].iloc[0].to_dict()
    shape = f"{row['batch']:g} x {row['length']:g} tokens, {row['dtype']}, {row['device']}"
    peak, of_peak = row.get("peak_step_bytes"), "peak memory of a training step"
    if fmt.missing(peak):
        peak, of_peak = row.get("predicted_step_bytes"), "peak memory of a training step, counted"
    yield f"{of_peak} ({shape})", fmt.size(peak)
    if not fmt.missing(row.get("step_ratio")) and label != results.baseline:
        interval = fmt.ratio_interval(row["step_ratio"], row["step_ratio_low"], row["step_ratio_high"])
        yield f"time of a training step / that of {fmt.markdown(results.baseline)}, 95 % interval", interval


def _of_scores(results: Results, about: Delta) -> Iterator[tuple[str, str]]:
    score = about.score
    row = results.task_table.loc[(about.method.label, about.task)].to_dict()
    interval = fmt.points_interval(row["mean"], row["low"], row["high"])
    seeds = fmt.plural(int(row["n"]), "seed")
    yield f"{score.metric} on the test rows, mean over {seeds} with 95 % interval", interval
    yield f"{score.metric} on the test rows, of this seed ({about.seed})", fmt.points(100 * score.test)
    if score.rows == "selection":
        yield f"{score.metric} on the rows that chose among seeds", fmt.points(100 * score.value)
    yield f"{score.metric} of a bag-of-words classifier", fmt.points(row["floor"])


def _origin(results: Results, about: Delta) -> Iterator[str]:
    base = about.base
    revision = f", revision {base.revision}" if base.revision else ""
    weights = f"sha256 of the weights {base.sha256}" if base.sha256 else f"random weights, seed {base.seed}"
    yield f"base: {base.name}{revision}, {weights}"
    yield f"suite: {about.suite}, sha256 {about.suite_sha256}; cell {about.cell}"
    yield f"method: {fmt.markdown(about.method.name)} {fmt.markdown(about.method.config)}"
    record = _record(results, about)
    if record.task is not None:
        rows = f"{fmt.exact(record.task.train_rows)} rows to train on and {fmt.exact(record.task.test_rows)} to test"
        yield f"data: {about.task}, {rows}, {record.task.source}"
    yield from (fmt.markdown(note) for note in (record.task.notes if record.task else ()))
    if record.flags:
        yield f"doubts: {', '.join(record.flags)}"
    if about.score.rows == "test" and results.task_table.loc[(about.method.label, about.task)]["n"] > 1:
        yield (
            "where this seed was chosen among the others, it was by its score on the test rows, too high then; "
            "the mean over seeds is not"
        )
