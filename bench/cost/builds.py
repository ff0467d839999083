"""Holds what arms run, made once or anew for every block; it knows neither methods nor clocks."""

import gc
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Builds(Generic[T]):
    """Things by key, each made by ``make``.

    Where a thing's tensors lie in memory moves its times by a percent or two for as long as it lives. Made once, that
    luck is part of a figure; made anew in every block, in another order, it is part of the figure's interval.
    """

    def __init__(self, keys: Iterable[str], make: Callable[[str], T], seed: int = 0) -> None:
        self.keys = tuple(keys)
        self._make = make
        self._order = random.Random(seed)
        self._made: dict[str, T | Exception] = {}
        self.fill()

    def drop(self) -> None:
        """Hold nothing until ``fill`` is called."""
        self._made.clear()

    def fill(self, *, shuffle: bool = False) -> None:
        """Make what belongs to every key, in their order or in a random one."""
        for key in self._order.sample(self.keys, len(self.keys)) if shuffle else self.keys:
            try:
                self._made[key] = self._make(key)
            except Exception as error:  # whoever asks for it gets the reason; the others are still worth their time
                self._made[key] = error

    def get(self, key: str) -> T:
        """What was made for ``key``.

        Raises:
            Exception: What making it raised.
        """
        made = self._made[key]
        if isinstance(made, Exception):
            raise made
        return made


def renew(builds: Sequence[Builds[Any]]) -> None:
    """Drop all that ``builds`` hold, then make it anew in a random order."""
    for one in builds:
        one.drop()
    gc.collect()  # modules lie in cycles: what is not collected here would hold its memory beside the next
    for one in builds:
        one.fill(shuffle=True)
