"""What ``init`` sees in a file, and that the suite it writes is one."""

import csv
import json
import random
import re
import tomllib

import pytest

from bench.errors import BenchError
from bench.plan.load import parse_suite
from bench.plan.propose import length_for, look, suite_text
from bench.tasks.own import prompted
from tests.factories.command import bench

WORDS = ("late", "parcel", "money", "back", "account", "locked", "help", "please")


def rows_of(count, **columns):
    rng = random.Random(0)
    return [{name: make(rng, row) for name, make in columns.items()} for row in range(count)]


def sentence(rng, row):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(4, 12)))


def written(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def proposed(found, folder):
    text = suite_text(found, name="mine", backbone="owner/model", tokens=[8, 9, 40], place=folder, positions=128)
    return parse_suite({"name": "mine"} | tomllib.loads(text), str(folder / "suite.toml"))


CASES = {
    "classes by name": ({"body": sentence, "queue": lambda r, i: r.choice("abc")}, ("classes", ("body",), "queue")),
    "classes alone of their kind": (
        {"id": lambda r, i: str(i), "ticket": sentence, "team": lambda r, i: r.choice("xy")},
        ("classes", ("ticket",), "team"),
    ),
    "whole numbers are classes": ({"text": sentence, "label": lambda r, i: i % 6}, ("classes", ("text",), "label")),
    "fractions are scores": ({"text": sentence, "score": lambda r, i: i / 7}, ("score", ("text",), "score")),
    "many whole numbers are scores": ({"text": sentence, "rating": lambda r, i: i}, ("score", ("text",), "rating")),
    "a pair": (
        {"index": lambda r, i: i, "sentence1": sentence, "sentence2": sentence, "label": lambda r, i: i % 2},
        ("classes", ("sentence1", "sentence2"), "label"),
    ),
    "a pair whose texts repeat": (
        {
            "word": lambda r, i: f"word {i}",
            "sentence1": lambda r, i: "abc"[i % 3],
            "sentence2": sentence,
            "same": lambda r, i: i % 2 > 0,
        },
        ("classes", ("sentence1", "sentence2"), "same"),
    ),
    "a pair by what both names begin with": (
        {"note": sentence, "utt_a": sentence, "utt_b": lambda r, i: f"it is {i}", "same": lambda r, i: i % 2 > 0},
        ("classes", ("utt_a", "utt_b"), "same"),
    ),
    "a pair by its lengths": (
        {"first": sentence, "second": sentence, "same": lambda r, i: r.choice(["yes", "no"])},
        ("classes", ("first", "second"), "same"),
    ),
    "a title beside a text is no pair": (
        {"title": lambda r, i: f"ticket number {i}", "body": sentence, "queue": lambda r, i: r.choice("abc")},
        ("classes", ("body",), "queue"),
    ),
    "a column without a name": (
        {"": lambda r, i: i % 4, "text": sentence, "team": lambda r, i: r.choice("xy")},
        ("classes", ("text",), "team"),
    ),
    "ids of many classes": ({"text": sentence, "label": lambda r, i: i % 30}, ("classes", ("text",), "label")),
    "ratings that many rows share": (
        {"text": sentence, "rating": lambda r, i: i % 30},
        ("score", ("text",), "rating"),
    ),
    "texts to write": ({"question": sentence, "answer": sentence}, ("text", ("question",), "answer")),
}


@pytest.mark.parametrize("case", list(CASES))
def test_kind_columns_and_label_are_told_from_the_file(tmp_path, case):
    columns, expected = CASES[case]
    found = look(written(tmp_path / "mine.csv", rows_of(300, **columns)))
    assert (found.kind, found.text, found.label) == expected
    suite = proposed(found, tmp_path)
    (task,) = suite.task
    assert (task.kind, task.text, task.label, task.test_share) == (*expected, 0.2)


def test_a_file_to_score_on_beside_train_is_taken(tmp_path):
    rows = rows_of(20, text=sentence, label=lambda r, i: i % 2)
    for name in ("train.csv", "dev.csv"):
        written(tmp_path / name, rows)
    for data in (tmp_path, tmp_path / "train.csv"):
        (task,) = proposed(look(data), tmp_path).task
        assert task.test == str(tmp_path / "dev.csv")
        assert task.test_share is None


def test_a_file_beside_train_without_labels_is_not_scored_on(tmp_path):
    written(tmp_path / "train.csv", rows_of(20, text=sentence, label=lambda r, i: i % 2))
    written(tmp_path / "test.csv", rows_of(20, text=sentence, id=lambda r, i: i))
    (task,) = proposed(look(tmp_path), tmp_path).task
    assert (task.test, task.test_share) == (None, 0.2)
    with pytest.raises(BenchError, match=r"test\.csv: missing column 'label'; needed: text, label; found: text, id"):
        look(tmp_path, test=tmp_path / "test.csv")


def test_rows_without_a_label_are_dropped_and_said(tmp_path):
    rows = rows_of(40, text=sentence, label=lambda r, i: "ab"[i % 2] if i else "")
    (task,) = proposed(look(written(tmp_path / "mine.csv", rows)), tmp_path).task
    assert task.incomplete == "drop"


def test_one_class_that_is_most_of_the_rows_is_scored_by_macro_f1_and_weighted(tmp_path):
    rows = rows_of(40, text=sentence, label=lambda r, i: "ab"[i < 4])
    (task,) = proposed(look(written(tmp_path / "mine.csv", rows)), tmp_path).task
    assert (task.main_metric, task.class_weights) == ("macro_f1", "balanced")


def test_column_names_with_quotes_survive(tmp_path):
    found = look(written(tmp_path / "mine.csv", rows_of(9, **{'the "text"': sentence, "label": lambda r, i: i % 2})))
    assert proposed(found, tmp_path).task[0].text == ('the "text"',)


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\x1bx", "the 'text'", "a.b", "0", "a{b}", "a[0]", "x:>9", "#"])
@pytest.mark.parametrize("read", [True, False])
def test_a_suite_can_be_written_whatever_a_file_calls_its_columns(tmp_path, name, read):
    path = tmp_path / "mine.jsonl"
    columns = {"body": sentence, name: sentence, "answer": sentence}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(9, **columns)))
    text = ("body", name) if read else ("body",)
    (task,) = proposed(look(path, text=text, label="answer"), tmp_path).task
    assert (task.text, task.kind) == (text, "text")
    assert prompted(task, ("a {text}",) * len(text)) == "a {text}\n" * len(text)


