"""From a run to a folder and back: every form predicts what the run predicted, and says what it is."""

import csv
import io
import json
import shutil

import pytest
import tokenizers
import torch
import yaml
from transformers import AutoModelForCausalLM

import bench as library
from bench.errors import BenchError
from bench.export.choose import choose
from bench.models.head import TaskModel
from bench.models.tokenizer import load_tokenizer
from bench.schema.jobs import sha256_of
from bench.store import kept
from bench.store.sidecars import read_predictions
from bench.store.store import read_run, read_suite
from bench.tasks import synthetic
from bench.tasks.rows import subset
from bench.training import adapted
from methods.lora import LoRA
from tests.factories.command import bench
from tests.factories.deltas import kept_run
from tests.models.test_weights import GPT2, TINY, save, words

LLAMA = TINY | {"num_key_value_heads": 1}
METHODS = ("full", "lora(rank=2)", "lora(rank=3)", "ia3", "p_tuning(length=3)", "prefix_tuning(length=3)", "lst")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder of save_pretrained that keeps every seed of two tasks."""
    return kept_run(tmp_path_factory.mktemp("export"), METHODS, tasks=("sst2", "stsb"), seeds=(0, 1))


def texts(task="sst2"):
    return subset(synthetic.rows(task, "test"), 16).texts


def predicted(run, folder):
    """What the run's sidecar has for the cell that was exported, as the labels or scores that people see."""
    about = adapted.describe(folder)
    columns = read_predictions(run, about.cell).table.to_pydict()
    return [about.labels[i] for i in columns["prediction"]] if about.labels else columns["prediction"]


FORMS = [(m, form) for m in METHODS for form in ("native", "peft", "merged")]
REFUSED = {
    ("full", "peft"): "--format peft cannot hold full: peft has no method that computes the same; take --format native "
    "or --format merged",
    ("lst", "peft"): "--format peft cannot hold lst: peft has no method that computes the same; take --format native",
    ("lst", "merged"): "--format merged cannot hold lst: what it trains cannot be folded into the backbone's weights; "
    "take --format native",
    ("p_tuning(length=3)", "merged"): "cannot be folded into the backbone's weights; take --format native or --format "
    "peft",
    ("prefix_tuning(length=3)", "merged"): "cannot be folded into the backbone's weights; take --format native or",
}


@pytest.mark.parametrize(("method", "form"), FORMS)
def test_each_form_predicts_what_the_run_predicted_or_is_refused(run, tmp_path, method, form):
    asked = "export", run, "--method", method, "--task", "sst2", "--seed", "1", "--format", form, "-o", tmp_path / "out"
    if (method, form) in REFUSED:
        assert REFUSED[method, form] in bench(*asked, code=2).stderr
        assert list(tmp_path.iterdir()) == []
        return
    bench(*asked)
    found = library.load_adapted(tmp_path / "out")
    assert found.predict(texts()) == predicted(run, tmp_path / "out") and found.about.seed == 1
    (own,) = (one for one in kept.kept_in(run) if one.about.cell == found.about.cell)
    apart = states(found) - states(library.load_adapted(own.folder))
    assert apart.abs().max() < 1e-5


def states(model):
    ids = torch.arange(1, 25).reshape(2, 12)
    mask = torch.ones_like(ids)
    return TaskModel(model.model.body, torch.nn.Identity()).states({"input_ids": ids, "attention_mask": mask})


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_peft_and_transformers_load_the_body_as_the_card_says(run, tmp_path):
    for form in ("peft", "merged"):
        bench("export", run, "--method", "lora(rank=2)", "--task", "sst2", "--format", form, "-o", tmp_path / form)
        card = (tmp_path / form / "README.md").read_text()
        program = card.partition("```python\n")[2].partition("```")[0].replace(f'"{form}"', f'"{tmp_path / form}"')
        names = {}
        exec(program, names)
        ids = torch.arange(1, 25).reshape(2, 12)
        with torch.no_grad():
            found = names["body"].eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        assert (found - states(names["adapted"])).abs().max() < 1e-5


