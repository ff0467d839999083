"""Why a method's part came to no figure, as one sentence that names the hook."""

import re
import traceback
import types
from collections.abc import Iterator

from bench.errors import LONGEST_REASON, BenchError, said, shortened
from bench.method import Method

HOOKS = frozenset(name for name, value in vars(Method).items() if callable(value) and not name.startswith("_"))
"""Names of what a method offers the harness."""
_TYPES = re.compile(
    r"same dtype|expected scalar type|[Ff]ound dtype \w+ but expected|should be the same$|expected m1 and m2|"
    r"mixed dtype|dtypes? (mismatch|must match)|Index put requires the source and destination dtypes match"
)
"""What torch says of operands of several types."""


def reason_of(error: BaseException) -> str:
    """The reason of a record: a user's sentence as it is, for all else who raised what."""
    if isinstance(error, BenchError):
        return said(error) or type(error).__name__
    line = said(error, LONGEST_REASON - 100)  # which leaves room for who raised it
    raised = f"{type(error).__name__}: {line}".rstrip(": ")
    if hook := hook_of(error):
        raised = f"{hook}() of the method raises {raised}"
    elif isinstance(error, RuntimeError) and _TYPES.search(line):
        raised = f"an operation of the step takes tensors of one type and gets several; cast one of them ({raised})"
    return shortened(raised)


def hook_of(error: BaseException) -> str | None:
    """The hook of a method out of which ``error`` came; None where it came out of none."""
    return next((name for frame, _ in traceback.walk_tb(error.__traceback__) for name in _hooks(frame)), None)


def _hooks(frame: types.FrameType) -> Iterator[str]:
    code = frame.f_code
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    if isinstance(first, Method):
        for kind in type(first).__mro__:
            for name in HOOKS & vars(kind).keys():
                if getattr(vars(kind)[name], "__code__", None) is code:
                    yield name
