"""The source is resolved once, files of every form give the same rows, and mistakes name file, line and remedy."""

import io
import json
import re
import string
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.models.hub import OFFLINE_VARIABLES
from bench.schema.jobs import Source
from bench.tasks import hub, index
from bench.tasks.catalogue import shipped
from bench.tasks.folder import read_folder
from bench.tasks.metrics import bag_of_words_floor
from bench.tasks.rows import Rows, check_labels, subset
from bench.tasks.sources import load_task, load_trial, locate
from tests.factories.tasks import GLUE, source_of

REAL = Path(__file__).resolve().parents[3] / "shared/data/glue"

SST2 = Rows((("a charming film",), ("dull , and \x85 long\u2028",), ('an "unfinished quote',)), (1, 0, 1))
PAIR = Rows((("one text", "other text"), ('he said "so', "it is")), (1, 0))


def write(root: Path, form: str, name: str, train: Rows, test: Rows, folder: str = "") -> None:
    """Write both splits of a task in one of the forms that users have."""
    spec = GLUE[name]
    home = root / (folder or spec.folder.name)
    home.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("dev", test)):
        records = [
            dict(zip(spec.text, texts, strict=True)) | {"label": label, "idx": i}
            for i, (texts, label) in enumerate(zip(rows.texts, rows.labels, strict=True))
        ]
        if form == "jsonl":
            lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
            (home / f"{split}.jsonl").write_bytes("".join(lines).encode())
        elif form == "parquet":
            stem = "train" if split == "train" else spec.test_split
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), home / f"{stem}-00000-of-00001.parquet")
        else:
            (home / f"{'train' if split == 'train' else spec.folder.test}.tsv").write_bytes(tsv(spec, rows).encode())


def tsv(spec, rows: Rows, ending: str = "\n") -> str:
    columns = spec.folder.header or ("index", *spec.folder.text, spec.folder.label)
    lines = [] if spec.folder.header else ["\t".join(columns)]
    for texts, label in zip(rows.texts, rows.labels, strict=True):
        shown = spec.labels[label] if spec.name in {"rte", "qnli", "mnli"} else str(label)
        fields = dict(zip(spec.folder.text, texts, strict=True)) | {spec.folder.label: shown}
        lines.append("\t".join(fields.get(column, "x") for column in columns))
    return "".join(line + ending for line in lines)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty cache and a hub that does not answer."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "refusal", lambda specs: "hub not reached")


# resolving


def test_auto_without_a_hub_is_synthetic_and_says_so(no_hub):
    source = source_of("auto", ["sst2", "mrpc"])
    assert (source.kind, source.path) == ("synthetic", None)
    assert source.reason == (
        "SYNTHETIC stand-ins for sst2, mrpc (hub not reached). Real GLUE: --data DIR or a network; real sentences of "
        "the package index: --tasks movie-polarity"
    )


def in_place_of_sst2(data="auto"):
    return locate(data, [GLUE["sst2"]], [shipped()["movie-polarity"]])


def test_auto_without_a_hub_takes_the_tasks_of_the_package_index_and_says_whose_they_are(no_hub, monkeypatch):
    monkeypatch.setattr(index, "refusal", lambda: None)
    located = in_place_of_sst2()
    assert ([spec.name for spec in located.specs], located.kind) == (["movie-polarity"], "index")
    (reason,) = located.reasons
    assert "ICWSM-14" in reason
    assert "Hutto and Gilbert, 2014" in reason
    assert reason.endswith("(hub not reached)")


def test_auto_without_hub_and_package_index_is_synthetic_and_names_both(no_hub, monkeypatch):
    monkeypatch.setattr(index, "refusal", lambda: "package index not reached")
    located = in_place_of_sst2()
    assert ([spec.name for spec in located.specs], located.kind) == (["sst2"], "synthetic")
    assert located.reasons == (
        "SYNTHETIC stand-ins for sst2 (hub not reached; package index not reached). Real GLUE: --data DIR or a network",
    )
    with pytest.raises(BenchError, match="data index: package index not reached; use --data DIR or --data synthetic"):
        in_place_of_sst2("index")


def test_auto_with_a_hub_leaves_the_package_index_alone(no_hub, monkeypatch):
    monkeypatch.setattr(hub, "refusal", lambda specs: None)
    monkeypatch.setattr(index, "refusal", lambda: pytest.fail("asked the package index"))
    assert [spec.name for spec in in_place_of_sst2().specs] == ["sst2"]