OFT = 'peft(peft_type="OFT", oft_block_size=4, r=0, target_modules=["query"])'


@pytest.mark.parametrize("form", ["native", "peft", "merged"])
def test_a_bridged_method_is_exported_by_its_own_library(bridged, tmp_path, form):
    bench("export", bridged, "--method", "peft", "--format", form, "-o", tmp_path / "out")
    assert library.load_adapted(tmp_path / "out").predict(texts()) == predicted(bridged, tmp_path / "out")


@pytest.fixture(scope="module")
def bridged(tmp_path_factory):
    return kept_run(tmp_path_factory.mktemp("bridged"), ("full", OFT))


@pytest.mark.parametrize(("family", "values"), [("gpt2", GPT2), ("llama", LLAMA)])
def test_a_decoder_is_exported_with_its_fused_maps_and_positions(tmp_path, family, values):
    save(tmp_path / "mine", family, values, AutoModelForCausalLM)
    words(tmp_path / "mine", 60)
    found = kept_run(tmp_path, ("full", "lora(rank=2)", "prefix_tuning(length=3)"))
    for method, form in (("lora", "peft"), ("lora", "merged"), ("prefix_tuning", "peft"), ("full", "merged")):
        out = tmp_path / f"{method}-{form}"
        bench("export", found, "--method", method, "--format", form, "-o", out)
        assert library.load_adapted(out).predict(texts()) == predicted(found, out)


def test_a_score_comes_in_the_unit_of_its_labels(run, tmp_path):
    bench("export", run, "--method", "ia3", "--task", "stsb", "-o", tmp_path / "out")
    assert library.load_adapted(tmp_path / "out").predict(texts("stsb")) == predicted(run, tmp_path / "out")


def test_the_card_holds_the_figures_of_the_run(run, tmp_path):
    bench("export", run, "--method", "lora(rank=2)", "--task", "sst2", "--format", "peft", "-o", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "peft", "pipeline_tag": "text-classification", "metrics": ["accuracy"],
                     "tags": ["peft-ledger", "lora"]}  # fmt: skip
    about = adapted.describe(tmp_path / "out")
    row = library.load_results(run).task_table.loc["lora(rank=2)", "sst2"]
    assert f"| accuracy on the test rows, mean over 2 seeds with 95 % interval | {row['mean']:.1f} ±" in card
    (record,) = (record for record in read_run(run).records if record.id == about.cell)
    assert f"| trainable parameters, head excluded | {record.trainable_parameters.method:,} |" in card
    assert f"of this seed ({about.seed}) | {100 * record.score:.1f} |" in card
    assert about.suite_sha256 == sha256_of(read_suite(run).plain()) and about.suite_sha256 in card
    assert f"sha256 of the weights {about.base.sha256}" in card and "one of `negative`, `positive`" in card
    assert "its score on the test rows, too high then" in card


def test_the_best_seed_is_exported_unless_one_is_named(run):
    found = [one for one in kept.kept_in(run) if (one.about.method.label, one.about.task) == ("ia3", "sst2")]
    best = min(found, key=lambda one: (-one.about.score.value, one.about.seed))
    assert choose(run, "ia3", "sst2") == best
    assert choose(run, "ia3", "sst2", 1).about.seed == 1


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("lora",), r"--method lora is several here; give one of lora\(rank=2\), lora\(rank=3\)"),
        (("lorra",), "unknown kept method 'lorra'; known: full, ia3, lora.*"),
        (("ia3",), "ia3 is kept of several tasks; give one with --task: sst2, stsb"),
        (("ia3", "mrpc"), "unknown kept task 'mrpc'; known: sst2, stsb"),
        (("ia3", "sst2", 7), "--seed 7 is not kept of ia3; kept: 0, 1"),
    ],
)
def test_what_is_not_kept_is_a_sentence(run, asked, sentence):
    with pytest.raises(BenchError, match=sentence):
        choose(run, *asked)


