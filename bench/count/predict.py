"""Predicts what methods cost on a backbone's shape, counted on fake tensors without weights."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import registry
from bench.errors import BenchError, given
from bench.models import backbone
from bench.schema.forms import Objective, Weights
from bench.schema.jobs import BackboneSpec, Cell, MethodSpec, Plan
from bench.schema.record import MeanBatch, Prediction, RowLengths, Trainable
from bench.schema.shape import Setting, StepShape

if TYPE_CHECKING:
    from bench.count.depth import Counting
    from bench.count.lengths import Lengths
    from bench.count.roofline import Rates


class Room(NamedTuple):
    """Memory of a device that a step must fit into; fields as those of a `Prediction`."""

    device_memory_bytes: int
    reserve_bytes: int
    """Of these, what a step must leave."""

    @property
    def usable(self) -> int:
        """Bytes that a step may take."""
        return self.device_memory_bytes - self.reserve_bytes


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


def setting_for(
    name: str, form: StepShape, *, weights: Weights, device: str, padded: bool = False, bitsandbytes: str | None = None,
    devices: int = 1, shard: bool = False,
) -> Setting:  # fmt: skip
    """The setting of a step on backbone ``name``, with the objective and loss that it has there where none is given.

    The rows of ``form`` are those of all ``devices``; the setting has those of one.

    Raises:
        BenchError: The backbone is unknown, or cannot have the objective; a version of bitsandbytes is none, or is
            given without 4-bit weights; the rows or the step cannot be shared out.
    """
    _check_devices(form, devices, shard=shard)
    if bitsandbytes is not None and weights == "native":
        raise BenchError(f"--bitsandbytes {bitsandbytes} is of 4-bit weights; give --weights nf4 too, or omit it")
    if bitsandbytes is not None and not re.fullmatch(r"\d+\.\d+\.\d+", bitsandbytes):
        raise BenchError(f"--bitsandbytes {bitsandbytes!r} is no version; give one such as 0.42.0")
    from bench.count.collectives import check_shares
    from bench.models.objective import outputs_of, settle

    settled = settle(backbone.shape_of(name), form, length=form.length)
    outputs = outputs_of(settled["objective"])
    setting = Setting(
        **form.step() | settled | {"batch": form.batch // devices}, weights=weights, bitsandbytes=bitsandbytes,
        device=device, padded=padded, outputs=outputs, devices=devices, shard=shard,
    )  # fmt: skip
    check_shares(setting)
    return setting


def _check_devices(form: StepShape, devices: int, *, shard: bool) -> None:
    if form.batch % devices:
        raise BenchError(
            f"--batch {form.batch} is that of all devices, and {devices} of them cannot have the same rows of it; make "
            f"it a multiple of {devices}"
        )
    if shard and devices == 1:
        raise BenchError("--shard shares the weights out among several devices; give --devices N too, or omit it")


def predictions(
    name: str,
    specs: Sequence[str] | None,
    setting: Setting,
    device_memory: int | None = None,
    progress: Callable[[str], object] = lambda line: None,
    *,
    reserve: int = 0,
    rates: "Rates | None" = None,
    lengths: "Lengths | None" = None,
) -> list[Prediction]:
    """Figures of each method on backbone ``name`` in ``setting``.

    Args:
        name: Named shape, hub id (its configuration only) or path of a ``config.json``.
        specs: Methods as ``name(key=value, ...)``; ``all`` stands for every built-in method that is not named beside
            it, None for that alone.
        setting: Shape and form of the training step.
        device_memory: Bytes that the device has; None where nobody asked what fits.
        progress: Called with short lines such as ``counting lora, 3 of 13``.
        reserve: Bytes of it that a step must leave.
        rates: Peak rates of a device that a step's time is estimated on; None where nobody asked.
        lengths: Rows whose longest is the length of ``setting``; None where that was given.

    Returns:
        One row a method. In place of figures ``refused`` says why the backbone cannot carry the method, or
        ``not_counted`` why its step does not run on fake tensors.

    Raises:
        BenchError: The backbone or a method is unknown, or all methods are refused.
    """
    if specs is not None and not specs:
        raise BenchError("--method is empty; give name, name(key=value, ...) or all")
    asked = _asked(("all",) if specs is None else specs)
    from bench.count.isolation import guarded
    from bench.models.head import check_positions
    from bench.models.objective import shape_for

    for named, config in asked:  # what is misspelled stops here
        guarded(named, functools.partial(_check, named, config))
    spec = backbone.shape_of(name)
    setting = setting.model_copy(update={"attention": backbone.attention_of(spec, setting.attention)})
    bare = shape_for(spec, setting)  # what no method is to blame for stops here
    fit = functools.partial(check_positions, bare, setting.length, option="--seq")
    if lengths is not None:
        fit = functools.partial(fit, option="a row of", at=f"{lengths.file}, line {lengths.line}")
    fit()
    held = None if lengths is None else lengths.of_batches(setting.batch, setting.devices)
    mean = None if held is None else _mean_setting(spec, setting, held)
    room = None if device_memory is None else Room(device_memory, reserve)
    row = functools.partial(
        Prediction,
        backbone=name,
        backbone_parameters=sum(p.numel() for p in bare.parameters()),
        shape=setting,
        lengths=held,
    )
    common = (
        *backbone.configuration_notes(spec, setting.objective or "classes"),
        *_notes(setting, bare),
        *_notes_of_devices(setting, pads=held is not None),
        *([] if rates is None else [rates.note]),
    )
    by_name = [registry.parse_spec(text) for text in specs or ()]
    found: dict[int, Prediction] = {}
    refusals: list[BenchError] = []
    # third parties' first, each in a fork: of a process that has run no method, and before torch begins threads in it
    for index, (named, config) in sorted(enumerate(asked), key=lambda one: "/" not in one[1][0]):
        label = registry.spell(named, config)
        progress(f"counting {label}, {len(found) + 1} of {len(asked)}")
        try:
            say = functools.partial(_say, progress, label) if (named, config) in by_name else None
            work = functools.partial(_counted, spec, bare, (named, config), setting, room, rates, say, fit, mean)
            figures = _apart(named, work)
        except BenchError as error:
            refusals.append(error)
            figures = {"refused": str(error)}
        notes = (*common, *figures.pop("notes", ()))
        found[index] = row(method=label, notes=notes, **figures)
    if len(refusals) == len(found):
        raise refusals[0]
    return [found[index] for index in range(len(asked))]


def _mean_setting(spec: BackboneSpec, setting: Setting, rows: RowLengths) -> Setting:
    """``setting`` at the length that batches of random rows are padded to in the mean.

    Raises:
        BenchError: Such a batch is shorter than the objective or its targets need.
    """
    from bench.models.objective import settle

    mean = setting.model_copy(update={"length": round(rows.mean_longest)})
    settle(spec, mean, length=mean.length, where=f"the mean batch, {mean.length} tokens long")
    return mean


def _say(progress: Callable[[str], object], label: str, what: str) -> None:
    progress(f"counting {label}, which does not fit: {what}")


def _asked(specs: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Methods with the values given to them, in order, with those that ``all`` stands for."""
    named = [registry.parse_spec(text, "--method") for text in specs]
    rest: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in registry.BUILTIN if (name, {}) not in named]
    asked = [one for pair in named for one in (rest if pair == ("all", {}) else [pair])]
    if twice := [one for index, one in enumerate(asked) if one in asked[:index]]:
        raise BenchError(f"--method: {registry.spell(*twice[0])} is listed twice; name each once")
    return asked


