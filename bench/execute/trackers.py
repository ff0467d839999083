"""Writes the figures of one record to TensorBoard, Weights & Biases or trackio: a run of the tracker for each record.

A run that a killed process left half-written is replaced, so that nothing stands twice.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PROJECT = "peft-ledger"


@dataclass(frozen=True)
class Sent:
    """A record as trackers take it."""

    id: str
    """The record's identity, by which a run is found again."""
    group: str
    """Name of the suite."""
    name: tuple[str, ...]
    """What the run is called: kind, method, and task or shape."""
    config: Mapping[str, Any]
    """What decided the figures."""
    ended: float
    """Seconds since 1970."""
    failed: bool
    series: Mapping[int, Mapping[str, float]]
    """By step, figures by name."""
    figures: Mapping[str, float]
    """Figures of the whole record, by name."""


class Tracker(Protocol):
    """Where records are sent."""

    def send(self, sent: Sent) -> None:
        """Write one record for good, in place of what stands of it."""


class TensorBoard:
    """Event files below ``tensorboard/`` of the run folder; figures of a whole record stand at its last step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"

    def send(self, sent: Sent) -> None:
        """Write the record's event file."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        place = self._folder.joinpath(*map(_file_name, sent.name))
        shutil.rmtree(place, ignore_errors=True)
        writer = EventFileWriter(str(place))
        last = max(sent.series, default=0)
        for step, values in (*sent.series.items(), (last, sent.figures)):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            writer.add_event(Event(wall_time=sent.ended, step=step, summary=summary))
        writer.close()


def _file_name(part: str) -> str:
    return "".join(c if c.isalnum() or c in "_.,=()+- " else "_" for c in part)[:100]


class WandB:
    """Runs below ``wandb/`` of the run folder, offline unless the environment holds a key or says otherwise.

    ``wandb sync`` sends offline runs later.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, sent: Sent) -> None:
        """Write the record's run."""
        import wandb

        for left in (self._folder / "wandb").glob(f"offline-run-*-{sent.id[:32]}"):
            shutil.rmtree(left)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
        run = wandb.init(
            project=PROJECT, dir=str(self._folder), id=sent.id[:32], name=" ".join(sent.name), group=sent.group,
            config=dict(sent.config), mode=mode, resume="allow" if mode == "online" else None, settings=quiet,
        )  # fmt: skip
        for step, values in sorted(sent.series.items()):
            run.log(dict(values), step=step)
        run.summary.update(dict(sent.figures))
        run.finish(exit_code=int(sent.failed))


class Trackio:
    """Runs in trackio's own local store; figures of a whole record stand at its last step."""

    def __init__(self, folder: Path) -> None:
        self._project = f"{PROJECT}-{folder.resolve().name}"

    def send(self, sent: Sent) -> None:
        """Write the record's run."""
        import trackio

        name = " ".join(sent.name)
        for left in self._standing():
            if left.name == name:
                left.delete()
        trackio.init(project=self._project, name=name, group=sent.group, config=dict(sent.config), embed=False,
                     auto_log_gpu=False, auto_log_cpu=False)  # fmt: skip
        last = max(sent.series, default=0)
        steps = {step: dict(values) for step, values in sorted(sent.series.items())}
        steps[last] = steps.get(last, {}) | dict(sent.figures)
        for step, values in steps.items():
            trackio.log(values, step=step)
        trackio.finish()

    def _standing(self) -> Sequence[Any]:
        import trackio

        try:
            return list(trackio.Api().runs(self._project))
        except ValueError:
            return []  # the project has no run yet


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}
"""By the names that the command line and the packages have."""
EXTRAS = {"tensorboard": "tracking", "wandb": "tracking", "trackio": "trackio"}
"""Of this project, that brings each: trackio's is apart, for it takes an older pillow than the rest was tested with."""
