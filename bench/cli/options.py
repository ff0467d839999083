"""Options shared by several commands, and how their text is parsed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from typer.core import TyperCommand

from bench.schema.forms import AdapterDtype as AdapterDtype
from bench.schema.forms import Attention as Attention
from bench.schema.forms import Device as Device
from bench.schema.forms import Dtype as Dtype
from bench.schema.forms import Loss as Loss
from bench.schema.forms import Objective as Objective
from bench.schema.forms import Optimizer as Optimizer
from bench.schema.forms import Status
from bench.schema.forms import Weights as Weights

if TYPE_CHECKING:
    from bench.plan.select import Selection


class Once(TyperCommand):
    """A command whose options each take one value, where they do not say that they are repeatable."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse a second value, of which the parser would keep the last without a word.

        Raises:
            BenchError: An option is given twice.
        """
        from bench.errors import BenchError

        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        order: list[Any] = list(given)
        for param in order:
            single = param.param_type_name == "option" and not (param.multiple or param.is_flag)
            if single and param.name in values and order.count(param) > 1:
                name = max(param.opts, key=len)
                raise BenchError(f"{name} is given twice; give it once, with one value{_separated(param)}")
        return super().parse_args(ctx, args)


def _separated(option: Any) -> str:
    return " that separates names by commas" if "separated by commas" in (option.help or "") else ""


class Commands(typer.Typer):
    """Commands of the program."""

    def command(self, *args: Any, **settings: Any) -> Callable[[Any], Any]:
        """Register one, as a command that takes each value once."""
        return super().command(*args, cls=Once, **settings)


SuiteOption = Annotated[
    str, typer.Option("--suite", help="Name of a suite (see `list suites`) or path of a .toml file.")
]
DataOption = Annotated[
    str | None, typer.Option(help="Source of rows: auto, hub, index, synthetic, or a folder with task files.")
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--methods", help="Only these methods: name or name(key=value, ...), separated by commas; repeatable."
    ),
]
TasksOption = Annotated[str | None, typer.Option(help="Only these tasks, separated by commas.")]
SeedsOption = Annotated[str | None, typer.Option(help="Only these seeds, separated by commas.")]
BackboneOption = Annotated[
    str | None,
    typer.Option(help="Another backbone: a hub id, smollm2-135m, ./folder, or another named shape (random weights)."),
]
CountsOption = Annotated[bool, typer.Option("--counts", help="Count costs only, without timing or scoring.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, such as results/runs/smoke-1a2b3c.")]
TuningOption = Annotated[
    Path | None,
    typer.Option(
        "--tuning", metavar="DIR", help="Folder of a search or of a run at default rates: also rank by those rates."
    ),
]
InconclusiveOption = Annotated[
    Literal["ok", "fail"] | None,
    typer.Option(help="Exit with 0 (ok) or 1 (fail) instead of 3 where no verdict is possible."),
]
RetryOption = Annotated[
    str | None,
    typer.Option(
        metavar="STATUS,...",
        help="Repeat records that are oom, nan, timeout, crashed or failed, separated by commas; the old ones move to "
        "retried.jsonl.",
    ),
]
ExecutorOption = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where jobs run: in processes of this machine, or on a Ray cluster (extra ray)."),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster to run on: HOST:PORT of its head, or auto (default: RAY_ADDRESS, else one on this machine).",
    ),
]
OutOption = Annotated[Path | None, typer.Option("-o", "--out", help="File to write (default: standard output).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_output(form: str, out: Path | None, as_json: bool, *, shown: str) -> None:
    """Refuse before any work what cannot be written or shown.

    Args:
        form: What ``--format`` asks for.
        out: What ``-o`` asks for.
        as_json: Whether ``--json`` is asked for.
        shown: The form that is for the screen alone.

    Raises:
        BenchError: ``-o`` of what is for the screen, parquet without ``-o``, or two forms at once.
    """
    from bench.errors import BenchError

    if as_json and form != shown:
        raise BenchError(f"--json and --format {form} exclude each other; give one of them")
    if out is not None and form == shown:
        raise BenchError(f"-o needs a file format: --format {shown} and --json print to the screen")
    if out is None and form == "parquet":
        raise BenchError("--format parquet is binary; give a file with -o")


def parse_size(option: str, text: str) -> int:
    """Bytes of a size with its unit: ``24GiB`` (2^30 each) or ``80GB`` (10^9 each).

    Args:
        option: The option that it was given to, for the error.
        text: What was given.

    Raises:
        BenchError: There is no unit, or it is not a size above 0.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from bench.errors import BenchError

    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text) and float(text) > 0:
        unit = "GiB" if float(text) < 2**20 else "B"
        raise BenchError(f"{option} {text.strip()} has no unit; did you mean {text.strip()}{unit}?")
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except (ValidationError, OverflowError):
        size = 0
    if size <= 0:
        raise BenchError(f"{option} {text!r}: must be a size above 0 with its unit, such as 24GiB")
    return size