def test_a_file_that_is_called_as_a_task_of_this_project_makes_a_task_of_another_name(tmp_path):
    data = written(tmp_path / "sst2.csv", rows_of(40, text=sentence, label=lambda rng, row: row % 2))
    bench("init", data, "-o", tmp_path / "suite.toml", "--backbone", "tiny")
    assert [task["name"] for task in tomllib.loads((tmp_path / "suite.toml").read_text())["task"]] == ["my-sst2"]


def test_a_column_that_is_named_twice_is_refused(tmp_path):
    path = written(tmp_path / "mine.csv", rows_of(9, text=sentence, label=lambda rng, row: row % 2))
    with pytest.raises(BenchError, match=r"^--text names 'text' twice"):
        look(path, text=("text", "text"))


@pytest.mark.parametrize(
    ("tokens", "positions", "length"), [([5], 512, 16), ([17] * 99 + [900], 512, 24), ([900], 128, 128)]
)
def test_the_length_holds_all_but_a_hundredth_of_the_rows(tokens, positions, length):
    assert length_for(sorted(tokens), positions) == length


FAULTS = {
    "no such file": (None, {}, "no such file or folder; name a file with rows"),
    "no such label": (
        {"text": sentence, "label": lambda r, i: i % 2}, {"label": "lable"}, "unknown column 'lable'.*'label'",
    ),
    "no label told": ({"text": sentence, "note": sentence}, {}, "which column is the label cannot be told; .* --label"),
    "too many classes": (
        {"text": sentence, "key": lambda r, i: f"k{i}"}, {"label": "key", "kind": "classes"}, "holds over 200",
    ),
    "decimal comma": (
        {"text": sentence, "score": lambda r, i: f"{i},5"}, {}, "column 'score' holds numbers with a decimal comma",
    ),
    "no label told, two likely": (
        {"text": sentence, "a": lambda r, i: i % 2, "b": lambda r, i: i % 3}, {}, "with --label; columns: a, b$",
    ),
    "one class": ({"text": sentence, "label": lambda r, i: "x"}, {}, "holds one class alone, 'x'; give"),
    **{
        f"{value} among {kind}": (
            {"text": sentence, "score": lambda r, i, value=value, step=step: value if i == 5 else i % 35 / step}, {},
            rf"mine\.csv: line 7, column 'score': '{value}' is no finite number, as the other rows have; fix it, "
            "remove the row, or give --kind classes$",
        )
        for value in ("nan", "inf", "five") for kind, step in (("fractions", 7), ("ratings", 1))
    },
    "no text": ({"a": lambda r, i: i, "label": lambda r, i: i % 2}, {"text": ("b",)}, "unknown column 'b'"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "marks"), [("tsv", "tabs"), ("csv", "commas, or by semicolons, tabs or vertical")])
