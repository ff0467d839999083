"""The hub's branches against a small hub on this machine: rows and weights arrive, come again from the cache, or a
fault ends in one sentence and exit code 2."""

import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest

from bench.errors import BenchError
from bench.models.backbone import PRETRAINED, file_sha256
from tests.factories.hub_client import OURS, Client
from tests.factories.hub_server import serving
from tests.factories.tasks import GLUE, HUB_ID, HUB_REVISION, source_of

ROBERTA = "FacebookAI/roberta-base"
TRAIN, TEST = 24, 8
WORDS = ("a charming film", "dull and long", "an unfinished quote", "lively , and \x85 odd")

SUITE = f"""
question = "Does a cell run on what the hub gave?"
tasks = ["sst2"]
seeds = [0]
data = "hub"
baseline = "lora(rank=2)"
[backbone]
name = "{ROBERTA}"
[recipe]
steps = 2
batch_size = 4
max_length = 16
pooling = "cls"
dense_head = true
[[method]]
name = "lora"
config = {{ rank = 2 }}
"""


# what the hub holds


def official_rows(spec, split, count):
    """Rows in the columns of the official parquet files; the labels of GLUE's own test set are hidden as -1."""
    hidden = split.startswith("test")
    labels = [-1 if hidden else i % 6 * 0.76 if spec.regression else i % len(spec.labels) for i in range(count)]
    texts = {column: [f"{WORDS[i % 4]} {split} {column} {i}" for i in range(count)] for column in spec.text}
    kind = pyarrow.float32() if spec.regression else pyarrow.int64()
    return pyarrow.table(
        texts
        | {"label": pyarrow.array(labels, kind), "idx": pyarrow.array(range(count), pyarrow.int32())}
    )  # fmt: skip


def splits_of(spec):
    ends = ("_matched", "_mismatched") if spec.name == "mnli" else ("",)
    return {"train": TRAIN} | {f"{split}{end}": TEST for split in ("validation", "test") for end in ends}


def card(spec):
    """Front matter of one configuration: its features and counts, and the files of its splits."""
    classes = "".join(f"          '{i}': {name}\n" for i, name in enumerate(spec.labels))
    label = f"    dtype:\n      class_label:\n        names:\n{classes}" if spec.labels else "    dtype: float32\n"
    features = "".join(f"  - name: {column}\n    dtype: string\n" for column in spec.text)
    features += f"  - name: label\n{label}  - name: idx\n    dtype: int32\n"
    counts = "".join(f"  - name: {s}\n    num_bytes: 1\n    num_examples: {n}\n" for s, n in splits_of(spec).items())
    files = "".join(f"  - split: {split}\n    path: {spec.name}/{split}-*\n" for split in splits_of(spec))
    info = (
        f"- config_name: {spec.name}\n  features:\n{features}  splits:\n{counts}  download_size: 1\n  dataset_size: 1\n"
    )
    return info, f"- config_name: {spec.name}\n  data_files:\n{files}"


def lay_glue(root, tasks=tuple(GLUE)):
    """GLUE in the form of its parquet conversion: a folder of files a configuration, and a README that lists them."""
    home = root / "datasets" / HUB_ID / HUB_REVISION
    for spec in (GLUE[name] for name in tasks):
        (home / spec.name).mkdir(parents=True)
        for split, count in splits_of(spec).items():
            path = home / spec.name / f"{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(official_rows(spec, split, count), path)
    infos, configs = zip(*(card(GLUE[name]) for name in tasks), strict=True)
    front = f"license: other\npretty_name: GLUE\ndataset_info:\n{''.join(infos)}configs:\n{''.join(configs)}"
    (home / "README.md").write_text(f"---\n{front}---\n# Dataset Card for GLUE\n")
    return home


