"""What a third party's method does while it is planned, predicted or swept moves nothing of the others."""

import os
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import psutil
import pytest
import torch

from bench import registry
from bench.count.isolation import Lost, ProcessState, apart, each_apart, parts
from bench.count.predict import predictions
from bench.count.sweep import run_sweep
from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.schema.shape import Setting
from tests.factories.command import forked

MODULE = "tests.factories.faulty_plugin"
FAULTS = {
    "PatchesLinear": None, "PatchesTensors": None, "DefaultType": None, "Threads": None, "HooksEverything": None,
    "Precision": None, "Raises": "apply() of the method raises ValueError: this method",
    "Leaves": "apply() of the method raises SystemExit: nothing more to do",
    "Interrupts": "apply() of the method raises KeyboardInterrupt",
    "Exits": "its process ended without an answer (exit code 0)",
    "ExitsInThree": "its process ended without an answer (exit code 3)",
    "Killed": "its process ended without an answer (killed by SIGKILL)",
}  # fmt: skip
SOUND = ("full", "lora")
SUITE = """
question = "Does planning survive a plug-in?"
backbone = { name = "tiny", weights = "random" }
sweep = [{ vary = "length", values = [8, 16], batch = 2 }]
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """The faulty methods, and one whose module ends the process that imports it."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "ends_on_import.py").write_text("import os\nos._exit(7)\n")
    points = {f"faulty/{name}": EntryPoint(name, f"{MODULE}:{name}", "bench.methods") for name in FAULTS}
    points["faulty/import"] = EntryPoint("import", "ends_on_import:Method", "bench.methods")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(registry, "_plugins", lambda: points)
        yield


def planned(folder, names):
    path = folder / "planned.toml"
    path.write_text(SUITE + "".join(f'[[method]]\nname = "{name}"\n' for name in names))
    return make_plan(load_suite(str(path)), "planned", "cpu")


@pytest.fixture(scope="module")
def predicted(plugins):
    setting = Setting(batch=2, length=8)
    between = [f"faulty/{name}" for name in FAULTS]
    alone = predictions("tiny", SOUND, setting)
    beside = predictions("tiny", ["full", *between, "lora"], setting)
    return {row.method: row for row in alone}, {row.method: row for row in beside}


@pytest.mark.parametrize("label", SOUND)
def test_a_prediction_is_that_of_a_call_without_the_plug_in(predicted, label):
    alone, beside = predicted
    assert beside[label] == alone[label]


def test_predictions_keep_the_order_they_were_asked_in(predicted):
    assert [*predicted[1]] == ["full", *(f"faulty/{name}" for name in FAULTS), "lora"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_third_party_s_row_says_what_became_of_it(predicted, name):
    row = predicted[1][f"faulty/{name}"]
    assert (row.not_counted is None) == (FAULTS[name] is None)
    assert not FAULTS[name] or row.not_counted.startswith(FAULTS[name])


def test_a_sweep_counts_every_method_as_without_the_plug_in(plugins, tmp_path):
    def swept(*names):
        (sweep,) = planned(tmp_path, names).sweeps
        return {(record.method.label, record.value): record for record in run_sweep(sweep)}

    alone, beside = swept(*SOUND), swept("full", "faulty/PatchesLinear", "faulty/Exits", "lora")
    for key, record in alone.items():
        assert (beside[key].status, beside[key].flops, beside[key].bytes) == ("ok", record.flops, record.bytes)
    ended = [beside["faulty/Exits", value] for value in (8, 16)]
    assert [record.status for record in ended] == ["crashed"] * 2
    assert ended[0].reason == "its process ended without an answer (exit code 0)"
    assert beside["faulty/PatchesLinear", 16].status == "ok"


def test_a_plug_in_that_ends_its_importer_is_a_sentence_at_plan(plugins, tmp_path):
    with pytest.raises(BenchError, match=r"method 'faulty/import': its process ended .* \(exit code 7\)"):
        planned(tmp_path, ["full", "faulty/import"])


def test_this_process_never_ran_them(predicted):
    assert torch.get_default_dtype() == torch.float32
    assert torch.nn.Linear.forward.__module__ == "torch.nn.modules.linear"


def test_an_answer_comes_back_and_a_refusal_stays_one():
    def refuse():
        raise BenchError("one sentence")

    assert apart(lambda: {"figure": 3}) == {"figure": 3}
    assert list(parts(lambda send: [send(1), send(2)])) == [1, 2]
    with pytest.raises(BenchError, match="one sentence"):
        apart(refuse)


PRINTS = {
    "python": lambda: print("printed"),  # noqa: T201
    "below python": lambda: os.write(1, b"printed"),
    "another process": lambda: subprocess.run(["echo", "printed"], check=True),
}


@pytest.mark.parametrize("way", PRINTS)
def test_what_a_method_prints_stays_out_of_the_answer_to_a_program(capfd, way):
    apart(lambda: PRINTS[way]() and None)
    shown = capfd.readouterr()
    assert (shown.out, shown.err.strip()) == ("", "printed")


def _met(folder: Path, mine: str, other: str) -> str:
    """Leave a mark and wait for that of another process, as long as a test may take."""
    (folder / mine).touch()
    while not (folder / other).exists():
        time.sleep(0.01)
    return mine


def test_forks_run_side_by_side_and_answer_in_order(tmp_path):
    works = [lambda: _met(tmp_path, "first", "second"), lambda: _met(tmp_path, "second", "first"), lambda: "third"]
    assert list(each_apart(works, at_once=2, seconds=60)) == ["first", "second", "third"]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_a_lost_fork_leaves_the_others_their_answers(at_once):
    works = [lambda: 1, lambda: os._exit(3), lambda: 1 // 0, lambda: 4]
    first, ended, raised, last = each_apart(works, at_once=at_once)
    assert (first, last) == (1, 4)
    assert ended.status == "crashed" and "exit code 3" in ended.reason
    assert raised.status == "failed" and "division" in raised.reason


def test_forks_that_nobody_waits_for_are_ended(tmp_path):
    def begin():
        (tmp_path / "pid").write_text(str(os.getpid()))
        _met(tmp_path, "begun", "never")

    answers = each_apart([lambda: _met(tmp_path, "here", "begun"), begin], at_once=2, seconds=60)
    assert next(answers) == "here"
    answers.close()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_another_number_of_threads_is_seen():
    def changed():
        state = ProcessState()
        torch.set_num_threads(3)
        return state.changes()

    assert apart(changed) == ["torch's threads 1 -> 3"]


def test_an_answer_that_cannot_be_sent_says_so():
    with pytest.raises(Lost, match="pickle"):
        apart(lambda: lambda: None)


def squared(threads):
    """An element of a product for which torch makes a team of ``threads``."""
    torch.set_num_threads(threads)
    matrix = torch.ones(800, 800)
    return (matrix @ matrix)[0, 0].item()


def test_a_fork_of_a_process_with_a_team_of_threads_ends():
    before = torch.get_num_threads()
    try:
        assert squared(threads=2) == 800
        assert apart(lambda: squared(torch.get_num_threads()), seconds=60, threads=2) == 800
    finally:
        torch.set_num_threads(before)


def test_a_command_in_a_fork_of_a_test_process_with_a_team_of_threads_ends():
    before = torch.get_num_threads()
    try:
        assert squared(threads=2) == 800
        assert forked(lambda: sys.stdout.write(str(squared(threads=2)))) == "800.0"
    finally:
        torch.set_num_threads(before)
