"""A job is run where its files lie elsewhere: all that it reads is named, moved and found again, its hashes kept."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModel

from bench.models import backbone, package_index
from bench.plan import needs as module
from bench.plan.needs import needs, placed
from bench.schema.jobs import BackboneSpec, Cell, PlainText, Retained, Source, Sweep
from bench.store.parcels import land, standing
from bench.tasks import hub, index, plain
from bench.tasks.sources import load_task
from tests.factories.index_server import pin, small_sdist
from tests.factories.tasks import GLUE
from tests.models.test_weights import TINY, save
from tests.tasks.test_own import ROWS, written
from tests.tasks.test_own import spec_of as own_spec

SHAPE = BackboneSpec(name="tiny", weights="random")
SYNTHETIC = Source("synthetic", None, "")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Caches of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    module._rows.cache_clear()
    yield
    module._rows.cache_clear()


def cell(**changes):
    values = {"backbone": SHAPE, "source": SYNTHETIC, "spec": GLUE["sst2"], "retention": None, "general": None}
    return Cell.model_construct(**values | changes)


def elsewhere(job, gone):
    """``job`` on a machine that lacks the folders ``gone``, and has landed what it was sent."""
    parcels = needs(job)
    sent = {p.id: {f.name: (Path(p.root) / f.name).read_bytes() for f in p.files} for p in parcels.values()}
    for folder in gone:
        shutil.rmtree(folder)
    assert all(standing(parcel) is None for parcel in parcels.values())
    folders = {name: land(parcel, lambda file, p=parcel: [sent[p.id][file]]) for name, parcel in parcels.items()}
    return placed(job, folders)


def test_generated_rows_and_shapes_without_weights_need_no_file():
    assert needs(cell()) == {}
    assert needs(cell(source=Source("generated", None, ""))) == {}
    assert needs(Sweep.model_construct(backbone=SHAPE)) == {}
    assert placed(cell(), {}) == cell()


def test_a_backbone_travels_with_all_that_it_is_loaded_from_and_no_pickle(tmp_path):
    place = tmp_path / "mine"
    save(place, "bert", TINY, AutoModel)
    (place / "tokenizer_config.json").write_text("{}")
    (place / "pytorch_model.bin").write_bytes(b"pickle")
    spec = backbone.resolve(str(place), "pretrained")
    names = {file.name for file in needs(cell(backbone=spec))["backbone"].files}
    assert names == {"config.json", "model.safetensors", "tokenizer_config.json"}
    files = backbone.files_sha256(spec)
    moved = elsewhere(cell(backbone=spec), [place]).backbone
    assert moved.folder != spec.folder and moved.name == spec.name
    assert backbone.files_sha256(moved) == files
    backbone.load(moved)


def test_a_shape_in_a_folder_travels_without_its_weights(tmp_path):
    save(tmp_path / "mine", "bert", TINY, AutoModel)
    spec = backbone.resolve(str(tmp_path / "mine"), "random")
    assert {file.name for file in needs(cell(backbone=spec))["backbone"].files} == {"config.json"}


@pytest.mark.parametrize("test_share", [None, 0.5])
def test_files_of_the_user_s_own_travel(tmp_path, test_share):
    (tmp_path / "files").mkdir()
    rows = [{"text": f"{row['text']} {n}", "queue": row["queue"]} for n in range(5) for row in ROWS]
    path = written(tmp_path / "files", rows, "csv")
    spec = own_spec(path, labels=["delivery", "refund"], **({"test_share": test_share} if test_share else {}))
    source = Source("files", None, "")
    expected = load_task(spec, source, None, None)
    moved = elsewhere(cell(spec=spec, source=source), [tmp_path / "files"])
    found = load_task(moved.spec, moved.source, None, None)
    assert (found.content_sha256, found.notes) == (expected.content_sha256, expected.notes)
    assert moved.spec.decides() == spec.decides()


def test_a_folder_of_task_files_travels_with_the_files_of_the_task_alone(tmp_path):
    folder = tmp_path / "glue"
    for name in ("SST-2", "RTE"):
        (folder / name).mkdir(parents=True)
        for split in ("train", "dev"):
            (folder / name / f"{split}.tsv").write_text("sentence\tlabel\na good film\t1\na bad one\t0\n")
    source = Source("folder", str(folder), "")
    expected = load_task(GLUE["sst2"], source, None, None)
    assert [file.name for file in needs(cell(source=source))["rows"].files] == ["SST-2/dev.tsv", "SST-2/train.tsv"]
    moved = elsewhere(cell(source=source), [folder])
    assert load_task(moved.spec, moved.source, None, None).content_sha256 == expected.content_sha256


def test_rows_of_the_hub_travel_as_they_lie_in_its_cache(tmp_path, no_network):
    import datasets

    spec, source = GLUE["sst2"], Source("hub", None, "")
    folder = hub.cache_folder(spec)
    folder.mkdir(parents=True)
    for split in (spec.train_split, spec.test_split):
        with datasets.arrow_writer.ArrowWriter(path=str(folder / f"glue-{split}.arrow")) as writer:
            writer.write({"sentence": f"a film of {split}", "label": 1})
            writer.finalize()
    expected = load_task(spec, source, None, None)
    moved = elsewhere(cell(source=source), [tmp_path / "datasets"])
    assert hub.cached([moved.spec])
    assert load_task(moved.spec, moved.source, None, None).content_sha256 == expected.content_sha256


def test_a_file_of_the_package_index_lands_in_the_cache_that_it_is_read_from(tmp_path, monkeypatch, no_network):
    content, inner = small_sdist()
    release = pin(monkeypatch, content, inner)
    path = package_index.cache_path(release)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    text = PlainText(name="editorials", sha256="", bytes=1)
    job = cell(source=Source("index", None, ""), retention=Retained(context=8, texts=(text,)))
    assert list(needs(job)) == ["index"]
    elsewhere(job, [path.parent])
    assert package_index.held(index.RELEASE)
    assert len(load_task(GLUE["sst2"].model_copy(update={"name": "movie-polarity"}), job.source, None, None).train) > 1


def test_plain_texts_of_the_user_s_travel(tmp_path):
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / "novel.txt"
    path.write_text("It was a dark and stormy night.")
    (text,) = plain.found([str(path)], 100, "suite.toml")
    moved = elsewhere(cell(retention=Retained(context=8, texts=(text,)), general=text), [tmp_path / "texts"])
    assert plain.read(moved.retention.texts[0]) == plain.read(moved.general) == "It was a dark and stormy night."
    assert moved.retention.decides() == Retained(context=8, texts=(text,)).decides()