def test_a_file_whose_columns_nothing_parts_is_one_sentence(tmp_path, form, marks):
    path = tmp_path / f"mine.{form}"
    path.write_text("".join(f"{text}#{label}\n" for text, label in [("text", "label"), ("a b", 1), ("b c", 0)]))
    with pytest.raises(BenchError, match=f"line 1 holds one column, 'text#label'; part columns by {marks}"):
        look(path)


@pytest.mark.parametrize("case", list(FAULTS))
def test_what_cannot_be_told_is_one_sentence(tmp_path, case):
    columns, options, sentence_said = FAULTS[case]
    path = tmp_path / "mine.csv"
    if columns:
        written(path, rows_of(300, **columns))
    with pytest.raises(BenchError, match=sentence_said):
        look(path, **options)


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("tsv", "{text}\tand {text}\t{yes}\n"),
        ("csv", "{text},{yes}\n"),
        ("csv", "{number},{text}\n"),
        ("csv", "{number};{text}\n"),
    ],
)
def test_a_file_without_a_line_of_names_is_one_sentence(tmp_path, form, line):
    rng = random.Random(0)
    lines = (
        line.format(text=f"{sentence(rng, i)} {i} {sentence(rng, i)}", yes=("yes", "no")[i % 2], number=i / 4)
        for i in range(40)
    )
    path = tmp_path / f"mine.{form}"
    path.write_text("".join(lines))
    with pytest.raises(BenchError, match=r"line 1 looks like a row.*; put a line of column names above it$"):
        look(path)


def test_names_of_columns_may_be_sentences_and_values_may_be_names(tmp_path):
    columns = {"what did you like about it": sentence, "spam": lambda r, i: ("yes", "no")[i % 2]}
    assert look(written(tmp_path / "survey.csv", rows_of(40, **columns))).rows == 40
    columns = {"text": sentence, "spam": lambda r, i: ("spam", "ham")[i % 2]}
    assert look(written(tmp_path / "spam.csv", rows_of(40, **columns))).label == "spam"


def test_init_writes_a_suite_says_what_it_saw_and_keeps_a_file_that_is_there(tmp_path):
    data = written(tmp_path / "tickets.csv", rows_of(60, text=sentence, queue=lambda r, i: "abc"[i % 3]))
    out = tmp_path / "tickets.toml"
    done = bench("init", data, "-o", out, "--json")
    said = json.loads(done.stdout)
    assert said["rows"] == "60 rows, label 'queue' (classes), 3 classes, 20 to 20 rows each"
    assert said["next"] == f"python -m bench run --suite {out}"
    before = out.read_text()
    again = bench("init", data, "-o", out, code=2)
    assert "is there already and is kept; name another file with -o" in again.stderr
    assert out.read_text() == before