def lay_roberta(root, revision=PRETRAINED[ROBERTA].revision):
    """A random RoBERTa of two narrow layers with the files of the real one, its language model head included."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizer

    home = root / "models" / ROBERTA / revision
    home.mkdir(parents=True)
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(WORDS, vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    pieces.save_model(str(home))
    RobertaTokenizer.from_pretrained(str(home)).save_pretrained(home)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=300, max_position_embeddings=514, type_vocab_size=1, **shape)
    RobertaForMaskedLM(config).save_pretrained(home)
    return home


# asking it


def sentence(done):
    """The one sentence with which a process ended whose user can mend something."""
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], done.stderr
    return lines[-1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A hub, the cache of those who ask it, and a client that does."""
    folder = tmp_path_factory.mktemp("served")
    with serving(folder) as hub, Client(hub.endpoint, folder / "home") as client:
        yield hub, folder / "home", client


@pytest.fixture
def hub(served, tmp_path):
    """The hub, with what lies in ``tmp_path / "hub"``, no faults, and nothing of it cached."""
    hub, home, _ = served
    hub.root = tmp_path / "hub"
    hub.asked.clear()
    hub.faults.clear()
    shutil.rmtree(home, ignore_errors=True)
    return hub


@pytest.fixture
def home(served):
    """The cache's folder."""
    return served[1]


@pytest.fixture
def client(served):
    """Asks the hub."""
    return served[2]


def test_all_nine_tasks_arrive_and_come_again_from_the_cache(hub, home, client, tmp_path):
    lay_glue(tmp_path / "hub")
    first = client.read(*GLUE)
    assert first.returncode == 0, first.stderr
    hub.asked.clear()
    with Client(hub.endpoint, home, bare=True, HF_HUB_OFFLINE="1") as offline:
        again = offline.read(*GLUE)
    assert again.stdout == first.stdout, again.stderr
    assert hub.asked == []
    for name, splits in json.loads(first.stdout).items():
        spec = GLUE[name]
        for split, (texts, labels) in zip((spec.train_split, spec.test_split), splits, strict=True):
            wanted = official_rows(spec, split, len(labels)).to_pydict()
            assert len(labels) == (TRAIN if split == "train" else TEST)
            assert texts == [list(row) for row in zip(*(wanted[column] for column in spec.text), strict=True)]
            assert labels == pytest.approx(wanted["label"], abs=1e-3)


def test_the_suite_glue_is_planned_on_what_the_hub_gave(hub, client, tmp_path):
    lay_glue(tmp_path / "hub")
    lay_roberta(tmp_path / "hub")
    chosen = ["--data", "hub", "--tasks", "sst2,stsb", "--methods", "full,lora", "--seeds", "0"]
    planned = client.bench("plan", "--suite", "glue", *chosen)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("cell ") == 4
    assert any(request.startswith("GET /store/models") for request in hub.asked)


