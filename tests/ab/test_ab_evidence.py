"""The committed self-test of `ab` shows what METHODOLOGY says of it: found slow-downs, false alarms, coverage."""

import json
import math
import re
from pathlib import Path

import pytest

from tools import ab_summary

FOLDER = Path(__file__).resolve().parents[2] / "results" / "published" / "ab-self-test"
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


def test_the_interval_covers_as_often_as_it_says():
    """At the number of blocks that `ab` cuts its rounds into, as the summary counts it."""
    row = re.search(rf"^\| {ab_summary.BLOCKS} \| (\d+) of (\d+) ", (FOLDER / "summary.md").read_text(), re.MULTILINE)
    assert 0.93 <= int(row[1]) / int(row[2]) <= 0.97


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


def test_the_summary_says_what_the_trials_say(trials):
    assert (FOLDER / "summary.md").read_text() == ab_summary.summary(trials)
