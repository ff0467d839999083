"""Finished records go to trackers once each, by the catalogue's names; a tracker that fails loses no record."""

import importlib.util
import os
import sys

import pytest

from bench.errors import BenchError
from bench.execute import tracking
from bench.execute.tracking import Tracking, checked, points, sent_of
from tests.factories.command import bench, forked
from tests.factories.records import cost, curve, failed, score

SCORE = score("lora(rank=8)", "sst2", 3, curve=curve(70.0, 80.0))
COST = cost("lora(rank=8)")
installed = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("tensorboard", "wandb", "trackio")
}


class Told:
    """A tracker that remembers, and fails where it is told to."""

    def __init__(self, folder):
        self.folder, self.sent, self.broken = folder, [], False

    def send(self, sent):
        if self.broken:
            raise ConnectionError("no route to host")
        self.sent.append(sent.id)


@pytest.fixture
def told(monkeypatch):
    made = []
    monkeypatch.setattr(tracking, "TRACKERS", {"told": lambda folder: made.append(Told(folder)) or made[-1]})
    monkeypatch.setattr(tracking, "EXTRAS", {"told": "tracking"})
    return made


def test_losses_and_readings_stand_at_their_steps_and_all_else_belongs_to_the_whole_record():
    sent = sent_of(SCORE)
    assert [sent.series[step]["losses"] for step in (0, 1)] == [0.7, 0.5]
    assert (sent.series[30]["curve.score"], sent.series[60]["curve.score"]) == (0.7, 0.8)
    assert sent.figures["score"] == SCORE.score
    assert sent.figures["metrics.accuracy"] == SCORE.metrics["accuracy"]
    assert sent.config["seed"] == 3 and sent.config["recipe"]["steps"] == 60
    assert sent.name[:2] == ("score", "lora(rank=8)")


def test_costs_have_the_names_of_the_catalogue_times_are_medians_and_answers_are_1_or_0():
    found = {point.tag: point.value for point in points(COST)}
    assert found["flops.backward"] == COST.flops.backward
    assert found["step_seconds"] == COST.step_seconds.median
    assert found["latency_seconds.base.batch_32"] == COST.latency_seconds.base.by_batch[32].median
    assert found["merged_equals_base"] == 1.0
    assert found["aa_control.step"] == COST.aa_control["step"].ratio
    assert not [tag for tag in found if "by_layer" in tag or "*" in tag]


def test_a_failed_record_is_sent_as_failed():
    assert sent_of(failed(SCORE)).failed
    assert not sent_of(SCORE).failed


def test_each_record_is_sent_once_also_by_a_later_call_and_anew_with_fresh(tmp_path, told):
    for fresh in (False, False, True):
        tracker = Tracking(tmp_path, ["told"], pytest.fail, fresh)
        for record in (SCORE, COST, SCORE):
            tracker.send(record)
    assert [each.sent for each in told] == [[SCORE.id, COST.id], [], [SCORE.id, COST.id]]


def test_a_record_that_is_repeated_is_sent_again_also_by_a_later_call(tmp_path, told):
    for record in (SCORE, COST):
        Tracking(tmp_path, ["told"], pytest.fail).send(record)
    Tracking(tmp_path, ["told"], pytest.fail, repeated={COST.id})  # interrupted before it is made once more
    again = Tracking(tmp_path, ["told"], pytest.fail)
    for record in (SCORE, COST):
        again.send(record)
    assert told[-1].sent == [COST.id]


def test_a_tracker_that_fails_is_said_once_and_the_next_call_sends_what_is_missing(tmp_path, told):
    lines = []
    first = Tracking(tmp_path, ["told"], lines.append)
    first.send(COST)
    told[0].broken = True
    first.send(SCORE)
    first.send(score("lora(rank=8)", "sst2", 4))
    assert lines == [
        "--track told stopped: no route to host; no record is lost, the same command sends what is missing"
    ]
    Tracking(tmp_path, ["told"], pytest.fail).send(SCORE)
    assert told[1].sent == [SCORE.id]


