"""Progress of a run: live bars on a terminal, plain lines elsewhere."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from bench.execute.runner import Remaining
    from bench.schema.jobs import Plan

PLAIN_SECONDS = 1.0
"""Where the output is no terminal, ``waiting`` prints at most one line in this time, and none before it is over."""


def wide_console(*, stderr: bool = False) -> Console:
    """A console that is never narrower than the tables where the output is piped."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 118, highlight=False)


def spoken(seconds: float) -> str:
    """A length of time for people: ``40 s``, ``6 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def waiting() -> Iterator[Callable[[str], object]]:
    """Lines on stderr that say what goes on: on a terminal one that vanishes at the end, elsewhere plain ones.

    What is over within ``PLAIN_SECONDS`` prints no plain line.
    """
    console = wide_console(stderr=True)
    if not console.is_terminal:
        since: float | None = None

        def plain(line: str) -> None:
            nonlocal since
            now = time.monotonic()
            if since is not None and now - since >= PLAIN_SECONDS:
                console.print(line, markup=False, soft_wrap=True)
                since = now
            since = now if since is None else since

        yield plain
        return
    with console.status("") as status:
        yield lambda line: status.update(escape(line))


class Display:
    """Progress of a run.

    Args:
        quiet: Keep stdout for JSON; lines go to stderr.
    """

    LINE_SECONDS = 10.0
    """Where the output is no terminal, at most one plain line in this time."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = wide_console(stderr=quiet)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._counts = {"counts": [0, 0], "costs": [0, 0], "scores": [0, 0]}
        self._since = dict.fromkeys(self._counts, 0.0)
        self._last_line = 0.0

    def note(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False)

    def begin(self, plan: "Plan", todo: "Remaining", done: int, folder: Path) -> None:
        """Say what is about to run, and how many records of ``plan`` are there already."""
        costs = todo.costs
        self._counts = {"counts": [0, todo.counts], "costs": [0, costs], "scores": [0, len(todo.cells)]}
        cells = "trials" if all(cell.trial for cell in todo.cells) else "scores"
        parts = {"counts": todo.counts, "costs": costs, cells: len(todo.cells)}
        asked = ", ".join(f"{number} {noun}" for noun, number in parts.items() if number)
        already = f", {done} already done" if done else ""
        self.note(f"{plan.suite.name}: {asked} to do{already} -> {folder}")

    def __enter__(self) -> "Display":
        if self.console.is_terminal and shutil.get_terminal_size().columns >= 60:
            columns = (
                TextColumn("{task.description:<7}"), MofNCompleteColumn(), BarColumn(bar_width=24),
                TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[line]}", markup=False),
            )  # fmt: skip
            self._bars = Progress(*columns, console=self.console)
            self._bars.start()
            for name, (_, total) in self._counts.items():
                if total:
                    self._tasks[name] = self._bars.add_task(name, total=total, line="", start=False)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def show(self, event: Any) -> None:
        """Show a ``Progress`` or ``Result`` event of the executor."""
        from bench.execute.runner import Result
        from bench.schema.jobs import Probe, Sweep

        kinds = {Sweep: "counts", Probe: "costs"}
        kind = next((noun for job, noun in kinds.items() if isinstance(event.job, job)), "scores")
        if not self._since[kind]:
            self._since[kind] = time.monotonic()
            if self._bars is not None:
                self._bars.start_task(self._tasks[kind])
        if isinstance(event, Result):
            self._counts[kind][0] += 1
            line = f"{event.record.method.label} {self._outcome(event.record)}"
        else:
            line = f"{event.job.name}: {event.line}"
        if self._bars is not None:
            self._bars.update(self._tasks[kind], completed=self._counts[kind][0], line=line)
        else:
            failed = isinstance(event, Result) and event.record.status != "ok"
            self._plain(kind, line, isinstance(event, Result), failed)

    @staticmethod
    def _outcome(record: Any) -> str:
        if record.status != "ok":
            return f"{record.status}: {record.reason}"
        if record.kind == "cost":
            return "measured"
        if record.kind == "count":
            return f"counted at {record.vary} {record.value}"
        rates = f" lr {record.recipe['learning_rate']:g}" if record.kind == "trial" else ""
        return f"{record.task_name} seed {record.seed}{rates}: {record.score:.3f}"

    def _plain(self, kind: str, line: str, finished: bool, failed: bool) -> None:
        done, total = self._counts[kind]
        last = finished and done == total
        if not last and not failed and time.monotonic() - self._last_line < self.LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        spent = time.monotonic() - self._since[kind]
        left = f", about {spoken(spent / done * (total - done))} left" if 0 < done < total else ""
        self.note(f"{kind:<7} {done}/{total}{left}  {line}")