def test_a_run_that_kept_nothing_is_a_sentence(run, tmp_path):
    for name in ("suite.toml", "records.jsonl"):
        shutil.copy(run / name, tmp_path / name)
    with pytest.raises(BenchError, match="nothing that its cells trained is kept; run it with --keep best"):
        choose(tmp_path, "ia3")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda out: out.write_text("x"), "is a file; give a folder"),
        (lambda out: (out.mkdir(), (out / "mine").write_text("x")), "the folder is not empty; give another one"),
    ],
)
def test_a_folder_in_use_is_left_alone(run, tmp_path, make, sentence):
    make(tmp_path / "out")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    asked = "export", run, "--method", "ia3", "--task", "sst2", "-o", tmp_path / "out"
    assert sentence in bench(*asked, code=2).stderr
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def raises(self, module, backbone):
    raise KeyError("query")


def gives_another_model(self, module, backbone):
    from methods import to_peft

    return to_peft.ia3(backbone, {"encoder.layer.0.attention.self.key": 2 * torch.ones(16)}, {})


@pytest.mark.parametrize(
    ("hook", "sentence"),
    [
        (raises, "to_peft() of the method raises KeyError: 'query'; take --format native or --format merged"),
        (lambda self, module, backbone: None, "to_peft() of the method gives None; let it return a torch module"),
        (lambda self, module, backbone: torch.nn.Linear(2, 2), "peft cannot save it"),
        (gives_another_model, "what is loaded differs from it by"),
    ],
)
def test_a_hook_that_gives_something_else_writes_no_folder(run, tmp_path, monkeypatch, hook, sentence):
    monkeypatch.setattr(LoRA, "to_peft", hook)
    asked = "export", run, "--method", "lora(rank=2)", "--task", "sst2", "--format", "peft", "-o", tmp_path / "out"
    refused = bench(*asked, code=2).stderr
    assert "--format peft cannot hold lora(rank=2): " in refused and sentence in refused
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_delta_is_not_exported(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    found = choose(copy, "ia3", "sst2")
    (found.folder / "delta.safetensors").write_bytes(b"broken")
    refused = bench("export", copy, "--method", "ia3", "--task", "sst2", "-o", tmp_path / "out", code=2).stderr
    assert "damaged or changed" in refused and not (tmp_path / "out").exists()


def test_pairs_whose_types_peft_leaves_out_are_refused(run, tmp_path):
    """A prompt of peft's has no place for the types of tokens, by which this tokenizer tells two texts apart."""
    mine = shutil.copytree(run.parent / "mine", tmp_path / "mine")
    words_of = tokenizers.Tokenizer.from_file(str(mine / "tokenizer.json"))
    words_of.post_processor = tokenizers.processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1")
    words_of.save(str(mine / "tokenizer.json"))
    settings = json.loads((mine / "tokenizer_config.json").read_text())
    names = ["input_ids", "token_type_ids", "attention_mask"]
    (mine / "tokenizer_config.json").write_text(json.dumps(settings | {"model_input_names": names}))
    pairs = kept_run(tmp_path, ("full", "ia3", "p_tuning(length=3)"), tasks=("stsb",))
    assert 1 in load_tokenizer(str(mine), 60)(["a"], ["b"], truncation=True, max_length=9)["token_type_ids"][0]
    bench("export", pairs, "--method", "ia3", "--format", "peft", "-o", tmp_path / "ia3")
    assert library.load_adapted(tmp_path / "ia3").predict(texts("stsb")) == predicted(pairs, tmp_path / "ia3")
    refused = bench("export", pairs, "--method", "p_tuning", "--format", "peft", "-o", tmp_path / "out", code=2).stderr
    assert "of the largest hidden state (beside a prompt the library leaves out the types of tokens" in refused
    assert "take --format native" in refused


# use


def rows_file(folder, ending, task="sst2", **more):
    names = ("sentence",) if task == "sst2" else ("sentence1", "sentence2")
    table = [dict(zip(names, row, strict=True)) | more for row in texts(task)]
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table))
    elif ending == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(table), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0], delimiter="," if ending == "csv" else "\t")
            writer.writeheader()
            writer.writerows(table)
    return path


