"""Counts a step of many layers by steps of few: the same backbone at three small depths, and what follows for its own.

Layers are mostly equal, so that a step of the whole depth holds little that three short ones do not show. Nothing is
assumed of it: the adapted model of the whole depth is built without values and held against what the three small ones
promise for it (module by module, with shapes, types, what trains, attributes and lists of the configuration), each
quantity of the third depth against what the first two promise, and memory against the third's whole course of taking
and giving back. Where any of this fails, and for a third party's method, the step is counted whole.

Memory of weights that devices share out (FSDP2) is followed at the whole depth: what is gathered ahead of its use, and
given back after, runs across layers.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import registry
from bench.anatomy import anatomy
from bench.count import count as whole
from bench.count.attribution import Places
from bench.count.count import Adapted, Counts
from bench.count.fake import without_data
from bench.count.ledger import Ledger
from bench.count.memory import Course, Event, follow_step, peak_memory, rounded
from bench.count.operations import Link
from bench.count.pattern import Item, Pattern, Uneven, line
from bench.count.roofline import Load
from bench.count.step import TrainingStep, prove_graph, step_batch
from bench.count.structure import named, structure
from bench.errors import BenchError
from bench.method import Method
from bench.models.objective import shape_for
from bench.schema.jobs import BackboneSpec
from bench.schema.record import Bytes, Flops, Owners, PathCounts, PeakMemory, SavedTensor, Traffic
from bench.schema.shape import Setting

T = TypeVar("T")

WINDOW = 3
"""Depths that the whole one follows from: two promise, the third holds them to it."""
MOST = 5
"""Depths that are tried."""


@dataclasses.dataclass
class Counting:
    """Figures of a method on a setting, and its peaks at other batches."""

    counts: Counts
    peak: Callable[[int], PeakMemory]
    """Peaks of a batch of so many rows."""


def counting(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Counting:
    """As ``count``, field by field, by three small depths where the whole one follows from them.

    Raises:
        BenchError: The family cannot carry the method in this setting.
    """
    if setting.shard:
        alone = setting.model_copy(update={"shard": False})
        return Counting(
            whole.shared_out(count(spec, method, config, alone), spec, method, config, setting),
            lambda batch: whole.peak_of(spec, method, config, setting.model_copy(update={"batch": batch})),
        )
    if registry.ours(method) and (ladder := _ladder(spec, setting)) is not None:
        adapted = Adapted(spec, method, config, setting)
        with contextlib.suppress(Uneven):
            steps = _Steps(adapted, spec, ladder)
            return Counting(steps.counts(), steps.peak)
    return Counting(
        whole.count(spec, method, config, setting),
        lambda batch: whole.peak_of(spec, method, config, setting.model_copy(update={"batch": batch})),
    )


def count(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Counts:
    """Figures alone."""
    return counting(spec, method, config, setting).counts


class _Ladder(NamedTuple):
    """Depths that a step is counted at: ``first`` layers, one ``period`` of layers more, and so on."""

    first: int
    period: int
    depth: int
    """Of the whole."""


@functools.cache
def _ladder(spec: BackboneSpec, setting: Setting) -> _Ladder | None:
    """The shortest period of the layers, but for the first and the last; None where small depths would save nothing."""
    bare = shape_for(spec, setting)
    layers = [structure(bare.get_submodule(layer.path)) for layer in anatomy(bare).layers]
    alike = [[item[:2] for item in layer] for layer in layers]
    depth = len(layers)
    for period in range(1, depth // 3 + 1):
        if all(alike[i] == alike[i + period] for i in range(1, depth - period - 1)):
            first = depth % period or period
            return _Ladder(first, period, depth) if 3 * (first + period) < depth else None
    return None


class _Steps:
    """Steps of small depths, one period apart, of a backbone with a method; of the last three follows the whole."""

    def __init__(self, adapted: Adapted, spec: BackboneSpec, ladder: _Ladder) -> None:
        self.whole, self.spec, self.ladder = adapted, spec, ladder
        self.method, self.setting = adapted.method, adapted.setting
        self.structure = structure(adapted.model)
        self.ladders = Places(adapted.origin, adapted.model.body, adapted.model.head).ladders
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.steps: list[TrainingStep] = []
        self.shapes: list[Any] = []
        self.noted: list[int] = []
        self.structures: list[list[Item]] = []
        self.ledgers: list[Ledger] = []
        self.courses: list[Course] = []
        for _ in range(WINDOW):
            self._deepen()

    @property
    def times(self) -> int:
        """How many periods the whole has more than the first of the last three."""
        first, period, depth = self.ladder
        return (depth - first) // period - (len(self.steps) - WINDOW)

    def _deepen(self) -> None:
        """Add the step of one period more.

        Raises:
            Uneven: Together the small depths have as many layers as the whole.
        """
        first, period, depth = self.ladder
        depths = [first + period * number for number in range(len(self.steps) + 1)]
        if len(depths) > MOST or sum(depths) >= depth:
            raise Uneven("small depths save nothing")
        spec = dataclasses.replace(self.spec, layers=depths[-1])
        try:
            small = Adapted(spec, self.method, self.whole.config, self.setting)
        except BenchError as error:  # such as layers that are named and that a small depth lacks
            raise Uneven(str(error)) from error
        small.origin.ladders = self.ladders
        self.structures.append(structure(small.model))
        self.shapes.append(small.shape)
        self.noted.append(len(small.notes))
        with self._without_data():
            self.steps.append(small.step())

    def _follows(self, figures: Callable[[], T]) -> T:
        """``figures`` of the last three depths, or of three that are a period deeper: the first layers may differ."""
        while True:
            try:
                return figures()
            except Uneven:
                self._deepen()

    def _without_data(self) -> contextlib.AbstractContextManager[Any]:
        return without_data(self.setting.device, self.mode)

    def counts(self) -> Counts:
        """All figures of the whole depth.

        Raises:
            Uneven: They do not follow.
        """
        return self._follows(self._counts)

    def _counts(self) -> Counts:
        if Pattern(self.structures[-WINDOW:]).at(self.times) != self.structure:
            raise Uneven("the whole depth has modules that the small ones do not promise")
        with self._without_data():
            for step in self.steps[len(self.ledgers) :]:
                ledger, course = whole.passes(step, self.setting)
                self.ledgers.append(ledger)
                self.courses.append(course)
            ledger, courses = self._ledger(self.ledgers[-WINDOW:]), self.courses[-WINDOW:]
            held, peak = self._held(courses), self._peak(courses)
            if not registry.built_in(self.method):
                prove_graph(self.steps[-1])
        of_optimizers = {step.notes[count:] for step, count in zip(self.steps, self.noted, strict=True)}
        if len(of_optimizers) != 1:
            raise Uneven("notes of the optimizer differ from depth to depth")
        notes = (*self.whole.notes, *of_optimizers.pop())
        with torch.device("meta"):
            return whole.counted(self.whole, ledger, held, peak, notes)

    def peak(self, batch: int) -> PeakMemory:
        """Peaks of a step of ``batch`` rows."""
        setting = self.setting.model_copy(update={"batch": batch})
        courses: dict[int, Course] = {}

        def course(number: int) -> Course:
            if number not in courses:
                courses[number] = self._followed(number, setting)
            return courses[number]

        with contextlib.suppress(Uneven):
            return self.whole.on_device(self._of_middle(course))

        def figures() -> PeakMemory:
            last = range(len(self.steps) - WINDOW, len(self.steps))
            return self.whole.on_device(self._peak([*map(course, last)]))

        try:
            return self._follows(figures)
        except Uneven:
            return whole.peak_of(self.spec, self.method, self.whole.config, setting)

    def _followed(self, number: int, setting: Setting) -> Course:
        with self._without_data():
            step = self.steps[number]
            step.batch = step_batch(self.shapes[number], setting)
            return follow_step(step)

    def _of_middle(self, followed: Callable[[int], Course]) -> PeakMemory:
        """Peaks of another step from the middle of the last three depths alone, where it alone knows them.

        Raises:
            Uneven: Its course is another than before, or what grows with the depth changes.
        """
        courses = self.courses[-WINDOW:]
        if len(self.courses) != len(self.steps):
            raise Uneven("another batch has asked for deeper steps")
        course = followed(len(self.courses) - 2)
        if not all(map(_alike, courses[1].phases, course.phases)):
            raise Uneven("what looked alike differs at another batch")
        return self._peak(courses, course)

    def _held(self, courses: Sequence[Course]) -> Bytes:
        return Bytes(**self._lines([course.held.model_dump() for course in courses]))

    def _peak(self, courses: Sequence[Course], middle: Course | None = None) -> PeakMemory:
        """Of three courses; sizes of ``middle`` stand in place of the second's."""
        _, current = self._sums([course.before for course in courses], 0, middle.before if middle else None)
        peaks = []
        for phase in range(3):
            lists = [course.phases[phase] for course in courses]
            most, current = self._sums(lists, current, middle.phases[phase] if middle else None)
            peaks.append(most)
        return peak_memory(peaks)

    def _sums(self, lists: Sequence[Sequence[Event]], start: int, middle: Sequence[Event] | None) -> tuple[int, int]:
        pattern = Pattern([[Item(func, (size,), hint=like) for func, size, like in events] for events in lists])
        second = None if middle is None else [event.size for event in middle]
        return pattern.sums(self.times, start, rounded, second)

    def _ledger(self, ledgers: Sequence[Ledger]) -> Ledger:
        if len({ledger.uncounted for ledger in ledgers}) != 1:
            raise Uneven("one depth has operations without a formula that another lacks")
        kept = Pattern([[_kept(tensor) for tensor in ledger.kept] for ledger in ledgers]).at(self.times)
        loads = [[Item((func, load.dtype), load[1:]) for func, load in ledger.loads] for ledger in ledgers]
        return Ledger(
            flops=self._flops([ledger.flops for ledger in ledgers]),
            backward_path=self._path([ledger.chain for ledger in ledgers]),
            traffic_bytes=Traffic(**self._lines([_dumped(ledger.traffic_bytes) for ledger in ledgers])),
            all_reduce_bytes=line([ledger.all_reduce_bytes for ledger in ledgers], self.times),
            saved_activations=line([ledger.saved_activations for ledger in ledgers], self.times),
            saved_by_owner=self._lines([dict[Any, int](ledger.saved_by_owner) for ledger in ledgers]),
            kept=tuple(map(_saved, kept)),
            uncounted=ledgers[0].uncounted,
            loads=tuple(_load(item) for item in Pattern(loads).at(self.times)),
        )

    def _lines(self, tables: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
        """Tables of whole numbers, also nested; one that a depth lacks is 0 there."""
        names = dict.fromkeys(name for table in reversed(tables) for name in table)
        found: dict[Any, Any] = {}
        for name in names:
            values = [table.get(name, 0) for table in tables]
            found[name] = self._lines(values) if isinstance(values[-1], Mapping) else line(values, self.times)
        return found

    def _flops(self, flops: Sequence[Flops]) -> Flops:
        tables = [one.model_dump(exclude={"by_layer", "backbone_by_layer"}) for one in flops]
        return Flops(
            **self._lines(tables),
            by_layer=self._by_layer([one.by_layer for one in flops]),
            backbone_by_layer=self._by_layer([one.backbone_by_layer for one in flops]),
        )

    def _by_layer(self, tables: Sequence[Mapping[str, Owners]]) -> dict[str, Owners]:
        fields = tuple(Owners.model_fields)
        lists = [
            [Item(named(label)[0], tuple(getattr(part, name) for name in fields), named(label)[1])
             for label, part in table.items()]
            for table in tables
        ]  # fmt: skip
        return {
            _spelt(str(item.key), item.numbers): Owners(**dict(zip(fields, item.sizes, strict=True)))
            for item in Pattern(lists).at(self.times)
        }

    def _path(self, chains: Sequence[Sequence[Link]]) -> PathCounts:
        """Operations and depth of the path: link by link of the whole depth, since another path may become longest."""
        depths: list[int] = []
        for item in Pattern([list(_links(chain)) for chain in chains]).at(self.times):
            if item.numbers:
                depths[-1] = max(depths[-1], depths[len(depths) - 1 - item.numbers[0]] + 1)
            else:
                depths.append(1)
        return PathCounts(operations=len(depths), depth=max(depths, default=0))


def _dumped(traffic: Traffic | None) -> dict[str, Any]:
    assert traffic is not None, "a counted step moves bytes"
    return traffic.model_dump()


def _alike(events: Sequence[Event], others: Sequence[Event]) -> bool:
    """Whether ``others`` are ``events`` in other sizes, each size another everywhere: what was aligned still is."""
    sizes: dict[Event, int] = {}
    return len(events) == len(others) and all(
        event.func == other.func and sizes.setdefault(event, other.size) == other.size
        for event, other in zip(events, others, strict=True)
    )


def _links(chain: Iterable[Link]) -> Iterable[Item]:
    for func, offsets in chain:
        yield Item(func)
        for offset in offsets:
            yield Item("needs", (), (offset,), offset)


def _load(item: Item) -> tuple[Any, Load]:
    func, dtype = item.key
    return func, Load(dtype, *item.sizes)


def _kept(tensor: SavedTensor) -> Item:
    template, numbers = named(tensor.module)
    return Item((template, tensor.owner, tensor.dtype, len(tensor.shape)), (*tensor.shape, tensor.bytes), numbers)


def _saved(item: Item) -> SavedTensor:
    template, owner, dtype, _ = item.key
    *shape, size = item.sizes
    return SavedTensor(module=_spelt(template, item.numbers), owner=owner, shape=tuple(shape), dtype=dtype, bytes=size)


def _spelt(template: str, numbers: Sequence[int]) -> str:
    parts = template.split("#")
    return "".join(part + str(number) for part, number in zip(parts, (*numbers, ""), strict=True))
