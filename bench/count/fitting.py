"""What to change of a training step that does not fit into a device's memory, each change counted."""

import bisect
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.count.count import ledger_of, peak_of
from bench.count.depth import count
from bench.errors import BenchError
from bench.method import Method
from bench.schema.jobs import BackboneSpec
from bench.schema.record import Change
from bench.schema.shape import Setting

FINE = 2
"""Digits of a price below which two changes cost the same."""
WORTH = 0.001
"""Of a peak: a change that lowers it by less is none."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One change that a user can make."""

    says: str
    """As the command line spells it; of a smaller batch nothing, since its rows are chosen by what fits."""
    fields: Mapping[str, Any]
    """Of a `Setting`; of a smaller batch none."""
    same: bool
    """Whether the gradients are those of the step as asked, to rounding."""


def options(asked: Setting) -> list[Option]:
    """Changes that can lower the peak of ``asked``, whatever the backbone and the method."""
    text, adamw, bits = asked.objective == "text", asked.optimizer.startswith("adamw"), "adamw_8bit"
    half = {"dtype": "bfloat16", "adapter_dtype": "float32"}  # as the command settles it where nothing else is said
    found = [
        (text and asked.loss == "full", Option("--loss target", {"loss": "target"}, True)),
        (text and asked.loss != "chunked", Option("--loss chunked", {"loss": "chunked"}, True)),
        (asked.batch > 1, Option("", {}, True)),
        (not asked.checkpointing, Option("--checkpointing", {"checkpointing": True}, True)),
        (asked.devices > 1 and not asked.shard, Option("--shard", {"shard": True}, True)),
        (adamw and asked.optimizer != bits, Option(f"--optimizer {bits}", {"optimizer": bits}, False)),
        (asked.dtype == "float32", Option("--dtype bfloat16", half, False)),
        (asked.widened, Option("--adapter-dtype model", {"adapter_dtype": "model"}, False)),
        (asked.weights == "native", Option("--weights nf4", {"weights": "nf4"}, False)),
    ]  # fmt: skip
    return [option for possible, option in found if possible]


@dataclasses.dataclass(frozen=True)
class Step:
    """The step of one method as asked, and what changes make of it."""

    spec: BackboneSpec
    method: Method
    config: Any
    setting: Setting
    """As asked."""
    peak: int
    """Bytes of the step as asked."""
    flops: int
    """Of its forward and backward."""
    usable: int
    """Bytes that a step may take."""

    def changes(self, progress: Callable[[str], object] = lambda line: None) -> tuple[Change, ...]:
        """Each change alone that lowers the peak by `WORTH` or more, cheapest first; where none fits, several together.

        These are gathered in that order, one more at a time, as long as the peak falls and until it fits.
        """
        progress("each change alone")
        alone = [(option, change) for option in options(self.setting) if (change := self._change((option,)))]
        alone.sort(key=lambda found: _price(found[1]))
        found = [change for _, change in alone]
        if not any(change.fits for change in found):
            found += self._together(alone, progress)
        return tuple(sorted(found, key=_price))

    def _together(self, alone: list[tuple[Option, Change]], progress: Callable[[str], object]) -> Iterator[Change]:
        chosen: tuple[Option, ...] = ()
        least = self.peak
        for option, by_itself in alone:
            kept = tuple(one for one in chosen if not one.fields.keys() & option.fields.keys())
            if kept:
                progress(f"{len(kept) + 1} changes together")
            change = self._change((*kept, option)) if kept else by_itself
            if change is None or change.predicted_peak_memory_bytes > least * (1 - WORTH):
                continue
            chosen, least = (*kept, option), change.predicted_peak_memory_bytes
            if kept:
                yield change
            if change.fits:
                return

    def _change(self, chosen: tuple[Option, ...]) -> Change | None:
        """What ``chosen`` comes to; None where the backbone or the method refuses it, or the peak hardly falls."""
        fields = {name: value for option in chosen for name, value in option.fields.items()}
        setting = self.setting.model_copy(update=fields)
        try:
            if all(option.fields for option in chosen):
                counts = count(self.spec, self.method, self.config, setting)
                rows, peak, flops = setting.batch, counts.peak.step, counts.flops.forward + counts.flops.backward
            else:
                rows, peak, flops = self._accumulated(setting)
        except BenchError:
            return None
        if peak > self.peak * (1 - WORTH):
            return None
        parts = [option.says for option in chosen if option.fields]
        parts += [f"--batch {rows * setting.devices}"] if rows != self.setting.batch else []
        return Change(
            options=" ".join(parts), batches=self.setting.batch // rows, predicted_peak_memory_bytes=peak,
            flops_ratio=flops / self.flops, same_gradients=all(option.same for option in chosen),
            fits=peak <= self.usable,
        )  # fmt: skip

    def _accumulated(self, setting: Setting) -> tuple[int, int, int]:
        """Rows, peak and FLOPs of smaller batches, as many rows together: the largest that fit, else one row each."""
        of, peaks = (self.spec, self.method, self.config), dict[int, int]()
        divisors = [rows for rows in range(1, setting.batch) if setting.batch % rows == 0]

        def peak(rows: int) -> int:
            peaks[rows] = peak_of(*of, setting.model_copy(update={"batch": rows}), accumulating=True).step
            return peaks[rows]

        fitting = bisect.bisect_right(divisors, self.usable, key=peak)
        rows = divisors[max(fitting, 1) - 1]  # was asked for either way
        flops = ledger_of(*of, setting.model_copy(update={"batch": rows})).flops
        return rows, peaks[rows], (flops.forward + flops.backward) * (setting.batch // rows)


def _price(change: Change) -> tuple[float, bool, float]:
    """What changes are ordered by: FLOPs, then whether the gradients stay, then FLOPs to the last digit."""
    return round(change.flops_ratio, FINE), not change.same_gradients, change.flops_ratio
