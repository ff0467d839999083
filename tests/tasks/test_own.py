"""Tasks in files of the user's own: every form gives the same rows, splits are by content, mistakes are sentences."""

import csv
import errno
import io
import json
import os
import tracemalloc
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.schema.jobs import Source
from bench.tasks.catalogue import parse_task
from bench.tasks.own import read_split, settled
from bench.tasks.rows import is_test
from bench.tasks.sources import load_task, locate

ROWS = [
    {"text": "where is my parcel", "queue": "delivery"},
    {"text": 'he said "no", twice; then left', "queue": "refund"},
    {"text": "a line\nbreak", "queue": "refund"},
    {"text": "a tab\there, a comma; a semicolon", "queue": "delivery"},
]


def written(folder, rows, form, name="rows"):
    path = folder / f"{name}.{form.partition('-')[0]}"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if form in {"csv", "csv-semicolons", "tsv"}:
        out = io.StringIO()
        mark = {"csv": ",", "csv-semicolons": ";", "tsv": "\t"}[form]
        writer = csv.DictWriter(out, columns, delimiter=mark, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(out.getvalue(), encoding="utf-8", newline="")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "json-nested":
        path.write_text(json.dumps({"version": 1, "data": rows}))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def spec_of(path, **changes):
    table = {"name": "tickets", "kind": "classes", "text": "text", "label": "queue", "train": str(path)}
    table |= {"test": str(path)} if "test_share" not in changes else {}
    return parse_task(table | changes, "suite.toml: task[0]")


FORMS = ["csv", "csv-semicolons", "tsv", "jsonl", "json", "json-nested", "parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_with_classes_found_and_sorted(tmp_path, form):
    spec = settled(spec_of(written(tmp_path, ROWS, form)))
    assert spec.labels == ("delivery", "refund")
    rows = read_split(spec, "train", None)
    found = dict(zip(rows.texts, rows.labels, strict=True))
    assert found == {(row["text"],): spec.labels.index(row["queue"]) for row in ROWS}


def test_a_tsv_whose_quotes_close_nothing_is_read_as_it_stands(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('text\tqueue\n"an open quote\tdelivery\nplain\trefund\n')
    assert {texts for (texts,) in read_split(settled(spec_of(path)), "train", None).texts} == {
        '"an open quote',
        "plain",
    }


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((10, 9, 2), ("2", "9", "10")),
        ((1.0, 0.0), ("0", "1")),
        ((True, False), ("false", "true")),
        (("b", "a"), ("a", "b")),
    ],
)
def test_classes_are_sorted_as_numbers_where_they_are_numbers(tmp_path, values, labels):
    path = written(tmp_path, [{"text": f"row {i}", "queue": value} for i, value in enumerate(values)], "jsonl")
    assert settled(spec_of(path)).labels == labels


def test_a_share_held_out_is_drawn_by_the_texts_so_that_equal_texts_stay_together(tmp_path):
    rows = [{"text": f"text {i % 150}", "queue": "ab"[i % 2]} for i in range(300)]
    spec = settled(spec_of(written(tmp_path, rows, "csv"), test_share=0.3))
    train, test = read_split(spec, "train", None), read_split(spec, "test", None)
    assert len(train) + len(test) == 300
    assert not set(train.texts) & set(test.texts)
    assert 0.2 < len(test) / 300 < 0.4
    assert all(is_test(texts, 0.3) for texts in test.texts)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text("abc ", min_size=1, max_size=4), st.sampled_from("xy")), min_size=2, max_size=30),
       st.integers(1, 10))  # fmt: skip
