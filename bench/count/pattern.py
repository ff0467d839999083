"""What repeats from one depth to the next: three lists aligned, and the list of any depth that follows from them.

A list of a model with one period of layers more has some runs of items once more: forward's items of a layer, its
backward's, an optimizer's of each parameter. Three lists of depths that are one period apart show which, and whether
the third is what the first two promise; only then a list of another depth follows.
"""

import collections
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

TRIES = 10_000
"""Places of a run that are tried before three lists count as uneven."""


class Uneven(Exception):
    """Three depths do not differ by runs that repeat, so that nothing follows for a fourth."""


class Item(NamedTuple):
    """One thing of a list."""

    key: Any
    """What two items have in common that are the same thing."""
    sizes: tuple[int, ...] = ()
    """Belongs to the key, but for a size that no second depth has: that one grows with the depth."""
    numbers: tuple[int, ...] = ()
    """What grows with the depth, or from one run to the next."""
    hint: Hashable = None
    """What tells the same thing apart from others that have its key, where two depths have it."""


class _Once(NamedTuple):
    """An item that each depth has once."""

    of: tuple[Item, Item, Item]

    def at(self, times: int) -> Iterator[Item]:
        sizes = _lines([item.sizes for item in self.of], times)
        yield Item(self.of[0].key, sizes, _lines([item.numbers for item in self.of], times))

    def steady(self, size: int) -> int:
        """``size`` in place of one that all depths have."""
        if len({item.sizes for item in self.of}) > 1:
            raise Uneven("what grows with the depth changes in another way too")
        return size


class _Run(NamedTuple):
    """Items that the second depth has once more than the first, and the third twice."""

    second: Sequence[Item]
    third: Sequence[Item]
    """Both copies, one after the other."""

    def at(self, times: int) -> Iterator[Item]:
        count = len(self.second)
        rows = list(zip(self.second, self.third[:count], self.third[count:], strict=True))
        if any(not row[0].sizes == row[1].sizes == row[2].sizes for row in rows):
            raise Uneven("sizes differ from one run to the next")
        for copy in range(1, times + 1):
            for row in rows:
                yield Item(row[0].key, row[0].sizes, _planes([item.numbers for item in row], copy, times))


class Pattern:
    """Three lists, of ``n``, ``n + 1`` and ``n + 2`` periods, aligned.

    Raises:
        Uneven: They do not repeat.
    """

    def __init__(self, lists: Sequence[Sequence[Item]]) -> None:
        reason = Uneven("three depths do not repeat")
        bare = [[item._replace(hint=None) for item in items] for items in lists]
        for self.hinted, of in ((True, lists), (False, bare)):
            if (found := _alignment(_coded(of))) is not None:
                self.pieces = _pieces(lists, found)
                try:
                    self.at(1)
                    return
                except Uneven as error:
                    reason = error
        raise reason

    def at(self, times: int) -> list[Item]:
        """The list with ``times`` periods more than the first."""
        return [item for piece in self.pieces for item in piece.at(times)]

    def sums(
        self, times: int, start: int, of: Callable[[int], int] = int, second: Sequence[int] | None = None
    ) -> tuple[int, int]:
        """Largest and last of the sums of the items' first size so far, each as ``of`` has it, from ``start`` on.

        Args:
            times: Periods more than the first list.
            start: Sum before the first item.
            of: What a size adds.
            second: Sizes that stand in place of those of the second list; equal items of three depths change alike.

        Raises:
            Uneven: One of ``second`` is another than that of an item which grows with the depth, or the lists were
                aligned without hints, so that equal items may be several things.
        """
        if second is not None and not self.hinted:
            raise Uneven("hints do not tell what is alike")
        current = most = start
        at = 0
        for piece in self.pieces:
            if isinstance(piece, _Once):
                size = next(piece.at(times)).sizes[0]
                if second is not None and second[at] != piece.of[1].sizes[0]:
                    size = piece.steady(second[at])
                current += of(size)
                most, at = max(most, current), at + 1
            else:  # of equal runs the first or the last reaches furthest
                count = len(piece.second)
                sizes = [item.sizes[0] for item in piece.at(1)] if second is None else second[at : at + count]
                within, at = list(itertools.accumulate(map(of, sizes))), at + count
                if times:
                    most = max(most, current + max(within) + max(0, within[-1] * (times - 1)))
                    current += within[-1] * times
        return most, current


