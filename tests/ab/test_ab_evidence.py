"""The committed self-test of `ab` shows what METHODOLOGY says of it: found slow-downs, false alarms, coverage."""

import json
import math
from pathlib import Path

import pytest

from tools import ab_summary

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "results" / "published" / "ab-self-test"
DECIDING = 150


@pytest.fixture(scope="module")
def trials():
    return ab_summary.read(FOLDER)


def test_a_slow_down_of_five_percent_is_found(trials):
    found = ab_summary.flagged(trials, 0.05)
    assert found.trials == DECIDING
    assert found.hits >= 145


def test_identical_code_is_never_called_slower(trials):
    alarms = ab_summary.false_alarms(trials)
    assert alarms.trials == DECIDING
    assert alarms.hits == 0
    assert alarms.at_most() < 0.02


def test_the_interval_covers_as_often_as_it_says(trials):
    """At the number of blocks that `ab` cuts its rounds into."""
    covered = ab_summary.coverage(trials, ab_summary.BLOCKS)
    assert 0.93 <= covered.hits / covered.trials <= 0.97


def test_a_trial_takes_ten_seconds_but_for_one_in_a_hundred(trials):
    longer = [trial for trial in trials if trial["seconds"] > ab_summary.LONGEST]
    assert len(longer) <= len(trials) / 100
    assert max(trial["seconds"] for trial in trials) < 11


def test_a_stored_ratio_follows_from_the_stored_samples(trials):
    for trial in trials[::12]:
        stored = trial["phases"]["backward"]["ratio"]
        assert math.exp(ab_summary.cut(trial["backward_microseconds"]).center) == pytest.approx(stored, rel=1e-3)


def test_what_was_added_is_what_was_asked_for(trials):
    for trial in trials:
        assert math.isclose(trial["added"], trial["effect"], abs_tol=0.002)


def test_the_trials_name_their_machine_and_clean_commit():
    lines = [json.loads(line) for line in (FOLDER / "trials.jsonl").read_text().splitlines()]
    starts = [line["environment"] for line in lines if "environment" in line]
    assert starts
    assert all(not start["dirty"] and start["hardware"]["cores"] == 2 for start in starts)


def test_the_summary_and_its_plot_are_made_from_the_trials(trials, tmp_path):
    few = [trial for effect in (0.0, 0.05) for trial in [t for t in trials if t["effect"] == effect][:4]]
    (tmp_path / "trials.jsonl").write_text("".join(json.dumps(trial) + "\n" for trial in few))
    ab_summary.write(tmp_path)
    assert f"| 5% | {ab_summary.flagged(few, 0.05).hits} of 4 |" in (tmp_path / "summary.md").read_text()
    assert "called slower" in (tmp_path / "power.svg").read_text()


def test_methodology_says_what_the_trials_say(trials):
    said = " ".join((ROOT / "METHODOLOGY.md").read_text().split())
    found, alarms = ab_summary.flagged(trials, 0.05), ab_summary.false_alarms(trials)
    assert f"{found.hits} of {found.trials} trials, identical code in {alarms.hits} of {alarms.trials}" in said
