"""Whatever stands in the files that a command reads: one sentence and an exit code, no traceback, no byte lost."""

import contextlib
import io
import json
import shutil
import tomllib
from unittest import mock

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.__main__ import main
from bench.analysis.results import Results
from bench.errors import BenchError
from bench.schema.resolved import ResolvedSuite
from bench.store.store import open_store
from bench.verdicts.reference import reference_of, write_reference
from tests.factories.records import glue_small

FILES = ("suite.toml", "records.jsonl", "reference.json")
HOSTILE = "<script>alert(1)</script>[bold red]x[/] \x1b[31m\x07\x00 \u202e|`*_#\r\n::error::y"
FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound run folder with its reference."""
    folder = tmp_path_factory.mktemp("sound")
    run = glue_small(folder, labels=["full", "lora(rank=8)"], seeds=(0, 1))
    records = [json.loads(record.model_dump_json(by_alias=True)) for record in run.records]
    write_folder(folder, run.suite.plain(), records)
    write_reference(reference_of(Results(run)), folder / "reference.json")
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    return shutil.copytree(sound, tmp_path / "run")


def write_folder(folder, suite, records):
    (folder / "suite.toml").write_text(tomli_w.dumps(suite))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def bench(*arguments):
    """Exit code, stdout and stderr of ``python -m bench`` in this process; a traceback fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch("sys.argv", ["bench", *map(str, arguments)]), contextlib.redirect_stdout(out):
        with contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                return ended.code or 0, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def commands(folder, damaged):
    """Every command that reads what is damaged; the report's plots left out: they are drawn once, below."""
    gate = ("gate", folder, "--reference", folder / "reference.json")
    of_the_run = (
        ("reference", folder, "-o", folder / "made.json"),
        ("report", folder, "--format", "pytest-benchmark"),
        ("report", folder),
    )
    return (gate,) if damaged == "reference.json" else (gate, *of_the_run)


def stands(folder):
    found = {}
    for name in FILES:
        with contextlib.suppress(OSError):
            found[name] = (folder / name).read_bytes()
    return found


def check(folder, *, damaged=None, codes=(0, 1, 2, 3, 4)):
    """Run commands and ``open_store`` on ``folder``, all of them where it isn't said what is ``damaged``.

    Returns:
        Their exit codes by verb.
    """
    before = stands(folder)
    outcomes = {}
    with mock.patch("bench.report.charts.catalogue.draw", return_value=[]):
        for command in commands(folder, damaged):
            code, out, err = bench(*command)
            outcomes[" ".join(map(str, command[::2] if "report" in command else command[:1]))] = code
            assert code in codes, (command[0], code, out, err)
            assert printable(out + err), (command, out + err)
            if code in (2, 4):
                assert len(err.splitlines()) == 1, err
    assert stands(folder) == before
    resume(folder)
    return outcomes


def resume(folder):
    """What ``run`` does with a folder: refuse it as it stands, or open it with every byte kept."""
    before = stands(folder)
    with contextlib.suppress(OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        suite = tomllib.loads((folder / "suite.toml").read_text())
        try:
            with open_store(folder, ResolvedSuite.model_validate(suite)):
                pass
        except (BenchError, ValidationError):  # no plan makes such a suite
            assert stands(folder) == before
        else:
            torn = folder / "records.torn"
            kept = (folder / "records.jsonl").read_bytes() if "records.jsonl" in before else b""
            kept += torn.read_bytes().removesuffix(b"\n") if torn.exists() else b""
            assert kept == before.get("records.jsonl", b"")
            torn.unlink(missing_ok=True)


def printable(text):
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("versions", [None, {"torch": "2.13"}, "2.13"])
def test_records_without_the_versions_that_a_gate_compares_are_one_sentence(folder, versions):
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for record in records:
        record["environment"]["versions"] = versions
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    code, _, err = bench("gate", folder, "--reference", folder / "reference.json")
    assert code == 2
    assert "its records do not say which t" in err


def test_records_that_say_nothing_of_where_they_were_made_are_read_or_refused_with_a_sentence(folder):
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for environment in ({}, {"hardware": {}, "versions": {}}, {"hardware": None, "threads": None}):
        written = [record | {"environment": environment} for record in records]
        (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in written))
        outcomes = check(folder)
        assert outcomes["report"] == 0


@pytest.mark.parametrize("name", FILES)
@FEW
@given(data=st.data())
def test_cut_and_flipped_bytes(folder, name, data):
    content = bytearray((folder / name).read_bytes())
    with contextlib.suppress(FileNotFoundError):
        cut = data.draw(st.integers(0, len(content)))
        flips = data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 7)), max_size=3))
        damaged = content[:]
        for place, bit in flips:
            damaged[place] ^= 1 << bit
        (folder / name).write_bytes(damaged[:cut] if data.draw(st.booleans()) else damaged)
        try:
            check(folder, damaged=name)
        finally:
            (folder / name).write_bytes(content)


