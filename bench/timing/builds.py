"""Holds what arms run, made once or anew for every block; it knows neither methods nor clocks."""

import gc
import random
import traceback
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Builds(Generic[T]):
    """Things by key, each made by ``make``.

    Where a thing's tensors lie in memory moves its times by a percent or two for as long as it lives. Made once, that
    luck is part of a figure; made anew in every block, in another order, it is part of the figure's interval.
    """

    def __init__(self, keys: Iterable[Any], make: Callable[[Any], T]) -> None:
        self.keys = tuple(keys)
        self._make = make
        self._made: dict[Any, T | Exception] = {}
        for key in self.keys:
            self.build(key)

    def drop(self) -> None:
        """Hold nothing until each key is made again."""
        self._made.clear()

    def build(self, key: Hashable) -> None:
        """Make what belongs to ``key``; where that fails, whoever asks for it gets the reason."""
        try:
            self._made[key] = self._make(key)
        except Exception as error:  # the others are still worth their time
            traceback.clear_frames(error.__traceback__)  # they would hold a half-built model beside the others
            self._made[key] = error

    def get(self, key: Hashable) -> T:
        """What was made for ``key``.

        Raises:
            Exception: What making it raised.
        """
        made = self._made[key]
        if isinstance(made, Exception):
            raise made
        return made


def renew(builds: Sequence[Builds[Any]], order: random.Random) -> None:
    """Drop all that ``builds`` hold, then make it anew in an order that ``order`` draws over all of them."""
    for one in builds:
        one.drop()
    gc.collect()  # modules lie in cycles: what is not collected here would hold its memory beside the next
    places = [(one, key) for one in builds for key in one.keys]
    for one, key in order.sample(places, len(places)):
        one.build(key)