@pytest.mark.slow
def test_a_cell_runs_on_what_the_hub_gave_and_is_planned_again_without_it(tmp_path):
    lay_glue(tmp_path / "hub", ("sst2",))
    files = lay_roberta(tmp_path / "hub")
    suite, home, out = tmp_path / "small.toml", tmp_path / "home", tmp_path / "run"
    suite.write_text(SUITE)
    with serving(tmp_path / "hub") as hub, Client(hub.endpoint, home) as client:
        done = client.bench("run", "--suite", suite, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert (record["status"], record["task"]["source"], record["task"]["train_rows"]) == ("ok", "hub", TRAIN)
    assert record["backbone"]["revision"] == files.name
    assert record["backbone"]["sha256"] == file_sha256(files / "model.safetensors")
    with Client(hub.endpoint, home) as client:  # which answers no more
        again = client.bench("plan", "--suite", suite)
    assert record["id"][:12] in again.stdout, again.stderr


# faults

DATA_FAULTS = {
    "dataset unknown": ("/api/datasets", "404", "HfHubHTTPError: Client error '404 Not Found'"),
    "server error": ("HEAD .*README", "500", "Server error '500 Internal Server Error'"),
    "cut short": ("GET .*sst2/train", "truncated", "RemoteProtocolError: peer closed connection"),
    "silent file": ("GET .*sst2/train", "hang", "ReadTimeout: timed out"),
    "silent listing": ("/api/datasets/.*/tree", "hang", "ReadTimeout: timed out"),
}


@pytest.mark.parametrize("case", DATA_FAULTS)
def test_rows_that_do_not_arrive_end_in_one_sentence(hub, client, tmp_path, case):
    lay_glue(tmp_path / "hub", ("sst2",))
    request, fault, reason = DATA_FAULTS[case]
    hub.faults.append((request, fault))
    said = sentence(client.fail("rows"))
    assert said.startswith(f"error: {HUB_ID}: sst2 cannot be loaded (")
    assert reason in said
    assert said.endswith("use --data DIR or --data synthetic")


def test_what_was_cut_short_is_fetched_again(hub, client, tmp_path):
    lay_glue(tmp_path / "hub", ("sst2",))
    hub.faults.append(("GET .*sst2/train", "truncated"))
    sentence(client.fail("rows"))
    hub.faults.clear()
    assert len(json.loads(client.read("sst2").stdout)["sst2"][0][1]) == TRAIN


def test_a_file_that_is_no_parquet_is_told_so(hub, client, tmp_path):
    folder = lay_glue(tmp_path / "hub", ("sst2",))
    (folder / "sst2" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing more")
    assert "Parquet" in sentence(client.fail("rows"))


def test_a_damaged_cache_is_named_with_the_folder_to_remove(hub, home, client, tmp_path):
    lay_glue(tmp_path / "hub", ("sst2",))
    assert client.read("sst2").returncode == 0
    (arrow,) = home.rglob("glue-validation.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    said = sentence(client.fail("rows"))
    assert "the cached split validation cannot be read" in said
    assert said.endswith(f"remove {arrow.parent}")


@pytest.mark.parametrize("fault", ["404", "503"])
def test_auto_and_hub_say_what_the_hub_answered(hub, monkeypatch, tmp_path, fault):
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    hub.faults.append(("/api/datasets", fault))
    assert f"(the hub answered {fault} " in source_of("auto", ["sst2"]).reason
    with pytest.raises(BenchError, match=rf"{HUB_ID} is not cached \(the hub answered {fault} .*use --data DIR"):
        source_of("hub", ["sst2"])


def test_the_command_line_ends_in_one_sentence_where_the_weights_are_of_another_revision(hub, client, tmp_path):
    lay_roberta(tmp_path / "hub", revision="0" * 40)
    said = sentence(client.bench("plan", "--suite", "glue", "--methods", "full,head", "--seeds", "0"))
    assert f"backbone '{ROBERTA}' at {PRETRAINED[ROBERTA].revision} is not cached and cannot be fetched" in said
    assert "Client error '404 Not Found'" in said


WEIGHT_FAULTS = {
    "unknown": (ROBERTA, "/api/models", "404", "Client error '404 Not Found'"),
    "cut short": (ROBERTA, "GET .*safetensors", "truncated", "RemoteProtocolError: peer closed connection"),
    "silent file": (ROBERTA, "GET .*safetensors", "hang", "ReadTimeout: timed out"),
    "silent listing": (ROBERTA, "/api/models/.*/tree", "hang", "ReadTimeout: timed out"),
    "silent hub": (ROBERTA, "/api/models", "hang", "(hub not reached)"),
}


@pytest.mark.parametrize("case", WEIGHT_FAULTS)
def test_weights_that_do_not_arrive_end_in_one_sentence(hub, client, tmp_path, case):
    lay_roberta(tmp_path / "hub")
    name, request, fault, reason = WEIGHT_FAULTS[case]
    hub.faults.append((request, fault))
    said = sentence(client.fail(name))
    assert said.startswith(f"error: backbone '{ROBERTA}' at {PRETRAINED[ROBERTA].revision} is not cached and cannot be")
    assert reason in said


def test_weights_without_safetensors_are_told_so(hub, client, tmp_path):
    folder = lay_roberta(tmp_path / "hub")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "model.safetensors" in sentence(client.fail(ROBERTA))