FOREIGN = {
    "nothing": b"",
    "spaces": b" \n\n \n",
    "a null byte": b"\x00",
    "no text": bytes(range(256)),
    "utf-16": "name = 's'".encode("utf-16"),
    "deep lists": b"[" * 100_000 + b"\n",
    "deep tables": b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n",
    "a very long line": b'{"schema": 1, "id": "' + b"x" * 3_000_000 + b'"}\n',
    "another program's JSON": b'{"benchmarks": [{"name": "test", "stats": {"mean": 0.1}}], "version": "5.3.1"}\n',
    "another program's JSONL": b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n',
    "a number": b"42\n",
    "null": b"null\n",
    "a later schema": b'{"schema": 99, "schema_version": 99, "kind": "cost"}\n',
    "a schema of no type": b'{"schema": [1], "schema_version": {"a": 1}}\n',
    "not a number": b'{"schema": NaN, "schema_version": Infinity}\n',
    "a huge number": b'{"schema": 1, "schema_version": 1, "x": ' + b"9" * 10_000 + b"}\n",
    "another program's TOML": b'[project]\nname = "x"\n',
    "a table in another's place": b'name = "s"\nmethods = ["full"]\nbaseline = "full"\n[backbone]\n[[sweep]]\na = 1\n',
    "wrong sweeps": b'name = "s"\nmethods = ["full"]\nbaseline = "full"\ntasks = 3\n[backbone]\nname = 1\n',
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused(folder, name, content):
    (folder / name).write_bytes(content)
    outcomes = check(folder, damaged=name)
    if name == "reference.json" or (name == "suite.toml" and b"methods" not in content):
        assert outcomes["gate"] == 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["directory", "loop", "dangling link", "unreadable"])
def test_what_is_no_file_is_refused(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling link":
        path.symlink_to(folder / "absent")
    else:
        path.symlink_to("/proc/self/mem")
    outcomes = check(folder, codes=(0, 2, 4))
    assert outcomes["gate"] == (4 if (name, kind) == ("reference.json", "dangling link") else 2)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([2**63, -(2**63), 10**30, 10**99]),
    st.floats(allow_nan=True), st.text(max_size=5), st.just(HOSTILE), st.just([]), st.just({}), st.just([[1]]),
    st.just({"a": {"b": 1}}), st.just({"samples": []}),
)  # fmt: skip


