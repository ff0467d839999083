"""A folder that ``save_pretrained`` wrote is a backbone: by its content, wherever it lies; safetensors alone, in one
file or in shards; a tokenizer where texts are scored."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForMaskedLM

from bench import load_adapted
from bench.count.predict import predictions, setting_for
from bench.errors import BenchError
from bench.models import backbone
from bench.models.folder import SHARDS, located, names_folder, weight_files
from bench.plan.load import load_suite, write_tuned
from bench.plan.planner import make_plan
from bench.plan.propose import look, propose
from bench.plan.select import Selection, select
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import StepShape
from bench.store import kept
from bench.store.kept import Keep
from bench.tasks.sources import rows_of
from bench.training.cell import run_cell
from tests.factories.command import bench
from tests.models.test_weights import GPT2, TINY, save, words


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT with its tokenizer, as one file of weights."""
    folder = tmp_path_factory.mktemp("models") / "my-bert"
    save(folder, "bert", TINY, AutoModelForMaskedLM)
    words(folder, 60)
    return folder


@pytest.fixture(scope="module")
def sharded(bert, tmp_path_factory):
    """The same model in shards."""
    folder = tmp_path_factory.mktemp("models") / "in-shards"
    AutoModelForMaskedLM.from_pretrained(bert).save_pretrained(folder, max_shard_size="8KB")
    words(folder, 60)
    assert not (folder / "model.safetensors").exists()
    return folder


@pytest.fixture
def mine(bert, tmp_path):
    """A copy of the tiny BERT that a test may change."""
    return shutil.copytree(bert, tmp_path / "mine")


def pretrained(folder):
    return backbone.resolve(str(folder), "pretrained")


def refused(folder):
    with pytest.raises(BenchError) as error:
        pretrained(folder)
    return str(error.value)


# one file and shards


def test_a_folder_is_a_backbone_named_by_the_last_part_of_its_path(bert):
    spec = pretrained(bert)
    assert spec.name == "./my-bert"
    assert spec.sha256 == hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()
    described = backbone.describe(spec)
    assert (described.name, described.sha256, described.revision) == ("./my-bert", spec.sha256, None)
    assert described.unused_tensors == {"cls.predictions": 5}


def test_shards_hold_the_same_backbone_and_hash_one_after_the_other(bert, sharded):
    spec = pretrained(sharded)
    files = sorted(sharded.glob("model-*-of-*.safetensors"))
    assert weight_files(sharded) == tuple(files)
    assert len(files) > 2
    assert spec.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    one, several = (backbone.load(pretrained(folder)).state_dict() for folder in (bert, sharded))
    assert all(torch.equal(one[name], several[name]) for name in one)
    assert one.keys() == several.keys()
    described = backbone.describe(spec)
    assert described.unused_tensors == backbone.describe(pretrained(bert)).unused_tensors
    assert described.parameters == sum(value.numel() for value in one.values())


def test_shards_of_a_hub_id_are_read_from_the_cache(sharded, tmp_path, monkeypatch, no_network):
    snapshot = tmp_path / "models--somebody--large" / "snapshots" / "0123abcd"
    shutil.copytree(sharded, snapshot)
    (tmp_path / "models--somebody--large" / "refs").mkdir()
    (tmp_path / "models--somebody--large" / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = backbone.resolve("somebody/large", "pretrained")
    assert spec.folder == str(snapshot)
    assert spec.sha256 == pretrained(sharded).sha256


@pytest.mark.parametrize("missing", ["model-00002-of-", "model.safetensors.index.json"])
def test_of_a_hub_id_with_some_shards_in_the_cache_the_rest_is_fetched(sharded, tmp_path, monkeypatch, missing):
    snapshot = tmp_path / "models--somebody--large" / "snapshots" / "0123abcd"
    shutil.copytree(sharded, snapshot)
    next(path for path in snapshot.iterdir() if path.name.startswith(missing)).unlink()
    (tmp_path / "models--somebody--large" / "refs").mkdir()
    (tmp_path / "models--somebody--large" / "refs" / "main").write_text("0123abcd")
    asked = {}

    def fetch(name, **options):
        asked.update(options)
        return str(sharded)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert backbone.resolve("somebody/large", "pretrained").folder == str(sharded)
    assert "model-*-of-*.safetensors" in asked["allow_patterns"]


# what is refused


def test_a_missing_shard_is_named(sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "mine")
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    assert f"lists {gone.name}, which is not there; fetch all" in refused(folder)


def test_a_damaged_shard_and_a_tensor_in_two_shards_are_named(sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "mine")
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    content = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(BenchError, match=rf"{second.name}: holds \S+, as does {first.name}; fetch all shards again"):
        backbone.describe(pretrained(folder))
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(BenchError, match=rf"{second.name}: cannot be loaded \(.*\); fetch it again"):
        backbone.describe(pretrained(folder))


@pytest.mark.parametrize("listed", ["../outside.safetensors", "/a.safetensors", "a.bin", 3, None])
def test_a_list_of_shards_names_safetensors_beside_it_and_nothing_else(mine, listed):
    (mine / "model.safetensors").unlink()
    (mine / SHARDS).write_text(json.dumps({"weight_map": {"a": listed}}))
    assert "weight_map must name safetensors files that lie beside it" in refused(mine)


LEAVES = st.none() | st.text() | st.integers() | st.floats()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)) | st.fixed_dictionaries(
    {"weight_map": LEAVES | st.dictionaries(st.text(), LEAVES)}))  # fmt: skip
