"""Sends finished records to trackers, each record once; a tracker that fails takes no record with it.

The process that stores records sends them, never a worker. What was sent stands in ``tracking/<tracker>.txt`` of the
run folder, so that the same command sends what is still missing.
"""

import contextlib
import datetime
import importlib.util
import io
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from bench.errors import BenchError, said, unknown
from bench.execute.trackers import EXTRAS, TRACKERS, Sent, Tracker
from bench.schema.figures import ANY, FIGURES
from bench.schema.record import Control, CostRecord, CountRecord, Latency, MergedEqualsBase, Stored, Timing

BY_LAYER = "by_layer"
"""Figures of single layers are left to the record: hundreds of charts with one point each."""


class Point(NamedTuple):
    """One figure of a record."""

    tag: str
    """Its path in the catalogue, with keys in place of `ANY` and without the place in a list."""
    step: int | None
    """Training step; None: of the whole record."""
    value: float


def points(record: Stored) -> Iterator[Point]:
    """Every figure of a record that the catalogue names; of a time its median, of a comparison 1 or 0."""
    for figure in FIGURES:
        if BY_LAYER not in figure.path and figure.path != f"curve.{ANY}.step":
            head, *rest = figure.path.split(".")
            yield from _points(getattr(record, head, None), rest, head, None)


def _points(value: Any, rest: Sequence[str], tag: str, step: int | None) -> Iterator[Point]:
    if isinstance(value, Timing | MergedEqualsBase | Control):
        value = _number(value)
    if isinstance(value, Latency):
        for rows, timing in value.by_batch.items():
            yield Point(f"{tag}.batch_{rows}", step, timing.median)
    elif isinstance(value, bool | int | float):
        if not rest and math.isfinite(value):
            yield Point(tag, step, float(value))
    elif value is None or not rest:
        return
    elif isinstance(value, tuple):
        for at, item in enumerate(value):
            yield from _points(item, rest[1:], tag, getattr(item, "step", at))
    elif isinstance(value, dict):
        for key, item in value.items():
            if rest[0] in (ANY, key):
                yield from _points(item, rest[1:], f"{tag}.{key}", step)
    elif isinstance(value, BaseModel):
        yield from _points(getattr(value, rest[0], None), rest[1:], f"{tag}.{rest[0]}", step)


def _number(value: Timing | MergedEqualsBase | Control) -> float:
    if isinstance(value, Timing):
        return value.median
    return float(value.all) if isinstance(value, MergedEqualsBase) else value.ratio


def sent_of(record: Stored) -> Sent:
    """A record as trackers take it."""
    series: dict[int, dict[str, float]] = defaultdict(dict)
    figures: dict[str, float] = {}
    for point in points(record):
        (figures if point.step is None else series[point.step])[point.tag] = point.value
    config = {
        "suite": record.suite, "kind": record.kind, "status": record.status, "method": record.method.label,
        "backbone": record.backbone.name if record.backbone is not None else None, **record.method.config,
    }  # fmt: skip
    if isinstance(record, CostRecord | CountRecord):
        shape = record.shape
        where = f"{shape.batch} x {shape.length} {shape.dtype}"
        config["shape"] = shape.model_dump(mode="json")
        if isinstance(record, CountRecord):
            where = f"{record.sweep} at {record.value}"
    else:
        where = f"{record.task_name} seed {record.seed}"
        config |= {"task": record.task_name, "seed": record.seed, "recipe": record.recipe}
    name = (record.kind, record.method.label, f"{where} {record.id[:8]}")
    ended = datetime.datetime.fromisoformat(record.ended).timestamp()
    return Sent(record.id, record.suite, name, config, ended, record.status != "ok", dict(series), figures)


def installed(name: str) -> bool:
    """Whether a tracker's package is there; it is not imported."""
    return importlib.util.find_spec(name) is not None


def checked(asked: Iterable[str]) -> tuple[str, ...]:
    """Names of trackers from the command line, each once, several in one with commas between.

    Raises:
        BenchError: A tracker is unknown or not installed, or an option names none.
    """
    given = list(asked)
    names = tuple(dict.fromkeys(name.strip() for text in given for name in text.split(",") if name.strip()))
    if given and not names:
        raise BenchError(f"--track names no tracker; known: {', '.join(TRACKERS)}")
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS, "--track")
        if not installed(name):
            extra = EXTRAS[name]
            raise BenchError(
                f"--track {name} needs the extra {extra}: python -m pip install -c constraints.txt -e '.[{extra}]', in "
                "the checkout"
            )
    return names


class Tracking:
    """The trackers of one run folder.

    Args:
        folder: The run folder.
        names: From ``checked``.
        say: Called with one line where a tracker fails.
        fresh: Send everything anew.
        repeated: Records that are made, and sent, once more.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        say: Callable[[str], None],
        fresh: bool = False,
        repeated: Set[str] = frozenset(),
    ) -> None:
        self._say = say
        self._trackers: dict[str, Tracker] = {name: TRACKERS[name](folder) for name in names}
        self._lists = {name: folder / "tracking" / f"{name}.txt" for name in names}
        self._done: dict[str, set[str]] = {}
        for name, path in self._lists.items():
            with self._kept(name):
                if fresh:
                    path.unlink(missing_ok=True)
                sent = path.read_text().split() if path.exists() else []
                if not repeated.isdisjoint(sent):
                    path.write_text("".join(f"{identity}\n" for identity in sent if identity not in repeated))
                self._done[name] = set(sent) - repeated

    @contextlib.contextmanager
    def _kept(self, name: str) -> Iterator[None]:
        """Drop a tracker that fails, and say so: its records are there, and the next call sends them."""
        try:
            yield
        except Exception as error:
            self._trackers.pop(name, None)
            reason = (said(error) or type(error).__name__)[:200]
            self._say(f"--track {name} stopped: {reason}; no record is lost, the same command sends what is missing")

    def send(self, record: Stored) -> None:
        """Send a record to every tracker that has not got it."""
        waiting = [name for name in self._trackers if record.id not in self._done[name]]
        sent = sent_of(record) if waiting else None
        for name in waiting:
            with self._kept(name), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                assert sent is not None
                self._trackers[name].send(sent)
                self._lists[name].parent.mkdir(exist_ok=True)
                with self._lists[name].open("a") as file:
                    file.write(f"{record.id}\n")
                self._done[name].add(record.id)
