"""What SECURITY.md promises of the sources: nothing unpickled, every CSV inert, every page escaped, each test there."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from bench.report.render import html
from tools.crash.trial import KILLED, SIGNALLED
from tools.docs import robustness
from tools.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [path for folder in ("bench", "methods") for path in sorted((ROOT / folder).rglob("*.py"))]
SECURITY = (ROOT / "SECURITY.md").read_text()
OPENS_PICKLES = {
    "pickle": {"load", "loads", "Unpickler"}, "torch": {"load"}, "pd": {"read_pickle"}, "pandas": {"read_pickle"},
    "joblib": {"load"}, "marshal": {"load", "loads"}, "shelve": {"open"}, "dill": {"load", "loads"},
    "cloudpickle": {"load", "loads"},
}  # fmt: skip
RUNS_TEXT = {"exec", "eval", "compile", "__import__"}
IN_PIPES = {"bench/count/isolation.py"}
"""Where a process reads what its own fork sent through a pipe that no one else has."""


def calls(path):
    """Calls of a source file: line, what is called up to its last dot, what stands behind it, keywords as text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if isinstance(node.func, ast.Attribute):
                yield node.lineno, ast.unparse(node.func.value), node.func.attr, words
            elif isinstance(node.func, ast.Name):
                yield node.lineno, "", node.func.id, words


def forbidden(path):
    """Calls that open a pickle, or run text as code or as a command."""
    for line, on, name, words in calls(path):
        pickles = name in OPENS_PICKLES.get(on, ()) or words.get("allow_pickle", "False") != "False"
        runs = (not on and name in RUNS_TEXT) or words.get("shell", "False") != "False"
        runs |= (on, name) in {("os", "system"), ("os", "popen")} or (
            on == "yaml" and name not in ("safe_load", "safe_dump")
        )
        if pickles or runs:
            yield f"{path.name}:{line} {on}.{name}"


def test_no_source_opens_a_pickle_or_runs_text():
    assert len(SOURCES) > 150
    found = [call for path in SOURCES if str(path.relative_to(ROOT)) not in IN_PIPES for call in forbidden(path)]
    assert found == []


@pytest.mark.parametrize(
    "source",
    ["import pickle; pickle.loads(x)", "torch.load(path)", "np.load(path, allow_pickle=True)", "pd.read_pickle(path)",
     "eval(text)", "subprocess.run(line, shell=True)", "os.system(line)", "yaml.load(text)"],
)  # fmt: skip
def test_each_of_them_would_be_seen(source, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert len(list(forbidden(path))) == 1


def test_every_csv_is_written_where_cells_are_made_inert():
    writing = {
        path
        for path in SOURCES
        for _, on, name, _ in calls(path)
        if name == "to_csv" or (on, name) == ("csv", "writer")
    }
    assert {str(path.relative_to(ROOT)) for path in writing} == {"bench/report/export.py", "bench/export/answer.py"}
    for path in writing:
        assert "from bench.schema.forms import inert" in path.read_text()


def test_every_template_is_escaped_and_none_lifts_it():
    environment = html._environment()
    assert environment.autoescape is True
    templates = environment.list_templates(filter_func=lambda name: not name.endswith((".py", ".pyc")))
    assert templates
    pages = [name for name in templates if name.endswith(".html")]
    assert pages
    for name in pages:
        source, _, _ = environment.loader.get_source(environment, name)
        assert not re.search(r"\|\s*safe\b|autoescape\s+false", source), name
    shown = environment.from_string("{{ text }}").render(text="<script>x</script>\"'&")
    assert shown == "&lt;script&gt;x&lt;/script&gt;&#34;&#39;&amp;"


def test_nothing_but_the_pages_own_style_and_script_is_taken_as_it_is():
    found = {f"{path.name}:{name}" for path in SOURCES for _, _, name, _ in calls(path) if name == "Markup"}
    assert found == {"html.py:Markup"}
    marked = re.findall(r"Markup\((\w+)\)", (ROOT / "bench/report/render/html.py").read_text())
    assert marked == ["style", "script"]


def test_the_tests_that_hold_each_rule_are_there():
    named = re.findall(r"`(tests/[\w/]+\.py)`", SECURITY)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_committed_campaigns_are_whole_and_found_nothing_that_is_left():
    trials = robustness.trials()
    assert sum(trial["kind"] in KILLED for trial in trials) >= 200
    assert {trial["kind"] for trial in trials} == {*KILLED, *SIGNALLED, "full disk", "Ray worker"}
    assert sum(trial["kills"] for trial in trials if trial["kind"] == "Ray worker") >= 40
    assert [trial for trial in trials if trial["faults"]] == []
    searched = json.loads((robustness.ROBUSTNESS / "fuzz.json").read_text())["kinds"]
    assert [(name, one["found"]["fault"]) for name, one in searched.items() if "found" in one] == []
    assert searched.keys() == TARGETS.keys()
    assert sum(one["examples"] for one in searched.values()) >= 10_000


def test_the_audit_of_pinned_versions_fails_for_what_it_cannot_look_up():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    (audit,) = [step["run"] for step in jobs["audit"]["steps"] if step.get("run", "").startswith("pip-audit")]
    assert all(words in audit for words in ("--strict", "--requirement constraints.txt"))