def _pieces(lists: Sequence[Sequence[Item]], found: Sequence[tuple[int, int]]) -> list[_Once | _Run]:
    one, two, three = lists
    pieces: list[_Once | _Run] = []
    at = [0, 0, 0]
    for once, run in found:
        pieces += [_Once((one[at[0] + i], two[at[1] + i], three[at[2] + i])) for i in range(once)]
        at = [place + once for place in at]
        if run:
            pieces.append(_Run(two[at[1] : at[1] + run], three[at[2] : at[2] + 2 * run]))
            at = [at[0], at[1] + run, at[2] + 2 * run]
    return pieces


def line(values: Sequence[int], times: int) -> int:
    """What follows of the values of three depths for the one ``times`` periods beyond the first.

    Raises:
        Uneven: They do not lie on a line.
    """
    first, second, third = values
    if third - second != second - first:
        raise Uneven(f"{first}, {second}, {third} do not lie on a line")
    return first + (second - first) * times


def _lines(rows: Sequence[tuple[int, ...]], times: int) -> tuple[int, ...]:
    if rows[0] == rows[1] == rows[2]:
        return rows[0]
    if not len(rows[0]) == len(rows[1]) == len(rows[2]):
        raise Uneven("items have more sizes at one depth than at another")
    return tuple(line(values, times) for values in zip(*rows, strict=True))


def _planes(rows: Sequence[tuple[int, ...]], copy: int, times: int) -> tuple[int, ...]:
    """Values of copy ``copy`` of ``times``, from those of 1 of 1, 1 of 2 and 2 of 2."""
    if rows[0] == rows[1] == rows[2]:
        return rows[0]
    return tuple(
        alone + (first - alone) * (times - 1) + (second - first) * (copy - 1)
        for alone, first, second in zip(*rows, strict=True)
    )


def _coded(lists: Sequence[Sequence[Item]]) -> list[list[int]]:
    """Items as numbers, equal where two items are the same thing."""
    seen = [collections.Counter((item.key, item.sizes, item.hint) for item in items) for items in lists]
    steady = {
        full for full in seen[2] if seen[1][full] and seen[2][full] - seen[1][full] == seen[1][full] - seen[0][full]
    }
    codes: dict[Hashable, int] = {}
    return [
        [
            codes.setdefault(full if (full := (item.key, item.sizes, item.hint)) in steady else (item.key,), len(codes))
            for item in items
        ]
        for items in lists
    ]


def _alignment(lists: Sequence[list[int]]) -> list[tuple[int, int]] | None:
    """Pairs: items that all three have next, then the length of the run that follows in the second and third.

    None where they are no such lists.
    """
    tries = itertools.count()

    def aligned(i: int, j: int, k: int) -> list[tuple[int, int]] | None:
        if next(tries) > TRIES:
            raise Uneven("the places of runs are too many to try")
        one, two, three = lists
        start = i
        while i < len(one) and j < len(two) and k < len(three) and one[i] == two[j] == three[k]:
            i, j, k = i + 1, j + 1, k + 1
        more = (len(two) - j) - (len(one) - i)
        if more == 0:
            return [(i - start, 0)] if i == len(one) and k == len(three) else None
        for run in range(1, more + 1):
            if two[j + run : j + run + 1] == one[i : i + 1] == three[k + 2 * run : k + 2 * run + 1] and (
                two[j : j + run] == three[k : k + run] == three[k + run : k + 2 * run]
            ):
                rest = aligned(i, j + run, k + 2 * run)
                if rest is not None:
                    return [(i - start, run), *rest]
        return None

    return aligned(0, 0, 0)