def test_any_other_list_of_shards_is_one_sentence(tmp_path, listed):
    (tmp_path / SHARDS).write_text(json.dumps(listed))
    with pytest.raises(BenchError, match=r"model\.safetensors\.index\.json: "):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("architectures", "loaded"), [(["BertForMaskedLM"], "BertForMaskedLM"), (["a b"], "AutoModel"), (None, "AutoModel")]
)
def test_pickles_are_never_opened_and_the_sentence_says_how_to_convert_them(mine, architectures, loaded):
    (mine / "model.safetensors").rename(mine / "pytorch_model.bin")
    (mine / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": architectures}))
    said = refused(mine)
    assert "pytorch_model.bin: is a pickle, which can run code when it is opened and is never read here" in said
    assert said.endswith(f"with transformers: {loaded}.from_pretrained(folder).save_pretrained(folder)")


def test_a_folder_that_holds_no_backbone_says_what_it_lacks(mine, tmp_path):
    assert "no such folder; give one that save_pretrained" in refused(tmp_path / "nowhere")
    (mine / "model.safetensors").unlink()
    assert 'safetensors weights are required, or the config.json alone for costs (weights = "random")' in refused(mine)
    (mine / "config.json").unlink()
    assert "the folder holds no config.json; save the model there with save_pretrained" in refused(mine)
    (mine / "adapter_config.json").write_text("{}")
    assert "it is an adapter and no backbone; merge it (merge_and_unload of peft)" in refused(mine)


def test_weights_of_another_architecture_than_the_configuration_are_refused(mine):
    (mine / "config.json").write_text(json.dumps({"model_type": "gpt2", **GPT2}))
    with pytest.raises(BenchError, match=r"model\.safetensors: lacks .*, which would be drawn at random"):
        backbone.describe(pretrained(mine))


def test_code_of_its_own_is_never_run(mine):
    values = json.loads((mine / "config.json").read_text()) | {"auto_map": {"AutoModel": "mine.Model"}}
    (mine / "config.json").write_text(json.dumps(values))
    (mine / "mine.py").write_text("raise SystemExit('code of the folder was run')\n")
    notes = backbone.describe(pretrained(mine)).notes
    assert "code of its own (auto_map) is not run: the family's own class of transformers stands in" in notes
    backbone.load(pretrained(mine))
    (mine / "config.json").write_text(json.dumps(values | {"model_type": "mine"}))
    with pytest.raises(BenchError, match=r"does not know 'mine', and code of its own \(auto_map\) is never run"):
        backbone.configuration(pretrained(mine))


def test_a_folder_has_no_revision(bert):
    with pytest.raises(BenchError, match="is a folder, which has no revision; remove revision = 'v1'"):
        backbone.resolve(str(bert), "pretrained", "v1")


def test_a_bare_word_is_no_path_but_a_folder_of_that_name_is_pointed_at(bert, monkeypatch):
    monkeypatch.chdir(bert.parent)
    with pytest.raises(BenchError, match=r"unknown backbone 'my-bert'; did you mean './my-bert'\?"):
        backbone.resolve("my-bert", "pretrained")
    assert backbone.resolve("./my-bert", "pretrained") == backbone.resolve("my-bert/", "pretrained") == pretrained(bert)


# what it serves


SUITE = """
question = "Does my own backbone serve?"
tasks = ["sst2"]
seeds = [0]
data = "synthetic"
baseline = "head"
[backbone]
name = "{name}"
[recipe]
steps = 2
batch_size = 4
max_length = 16
train_rows = 16
test_rows = 8
[[method]]
name = "head"
[[cost]]
batch = 2
length = 8
timed = false
"""


def suite_in(folder, name="./mine"):
    path = folder / "mine.toml"
    path.write_text(SUITE.format(name=name))
    return path


def plan_of(path, **narrowed):
    return make_plan(select(load_suite(str(path)), Selection(**narrowed)), str(path), "cpu")


def test_texts_are_scored_on_it_with_its_own_tokenizer(mine, tmp_path):
    (cell,) = plan_of(suite_in(tmp_path)).cells
    record, _ = run_cell(cell)
    assert record.status == "ok"
    assert (record.backbone.name, record.backbone.sha256) == ("./mine", pretrained(mine).sha256)
    assert record.backbone.weights == "pretrained"


def test_what_was_trained_on_it_is_rebuilt_on_it_wherever_it_lies(mine, tmp_path):
    words(mine, 50)
    (mine / "tokenizer_config.json").unlink()  # tokenizer.json alone is a tokenizer, then as before
    (cell,) = plan_of(suite_in(tmp_path)).cells
    (tmp_path / "run").mkdir()
    _, sidecars = run_cell(cell, keep=Keep(tmp_path / "run", "all", "b" * 64))
    kept.land(tmp_path / "run", cell.id)
    moved = shutil.move(mine, tmp_path / "moved")
    adapted = load_adapted(tmp_path / "run" / "kept" / cell.id, backbone=str(moved))
    answers = adapted.answers(rows_of(cell).test.texts)
    assert [answer.probability for answer in answers] == sidecars.predictions["probability"]
    with pytest.raises(
        BenchError, match=r"its backbone is not found: backbone './mine': no such folder; .* or name its"
    ):
        load_adapted(tmp_path / "run" / "kept" / cell.id)


def test_a_copy_in_a_folder_stands_in_for_the_hub_id_that_was_adapted(mine, tmp_path, monkeypatch):
    spec = replace(pretrained(mine), name="somebody/small", revision="0123abcd")
    (cell,) = plan_of(suite_in(tmp_path)).cells
    (tmp_path / "run").mkdir()
    run_cell(cell.model_copy(update={"backbone": spec}), keep=Keep(tmp_path / "run", "all", "b" * 64))
    kept.land(tmp_path / "run", cell.id)
    adapted = load_adapted(tmp_path / "run" / "kept" / cell.id, backbone=str(mine))
    assert adapted.about.base.revision == "0123abcd"
    assert adapted.predict(["word2 word3"])


def test_without_a_tokenizer_nothing_is_scored_and_costs_are_counted(mine, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (mine / name).unlink()
    with pytest.raises(BenchError, match=r"mine: holds no tokenizer, which scores need; write it there with its save_"):
        plan_of(suite_in(tmp_path))
    assert plan_of(suite_in(tmp_path), counts=True).probes
    setting = setting_for(str(mine), StepShape(batch=2, length=8), weights="native", device="cpu", padded=False)
    (row,) = predictions(str(mine), ["head"], setting)
    assert row.flops


DAMAGED = {"cut": lambda content: content[: len(content) // 2], "deep": lambda _: b"[" * 100_000,
           "empty": lambda _: b"", "no text": lambda _: bytes(range(256))}  # fmt: skip
"""Ways in which a file that was fetched is broken."""


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_broken_file_of_a_tokenizer_is_named_before_anything_runs(mine, tmp_path, name, damage):
    path = mine / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BenchError, match=rf"{name}: damaged, not JSON .* the tokenizer cannot be loaded; fetch"):
        plan_of(suite_in(tmp_path))


def test_a_tokenizer_that_breaks_at_an_unknown_word_is_refused_before_anything_runs(mine, tmp_path):
    values = json.loads((mine / "tokenizer.json").read_text())
    values["model"]["vocab"].pop("[UNK]")
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "[UNK]"]
    (mine / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(BenchError, match=r"mine: its tokenizer cannot be loaded \(.*\); fetch its files again"):
        plan_of(suite_in(tmp_path))


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_broken_file_of_weights_is_named_before_anything_runs(mine, tmp_path, damage):
    path = mine / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BenchError, match=r"model.safetensors: cannot be loaded \(.*\); fetch it again"):
        plan_of(suite_in(tmp_path))


def test_predict_needs_neither_weights_nor_tokenizer(mine, monkeypatch):
    for path in list(mine.iterdir()):
        if path.name != "config.json":
            path.unlink()
    monkeypatch.chdir(mine.parent)
    done = bench("predict", "--backbone", "./mine", "--method", "head", "--seq", 8, "--json")
    assert json.loads(done.stdout)[0]["backbone"] == "./mine"


# paths


def test_paths_of_a_suite_start_at_its_file_and_those_of_the_command_line_at_the_working_directory(
    bert, mine, tmp_path, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(bert, elsewhere / "mine")
    monkeypatch.chdir(elsewhere)
    suite = load_suite(str(suite_in(tmp_path)))
    assert backbone.resolve(suite.backbone.name, "pretrained").folder == str(mine)
    asked = select(suite, Selection(backbone="./mine"))
    assert asked.backbone.weights == "pretrained"
    assert backbone.resolve(asked.backbone.name, "pretrained").folder == str(elsewhere / "mine")
    assert load_suite(str(suite_in(tmp_path, "mine/config.json"))).backbone.name == "../mine/config.json"
    assert load_suite(str(suite_in(tmp_path, "owner/model"))).backbone.name == "owner/model"
    assert load_suite(str(suite_in(tmp_path, str(mine)))).backbone.name == str(mine)


def test_a_sweep_has_paths_like_its_suite(mine, tmp_path):
    path = suite_in(tmp_path)
    sweep = '[[sweep]]\nvary = "length"\nvalues = [4, 8]\nbatch = 1\nbackbone = "./mine"\n'
    path.write_text(path.read_text() + sweep)
    (sweep,) = plan_of(path).sweeps
    assert (sweep.backbone.name, sweep.backbone.folder, sweep.backbone.weights) == ("./mine", str(mine), "random")


def test_a_suite_with_searched_rates_names_the_same_folder_from_where_it_is_written(mine, tmp_path):
    path = suite_in(tmp_path)
    out = tmp_path / "runs" / "tune-mine"
    out.mkdir(parents=True)
    table = {"learning_rates": [1e-3], "head_learning_rates": [1e-3], "seeds": [1], "selection_rows": 4}
    lines = ", ".join(f"{key} = {value}" for key, value in table.items())
    path.write_text(f"tuning = {{ {lines} }}\n{path.read_text()}")
    write_tuned(path, [], load_suite(str(path)).tuning, out / "tuned.toml")
    tuned = load_suite(str(out / "tuned.toml"))
    assert backbone.resolve(tuned.backbone.name, "pretrained").folder == str(mine)


def test_init_names_a_backbone_in_a_folder_from_where_the_suite_is_written(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suites").mkdir()
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite_text = propose(look(Path("rows.jsonl")), "./mine", Path("suites/mine.toml")).text
    (tmp_path / "suites" / "mine.toml").write_text(suite_text)
    named = load_suite("suites/mine.toml").backbone.name
    assert backbone.resolve(named, "pretrained").folder == str(mine)


def test_identities_depend_on_what_lies_in_the_folder_and_not_on_where(mine, tmp_path):
    before = plan_of(suite_in(tmp_path)).job_ids()
    moved = tmp_path / "deep" / "down" / "renamed"
    moved.parent.mkdir(parents=True)
    shutil.move(mine, moved)
    assert plan_of(suite_in(tmp_path, "./deep/down/renamed")).job_ids() == before
    backbone.files_sha256.cache_clear()
    tokenizer = json.loads((moved / "tokenizer.json").read_text()) | {"truncation": None}
    (moved / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert not plan_of(suite_in(tmp_path, "./deep/down/renamed")).job_ids() & before


def test_identities_on_a_configuration_do_not_depend_on_its_path(mine, tmp_path):
    def identities(path):
        chosen = {"backbone": str(path), "counts": True}
        return plan_of(suite_in(tmp_path), **chosen).job_ids()

    shutil.copy(mine / "config.json", tmp_path / "other.json")
    assert identities(mine / "config.json") == identities(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("./a", True), ("../a", True), ("a/", True), ("/a", True), ("~/a", True), (".", True),
     ("a", False), ("a/b", False), ("a.json", False), ("./a.json", False)],
)  # fmt: skip
def test_a_folder_is_spelled_as_a_path(name, folder):
    assert names_folder(name) is folder


def test_a_path_relative_to_a_file_is_still_spelled_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("./a", tmp_path / "suites") == "./suites/a"
    assert located("../a/", tmp_path / "suites") == "./a"
    assert located("a", tmp_path / "suites") == "a"
    assert located("~/a", tmp_path / "suites") == "~/a"


def test_a_changed_file_is_hashed_anew(mine):
    before = pretrained(mine).sha256
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **TINY | {"vocab_size": 61}))
    model.save_pretrained(mine)
    assert pretrained(mine).sha256 != before
    assert BackboneSpec(name="./mine", weights="pretrained", sha256=before) != pretrained(mine)
