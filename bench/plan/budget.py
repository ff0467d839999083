"""Chooses the size at which each method comes nearest to a suite's budget, by exact counts."""

import copy
import dataclasses
import functools
from typing import Any

import torch

from bench import registry
from bench.count.count import peak_of
from bench.count.fake import uncounted
from bench.count.isolation import guarded
from bench.count.predict import largest_within
from bench.errors import BenchError, given
from bench.models import backbone
from bench.models.head import check_positions, trainable
from bench.models.objective import objective_of, outputs_of, settle
from bench.plan.select import label
from bench.schema.forms import Objective
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting
from bench.schema.suite import DEFAULTS, MatchTable, MethodTable, Suite
from bench.tasks.catalogue import kinds

Outcome = dict[str, str | int]
"""What became of one method, as the resolved suite keeps it: ``spelled``, ``field``, ``value`` and ``reached``, or
``not_matched`` with the reason."""


def matched(suite: Suite, spec: BackboneSpec, device: str, where: str) -> tuple[Suite, dict[str, Outcome]]:
    """Give each method of ``suite`` the largest size whose count does not exceed the budget.

    A method that has no size, or whose configuration in the suite gives it, stays as it is. Everything that the suite
    says of a method (baseline, claims, sweeps, crossovers) follows it to its new label.

    Args:
        suite: A checked suite.
        spec: Its backbone.
        device: ``cpu`` or ``cuda``; decides the batch of cost shapes and whose forms are counted.
        where: Its file, for error messages.

    Returns:
        The suite with all sizes in the methods' configurations, and the outcome of each method by its new label;
        the suite itself and nothing where it has no budget.

    Raises:
        BenchError: A method is unknown, the backbone cannot carry it, or its smallest size exceeds the budget.
    """
    if suite.match is None:
        return suite, {}
    found: dict[int, tuple[MethodTable, Outcome]] = {}
    # third parties' first, each in a fork: of a process that has run no method, and before torch begins threads in it
    for index, table in sorted(enumerate(suite.method), key=lambda one: "/" not in one[1].name):
        place = f"{where}: method[{index}]"
        found[index] = guarded(table.name, functools.partial(_chosen, suite, table, spec, device, place))
    tables, outcomes, labels = [], {}, {}
    for index, table in enumerate(suite.method):
        chosen, outcome = found[index]
        tables.append(chosen)
        outcomes[label(chosen)] = outcome
        labels[label(table)] = label(chosen)
    return _renamed(suite, labels).model_copy(update={"method": tuple(tables)}), outcomes


def _chosen(
    suite: Suite, table: MethodTable, spec: BackboneSpec, device: str, place: str
) -> tuple[MethodTable, Outcome]:
    return _Search(suite, table, spec, device, place).choose()


def _renamed(suite: Suite, labels: dict[str, str]) -> Suite:
    """``suite`` with new labels wherever it refers to a method by its spelling."""

    def new(name: str | None) -> Any:
        return labels.get(name, name) if name is not None else None

    def all_new(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(new, names))

    return suite.model_copy(
        update={
            "baseline": new(suite.baseline),
            "claim": tuple(
                claim.model_copy(update={"method": all_new(claim.method), "versus": new(claim.versus)})
                for claim in suite.claim
            ),
            "sweep": tuple(table.model_copy(update={"methods": all_new(table.methods)}) for table in suite.sweep),
            "crossover": tuple(
                table.model_copy(update={"method": new(table.method), "than": new(table.than)})
                for table in suite.crossover
            ),
        }
    )