def test_a_draw_is_the_head_of_the_whole_whatever_the_order_of_the_file(tmp_path_factory, rows, count):
    rows = [(text, label) for text, label in rows if text.strip()] + [("one", "x"), ("two", "y")]
    folder = tmp_path_factory.mktemp("draw")
    drawn = []
    for turn, order in enumerate((rows, rows[::-1])):
        path = written(folder, [{"text": t, "queue": label} for t, label in order], "csv", f"rows{turn}")
        spec = settled(spec_of(path))
        whole, some = read_split(spec, "train", None), read_split(spec, "train", count)
        assert some.texts == whole.texts[:count]
        assert some.labels == whole.labels[:count]
        drawn.append(some)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_draw_from_many_rows_holds_no_more_than_it_gives(tmp_path, form):
    path = written(tmp_path, [{"text": f"row {i} " + "word " * 50, "queue": "ab"[i % 2]} for i in range(20_000)], form)
    spec = settled(spec_of(path))
    tracemalloc.start()
    rows = read_split(spec, "train", 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 100
    assert peak < path.stat().st_size / 5


def test_scores_have_any_range_and_one_text(tmp_path):
    path = written(tmp_path, [{"text": "cold", "queue": -40.5}, {"text": "hot", "queue": "1e3"}], "jsonl")
    spec = spec_of(path, kind="score")
    assert sorted(read_split(settled(spec), "train", None).labels) == [-40.5, 1000.0]
    assert spec.metrics == ("pearson", "spearman", "rmse", "r2")


def test_a_text_task_fills_its_prompt_with_the_columns(tmp_path):
    path = written(
        tmp_path, [{"q": "2 + 2", "hint": "{even}", "a": "4"}, {"q": "3 + 2", "hint": "odd", "a": "5"}], "jsonl"
    )
    spec = spec_of(path, kind="text", text=["q", "hint"], label="a", prompt="Q: {q} ({hint})\nA: ")
    rows = read_split(spec, "train", None)
    assert dict(zip(rows.texts, rows.labels, strict=True)) == {
        ("Q: 2 + 2 ({even})\nA: ",): "4", ("Q: 3 + 2 (odd)\nA: ",): "5",
    }  # fmt: skip


def test_incomplete_rows_are_dropped_or_kept_on_request_and_counted(tmp_path):
    rows = [*ROWS, {"text": " ", "queue": "refund"}, {"text": "no label", "queue": None}]
    path = written(tmp_path, rows, "jsonl")
    dropped = read_split(settled(spec_of(path, incomplete="drop")), "train", None)
    assert len(dropped) == 4
    assert dropped.notes == (
        "rows.jsonl: 1 row with an empty text left out",
        "rows.jsonl: 1 row without a label left out",
    )
    kept = read_split(settled(spec_of(written(tmp_path, rows[:5], "jsonl"), incomplete="keep")), "train", None)
    assert len(kept) == 5
    assert kept.notes == ("rows.jsonl: 1 row with an empty text",)


FAULTS = {
    "no such column": (
        "rows.csv", "text,label\na,b\n",
        r"rows\.csv: missing column 'queue'; needed: text, queue; found: text, label",
    ),
    "one column": (
        "rows.csv", "text queue\na b\n",
        r"rows\.csv: line 1 holds one column, 'text queue'; part columns by",
    ),
    "ragged": ("rows.csv", "text,queue\na,b\na,b,c\n", r"rows\.csv: line 3 has 3 fields, expected 2 \(text, queue\)"),
    "open quote": ("rows.csv", 'text,queue\n"a,b\nc,d\n', r"rows\.csv: line 2 is no record of fields parted by commas"),
    "double column": (
        "rows.csv", "text,queue,text\na,b,c\n",
        r"rows\.csv: line 1, column 'text' stands 2 times; keep one",
    ),
    "one class": (
        "rows.csv", "text,queue\na,x\nb,x\n",
        r"rows\.csv: column 'queue' holds one class alone, 'x'; give rows",
    ),
    "no label": (
        "rows.csv", "text,queue\na,x\nb,\nc,y\n",
        r"rows\.csv: line 3, column 'queue' is empty; .*incomplete = \"drop\"",
    ),
    "no text": (
        "rows.csv", "text,queue\na,x\n ,y\n",
        r"rows\.csv: line 3, column 'text' is empty; fill it, remove the row",
    ),
    "empty": ("rows.csv", "", r"rows\.csv: the file is empty; put a line of column names"),
    "header alone": ("rows.csv", "text,queue\n", r"rows\.csv: column 'queue' holds no class; give rows of two classes"),
    "not utf-8": ("rows.csv", b"text,queue\na,x\n\xff,y\n", r"rows\.csv: line 3 is not UTF-8; convert the file"),
    "number as text": (
        "rows.jsonl", '{"text": 1, "queue": "x"}\n{"text": "b", "queue": "y"}\n',
        r"rows\.jsonl: line 1, column 'text': 1 is not text; write a string",
    ),
    "not json": ("rows.json", "[{", r"rows\.json is not JSON .*write a list of objects"),
    "no list": ("rows.json", '{"a": 1}', r"rows\.json: not a JSON list of objects; write one"),
    "list as class": (
        "rows.jsonl", '{"text": "a", "queue": ["x", "y"]}\n',
        r"rows\.jsonl: line 1, column 'queue': \['x', 'y'\] is not a class; write one name or number in each row",
    ),
    "pickle": (
        "rows.pkl", "x",
        r"rows\.pkl: its ending is none of \.csv, \.tsv, \.jsonl, \.json, \.parquet; rename or convert",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_bad_file_is_one_sentence_with_file_place_and_fix(tmp_path, fault):
    name, content, sentence = FAULTS[fault]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BenchError, match=sentence) as caught:
        load_task(settled(spec_of(tmp_path / name)), Source("files", None, ""), None, None)
    assert "\n" not in str(caught.value)


def test_a_folder_or_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(BenchError, match=r"rows\.csv: is a folder; name a file with rows"):
        settled(spec_of(tmp_path / "rows.csv"))
    path = written(tmp_path, ROWS, "jsonl")
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(refused))
    with pytest.raises(BenchError, match=r"rows\.jsonl: cannot be read \(Permission denied\); fix its permissions"):
        settled(spec_of(path))


def test_decimals_of_parquet_are_scores_and_a_decimal_comma_is_told(tmp_path):
    rows = [{"text": "cold", "queue": Decimal("-40.5")}, {"text": "hot", "queue": Decimal("3.0")}]
    spec = spec_of(written(tmp_path, rows, "parquet"), kind="score")
    assert sorted(read_split(spec, "train", None).labels) == [-40.5, 3.0]
    path = written(tmp_path, [{"text": "a", "queue": "3,5"}], "csv-semicolons")
    with pytest.raises(BenchError, match=r"'3,5' is not a score of tickets: must be a finite number, with a decimal p"):
        read_split(spec_of(path, kind="score"), "train", None)


def test_a_missing_file_is_named():
    with pytest.raises(BenchError, match=r"/nowhere/rows\.csv: no such file"):
        settled(spec_of("/nowhere/rows.csv"))


def test_a_class_that_occurs_in_test_alone_is_named_with_the_known_ones(tmp_path):
    train = written(tmp_path, ROWS, "csv", "train")
    test = written(tmp_path, [{"text": "new", "queue": "billing"}], "csv", "test")
    spec = settled(spec_of(train, test=str(test)))
    with pytest.raises(
        BenchError, match=r"test\.csv: line 2, column 'queue': unknown label 'billing'; allowed: delivery, refund"
    ):
        read_split(spec, "test", None)


@pytest.mark.parametrize("value", ["nan", "inf", "good", ""])
def test_a_score_that_is_no_finite_number_is_named_with_its_row(tmp_path, value):
    path = tmp_path / "rows.csv"
    path.write_text(f"text,queue\na,1.5\nb,{value}\n")
    with pytest.raises(BenchError, match=r"rows\.csv: line 3, column 'queue'"):
        read_split(spec_of(path, kind="score"), "train", None)


TABLES = {
    "no rows": ({"train": None, "test": None}, "give exactly one of train, hub, index and grammar, not none"),
    "two places": ({"hub": "a/b"}, "give exactly one of train, hub, index and grammar, not train and hub"),
    "no revision": ({"train": None, "test": None, "hub": "a/b"}, "hub needs revision, the commit of the dataset"),
    "no test": ({"test": None}, "train needs exactly one of test and test_share"),
    "range of classes": ({"range": [0, 1]}, "range takes the least and the largest score of kind = 'score'"),
    "metric of another kind": (
        {"metrics": ["pearson"]},
        "metric 'pearson' belongs to kind 'score'; kind 'classes' has accuracy",
    ),
    "unknown metric": ({"metrics": ["acc"]}, "metric 'acc' is not known; .*one of your own is spelled"),
    "main metric elsewhere": (
        {"metrics": ["accuracy"], "main_metric": "macro_f1"},
        "main_metric = 'macro_f1' is not among metrics",
    ),
    "unbounded": ({"kind": "score", "main_metric": "rmse"}, "main_metric = 'rmse' has no range from -1 to 1"),
    "f1 of many": ({"metrics": ["f1"], "labels": ["a", "b", "c"]}, "metric 'f1' is that of the second of two classes"),
    "prompt": ({"prompt": "{text}"}, "prompt belongs to kind = 'text', not to 'classes'"),
    "metrics of a table": ({"metrics": {}}, "metrics: must be a list, not {}"),
    "main metric of a list": ({"main_metric": []}, r"main_metric: must be text in quotes, not \[\]"),
    "prompt with a format": ({"kind": "text", "prompt": "{text:>9}"}, "prompt gives {text} a format"),
    "prompt of nothing": ({"kind": "text", "prompt": "{other}"}, "prompt names {other}, which is not among text: text"),
    "label is text": ({"label": "text"}, "column 'text' is given two parts to play"),
    "unknown key": ({"lable": "x"}, "unknown key 'lable'.*Did you mean 'label'"),
    "name": ({"name": "my tickets"}, "name = 'my tickets' must be letters, digits"),
    "three texts": ({"text": ["a", "b", "c"]}, "text names 3 columns: a row has one or two texts; join the others"),
    "no text": ({"text": []}, "text names 0 columns: a row has one or two texts"),
    "share": ({"test_share": 1.5}, "test_share"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(TABLES))
def test_a_bad_table_is_one_sentence_with_key_and_fix(fault):
    changes, sentence = TABLES[fault]
    table = {"name": "tickets", "kind": "classes", "text": "text", "label": "queue", "train": "a.csv", "test": "b.csv"}
    with pytest.raises(BenchError, match=sentence) as caught:
        parse_task({key: value for key, value in (table | changes).items() if value is not None}, "suite.toml: task[0]")
    assert str(caught.value).startswith("suite.toml: task[0]: ") or fault == "unknown key"
    assert "\n" not in str(caught.value)


def test_data_that_decides_nothing_is_refused(tmp_path):
    spec = spec_of(written(tmp_path, ROWS, "csv"))
    for data in ("hub", "synthetic", "index", str(tmp_path)):
        with pytest.raises(BenchError, match=f"data {data}: tickets has its rows from files of its own; leave"):
            locate(data, [spec])
    assert locate("auto", [spec]).kind == "files"
    assert locate("auto", [spec]).sources["tickets"].place == "rows.csv and rows.csv"
    shared = locate("auto", [spec_of(written(tmp_path, ROWS, "csv"), test_share=0.25)])
    assert shared.sources["tickets"].place == "rows.csv, 25 % of its rows held out by hash"