def replaced(draw, value, depth=0):
    """``value`` with one of its leaves, or a branch, replaced by something else, removed or named otherwise."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or (depth and draw(st.integers(0, 5)) == 0):
        return draw(LEAVES)
    key = draw(st.sampled_from(keys))
    copy = value.copy()
    if isinstance(copy, dict) and draw(st.integers(0, 9)) == 0:
        copy[draw(st.sampled_from([HOSTILE, "x", ""]))] = copy.pop(key)
        return copy
    copy[key] = replaced(draw, value[key], depth + 1)
    return copy


@settings(FEW, max_examples=40)
@given(data=st.data())
def test_records_of_other_types_and_values(folder, data):
    path = folder / "records.jsonl"
    content = path.read_bytes()
    records = [json.loads(line) for line in content.splitlines()]
    at = data.draw(st.integers(0, len(records) - 1))
    records[at] = replaced(data.draw, records[at])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    try:
        check(folder)
    finally:
        path.write_bytes(content)


@settings(FEW, max_examples=25)
@given(data=st.data())
def test_references_of_other_types_and_values(folder, data):
    path = folder / "reference.json"
    content = path.read_bytes()
    path.write_text(json.dumps(replaced(data.draw, json.loads(content))))
    try:
        code, out, err = bench("gate", folder, "--reference", path)
        assert code in (0, 1, 2, 3, 4)
        assert printable(out + err), out + err
    finally:
        path.write_bytes(content)


@settings(FEW, max_examples=25)
@given(data=st.data())
def test_suites_of_other_types_and_values(folder, data):
    path = folder / "suite.toml"
    content = path.read_bytes()
    try:
        path.write_text(tomli_w.dumps(replaced(data.draw, tomllib.loads(content.decode()))))
    except (TypeError, ValueError, AttributeError):
        return  # TOML has no null
    try:
        check(folder)
    finally:
        path.write_bytes(content)


def test_a_line_without_its_end_is_set_aside_and_not_lost(folder):
    path = folder / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.rstrip(b"\n"))  # as an editor may leave it
    resume(folder)
    suite = tomllib.loads((folder / "suite.toml").read_text())
    path.write_bytes(b'{"another": "program"}')
    with open_store(folder, ResolvedSuite.model_validate(suite)) as store:
        assert not store.records
    assert (folder / "records.torn").read_bytes() == b'{"another": "program"}\n'


def asked_for(label):
    return ResolvedSuite(name="s", methods=[label], baseline=label, backbone={"name": "tiny"})


def test_a_suite_that_a_person_wrote_is_never_overwritten(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text('# mine\nbaseline = "full"\n')
    for fresh in (False, True):
        with pytest.raises(BenchError, match=r"suite\.toml: holds a different suite .* give another --out$"):
            with open_store(tmp_path, asked_for("full"), fresh=fresh):
                raise AssertionError("written over it")
    assert path.read_text() == '# mine\nbaseline = "full"\n'


def test_fresh_sets_the_suite_of_an_earlier_run_aside(tmp_path):
    earlier, later = asked_for("full"), asked_for("head")
    with open_store(tmp_path, earlier):
        pass
    with open_store(tmp_path, later, fresh=True):
        pass
    (aside,) = tmp_path.glob("suite-*.toml")
    assert tomllib.loads(aside.read_text()) == earlier.plain()
    assert tomllib.loads((tmp_path / "suite.toml").read_text()) == later.plain()


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("records.jsonl", '"id":', '"seed": 1, "id": "x", "id":', "not a JSON record (the key 'id' is listed twice)"),
        ("reference.json", '"suite":', '"suite": "x", "suite":', "reference.json: the key 'suite' is listed twice"),
        ("records.jsonl", '"dropout": 0.0', '"dropout": 1e999', "1e999 is too large"),
        ("reference.json", '"delta_bytes": ', '"delta_bytes": NaN, "x": ', "NaN is not a number in JSON"),
        ("suite.toml", 'methods = [', 'tasks = 3\nmethods = [', "suite.toml: not a readable suite"),
        ("suite.toml", 'seeds = [', 'seeds = ["a",', "suite.toml: seeds.0 = a is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_place_is_named(folder, name, old, new, sentence):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    code, out, err = bench("gate", folder, "--reference", folder / "reference.json")
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"score": None}, "status is ok but there is no score"),
        ({"task": None}, "no score record of task 'sst2' knows its rows"),
    ],
)
def test_a_score_without_its_figure_or_rows_is_refused(folder, change, sentence):
    suite = tomllib.loads((folder / "suite.toml").read_text())
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    scored = [record | change for record in records if record["kind"] == "score" and record["task_name"] == "sst2"]
    write_folder(folder, suite, [records[0], *scored])
    code, out, err = bench("gate", folder, "--reference", folder / "reference.json")
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.usefixtures("svg_alone")
def test_hostile_names_stay_text_on_every_screen_and_in_every_file(folder, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    lines = (folder / "records.jsonl").read_text().splitlines()
    records = [json.loads(line.replace("lora(rank=8)", json.dumps(HOSTILE)[1:-1])) for line in lines]
    suite = tomllib.loads((folder / "suite.toml").read_text()) | {"methods": ["full", HOSTILE], "question": HOSTILE}
    records[1] |= {"status": "failed", "reason": HOSTILE, "warnings": [HOSTILE], "traceback": HOSTILE}
    write_folder(folder, suite, records)
    code, out, err = bench("gate", folder, "--reference", folder / "reference.json", "--junit", folder / "gate.xml")
    assert (code, err) == (1, "")
    assert printable(out)
    assert "[bold red]x[/]" in out
    assert not [line for line in out.splitlines() if line.startswith("::error::")]
    code, out, err = bench("report", folder)
    assert (code, err) == (0, "")
    assert printable(out)
    assert "[bold red]x[/]" in out
    assert "<script" not in (folder / "report.md").read_text()
    values = json.loads((folder / "reference.json").read_text())
    for stale in (values | {"versions": {HOSTILE: HOSTILE}}, values | {"suite": HOSTILE}):
        (folder / "reference.json").write_text(json.dumps(stale))
        code, out, err = bench("gate", folder, "--reference", folder / "reference.json")
        assert (code, out) == (4, "")
        assert printable(err)
        assert len(err.splitlines()) == 1


def test_a_folder_without_records_says_what_is_missing_and_what_fills_it(folder):
    (folder / "records.jsonl").unlink()
    (folder / "plots").mkdir()
    fill = f"python -m bench run --suite glue-small --out {folder}"
    code, out, _ = bench("report", folder)
    shown = "".join(out.split())  # a long path may be broken over lines
    assert code == 0
    assert "missingallrecords" in shown
    assert fill.replace(" ", "") in shown
    assert "| missing | all records, nothing was measured here yet" in (folder / "report.md").read_text()
    for command in (
        ("gate", folder, "--reference", folder / "reference.json"),
        ("reference", folder, "-o", folder / "x"),
    ):
        code, out, err = bench(*command)
        assert (code, out) == (2, "")
        assert f"finish the run first: {fill}" in err
    (folder / "suite.toml").unlink()
    code, _, err = bench("report", folder)
    assert code == 2
    assert f"or make one: python -m bench run --suite NAME --out {folder}" in err


def test_a_folder_that_only_counts_is_filled_by_counting(folder):
    (folder / "records.jsonl").unlink()
    suite = tomllib.loads((folder / "suite.toml").read_text())
    write_folder(folder, suite | {"tasks": [], "cost": [{"batch": 1, "length": 2, "timed": False}]}, [])
    assert bench("reference", folder, "-o", folder / "x")[2].endswith(f"--out {folder} --counts\n")