class _Search:
    """The search for the size of one method."""

    def __init__(self, suite: Suite, table: MethodTable, spec: BackboneSpec, device: str, place: str) -> None:
        assert suite.match is not None
        self._match: MatchTable = suite.match
        self._table = table
        self._spec = dataclasses.replace(spec, weights="random")  # no file of weights is read
        self._place = place
        self._method, self._config = registry.make(table.name, table.config, place)
        own = settle(spec, suite.cost[0], length=suite.cost[0].length, where=place) if suite.cost else {}
        peak = self._match.peak_memory_bytes is not None
        self._setting = _setting(suite, device, own) if peak else None
        usual = objective_of(suite, spec, kinds(suite.tasks, suite.task))
        self._objective: Objective = usual if suite.tasks else own.get("objective", usual)
        self._longest = _longest(suite)
        self._counts: dict[int, int | BenchError] = {}

    def choose(self) -> tuple[MethodTable, Outcome]:
        """The method at its size, or as it stands with the reason.

        Raises:
            BenchError: The backbone cannot carry it, or its smallest size exceeds the budget.
        """
        field = self._method.size
        if field is None:
            return self._table, {"not_matched": "no field of its configuration sets its size"}
        if field in self._table.config:
            return self._table, {"not_matched": f"the suite gives its {field}"}
        try:
            value = self._largest(field)
        except BenchError:
            raise
        except Exception as error:  # whatever a third party's method does on tensors without data
            raise BenchError(
                f"{self._place}: {label(self._table)} cannot be counted: {uncounted(error)}; give "
                f"{field} in its config to leave it as it is"
            ) from error
        reached = self._counts[value]
        assert isinstance(reached, int)
        chosen = self._table.model_copy(update={"config": self._table.config | {field: value}})
        return chosen, {"spelled": label(self._table), "field": field, "value": value, "reached": reached}

    def _largest(self, field: str) -> int:
        sizes = self._method.sizes(self._bare, self._config)
        budget = self._match.budget

        def size(n: int) -> int:
            count = self._count(sizes[n - 1])
            return count if isinstance(count, int) else budget + 1  # what is refused bounds the sizes from above

        standing = getattr(self._config, field)
        start = sizes.index(standing) + 1 if standing in sizes else 1
        if n := largest_within(size, budget, start, len(sizes)):
            return sizes[n - 1]
        least = self._count(sizes[0])
        if isinstance(least, BenchError):
            raise BenchError(f"{self._place}: {label(self._table)}: {least}") from least
        raise BenchError(
            f"{self._place}: {label(self._table)} has {least:,} {self._match.figure} at its smallest, {field} = "
            f"{sizes[0]}, but match allows {budget:,}; raise the budget, or give {field} in its config to leave it as "
            "it is"
        )

    def _count(self, value: int) -> int | BenchError:
        """The figure at one value of the size, or why the method or the backbone refuses it."""
        if value not in self._counts:
            try:
                self._counts[value] = self._figure(value)
            except BenchError as error:
                self._counts[value] = error
        return self._counts[value]

    def _figure(self, value: int) -> int:
        assert self._method.size is not None
        method, config = registry.make(self._table.name, self._table.config | {self._method.size: value})
        check_positions(self._bare, self._longest, method.reserved_positions(config), option="length")
        if self._setting is not None:
            return peak_of(self._spec, method, config, self._setting).step
        with torch.device("meta"):
            module = given("apply", method.apply(copy.deepcopy(self._bare), config), torch.nn.Module, "a torch module")
        return trainable(module)

    @functools.cached_property
    def _bare(self) -> Any:
        """The backbone, which every size is tried on a copy of."""
        return backbone.load(self._spec, device="meta", objective=self._objective)


def _setting(suite: Suite, device: str, own: dict[str, Any]) -> Setting:
    """The training step of the suite's first cost shape, with what is the backbone's ``own`` in it."""
    first = suite.cost[0]
    outputs = outputs_of(own["objective"])
    return Setting(**first.step() | own | {"batch": first.batch_on(device)}, device=device, outputs=outputs)


def _longest(suite: Suite) -> int:
    """Most tokens that any row of the suite has beside a prompt, whatever the command line narrows it to."""
    lengths = [length for cost in suite.cost for length in (cost.length, cost.latency_length)]
    lengths += [cost.generation.longest for cost in suite.cost if cost.generation is not None]
    if suite.recipe is not None:
        lengths.append(suite.recipe.max_length or DEFAULTS["max_length"])
        lengths += [values.max_length for values in suite.recipe.task.values() if values.max_length is not None]
    return max(lengths, default=1)