PLANNED = {
    "a label that occurs in test alone": (
        "c,1",
        "a b c,2",
        {},
        r"test\.csv: line 2, column 'label': unknown label '2'",
    ),
    "words as scores": (
        "c,one",
        "a b c,1",
        {"--kind": "score"},
        "column 'label': 'one' is not a score of .*: must be",
    ),
    "a test split of one class": ("c,1", "a b c,1", {}, "the one test row has the label 1; give rows of two"),
}


@pytest.mark.parametrize("case", list(PLANNED))
def test_init_refuses_what_plan_would_refuse(tmp_path, case):
    train, test, options, said = PLANNED[case]
    (tmp_path / "train.csv").write_text(
        "text,label\n" + "".join(f"{w} b,{i % 2}\n{train}\n" for i, w in enumerate(WORDS))
    )
    (tmp_path / "test.csv").write_text(f"text,label\n{test}\n")
    out = tmp_path / "mine.toml"
    done = bench("init", tmp_path, "-o", out, *(word for pair in options.items() for word in pair), code=2)
    assert re.search(said, done.stderr), done.stderr
    assert not out.exists()


def test_a_shape_without_weights_is_a_backbone_whose_suite_says_so(tmp_path):
    data = written(tmp_path / "mine.csv", rows_of(60, text=sentence, label=lambda r, i: i % 2))
    out = tmp_path / "mine.toml"
    assert "tiny, random weights" in bench("init", data, "--backbone", "tiny", "-o", out).stdout
    backbone = tomllib.loads(out.read_text())["backbone"]
    assert backbone == {"name": "tiny", "weights": "random"}
    assert "data   mine: mine.csv" in bench("plan", "--suite", out, "--methods", "head", "--seeds", "0").stdout


def test_an_empty_text_of_the_file_to_score_on_is_dropped_and_said(tmp_path):
    rows = rows_of(20, text=sentence, label=lambda r, i: i % 2)
    written(tmp_path / "train.csv", rows)
    written(tmp_path / "test.csv", [*rows, {"text": " ", "label": 1}])
    done = bench("init", tmp_path, "-o", tmp_path / "mine.toml")
    assert "1 incomplete" in done.stdout
    assert 'incomplete = "drop"' in (tmp_path / "mine.toml").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (("a", "b", "c"), "--text names 3 columns: a row has one or two texts; join the others to one"),
        (("label",), "--text and --label both name 'label'; name one column of labels and others of texts"),
    ],
)
def test_columns_that_cannot_be_texts_are_one_sentence(tmp_path, text, said):
    data = written(tmp_path / "mine.csv", rows_of(9, a=sentence, b=sentence, c=sentence, label=lambda r, i: i % 2))
    with pytest.raises(BenchError, match=said):
        look(data, label="label", text=text)


def test_nested_objects_are_named_where_no_column_holds_texts(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"doc": {"text": str(i)}, "label": i % 2}) + "\n" for i in range(9)))
    with pytest.raises(BenchError, match=r"no column beside 'label' holds texts; .* the lists or objects of doc"):
        look(path)
    with pytest.raises(BenchError, match="column 'doc' holds lists or objects; give one name, number or text"):
        look(path, label="doc", text=("label",))


def test_init_of_text_asks_for_a_language_model(tmp_path):
    data = written(tmp_path / "qa.csv", rows_of(30, question=sentence, answer=sentence))
    done = bench("init", data, "-o", tmp_path / "qa.toml", code=2)
    assert "column 'answer' holds texts to write: kind text needs a language model; give its folder" in done.stderr
