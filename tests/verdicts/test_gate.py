"""A gate stops what changed, says what and by how much, and refuses to compare what cannot be compared."""

import errno
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.report import export as written
from bench.verdicts.gate import Check, check, stale, verdict
from bench.verdicts.reference import figures_of, read_reference, reference_of, write_reference
from tests.factories.records import failed, glue_small

LORA = "lora(rank=8)"


@pytest.fixture
def run(tmp_path):
    return glue_small(tmp_path, seeds=(0, 1, 2, 3, 4), source="folder")


def gate(run, reference):
    results = Results(run)
    return check(results, figures_of(results), reference)


def changed(run, label=LORA, **updates):
    """``run`` with figures of one method's cost record changed."""
    records = [
        r.model_copy(update={key: change(getattr(r, key)) for key, change in updates.items()})
        if r.kind == "cost" and r.method.label == label
        else r
        for r in run.records
    ]
    return replace(run, records=tuple(records))


def findings(checks):
    return [line for _, line in written.findings(checks)]


def test_a_run_passes_its_own_reference_from_a_file(run, tmp_path):
    path = tmp_path / "deep" / "reference.json"
    write_reference(reference_of(Results(run)), path)
    reference = read_reference(path)
    assert reference == reference_of(Results(run))
    assert stale(figures_of(Results(run)), reference) is None
    checks = gate(run, reference)
    assert verdict(checks) == "pass"
    assert {c.kind for c in checks} == {"exact", "score"}
    assert findings(checks) == []


def test_the_file_has_sorted_keys_and_one_figure_a_line(run, tmp_path):
    path = tmp_path / "reference.json"
    write_reference(reference_of(Results(run)), path)
    text = path.read_text()
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text
    assert any(line.strip().startswith('"flops.backward": ') for line in text.splitlines())


def with_layer(flops, layer, **figures):
    """``flops`` with figures of one layer changed."""
    return flops.model_copy(
        update={"by_layer": flops.by_layer | {layer: flops.by_layer[layer].model_copy(update=figures)}}
    )