def parse_reserve(option: str, text: str, memory: int) -> int:
    """Bytes of ``memory`` that are kept free: a share of it such as ``5%``, or a size such as ``800MB``.

    Args:
        option: The option that it was given to, for the error.
        text: What was given.
        memory: Bytes of the device.

    Raises:
        BenchError: It is neither, or leaves nothing.
    """
    from bench.errors import BenchError

    if text.strip() == "0":
        return 0
    if (share := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)) is not None:
        reserve = int(memory * float(share[1]) / 100)
    elif re.fullmatch(r"\s*[\d.]+\s*", text):
        raise BenchError(f"{option} {text.strip()} has no unit; did you mean {text.strip()}% or {text.strip()}GiB?")
    else:
        reserve = parse_size(option, text)
    if reserve >= memory:
        raise BenchError(f"{option} {text.strip()} leaves nothing of {memory / 2**30:.4g} GiB; lower it")
    return reserve


def split_specs(text: str) -> list[str]:
    """Split at commas outside parentheses: ``"full,lora(rank=4, alpha=8)"`` gives two specs."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [part for part in (*parts, current.strip()) if part]


def repeated(text: str | None, fresh: bool) -> frozenset[str]:
    """Statuses of the records that ``--retry`` repeats.

    Raises:
        BenchError: One is no status of a record that came to no figure, or ``--fresh`` repeats all.
    """
    from bench.errors import BenchError, unknown

    if text is None:
        return frozenset()
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    known = [status for status in get_args(Status) if status != "ok"]
    for name in sorted(names - {*known}):
        raise unknown("status", name, known, "--retry")
    if not names:
        raise BenchError(f"--retry is empty; name what to repeat: {', '.join(known)}")
    if fresh:
        raise BenchError("--fresh repeats every record, those of --retry among them; give one of the two")
    return names


def selection_of(
    data: str | None,
    methods: list[str] | None,
    tasks: str | None,
    seeds: str | None,
    backbone: str | None,
    counts: bool,
) -> "Selection":
    """What the flags of a run ask for; imports what it needs when it is called.

    Raises:
        BenchError: Seeds that are no whole numbers.
    """
    from bench.errors import BenchError
    from bench.plan.select import Selection

    try:
        numbers = tuple(int(seed) for seed in seeds.split(",") if seed.strip()) if seeds is not None else None
    except ValueError:
        raise BenchError(f"--seeds {seeds!r}: seeds must be integers separated by commas, such as 0,1,2") from None
    chosen = tuple(spec for text in methods for spec in split_specs(text)) if methods is not None else None
    names = tuple(name.strip() for name in tasks.split(",") if name.strip()) if tasks is not None else None
    return Selection(data=data, methods=chosen, tasks=names, seeds=numbers, backbone=backbone, counts=counts)
