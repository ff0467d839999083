"""What suites, records and the command line share: choices as types, a method as people write it, cells of a CSV."""

import ast
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bench.errors import BenchError, shortened

Status = Literal["ok", "oom", "nan", "timeout", "crashed", "failed"]
Dtype = Literal["float32", "bfloat16", "bfloat16_autocast"]
"""``bfloat16_autocast``: forward under autocast, frozen matrices bfloat16, vectors and all that trains float32."""
AdapterDtype = Literal["float32", "model"]
"""Type of what a method adds beside a backbone in bfloat16: float32, as peft has it by default, or the backbone's."""
Attention = Literal["sdpa", "eager"]
Optimizer = Literal["adamw_fused", "adamw_foreach", "adamw_loop", "adamw_8bit", "sgd", "adafactor"]
Weights = Literal["native", "nf4", "nf4-dq"]
"""How frozen linear weights of the backbone's layers are stored: as computed with, or as 4-bit normal floats, with
double quantisation or without."""
Device = Literal["cuda", "cpu"]
Objective = Literal["classes", "score", "text"]
"""What is trained on top of the backbone: a head of classes, a head of one number, or the model's own LM head on the
next token."""
Loss = Literal["full", "target", "chunked"]
"""How the next-token loss is computed: over the logits of every position (transformers), of those with a target alone,
or a piece of the rows at a time (``torch.nn.functional.linear_cross_entropy``). The value is the same."""

Hold = Literal["total", "domain"]
"""What stays as it is where general text is mixed in: the number of all rows, or of those of the task."""


LONGEST_SPEC = 2_000
"""Characters of a method with its values: it stands in every table."""


def parse_spec(spec: str, where: str = "") -> tuple[str, dict[str, Any]]:
    """Split ``"lora(rank=8)"`` into ``("lora", {"rank": 8})``; the values are Python literals, or TOML's and JSON's.

    Raises:
        BenchError: The text is not of the form ``name`` or ``name(key=value, ...)``.
    """
    prefix = f"{where}: " if where else ""
    if len(spec) > LONGEST_SPEC:
        raise BenchError(
            f"{prefix}method {spec[:40]!r}... has {len(spec):,} characters, of at most {LONGEST_SPEC:,}; leave out "
            "what it need not say"
        )
    name, bracket, rest = spec.strip().partition("(")
    name = name.strip()
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        if any(k.arg is None for k in call.keywords):
            raise ValueError
        if len({k.arg for k in call.keywords}) < len(call.keywords):
            raise ValueError
        return name, {str(k.arg): ast.literal_eval(_Plain().visit(k.value)) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:  # the last two of deep brackets
        raise BenchError(
            f"{prefix}cannot read method {shortened(spec, 200)!r}; write name or name(key=value, ...)"
        ) from error


class _Plain(ast.NodeTransformer):
    """Reads ``true``, ``false`` and ``null``, as suites and JSON files spell them."""

    VALUES: ClassVar[dict[str, bool | None]] = {"true": True, "false": False, "null": None}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self.VALUES[node.id]) if node.id in self.VALUES else node


def spell(name: str, config: Mapping[str, Any]) -> str:
    """Write a method and the values given to it the way that the command line reads them."""
    inner = ", ".join(f"{key}={value!r}" for key, value in config.items())
    return f"{name}({inner})" if inner else name


def inert(value: Any) -> Any:
    """A cell of a CSV that a spreadsheet shows as it is: a text that begins a formula gets an apostrophe before it.

    Numbers stay, also those that are texts, such as a class ``-1``.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")) or len(value) == 1:
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