def test_a_folder_that_cannot_be_written_stops_the_tracker_and_not_the_run(tmp_path, told):
    (tmp_path / "tracking").write_text("")
    lines = []
    Tracking(tmp_path, ["told"], lines.append).send(COST)
    assert len(lines) == 1 and lines[0].startswith("--track told stopped: ")


def test_names_come_one_by_one_or_with_commas_and_a_wrong_one_is_a_sentence(monkeypatch):
    monkeypatch.setattr(tracking, "installed", lambda name: True)
    assert checked(["wandb,tensorboard", "wandb"]) == ("wandb", "tensorboard")
    with pytest.raises(BenchError, match=r"unknown tracker 'tensorbord'; .*Did you mean 'tensorboard'"):
        checked(["tensorbord"])
    with pytest.raises(BenchError, match="--track names no tracker"):
        checked([","])
    monkeypatch.setattr(tracking, "installed", lambda name: False)
    with pytest.raises(BenchError, match=r"needs the extra tracking: python -m pip install .* -e '.\[tracking\]'"):
        checked(["tensorboard"])


def test_the_command_refuses_an_unknown_tracker_before_it_plans_anything():
    assert "unknown tracker 'mlflow'" in bench("run", "--suite", "smoke", "--track", "mlflow", code=2).stderr


def events(folder):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = [event for path in folder.rglob("events.*") for event in EventFileLoader(str(path)).Load()]
    return {(value.tag, event.step): value for event in found for value in event.summary.value}


@installed["tensorboard"]
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written_for_it(tmp_path):
    for fresh in (False, True):  # written anew it stands there once
        tracker = Tracking(tmp_path, ["tensorboard"], pytest.fail, fresh)
        tracker.send(SCORE)
    found = events(tmp_path / "tensorboard")
    assert len(list((tmp_path / "tensorboard").rglob("events.*"))) == 1
    assert {step for tag, step in found if tag == "losses"} == {0, 1}
    assert ("score", 60) in found
    value = found["score", 60]
    assert (value.simple_value or value.tensor.float_val[0]) == pytest.approx(SCORE.score)


@installed["wandb"]
def test_wandb_writes_an_offline_run_below_the_run_folder(tmp_path):
    def act():
        os.environ.pop("WANDB_API_KEY", None)
        for fresh in (False, True):
            Tracking(tmp_path, ["wandb"], print, fresh).send(SCORE)

    assert forked(act) == ""
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    assert b"losses" in file.read_bytes() and b"metrics.accuracy" in file.read_bytes()


@installed["trackio"]
def test_trackio_holds_one_local_run_a_record(tmp_path):
    def act():
        os.environ["TRACKIO_DIR"] = str(tmp_path / "trackio")
        for fresh in (False, True):
            Tracking(tmp_path / "smoke-1", ["trackio"], print, fresh).send(SCORE)
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        (run,) = trackio.Api().runs("peft-ledger-smoke-1")
        logs = SQLiteStorage.get_logs("peft-ledger-smoke-1", run.name)
        found = [row[tag] for tag in ("losses", "score") for row in logs if tag in row]
        sys.stdout.write(repr(found))

    (tmp_path / "smoke-1").mkdir()
    assert forked(act).strip() == f"[0.7, 0.5, {SCORE.score}]"


@pytest.mark.slow
def test_a_run_sends_each_record_as_it_is_stored_and_again_nothing(tmp_path, told, monkeypatch):
    monkeypatch.setattr(tracking, "installed", lambda name: True)
    words = ("run", "--suite", "smoke", "--counts", "--methods", "head,full", "--out", tmp_path, "--track", "told")
    bench(*words)
    bench(*words)
    assert len(told[0].sent) == 2 and told[1].sent == []
    assert sorted((tmp_path / "tracking/told.txt").read_text().split()) == sorted(told[0].sent)