# Faults of a method's code are seeded in tests/verdicts/test_gate_faults.py; these records no method's code makes.
FAULTS = {
    "a larger head": {"trainable_parameters": lambda t: t.model_copy(update={"head": t.head + 1})},
    "a gradient too many": {"bytes": lambda b: b.model_copy(update={"gradients": b.gradients + 4})},
    "a heavier backbone": {"bytes": lambda b: b.model_copy(update={"weights": b.weights + 4})},
    "a product more in forward": {"flops": lambda f: f.model_copy(update={"forward": f.forward + 2})},
    "a weight gradient in the backbone": {
        "flops": lambda f: f.model_copy(
            update={"backbone": f.backbone.model_copy(update={"backward_weight_gradient": 2, "backward": 2})}
        )
    },
    "a gradient that reaches another layer": {"flops": lambda f: with_layer(f, "embeddings", backward=2)},
    "a figure that vanished": {"flops": lambda f: None},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_seeded_fault_fails_the_gate_and_is_named(run, fault):
    reference = reference_of(Results(run))
    checks = gate(changed(run, **FAULTS[fault]), reference)
    assert verdict(checks) == "fail"
    named = findings(checks)
    assert all(line.startswith(f"{LORA}: ") for line in named)
    assert any(key in line for key in FAULTS[fault] for line in named)


@pytest.mark.parametrize(("error", "found"), [(9e-8, "pass"), (3e-6, "fail")])
def test_a_merge_may_miss_by_rounding_alone(run, error, found):
    exact = changed(run, merge_error=lambda m: {"float32": 2.6e-8})
    checks = gate(changed(run, merge_error=lambda m: {"float32": error}), reference_of(Results(exact)))
    assert verdict(checks) == found
    said = [f"{LORA}: merge_error.float32 was 2.6e-08, is 3.0e-06; rounding explains 1e-06 at most"]
    assert findings(checks) == (said if found == "fail" else [])


def test_a_reference_that_knows_no_settings_must_be_updated(run):
    older = reference_of(Results(run)).model_copy(update={"configs": {}})
    assert f"{LORA}: config.rank = 8 stands in the run but not in the reference; update it" in findings(
        gate(run, older)
    )


def test_an_improvement_must_be_accepted_too_and_says_its_share(run):
    better = changed(run, bytes=lambda b: b.model_copy(update={"saved_activations": b.saved_activations // 2}))
    (line,) = findings(gate(better, reference_of(Results(run))))
    assert "bytes.saved_activations was " in line
    assert "(-50.00 %)" in line


def test_a_method_that_the_reference_lacks_is_new_and_one_that_the_run_lacks_fails(run):
    without = replace(run, records=tuple(r for r in run.records if r.method.label != LORA))
    checks = gate(run, figures_of(Results(without)))
    assert verdict(checks) == "pass"
    assert {(c.kind, c.name.endswith(LORA)) for c in checks if c.verdict == "new"} == {("exact", True), ("score", True)}
    shown = written.gate_screen("smoke", checks)
    assert f"new           {LORA}: the reference has no such method; add it with: python -m bench reference" in shown
    assert shown[-1].endswith("passed, 2 new")
    assert b'failures="0" skipped="0"' in written.junit("smoke", checks)
    assert all(command.startswith("::notice ") for command in written.annotations(checks))
    checks = gate(without, reference_of(Results(run)))
    assert verdict(checks) == "fail"
    assert any("the run has no costs of it" in line for line in findings(checks))


def every(run, **updates):
    """``run`` with figures of every method's cost record changed."""
    for label in {r.method.label for r in run.records if r.kind == "cost"}:
        run = changed(run, label, **updates)
    return run


VANISHED = {
    "a field": ({"delta_bytes": lambda d: None}, ["delta_bytes"]),
    "every layer": (
        {"flops": lambda f: f.model_copy(update={"by_layer": {}})},
        [f"flops.by_layer.*.{leaf}" for leaf in ("forward", "backward")],
    ),
}


@pytest.mark.parametrize("vanished", VANISHED)
def test_a_figure_that_the_reference_has_of_no_method_is_new_and_one_that_the_run_has_of_none_fails(run, vanished):
    updates, figures = VANISHED[vanished]
    poorer = every(run, **updates)
    checks = gate(run, reference_of(Results(poorer)))
    assert verdict(checks) == "pass"
    new = [line for c in checks if c.verdict == "new" for line in c.lines]
    assert len(new) == len(set(new)), "one line a figure, however many methods and layers have it"
    assert all(any(line.startswith(f"{figure}: ") for line in new) for figure in figures)
    assert verdict(gate(poorer, reference_of(Results(run)))) == "fail"


def test_a_figure_that_the_reference_has_of_other_methods_alone_is_a_change_of_this_one(run):
    poorer = changed(run, delta_bytes=lambda d: None)
    checks = gate(run, reference_of(Results(poorer)))
    assert verdict(checks) == "fail"
    assert any(
        line.startswith(f"{LORA}: delta_bytes = ") and "stands in the run but not in the reference" in line
        for line in findings(checks)
    )


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        (lambda r: r.kind == "cost" and r.method.label == LORA, rf"costs of {re.escape(LORA)} at \d+ x \d+ tokens"),
        (lambda r: r.kind == "score" and r.seed == 1, r"score of .* on sst2 with seed 1, .*"),
        (lambda r: r.kind == "score", r"score of .*, score of .*, score of .* and \d+ more"),
    ],
)
def test_an_unfinished_run_makes_no_reference_and_names_what_it_lacks(run, lacks, words):
    unfinished = replace(run, records=tuple(r for r in run.records if not lacks(r)))
    with pytest.raises(BenchError, match=rf"unfinished, without {words}; finish the run first: python -m bench run"):
        reference_of(Results(unfinished))


def test_a_reference_that_cannot_be_written_leaves_the_one_before_it(run, tmp_path, monkeypatch):
    path = tmp_path / "reference.json"
    write_reference(reference_of(Results(run)), path)
    before = path.read_bytes()

    def full(self, text, **options):
        self.write_bytes(text.encode()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BenchError, match="cannot be written"):
        write_reference(reference_of(Results(run)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["reference.json"]


def test_a_record_that_failed_fails_the_gate_and_makes_no_reference(run):
    records = [failed(r) if r.kind == "cost" and r.method.label == LORA else r for r in run.records]
    broken = replace(run, records=tuple(records))
    assert any("ended oom: out of memory" in line for line in findings(gate(broken, reference_of(Results(run)))))
    with pytest.raises(BenchError, match="needs a complete run"):
        reference_of(Results(broken))
    with pytest.raises(BenchError, match="no records to make a reference of"):
        reference_of(Results(replace(run, records=())))


def lowered(run, points, label=LORA):
    records = [
        r.model_copy(update={"score": r.score - points / 100}) if r.kind == "score" and r.method.label == label else r
        for r in run.records
    ]
    return replace(run, records=tuple(records))


def test_scores_may_not_fall_below_the_margin(run):
    reference = reference_of(Results(run))
    assert verdict(gate(lowered(run, 0.2), reference)) == "pass"
    assert verdict(gate(lowered(run, 3.0), reference)) == "fail"
    assert "-3.00 points" in findings(gate(lowered(run, 3.0), reference))[0]


def test_few_seeds_decide_no_score(tmp_path):
    run = glue_small(tmp_path)
    checks = gate(lowered(run, 3.0), reference_of(Results(run)))
    assert verdict(checks) == "inconclusive"
    assert "3 seeds carry no verdict" in findings(checks)[0]


def test_another_seed_or_task_is_named(run):
    fewer = replace(run, records=tuple(r for r in run.records if r.kind != "score" or r.seed != 4))
    assert any("the run has no score of" in line for line in findings(gate(fewer, reference_of(Results(run)))))
    assert any("the reference has no score of" in line for line in findings(gate(run, figures_of(Results(fewer)))))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("suite",), "glue", "suite is 'glue-small' in the run but 'glue' in the reference"),
        (("versions", "torch"), "2.11", "versions.torch is '2.13' in the run but '2.11'"),
        (("backbone", "sha256"), "beef", "backbone.sha256"),
        (("costs", 0, "shape", "dtype"), "bfloat16", "the shape 32 x 64 stands in the run but not in the reference"),
        (("scores", "sst2", "content_sha256"), "beef", "rows of task sst2"),
    ],
)
def test_what_cannot_be_compared_names_the_key_that_differs(run, path, value, sentence):
    values = reference_of(Results(run)).model_dump(mode="json")
    place = values
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert sentence in stale(figures_of(Results(run)), type(reference_of(Results(run))).model_validate(values))


def test_a_claim_that_fails_fails_the_gate(run):
    claim = {"name": "spared", "says": "LoRA spares backward", "metric": "flops.backward", "method": [LORA],
             "versus": "full", "ratio": {"max": 0.1}}  # fmt: skip
    claimed = replace(run, suite=run.suite.changed(claims=[claim]))
    checks = gate(claimed, reference_of(Results(run)))
    assert verdict(checks) == "fail"
    assert "LoRA spares backward" in findings(checks)[0]


def test_no_reference_is_none_and_a_broken_one_is_said(tmp_path):
    assert read_reference(tmp_path / "none.json") is None
    path = tmp_path / "broken.json"
    for content in ("", "{", "[]", '{"suite": 1}', '{"suite": "s", "backbone": {}, "versions": {}, "more": 1}', "\x00"):
        path.write_text(content)
        with pytest.raises(BenchError, match=r"broken\.json"):
            read_reference(path)


@given(st.binary(max_size=300))
def test_a_hostile_reference_is_a_sentence_never_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("hostile") / "reference.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"reference\.json"):
        read_reference(path)


@given(st.text(), st.text(), st.sampled_from(["pass", "fail", "inconclusive", "invalid", "new"]))
def test_whatever_a_finding_says_junit_annotations_and_markdown_stay_whole(name, line, found):
    checks = [
        Check(kind="exact", name=name, verdict=found, lines=(line,)),
        Check(kind="score", name="b", verdict="pass"),
    ]
    tree = ElementTree.fromstring(written.junit("suite", checks))
    assert tree.attrib["tests"] == "2"
    assert len(tree.findall("testcase")) == 2
    assert len(tree.findall(".//failure")) == int(tree.attrib["failures"]) == (found == "fail")
    assert len(tree.findall(".//skipped")) == int(tree.attrib["skipped"]) == (found in ("inconclusive", "invalid"))
    for command in written.annotations(checks):
        assert "\n" not in command
        assert "\r" not in command
    rows = [row for row in written.gate_markdown("suite", checks).splitlines() if row.startswith(f"| {found} ")]
    assert len(rows) == (found != "pass")


def test_a_screen_shows_forty_findings_then_how_many_more_and_the_verdict(monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    checks = [Check(kind="exact", name=f"{n}", verdict="fail", lines=(f"line {n}",)) for n in range(42)]
    shown = written.gate_screen("smoke against smoke.json", checks)
    assert shown[0] == "fail          line 0"
    assert shown[40:] == ["2 more; --json shows all", "fail          smoke against smoke.json: 42 failed"]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert written.gate_screen("smoke against smoke.json", checks) == shown + written.annotations(checks)


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with pytest.raises(BenchError, match=r"no/gate\.xml: cannot be written .*; give another path"):
        written.write_gate("smoke", [], tmp_path / "no" / "gate.xml")


def test_annotations_escape_what_github_would_read():
    (command,) = written.annotations([Check(kind="exact", name="a", verdict="fail", lines=("50 %\nmore\r",))])
    assert command == "::error title=peft-ledger gate::50 %25%0Amore%0D"
    (warning,) = written.annotations([Check(kind="claim", name="a", verdict="invalid", lines=("noisy",))])
    assert warning.startswith("::warning ")


def test_a_reference_with_one_shape_twice_is_refused(run, tmp_path):
    path = tmp_path / "reference.json"
    write_reference(reference_of(Results(run)), path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"costs": values["costs"] * 2}))
    with pytest.raises(BenchError, match="is listed twice in costs"):
        read_reference(path)