def _check(name: str, config: dict[str, Any]) -> None:
    registry.make(name, config, "--method")


def _apart(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Fields of a `Prediction` from ``work``; where a third party's method ends its process, that is their reason."""
    from bench.count.isolation import SECONDS, Lost, apart

    if "/" not in name:
        return work()
    try:
        return apart(work, seconds=SECONDS)
    except Lost as lost:
        return {"not_counted": lost.reason}


def check_fit(plan: Plan) -> None:
    """Try every method of ``plan`` that is built in or bridged on the backbone's shape, before anything is trained.

    A plug-in's method is tried by its own process alone: whatever it does there becomes a record.

    Raises:
        BenchError: The family cannot carry a method, a value does not fit the shape, or a prompt leaves no position.
    """
    from bench.models.head import check_positions

    bare = functools.cache(_without_values)  # for its positions: no method is applied to what is kept
    for probe in plan.probes:
        whole = bare(probe.backbone, _kind(probe.objective))
        check_positions(whole, probe.length, option="length", at=probe.name)
        if probe.latency_batches:
            check_positions(whole, probe.latency_length, option="latency_length", at=probe.name)
        if probe.generation is not None:
            option = "generation: a context with its new_tokens of"
            check_positions(whole, probe.generation.longest, option=option, at=probe.name)
    trials: list[tuple[BackboneSpec, MethodSpec, int | None, Objective]] = []
    trials += [(probe.backbone, used, None, _kind(probe.objective)) for probe in plan.probes for used in probe.methods]
    trials += [(cell.backbone, cell.method, cell.recipe["max_length"], "classes") for cell in plan.cells]
    built: set[tuple[str, Objective]] = set()
    checked: set[tuple[str, int | None, Objective]] = set()
    for spec, used, length, objective in trials:
        same = registry.spell(used.name, used.config)  # methods that train on other rows are built alike
        if used.name not in registry.BUILTIN | registry.BRIDGES or (same, length, objective) in checked:
            continue
        checked.add((same, length, objective))
        method, config = registry.make(used.name, used.config)
        try:
            if (same, objective) not in built:
                built.add((same, objective))
                with contextlib.suppress(NotImplementedError):  # it starts from values, and is tried where they are
                    _built(_without_values(spec, objective), method, config)
            if length is not None:
                check_positions(bare(spec, objective), length, method.reserved_positions(config))
        except BenchError as error:
            raise BenchError(f"method {used.label}: {error}") from error
    _check_names([cell for cell in plan.cells if cell.spec.kind != "classes"])


def _check_names(cells: Sequence[Cell]) -> None:
    """Refuse a method that starts from the names of classes on a task that has none."""
    from bench.method import Method

    tried = {(registry.spell(cell.method.name, cell.method.config), cell.spec.name): cell for cell in cells}
    for cell in tried.values():
        used = cell.method
        if used.name not in registry.BUILTIN:
            continue
        method, config = registry.make(used.name, used.config)
        if type(method).name_classes is Method.name_classes:
            continue
        try:
            method.name_classes(_built(_without_values(cell.backbone, "classes"), method, config), [])
        except BenchError as error:
            raise BenchError(f"method {used.label} on task {cell.spec.name}: {error}") from error


def check_memory(plan: Plan) -> None:
    """Hold what ``plan`` will run against the memory of this machine, before anything is run.

    A step is refused where the states of one layer alone exceed the memory. One that may exceed it by a generous
    estimate is counted, for each built-in method of a timed probe; rows of a cell are padded to the longest of their
    batch, which is not known yet, so that they are held against their shortest form.

    Raises:
        BenchError: A step does not fit; the sentence says how much it takes.
    """
    for probe in plan.probes:
        if probe.timed and (limit := memory_of(probe.device)):
            setting = Setting(**probe.step(), device=probe.device, outputs=probe.outputs)
            _check_step(probe.backbone, probe.methods, setting, limit)
    for cell in plan.cells:
        recipe, limit = cell.recipe, memory_of(cell.device)
        rows = min(recipe["batch_size"], cell.task.train_rows) // recipe.get("gradient_accumulation", 1)
        if limit and (least := _states(cell.backbone, rows, SHORTEST)) > limit:
            raise BenchError(
                f"task {cell.task.name}: {_too_much(f'batch_size = {rows}', least, limit)}; lower batch_size or raise "
                "gradient_accumulation"
            )


SHORTEST = 3
"""Tokens of the shortest row that a tokenizer gives: a word between a start and an end."""
GENEROUS = 64
"""Values that a layer keeps for each of its states, at most, beside the attention weights."""


@functools.cache
def memory_of(device: str) -> int | None:
    """Bytes of memory of this machine's ``device``; None where they cannot be known."""
    if device == "cpu":
        import psutil

        return int(psutil.virtual_memory().total)
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _check_step(spec: BackboneSpec, methods: Sequence[MethodSpec], setting: Setting, limit: int) -> None:
    where = f"a step of {setting.batch} x {setting.length} tokens"
    if (least := _states(spec, setting.batch, setting.length)) > limit:
        raise BenchError(f"{_too_much(where, least, limit)}; lower batch or length, or count it alone with --counts")
    if generous_bytes(spec, setting) <= limit:
        return
    from bench.count.count import peak_of

    for used in (one for one in methods if one.name in registry.BUILTIN):
        try:
            peak = peak_of(spec, *registry.make(used.name, used.config), setting).step
        except Exception:  # what cannot be counted is for the run to say, as a record
            continue
        if peak > limit:
            raise BenchError(
                f"method {used.label}: {_too_much(where, peak, limit)}; lower batch or length, or count it alone with "
                "--counts"
            )


def _states(spec: BackboneSpec, rows: int, length: int) -> int:
    """Bytes of the states that one layer gives, in the narrowest type: no step takes less."""
    return int(rows * length * backbone.configuration(spec).hidden_size * 2)


def generous_bytes(spec: BackboneSpec, setting: Setting) -> int:
    """Bytes that no step of a built-in method is near: four copies of every weight, and all that layers may keep."""
    config = backbone.configuration(spec)
    tokens, heads = setting.batch * setting.length, config.num_attention_heads
    kept = tokens * (config.hidden_size * GENEROUS + heads * setting.length * 4) * config.num_hidden_layers
    kept += tokens * config.vocab_size * 4 if setting.objective == "text" else 0  # logits, and what their loss keeps
    return int(4 * (4 * backbone.describe(spec, setting.objective or "classes").parameters + kept))


def _too_much(what: str, needed: int, limit: int) -> str:
    return f"{what} takes at least {needed / 1e9:,.1f} GB of memory, this machine has {limit / 1e9:,.1f} GB"


def _counted(
    spec: BackboneSpec, bare: Any, asked: tuple[str, dict[str, Any]], setting: Setting, room: "Room | None",
    rates: "Rates | None", say: Callable[[str], object] | None, fit: Callable[[int], object], mean: Setting | None,
) -> dict[str, Any]:  # fmt: skip
    """Fields of a `Prediction`; with ``say`` also what to change where the step does not fit."""
    from bench.count.depth import count, counting
    from bench.count.fake import uncounted
    from bench.count.fitting import Step

    method, config = registry.make(*asked, "--method")
    fit(method.reserved_positions(config))
    try:
        found = counting(spec, method, config, setting)
        counts = found.counts
        row = counts.figures(Prediction)
        if room is not None:
            row |= _capacity(found, setting, room.usable) | room._asdict()
            if say is not None and not row["fits"]:
                flops = counts.flops.forward + counts.flops.backward
                row["changes"] = Step(
                    spec, method, config, setting, peak=counts.peak.step, flops=flops, usable=room.usable
                ).changes(say)
        if mean is not None:
            of_mean = count(spec, method, config, mean)
            flops = of_mean.flops.forward + of_mean.flops.backward
            row["mean_batch"] = MeanBatch(
                length=mean.length, flops=flops, predicted_peak_memory_bytes=of_mean.peak.step
            )
        if rates is not None and counts.traffic_bytes is not None:
            seconds = rates.seconds(counts.work)
            tokens = setting.rows * setting.length
            row |= {"estimated_step_seconds": seconds, "estimated_tokens_per_second": tokens / seconds}
    except BenchError:
        raise
    except Exception as error:  # whatever a third party's operation does on tensors without data
        row = {"not_counted": uncounted(error)}
        with contextlib.suppress(Exception):  # where it cannot even be built, the reason above stands alone
            row |= _sizes(spec, method, config, setting)
    return row


def _capacity(found: "Counting", setting: Setting, device_memory: int) -> dict[str, Any]:
    step = found.counts.peak.step

    def peak(rows: int) -> int:
        return step if rows == setting.batch else found.peak(rows).step

    return {
        "fits": step <= device_memory,
        "largest_batch": setting.devices * largest_within(peak, device_memory, setting.batch),
    }


def _without_values(spec: BackboneSpec, objective: Objective) -> Any:
    """The backbone's shape under ``objective``, whatever its weights."""
    return backbone.load(dataclasses.replace(spec, weights="random"), device="meta", objective=objective)


def _kind(objective: Objective | None) -> Objective:
    """What ``objective`` stands on: a score on the same backbone as classes."""
    return "text" if objective == "text" else "classes"


def _built(bare: Any, method: Any, config: Any) -> Any:
    """The adapted backbone, without values."""
    import torch

    from bench.training.contract import MODULE

    with torch.device("meta"):
        return given("apply", method.apply(bare, config), torch.nn.Module, MODULE)


def _sizes(spec: BackboneSpec, method: Any, config: Any, setting: Setting) -> dict[str, Any]:
    """Figures that need no step: parameters and stored bytes."""
    import torch

    from bench.models.head import TaskModel, trainable, trained_dtypes
    from bench.models.objective import make_objective, shape_for
    from bench.training.contract import finalize, notes_of, stored_bytes

    bare = shape_for(spec, setting)
    head = make_objective(bare, setting)
    module = _built(bare, method, config)
    with torch.device("meta"):
        trained = trainable(module)
        stored = stored_bytes(method, finalize(method, module), trained)
    return {
        "trainable_parameters": Trainable(method=trained, head=sum(p.numel() for p in head.parameters())),
        "trained_dtypes": trained_dtypes(TaskModel(module, head)),
        "delta_bytes": stored,
        "notes": notes_of(method, module),
    }


def _left_whole(bare: Any) -> list[str]:
    """Classes of modules in the backbone's layers that hold matrices which 4-bit storage leaves as they are."""
    from torch import nn

    from bench.anatomy import anatomy
    from bench.count.packed import packable

    found = {
        type(module).__name__
        for module in bare.get_submodule(anatomy(bare).layers_path).modules()
        if not packable(module) and not isinstance(module, nn.Embedding)
        and any(p.ndim > 1 for p in module.parameters(recurse=False))
    }  # fmt: skip
    return sorted(found)


def _notes(setting: Setting, bare: Any) -> list[str]:
    """What the figures of a setting leave out or take from a formula."""
    from bench.count.count import CUBLAS_WORKSPACE

    if setting.device == "cuda":
        notes = [
            "not yet calibrated on a GPU: the peak holds what torch's CUDA allocator hands out, rounded up to 512 "
            f"bytes each, and a cuBLAS workspace of {CUBLAS_WORKSPACE / 1e6:.1f} MB (32 MiB on Hopper), but neither "
            "the allocator's fragmentation nor the CUDA context",
        ]
    else:
        notes = ["the peak leaves out scratch space inside kernels"]
    if setting.weights != "native":
        notes.append(
            "frozen linear maps of the layers are held in 4 bits as bitsandbytes holds them and unpacked one matrix at "
            "a time; norms, embeddings and the LM head stay in the type of --dtype"
        )
        if whole := _left_whole(bare):
            notes.append(f"4-bit storage leaves {', '.join(whole)} as they are: transformers packs nn.Linear alone")
    if setting.optimizer == "adamw_8bit":
        notes.append("size and traffic of the optimizer's 8-bit state are by formula")
    return notes


def _notes_of_devices(setting: Setting, *, pads: bool) -> list[str]:
    if setting.devices == 1:
        return []
    how = (
        "FSDP2 shares weights, gradients and optimizer state out: each layer is whole on a device while it computes, "
        "and gathered again for backward, frozen or not; copies into and out of its buffers are no traffic here"
        if setting.shard
        else "each has all weights (DDP), and a copy of the gradients in the buckets that are all-reduced; buffers are "
        "not broadcast"
    )
    return [
        f"every figure but the largest batch is of one of {setting.devices} devices, each with {setting.batch} of the "
        f"{setting.rows} rows; {how}; memory of the library that sends (NCCL) is left out, and so is the time that "
        "sending takes",
        *(["each device pads its own rows; cells of this project pad a step as a whole"] if pads else []),
    ]
