"""What a run shows while it goes: progress thinned out, failures always."""

from types import SimpleNamespace

import pytest

from bench.cli.progress import Display
from bench.execute.workers import Result


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
