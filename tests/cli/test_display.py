"""What a run shows while it goes: progress thinned out, failures always."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.cli import progress
from bench.cli.progress import Display, spoken, waiting
from bench.execute.runner import Result


@pytest.mark.parametrize("status", ["oom", "nan", "timeout", "crashed", "failed"])
def test_a_failure_is_printed_at_once_where_there_is_no_terminal(status, capsys):
    display = Display()
    display._counts = {"costs": [0, 0], "scores": [0, 9]}
    method = SimpleNamespace(label="lora")
    ok = SimpleNamespace(method=method, status="ok", kind="score", task_name="sst2", seed=0, score=0.5)
    bad = SimpleNamespace(method=method, status=status, kind="score", reason="this is why")
    for record in (ok, bad):
        display.show(Result(SimpleNamespace(name="lora"), record))
    assert f"{status}: this is why" in capsys.readouterr().out


def test_what_takes_a_while_prints_plain_lines_to_stderr_where_there_is_no_terminal(monkeypatch, capsys):
    clock = iter([10.0, 10.2, 11.5, 11.6])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with waiting() as say:
        for number in range(1, 5):
            say(f"counting, {number} of 4")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "counting, 3 of 4\n")


def test_on_a_terminal_a_live_line_says_what_goes_on_and_vanishes(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress, "wide_console", lambda stderr: screen)
    with waiting() as say:
        say("counting lora, 2 of 3")
    assert "counting lora, 2 of 3" in screen.file.getvalue()
    assert screen.file.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (360, "6 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_a_length_of_time_is_given_in_its_unit(seconds, words):
    assert spoken(seconds) == words


def test_a_run_says_what_is_to_do_and_what_is_done_already(capsys):
    cell = SimpleNamespace(trial=False)
    todo = SimpleNamespace(costs=3, cells=[cell] * 4, counts=0)
    Display().begin(SimpleNamespace(suite=SimpleNamespace(name="smoke")), todo, 12, Path("run"))
    assert capsys.readouterr().out == "smoke: 3 costs, 4 scores to do, 12 already done -> run\n"