def test_synthetic_when_asked_for_is_the_suite_s_own_task(no_hub, monkeypatch):
    monkeypatch.setattr(index, "refusal", lambda: pytest.fail("asked the package index"))
    located = in_place_of_sst2("synthetic")
    assert ([spec.name for spec in located.specs], located.kind) == (["sst2"], "synthetic")


def test_a_task_that_the_package_index_lacks_names_the_one_that_it_has(no_hub):
    with pytest.raises(BenchError, match="sst2 is not on the package index; use --tasks movie-polarity, --data hub"):
        source_of("index", ["sst2"])


def test_auto_takes_the_hub_that_answers(no_hub, monkeypatch):
    monkeypatch.setattr(hub, "refusal", lambda specs: None)
    assert source_of("auto", ["qnli"]).kind == "hub"


@pytest.mark.parametrize("variable", OFFLINE_VARIABLES)
def test_auto_never_asks_the_hub_when_told_to_be_offline(no_hub, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(hub, "refusal", lambda: pytest.fail("asked the hub"))
    assert f"{variable} is set" in source_of("auto", ["sst2"]).reason


def test_the_place_of_each_task_is_named_by_itself(no_hub, monkeypatch, tmp_path):
    monkeypatch.setattr(index, "refusal", lambda: None)
    assert source_of("auto", ["sst2", "mrpc"]).place == "synthetic (hub not reached)"
    assert in_place_of_sst2().sources["movie-polarity"].place == (
        "package index, vaderSentiment-3.3.2.tar.gz (hub not reached)"
    )
    write(tmp_path, "tsv", "sst2", SST2, SST2)
    assert source_of(str(tmp_path), ["sst2"]).place == f"folder {tmp_path}"
    monkeypatch.setattr(hub, "refusal", lambda specs: None)
    assert source_of("auto", ["qnli", "sst2"]).place == "hub, nyu-mll/glue"
    monkeypatch.setattr(hub, "cached", lambda specs: True)
    assert source_of("auto", ["sst2"]).place == "hub, nyu-mll/glue, cached"


def test_auto_prefers_what_is_cached(no_hub, monkeypatch):
    monkeypatch.setattr(hub, "refusal", lambda: pytest.fail("asked the hub"))
    spec = GLUE["sst2"]
    folder = hub.cache_folder(spec)
    folder.mkdir(parents=True)
    import datasets

    for split in ("train", "validation"):
        with datasets.arrow_writer.ArrowWriter(path=str(folder / f"glue-{split}.arrow")) as writer:
            for texts, label in zip(SST2.texts, SST2.labels, strict=True):
                writer.write({"sentence": texts[0], "label": label, "idx": 0})
            writer.finalize()
    source = source_of("auto", ["sst2"])
    assert source.kind == "hub"
    assert "cached" in source.reason
    assert set(load_task(GLUE["sst2"], source, None, None).train.texts) == set(SST2.texts)


def test_a_silent_hub_costs_at_most_the_probe(monkeypatch):
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never answers
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr("bench.models.hub.PROBE_SECONDS", 0.2)
        started = time.monotonic()
        assert hub.refusal([GLUE["sst2"]]) == "hub not reached"
        assert time.monotonic() - started < 10  # 0.2 s where nothing else runs; datasets asks for 20


def test_hub_that_is_out_of_reach_is_refused_when_asked_for(no_hub):
    with pytest.raises(BenchError, match=r"data hub: .*not cached.*--data synthetic"):
        source_of("hub", ["sst2"])


def test_tasks_without_a_stand_in_are_refused_with_the_ready_line(no_hub):
    with pytest.raises(BenchError, match=r"qnli has no synthetic stand-in; use --tasks sst2,mrpc"):
        source_of("auto", ["sst2", "qnli", "mrpc"])


def test_a_folder_that_lacks_a_task_is_refused_with_the_ready_line(tmp_path):
    write(tmp_path, "tsv", "sst2", SST2, SST2)
    with pytest.raises(BenchError, match=r"the folder lacks qnli; use --tasks sst2"):
        source_of(str(tmp_path), ["sst2", "qnli"])


def test_a_folder_that_does_not_exist_is_refused():
    with pytest.raises(BenchError, match="data nowhere: no such folder"):
        source_of("nowhere", ["sst2"])


# reading


@pytest.mark.parametrize("form", ["tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("name", list(GLUE))
def test_every_task_reads_from_every_form(tmp_path, form, name):
    spec = GLUE[name]
    rows = SST2 if len(spec.text) == 1 else PAIR
    if spec.regression:
        rows = Rows(rows.texts, (3.8, 0.0))
    write(tmp_path, form, name, rows, rows)
    data = load_task(GLUE[name], source_of(str(tmp_path), [name]), None, None)
    assert data.source == "folder"
    assert dict(zip(data.train.texts, data.train.labels, strict=True)) == dict(
        zip(rows.texts, rows.labels, strict=True)
    )
    assert data.overlap == len(rows)


def test_forms_share_one_content_hash(tmp_path):
    hashes = set()
    for form in ("tsv", "jsonl", "parquet"):
        write(tmp_path / form, form, "rte", PAIR, PAIR, folder="rte")
        hashes.add(load_task(GLUE["rte"], Source("folder", str(tmp_path / form), ""), None, None).content_sha256)
    assert len(hashes) == 1


hostile = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\ufeff"), min_size=1, max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(hostile, hostile, st.integers(0, 1)), min_size=1, max_size=4))
@pytest.mark.parametrize("form", ["tsv", "tsv-crlf", "jsonl", "parquet"])
def test_hostile_text_survives_verbatim(tmp_path, form, rows):
    wanted = Rows(tuple((first, second) for first, second, _ in rows), tuple(label for *_, label in rows))
    write(tmp_path / form, form.partition("-")[0], "mrpc", wanted, wanted)
    if form == "tsv-crlf":
        content = "\ufeff" + tsv(GLUE["mrpc"], wanted, "\r\n")
        (tmp_path / form / "MRPC" / "train.tsv").write_bytes(content.encode())
    train, _ = read_folder(tmp_path / form, GLUE["mrpc"])
    assert train == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_tabs_and_line_feeds_survive_jsonl(tmp_path, text):
    rows = Rows(((text,),), (1,))
    write(tmp_path, "jsonl", "sst2", rows, rows)
    assert read_folder(tmp_path, GLUE["sst2"]) == (rows, rows)


BAD_FILES = [
    (
        "train.tsv",
        b"text\tlabel\nx\t1\n",
        r"train\.tsv: missing column 'sentence'; needed: sentence, label; found: text",
    ),
    (
        "train.tsv",
        b"sentence\tlabel\na\t1\nb\t7\n",
        r"train\.tsv: line 3, column 'label': unknown label '7'.*1 or positive",
    ),
    ("train.tsv", b"sentence\tlabel\na\tb\t1\n", r"train\.tsv: line 2 has 3 tab-separated fields, expected 2"),
    ("train.tsv", b"sentence\tlabel\na\n", r"train\.tsv: line 2 has 1 tab-separated fields"),
    ("train.tsv", b"", r"train\.tsv: the file is empty"),
    ("train.tsv", b"sentence\tlabel\n", r"train\.tsv: the file has no rows"),
    ("train.tsv", b"sentence\tlabel\ngood\t1\ncaf\xe9\t1\n", r"train\.tsv: line 3 is not UTF-8; convert"),
    ("train.jsonl", b'{"sentence": "a", "label": 1}\n{"sentence"\n', r"train\.jsonl: line 2 is not JSON"),
    ("train.jsonl", b"[1]\n", r"train\.jsonl: line 1 is not a JSON object"),
    ("train.jsonl", b'{"sentence": "a"}\n', r"train\.jsonl: line 1, missing column 'label'"),
    ("train.jsonl", b'{"sentence": null, "label": 1}\n', r"line 1, column 'sentence': None is not text"),
    ("train.jsonl", b'{"sentence": "a", "label": true}\n', r"line 1, column 'label': unknown label True"),
    ("train.jsonl", b'{"sentence": "a", "label": -1}\n', r"unknown label -1"),
    ("train.tsv", b"sentence\tlabel\na\t0_0\n", r"line 2, column 'label': unknown label '0_0'"),
    ("train.tsv", "sentence\tlabel\na\t\u0661\n".encode(), r"line 2, column 'label': unknown label '\u0661'"),
    ("train.tsv", b"sentence\tlabel\na\t" + b"7" * 500 + b"\n", r"unknown label '7{58}…; allowed"),
    ("train.jsonl", b'{"sentence": "a", "label": ' + b"1" * 400 + b"}\n", r"column 'label': unknown label 1{59}…"),
    (
        "train.jsonl",
        b'{"sentence": "a", "label": ' + b"1" * 5000 + b"}\n",
        r"line 1 holds a number of too many digits; shorten it$",
    ),
    (
        "train.jsonl",
        rb'{"sentence": "a\ud800", "label": 1}',
        r"line 1, column 'sentence': half of a surrogate pair; write whole",
    ),
    ("train.parquet", b"no parquet", r"train\.parquet: not a parquet file"),
    ("train.txt", b"x", r"no train\.tsv; write one of train\.tsv, train\.jsonl, train\.parquet"),
]


@pytest.mark.parametrize(("file", "content", "sentence"), BAD_FILES)
def test_a_bad_file_is_named_with_line_and_remedy(tmp_path, file, content, sentence):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / file).write_bytes(content)
    (tmp_path / "SST-2" / "dev.tsv").write_text("sentence\tlabel\na\t1\n")
    with pytest.raises(BenchError, match=sentence):
        load_task(GLUE["sst2"], Source("folder", str(tmp_path), ""), None, None)


def parquet_with(columns):
    """Bytes of a parquet file with these columns, all text but the labels."""
    values = [[0, 1] if column in {"label", "idx"} else ["a", "b"] for column in columns]
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table([pyarrow.array(v) for v in values], names=list(columns)), out)
    return out.getvalue()


TWICE = [
    ("sst2", "tsv", b"sentence\tlabel\tlabel\na\t1\t0\n", "line 1, column 'label' stands 2 times"),
    ("sst2", "tsv", b"sentence\tsentence\tlabel\na\tb\t1\n", "line 1, column 'sentence' stands 2 times"),
    ("sst2", "tsv", b"label\tsentence\tlabel\tlabel\n0\ta\t1\t0\n", "line 1, column 'label' stands 3 times"),
    ("sst2", "tsv", b"id\tid\tsentence\tlabel\n0\t1\ta\t1\n", "line 1, column 'id' stands 2 times"),
    ("sst2", "tsv", b"\xef\xbb\xbflabel\tsentence\tlabel\r\n0\ta\t1\r\n", "line 1, column 'label' stands 2 times"),
    ("rte", "tsv", b"index\tsentence1\tsentence1\tlabel\n0\ta\tb\t1\n", "line 1, column 'sentence1' stands 2 times"),
    ("mrpc", "tsv", b"Quality\t#1 String\t#2 String\tQuality\n0\ta\tb\t1\n", "line 1, column 'Quality' stands 2 times"),
    ("sst2", "jsonl", b'{"sentence": "a", "label": 1, "label": 0}\n', "line 1, column 'label' stands 2 times"),
    ("sst2", "jsonl", b'{"sentence": "a", "label": 1}\n{"sentence": "a", "sentence": "b", "label": 1}\n',
     "line 2, column 'sentence' stands 2 times"),
    ("sst2", "jsonl", b'{"sentence": "a", "label": 1, "idx": 1, "idx": 2}\n', "line 1, column 'idx' stands 2 times"),
    ("rte", "jsonl", b'{"sentence1": "a", "sentence2": "b", "label": 1, "sentence2": "b"}\n',
     "line 1, column 'sentence2' stands 2 times"),
    ("sst2", "parquet", parquet_with(("sentence", "label", "label")), "column 'label' stands 2 times"),
    ("sst2", "parquet", parquet_with(("sentence", "sentence", "label")), "column 'sentence' stands 2 times"),
    ("sst2", "parquet", parquet_with(("idx", "idx", "sentence", "label")), "column 'idx' stands 2 times"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "form", "content", "sentence"), TWICE)
def test_a_column_that_stands_twice_is_refused_in_every_form(tmp_path, name, form, content, sentence):
    home = tmp_path / GLUE[name].folder.name
    home.mkdir()
    for split in ("train", "dev"):
        (home / f"{split}.{form}").write_bytes(content)
    with pytest.raises(BenchError, match=rf"train\.{form}: {re.escape(sentence)}; keep one of them"):
        read_folder(tmp_path, GLUE[name])


def test_columns_without_a_name_may_be_many(tmp_path):
    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\t\t\na film\t1\t\t\n")
    assert read_folder(tmp_path, GLUE["sst2"])[0] == Rows((("a film",),), (1,))


def test_two_files_for_one_split_are_refused(tmp_path):
    write(tmp_path, "tsv", "sst2", SST2, SST2)
    write(tmp_path, "jsonl", "sst2", SST2, SST2)
    with pytest.raises(BenchError, match=r"train\.tsv and train\.jsonl hold the same split"):
        load_task(GLUE["sst2"], Source("folder", str(tmp_path), ""), None, None)


@pytest.mark.parametrize("score", ["5.1", "nan", "much"])
def test_a_score_outside_the_scale_is_refused(tmp_path, score):
    write(tmp_path, "tsv", "stsb", Rows(PAIR.texts, (1.0, score)), PAIR)
    with pytest.raises(BenchError, match=f"'{score}' is not a score of stsb: must be a number from 0 to 5"):
        load_task(GLUE["stsb"], Source("folder", str(tmp_path), ""), None, None)


def test_rows_with_an_empty_text_and_rows_asked_for_in_vain_are_notes(tmp_path):
    source = Source("folder", str(tmp_path), "")
    write(tmp_path, "jsonl", "mrpc", Rows((("a", ""), (" ", "b"), ("c", "d")), (0, 1, 1)), labelled("mrpc", (0, 1)))
    found = load_task(GLUE["mrpc"], source, 3, 9)
    assert found.notes == (
        "train.jsonl: 2 rows with an empty text",
        "test_rows = 9 are asked for, the task has 2: all are used",
    )
    assert load_trial(GLUE["mrpc"], source, 4, 1).notes[1:] == (
        "train_rows = 4 are asked for, the task has 3: all are used",
    )


def with_lines_cut(root, rows, train, dev):
    """Files of QQP with so many rows and, before them, so many lines cut short."""
    whole = labelled("qqp", (0, 1) * (rows // 2))
    write(root, "tsv", "qqp", whole, whole)
    for split, cut in (("train", train), ("dev", dev)):
        header, *lines = (root / "QQP" / f"{split}.tsv").read_text().splitlines()
        (root / "QQP" / f"{split}.tsv").write_text("\n".join([header, *["7\tcut short"] * cut, *lines, ""]))
    return Source("folder", str(root), "")


@pytest.mark.parametrize(
    ("rows", "train", "dev", "notes"),
    [
        (4, 0, 0, ()),
        (4, 1, 0, ("train.tsv: 1 line cut short, left out",)),
        (4, 3, 2, ("train.tsv: 3 lines cut short, left out", "dev.tsv: 2 lines cut short, left out")),
        (6000, 0, 6, ("dev.tsv: 6 lines cut short, left out",)),
    ],
)
def test_lines_cut_short_are_left_out_of_qqp_as_the_hub_does_and_counted(tmp_path, rows, train, dev, notes):
    source = with_lines_cut(tmp_path, rows, train, dev)
    for selected in (None, 1):
        data = load_task(GLUE["qqp"], source, None, None, selected)
        assert len(data.test) == rows
        assert data.notes == notes
    of_train = tuple(note for note in notes if note.startswith("train"))
    assert load_trial(GLUE["qqp"], source, None, 1).notes == of_train


@pytest.mark.parametrize(("rows", "cut"), [(4, 4), (2, 50), (4000, 5)])
def test_a_file_with_more_lines_cut_short_than_the_official_one_is_refused(tmp_path, rows, cut):
    sentence = rf"dev\.tsv: {cut} of {rows + cut} lines are cut short, the first is line 2; .*: fetch it again"
    with pytest.raises(BenchError, match=sentence):
        load_task(GLUE["qqp"], with_lines_cut(tmp_path, rows, 0, cut), None, None)


def test_a_file_of_nothing_but_lines_cut_short_is_refused(tmp_path):
    with pytest.raises(BenchError, match=r"train\.tsv: the file has no rows; put the rows of qqp into it"):
        load_task(GLUE["qqp"], with_lines_cut(tmp_path, 0, 2, 2), None, None)


LIKE = {
    "train of one class": ("sst2", (1, 1, 1), (1, 0, 1), "all 3 training rows have the label positive; .*train_rows"),
    "test of one class": ("sst2", (1, 0, 1), (0, 0, 0), "all 3 test rows have the label negative; .*two labels.*test_"),
    "train of one score": ("stsb", (2.5, 2.5), (1.0, 2.0), "all 2 training rows have the score 2.5; .*train_rows"),
    "test of one score": ("stsb", (1.0, 2.0), (3.0, 3.0), "all 2 test rows have the score 3; .*two scores.*test_rows"),
    "one row": ("sst2", (1, 0, 1), (1,), "the one test row has the label positive"),
    "two classes of three": ("mnli", (0, 2), (1, 2), None),
    "two classes": ("sst2", (1, 0, 1), (0, 1, 1), None),
}


def labelled(name, labels):
    texts = [tuple(f"{column} {row}" for column in GLUE[name].text) for row in range(len(labels))]
    return Rows(tuple(texts), labels)


@pytest.mark.parametrize("split", LIKE)
def test_a_split_of_one_label_is_named_before_a_method_is_blamed_for_it(tmp_path, split):
    name, train, test, sentence = LIKE[split]
    write(tmp_path, "jsonl", name, labelled(name, train), labelled(name, test))
    data = load_task(GLUE[name], Source("folder", str(tmp_path), ""), None, None)
    if sentence is None:
        check_labels(data)
        return
    with pytest.raises(BenchError, match=f"^{name}: {sentence}"):
        check_labels(data)


def test_rows_that_choose_are_of_two_labels_as_well(tmp_path):
    write(tmp_path, "jsonl", "sst2", labelled("sst2", (1, 0) * 6), labelled("sst2", (1, 0)))
    source = Source("folder", str(tmp_path), "")
    for data in (load_trial(GLUE["sst2"], source, None, 1), load_task(GLUE["sst2"], source, None, None, 1)):
        with pytest.raises(BenchError, match=r"^sst2: the one selection row has the label \w+; .*selection_rows"):
            check_labels(data)


# parquet


def test_a_damaged_byte_of_a_parquet_file_is_told_with_the_file_whatever_it_hits(tmp_path):
    """Every third byte of a small file: what still reads, reads; all else is one sentence."""
    write(tmp_path, "parquet", "sst2", SST2, SST2)
    path = tmp_path / "SST-2" / "train-00000-of-00001.parquet"
    whole, said = path.read_bytes(), set()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            read_folder(tmp_path, GLUE["sst2"])
        except BenchError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            said.add(str(error).removeprefix(f"{path}: ").split("(")[0])
    assert {"damaged after row 0 ", "not a parquet file "} <= said


# subsets


@given(st.permutations(range(20)), st.integers(1, 20))
def test_a_subset_depends_on_content_not_on_order(order, count):
    rows = Rows(tuple((string.ascii_letters[i],) for i in range(20)), tuple(i % 2 for i in range(20)))
    shuffled = Rows(tuple(rows.texts[i] for i in order), tuple(rows.labels[i] for i in order))
    assert subset(shuffled, count) == subset(rows, count)
    assert subset(rows, None).texts[:count] == subset(rows, count).texts


def test_other_rows_give_another_hash(tmp_path):
    source = Source("synthetic", None, "")
    hashes = {
        load_task(GLUE["sst2"], source, rows, test).content_sha256 for rows, test in ((50, 50), (51, 50), (50, 51))
    }
    assert len(hashes) == 3


def test_the_floor_is_defined_where_one_class_is_all_there_is(tmp_path):
    ones = Rows((("",), ("good",)), (1, 1))
    write(tmp_path, "jsonl", "sst2", ones, SST2)
    assert bag_of_words_floor(
        load_task(GLUE["sst2"], Source("folder", str(tmp_path), ""), None, None)
    ) == pytest.approx(2 / 3)


# real data


@pytest.mark.skipif(not REAL.is_dir(), reason="real GLUE files are not part of a clone")
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [("sst2", 67349, 872), ("mrpc", 3668, 408), ("rte", 2490, 277), ("cola", 8551, 1043)],
)
def test_official_files_give_the_official_row_counts(name, train, test):
    data = load_task(GLUE[name], source_of(str(REAL), [name]), None, None)
    assert (len(data.train), len(data.test)) == (train, test)
