"""Finds what fits into a device's memory from a size that is dear to count; it counts nothing itself."""

from collections.abc import Callable

MOST = 1 << 20
"""Where the search for a largest number ends."""
MISLED = 5
"""Extrapolations in a row; then each second one gives way to the middle, so that the search ends on any growth."""


def largest_within(size: Callable[[int], int], limit: int, start: int = 1, most: int = MOST) -> int:
    """Largest whole number n up to ``most`` with ``size(n) <= limit``; 0 where there is none.

    Both the answer and the number after it are evaluated (unless the answer is ``most``): a line through two sizes
    only says where to look. On a size that grows along a line, four evaluations do.

    Args:
        size: Does not fall where n grows; counts from 1.
        limit: Largest size that fits, in the unit of ``size``.
        start: Where to look first.
        most: Where the search ends.
    """
    low, high = 0, most + 1  # fits, does not fit
    points: list[tuple[int, int]] = []
    guess = min(max(start, 1), most)
    while high - low > 1:
        points.append((guess, size(guess)))
        low, high = (guess, high) if points[-1][1] <= limit else (low, guess)
        middle = 2 * low if high > most else (low + high) // 2
        straight = len(points) < MISLED or len(points) % 2
        guess = _on_the_line(points, limit, middle) if straight else middle
        guess = min(max(guess, low + 1), high - 1)
    return low


def _on_the_line(points: list[tuple[int, int]], limit: int, otherwise: int) -> int:
    """Where the line through the last two ``points`` meets ``limit``."""
    if len(points) < 2:
        return otherwise
    (first, low), (second, high) = sorted(points[-2:])
    return first + (limit - low) * (second - first) // (high - low) if high > low else otherwise