@pytest.fixture(scope="module")
def folders(run, tmp_path_factory):
    """A folder of each task."""
    place = tmp_path_factory.mktemp("use")
    for task in ("sst2", "stsb"):
        bench("export", run, "--method", "ia3", "--task", task, "-o", place / task)
    return place


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_use_gives_the_predictions_of_the_run_for_its_test_rows(run, folders, tmp_path, ending, task):
    data = rows_file(tmp_path, ending, task, id=3)
    printed = list(csv.DictReader(io.StringIO(bench("use", folders / task, "--data", data).stdout)))
    due = predicted(run, folders / task)
    assert [row["prediction"] for row in printed] == list(map(str, due))
    assert ("probability" in printed[0]) == (task == "sst2")
    bench("use", folders / task, "--data", data, "-o", tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in written] == due and [row["row"] for row in written] == list(range(16))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.csv", "text,id\na,1\n", "sentence"),
        ("rows.csv", "sentence\na,b\n", "line 2"),
        ("rows.csv", 'sentence,id\n"a\n', "line 2"),
        ("rows.csv", "", "the file is empty"),
        ("rows.jsonl", '{"sentence": 3}\n', "line 1, column 'sentence': 3 is not text; write a string"),
        ("rows.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("rows.jsonl", "{\n", "line 1"),
        ("rows.csv", "sentence\n\udcff\n", "is not UTF-8; convert the file to UTF-8"),
        ("rows.parquet", "PAR1", "parquet"),
        ("rows.xlsx", "", "its ending is none of .csv, .tsv, .jsonl, .json, .parquet"),
        ("missing.csv", None, "no such file"),
    ],
)
def test_rows_that_cannot_be_read_are_a_sentence(folders, tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    refused = bench("use", folders / "sst2", "--data", tmp_path / name, code=2).stderr
    assert sentence in refused and name in refused and "Traceback" not in refused


def test_use_writes_no_other_kind_of_file(folders, tmp_path):
    data = rows_file(tmp_path, "csv")
    asked = "use", folders / "sst2", "--data", data, "-o", tmp_path / "out.txt"
    assert "its ending is neither .csv nor .jsonl" in bench(*asked, code=2).stderr
    assert not (tmp_path / "out.txt").exists()


def test_a_backbone_that_lies_elsewhere_is_named(run, folders, tmp_path):
    moved = shutil.copytree(folders / "sst2", tmp_path / "out")
    about = kept.read_about(moved / "delta.json")
    gone = about.base.model_copy(update={"folder": str(tmp_path / "gone")})
    kept.write_about(moved / "delta.json", about.model_copy(update={"base": gone}))
    data = rows_file(tmp_path, "csv")
    refused = bench("use", moved, "--data", data, code=2).stderr
    assert "its backbone is not found" in refused and "name its folder with --backbone" in refused
    answered = bench("use", moved, "--data", data, "--backbone", run.parent / "mine").stdout
    assert answered == bench("use", folders / "sst2", "--data", data).stdout
    other = shutil.copytree(run.parent / "mine", tmp_path / "other")
    words(other, 50)
    refused = bench("use", moved, "--data", data, "--backbone", other, code=2).stderr
    assert "has another config.json or tokenizer than the one that was adapted" in refused
    refused = bench("use", moved, "--data", data, "--backbone", "tiny", code=2).stderr
    assert "--backbone tiny: a shape without weights; give the folder or the hub id" in " ".join(refused.split())
