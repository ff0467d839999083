"""Two versions of the methods take turns; slower, broken and not known each have their answer."""

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from bench.ab.experiment import (
    ARMS,
    BLOCKS,
    Compared,
    Comparison,
    compare,
    comparison,
    judged,
    probe_of,
    take_turns,
    unpack,
    verdict,
)
from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.report.sections.comparison import answers
from bench.schema.record import Control
from bench.timing.clock import PHASES
from tests.factories.command import bench, workers
from tools.ab_self_test import EXTRA_WORK

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
question = "Did a change make a step slower?"
backbone = { name = "tiny", weights = "random" }
method = [{ name = "full" }, { name = "lora", config = { rank = 8 } }, { name = "ia3" }]
cost = [{ batch = 4, length = 16, threads = 1 }]
"""
COMMIT = ("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qam")


def git(repository, *arguments):
    done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Branches of a repository: ``plain``, ``slow`` (LoRA's backward), ``broken`` (LoRA), ``older`` (has no IA3)."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "methods", folder / "methods", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "suite.toml").write_text(SUITE)
    lora, branches, table = (folder / "methods" / f"{name}.py" for name in ("lora", "sliced", "__init__"))
    git(folder, "init", "-q", "-b", "plain")
    git(folder, "add", ".")
    git(folder, *COMMIT, "Plain")
    plain, names = lora.read_text(), table.read_text()
    bent = branches.read_text().replace("self.base(x)", "self.bass(x)")
    for branch, path, text in (
        ("slow", lora, plain + EXTRA_WORK.format(products=2000)),
        ("broken", branches, bent),
        ("older", table, "".join(line for line in names.splitlines(keepends=True) if "ia3" not in line)),
    ):
        git(folder, "checkout", "-q", "-b", branch, "plain")
        path.write_text(text)
        git(folder, *COMMIT, branch)
    git(folder, "checkout", "-q", "plain")
    return folder


@pytest.fixture
def there(repository, monkeypatch):
    """The repository, with a working directory in it."""
    monkeypatch.chdir(repository)
    return repository


def found(repository, base, head, *names, seconds=1.0, margin=0.02):
    """What a comparison finds of two branches, without the command line."""
    trees = [unpack(branch, repository.parent / f"{repository.name}-{branch}") for branch in (base, head)]
    probe, labels = probe_of(load_suite("suite.toml"), names or None, "cpu")
    return list(compare(*trees, probe, labels, workers(), seconds=seconds, margin=margin))


def ab(*arguments, code):
    done = bench("ab", *arguments, "--suite", "suite.toml", code=code)
    return done.stdout + done.stderr


def test_a_slower_backward_is_found_and_nothing_but_the_changed_method_is_timed(there):
    shown = json.loads(ab("plain", "slow", "--seconds", "2", "--json", code=1))
    assert shown["verdict"] == "slower"
    assert shown["head"] == f"slow ({git(there, 'rev-parse', 'slow')[:7]})"
    (lora,) = shown["methods"]
    assert lora["method"] == "lora(rank=8)"
    phases = {phase["phase"]: phase for phase in lora["phases"]}
    assert phases["backward"]["verdict"] == phases["step"]["verdict"] == "slower"
    assert phases["backward"]["ratio"] > 2
    assert len(phases["backward"]["seconds"]["head"]) == BLOCKS


def test_the_same_revision_differs_in_nothing_and_is_not_timed(there):
    assert "no method of suite differs in source" in ab("plain", "HEAD", code=0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "plain"], "'nowhere' is no git revision here and no folder with methods/"),
        (["plain", ".", "--methods", "lra"], "unknown method 'lra'"),
    ],
)
def test_a_mistake_is_one_sentence(there, arguments, sentence):
    assert sentence in ab(*arguments, code=2)


def test_methods_named_are_timed_although_nothing_differs(there):
    (lora,) = found(there, "plain", ".", "lora", margin=1.0)
    assert [phase.phase for phase in lora.phases] == ["forward", "backward", "optimizer", "step"]
    assert answers([lora], 1.0) == ["not slower: no phase of 1 method by more than 100 %"]


def test_a_method_that_breaks_in_the_head_is_a_regression(there):
    (lora,) = found(there, "plain", "broken", "lora")
    assert (lora.method, lora.failed, verdict([lora])) == ("lora(rank=8)", "head", "slower")
    assert "has no attribute 'bass'" in lora.note


@pytest.mark.parametrize(("base", "head"), [("older", "plain"), ("plain", "older")])
def test_a_method_of_one_version_alone_is_not_compared_and_decides_nothing(there, base, head):
    (ia3,) = found(there, base, head)
    assert (ia3.method, ia3.failed, verdict([ia3])) == ("ia3", "absent", "not slower")
    assert re.fullmatch(r"older \(\w{7}\) has no such method", ia3.note)
    assert answers([ia3], 0.02) == ["nothing to compare: no method that both versions have differs in source"]
    assert answers([ia3, Compared("lora", (phase(0.0),))], 0.02)[0].startswith("inconclusive at 2 %: lora")


def test_a_method_that_is_asked_for_must_be_in_both_versions(there):
    with pytest.raises(BenchError, match=r"--methods: ia3: older \(\w{7}\) has no such method; name methods that both"):
        found(there, "plain", "older", "lora", "ia3")


def test_a_head_that_computes_something_else_is_said(there):
    git(there, "checkout", "-q", "-b", "other", "plain")
    branches = there / "methods" / "sliced.py"
    branches.write_text(branches.read_text().replace("alpha=self.scale", "alpha=2 * self.scale"))
    git(there, *COMMIT, "other")
    git(there, "checkout", "-q", "plain")
    (lora,) = found(there, "plain", "other", "lora")
    assert "the versions compute different things: loss" in lora.note


def test_a_suite_without_a_cost_shape_is_refused():
    smoke = load_suite("smoke")
    with pytest.raises(BenchError, match=r"has no \[\[cost\]\] shape to time"):
        probe_of(smoke.model_copy(update={"cost": ()}), None, "cpu")


def test_a_revision_is_laid_out_as_it_was_committed(there, tmp_path):
    tree = unpack("slow", tmp_path / "slow")
    assert tree.name.startswith("slow (")
    assert "_ExtraWork" in (tree.path / "methods" / "lora.py").read_text()
    assert "_ExtraWork" not in (unpack(".", tmp_path / "unused").path / "methods" / "lora.py").read_text()


def test_a_revision_without_methods_is_refused(tmp_path, monkeypatch):
    (tmp_path / "readme").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, *COMMIT, "Empty")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match="has no methods/"):
        unpack("HEAD", tmp_path / "x")


def phase(shift, *, error=0.003, apart=0.0, name="backward"):
    """A comparison with log ratio ``shift`` whose processes of one version lie ``apart``."""
    ratio, same = float(np.exp(shift)), Control(ratio=1.0, interval=(1, 1))
    return Comparison("lora", name, "cpu", 0.01, ratio, (ratio, ratio), error, same, same, apart, {})


def judge(*phases, margin=0.02):
    (found,) = judged([Compared("lora", phases)], margin)
    return [phase.verdict for phase in found.phases]


def test_verdicts_follow_from_where_the_whole_interval_lies():
    shifts = (0.06, 0.001, -0.06, 0.02)
    expected = ["slower", "not slower", "faster", "inconclusive"]
    assert [judge(phase(shift))[0] for shift in shifts] == expected


def test_what_the_control_shows_of_identical_code_is_no_slow_down():
    assert judge(phase(0.04)) == ["slower"]
    assert judge(phase(0.04, apart=0.04)) == ["inconclusive"]


def test_many_comparisons_share_one_level():
    alone = judge(phase(0.027))
    among = judge(phase(0.027), *(phase(0.02) for _ in range(40)))
    assert (alone[0], among[0]) == ("slower", "inconclusive")


def test_identical_code_is_called_slower_in_no_more_than_one_of_twenty_comparisons(monkeypatch):
    def alarm(seed):
        found = timed((0, 0, 0, 0), monkeypatch, 0.1, seed=seed)
        return judge(*(dataclasses.replace(found, phase=name) for name in PHASES), margin=0.0)[0] == "slower"

    assert sum(alarm(seed) for seed in range(60)) <= 6  # 5 % of 60, and luck (binomial, 97 %)


def test_a_head_that_fails_outweighs_what_is_not_known():
    found = [Compared("a", failed="base", note="x"), Compared("b", failed="head", note="y")]
    assert verdict(found) == "slower"
    assert answers(found, 0.02) == ["slower: b fails in the head"]
    assert verdict(found[:1]) == "inconclusive"


def timed(offsets, monkeypatch, deviation, seed=1):
    """A comparison of processes that take ``exp(offset)`` s, give or take ``deviation``."""
    draw = np.random.default_rng(seed)

    class Process:
        def __init__(self, offset):
            self.offset = offset

        def turn(self):
            return {
                name: (seconds, seconds) for name in PHASES for seconds in [np.exp(draw.normal(self.offset, deviation))]
            }

    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)
    arms = {key: Process(offset) for key, offset in zip(ARMS, offsets, strict=True)}
    return comparison("lora", "backward", "cpu", take_turns(arms, 400.0))


def test_processes_of_one_version_are_apart_by_what_luck_does_not_explain(monkeypatch):
    assert timed((0, 0, 0, 0), monkeypatch, 0.05).apart < 0.003
    assert timed((0, 0, 0.04, 0.04), monkeypatch, 0.05).apart == pytest.approx(0.04 / 2**0.5, rel=0.2)


def test_a_drift_over_the_order_of_start_favours_no_side(monkeypatch):
    assert timed((0, 0.02, 0.04, 0.06), monkeypatch, 0.01).ratio == pytest.approx(1, abs=0.002)


def test_skewed_noise_favours_no_side(monkeypatch):
    draw = np.random.default_rng(0)

    class Skewed:
        """A process whose steps are never faster than 1 s and at times far slower, as on a busy machine."""

        def turn(self):
            return {name: (seconds, seconds) for name in PHASES for seconds in [1 + draw.exponential(0.5)]}

    arms = {key: Skewed() for key in ARMS}
    monkeypatch.setattr(time, "perf_counter", itertools.count().__next__)
    ratios = [comparison("lora", "backward", "cpu", take_turns(arms, 400.0)).ratio for _ in range(20)]
    assert abs(np.mean(np.log(ratios))) < 0.01
