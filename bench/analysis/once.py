"""Remembers the last answers about objects that never change, so that tables of one run are not lifted again."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")


class Once(Generic[Thing, Answer]):
    """Answers by the identity of an immutable object: its equality and hash would read thousands of records.

    Args:
        kept: Answers that are kept, the oldest goes first; each keeps its object alive, so that no identity returns.
    """

    def __init__(self, kept: int = 4) -> None:
        self._known: deque[tuple[Thing, Hashable, Answer]] = deque(maxlen=kept)

    def get(self, thing: Thing, compute: Callable[[], Answer], key: Hashable = None) -> Answer:
        """What ``compute`` gave for this very ``thing`` and an equal ``key``."""
        for known, asked, answer in self._known:
            if known is thing and asked == key:
                return answer
        answer = compute()
        self._known.append((thing, key, answer))
        return answer
