"""Positions of a backbone: how many tokens a row may have beside a prompt."""

from torch import nn

from bench.anatomy import anatomy
from bench.errors import BenchError


def check_positions(
    bare: nn.Module, length: int, reserved: int = 0, *, option: str = "max_length", at: str = ""
) -> int:
    """``length``, where ``bare`` has positions for it beside a prompt of ``reserved``.

    Args:
        bare: The bare backbone, also without values.
        length: Tokens of the longest row.
        reserved: Positions that the method's prompt takes.
        option: What sets ``length``: ``max_length`` of a recipe, ``--seq`` ...
        at: Prefix that locates the mistake, such as ``"suites/mine.toml: sweep[0]"``.

    Raises:
        BenchError: It has too few; the sentence says how long a row may be.
    """
    positions = anatomy(bare).positions
    if positions is None or reserved + length <= positions:
        return length
    prompt = f"a prompt of {reserved} and " if reserved else ""
    left = max(0, positions - reserved)
    remedy = f"{option} {left} is the longest" if left else "shorten the prompt"
    raise BenchError(
        f"{at}{': ' if at else ''}{prompt}{length} tokens need {reserved + length} positions, the backbone has "
        f"{positions}; {remedy}"
    )
