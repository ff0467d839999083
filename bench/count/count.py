"""Counts a training step on tensors without data: of a method on a backbone's shape, and of a user's own module."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._pytree import tree_map_only

from bench import registry
from bench.count.attribution import Origin
from bench.count.collectives import Collectives, check_shares, communication, gradient_bytes, pretended
from bench.count.fake import fake_like, fakeify, lacks_fake_form, limit, without_data
from bench.count.ledger import Ledger, StepFigures, count_and_follow, count_step
from bench.count.memory import Course, follow_step, make_state, measure_step, peak_memory, rounded
from bench.count.operations import tensors
from bench.count.packed import left_whole, pack
from bench.count.roofline import Work
from bench.count.step import (
    Accumulated,
    TrainingStep,
    adapt,
    hold,
    kept_narrow,
    optimizer_groups,
    prove_graph,
    step_batch,
)
from bench.errors import BenchError, said, unknown
from bench.method import Method
from bench.models.head import trainable, trained_dtypes
from bench.models.objective import make_objective, shape_for
from bench.schema.forms import Optimizer
from bench.schema.jobs import BackboneSpec
from bench.schema.record import Bytes, Communication, PeakMemory, SavedTensor, Trainable
from bench.schema.shape import Setting
from bench.training.contract import finalize, notes_of, stored_bytes
from bench.training.devices import shard
from bench.training.frozen import Frozen, Writes
from bench.training.loop import check_real, make_optimizer, optimizer_for

SMALLEST = 4096
"""Parameters with fewer elements keep float32 state."""
BLOCK = 256
"""Elements that share one scale."""


class EightBitState(torch.optim.Optimizer):
    """Holds what bitsandbytes' ``AdamW8bit`` holds: two bytes an element with one float32 scale a block for each.

    Its kernel works in place without temporaries (Dettmers et al., ICLR 2022, arXiv:2110.02861): it reads parameter,
    gradient and state once, and writes parameter and state.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], weight_decay: float = 0.0) -> None:
        super().__init__(list(groups), {"weight_decay": weight_decay})
        check_real(self.param_groups, "adamw_8bit")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the state of parameters that have a gradient."""
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[parameter]
            if not state:
                state |= {name: value for moment in "12" for name, value in _moment(parameter, moment).items()}
            _update(parameter, parameter.grad, list(state.values()))


@torch.library.custom_op("bench::adamw_8bit", mutates_args=("parameter", "state"))
def _update(parameter: Tensor, gradient: Tensor, state: list[Tensor]) -> None:
    raise NotImplementedError("it stands for a kernel of bitsandbytes on tensors without data")


@_update.register_fake
def _changed_in_place(parameter: Tensor, gradient: Tensor, state: list[Tensor]) -> None:
    return None


def _moment(parameter: torch.Tensor, number: str) -> dict[str, torch.Tensor]:
    if parameter.numel() < SMALLEST:
        return {f"state{number}": torch.zeros_like(parameter, dtype=torch.float32)}
    scales = torch.zeros(-(-parameter.numel() // BLOCK), dtype=torch.float32, device=parameter.device)
    return {f"state{number}": torch.zeros_like(parameter, dtype=torch.uint8), f"absmax{number}": scales}


LARGEST = 10
"""Saved tensors that a record names."""
CUBLAS_WORKSPACE = 8_519_680
"""Bytes that cuBLAS takes from torch's allocator for its first product (32 MiB on Hopper)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts(StepFigures):
    """The exact part of what one method costs on one setting, under the names of a record's fields."""

    trainable_parameters: Trainable
    delta_bytes: int
    bytes: Bytes
    predicted_peak_memory_bytes: PeakMemory
    largest_saved: tuple[SavedTensor, ...]
    trained_dtypes: dict[str, tuple[str, ...]]
    work: Work
    communication_bytes: Communication | None = None
    notes: tuple[str, ...] = ()

    @property
    def trainable(self) -> Trainable:
        """Trainable parameters of the method and of the head."""
        return self.trainable_parameters

    @property
    def peak(self) -> PeakMemory:
        """Peak bytes of each phase of the step."""
        return self.predicted_peak_memory_bytes

    def figures(self, record: type[BaseModel]) -> dict[str, Any]:
        """What a record of this class holds of these counts, by the name of its field."""
        names = [field.name for field in dataclasses.fields(self) if field.name in record.model_fields]
        return {name: getattr(self, name) for name in names}


def count(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Counts:
    """Count parameters, FLOPs, saved tensors and peaks of a training step once its optimizer has its state.

    Of several devices that all have the whole model; for those that share it out, see ``shared_out``.

    Raises:
        BenchError: The family cannot carry the method in this setting.
    """
    adapted = Adapted(spec, method, config, setting)
    with without_data(setting.device):
        step = adapted.step()
        ledger, course = passes(step, setting)
        held, peak = course.held, peak_memory(course.peaks)
        if not registry.built_in(method):  # those are proven on padded rows of every family by the project's tests
            prove_graph(step)
        counts = counted(adapted, ledger, held, peak, step.notes)
        hold(step)
        return counts


def shared_out(alone: Counts, spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Counts:
    """``alone`` with the memory of one of the devices that share weights, gradients and state, and what it tells them.

    FSDP2 runs as it is, on tensors without data. What it adds to FLOPs is nothing; copies into and out of its buffers
    are not in ``traffic_bytes``.

    Args:
        alone: Counts of the rows of one device that has the whole model.
        spec: As in ``count``.
        method: As in ``count``.
        config: As in ``count``.
        setting: With ``shard``.

    Raises:
        BenchError: What trains or is stored cannot be shared out.
    """
    adapted = Adapted(spec, method, config, setting)
    with adapted.among() as step:
        make_state(step)
        with Collectives() as seen:
            course = follow_step(step, begun=True)
        held = course.held.model_copy(update={"saved_activations": alone.bytes.saved_activations})
        return dataclasses.replace(
            alone, bytes=held, predicted_peak_memory_bytes=adapted.on_device(peak_memory(course.peaks)),
            communication_bytes=seen.among(setting.devices),
        )  # fmt: skip


def passes(step: TrainingStep, setting: Setting) -> tuple[Ledger, Course]:
    """Counts and course of ``step`` on fake tensors, inside ``without_data``: in one pass where one shows both."""
    # a third party may compute such a loss anywhere, and of peft's Shadow one pass shows 3 kB that a real step has not
    if setting.loss == "chunked" or not registry.built_in(step.method):
        ledger = count_step(step.model, step.origin, step.forward, step.backward, step.optimize)
        return ledger, follow_step(step)
    return count_and_follow(step)


def counted(adapted: "Adapted", ledger: Ledger, held: Bytes, peak: PeakMemory, notes: Iterable[str]) -> Counts:
    """Bring the figures of a step of ``adapted`` together, with what no tensor without data shows."""
    model, method = adapted.model, adapted.method
    delta = stored_bytes(method, finalize(method, model.body), trainable(model.body))
    notes = (*notes_of(method, model.body), *notes)
    counts = summary(model, ledger, held, adapted.on_device(peak), delta, notes)
    if (devices := adapted.setting.devices) == 1:
        return counts
    return dataclasses.replace(counts, communication_bytes=communication(devices, all_reduce=counts.all_reduce_bytes))


def ledger_of(spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> Ledger:
    """FLOPs and saved tensors of one training step alone.

    Raises:
        BenchError: The family cannot carry the method in this setting.
    """
    adapted = Adapted(spec, method, config, setting)
    with without_data(setting.device):
        step = adapted.step()
        return count_step(step.model, step.origin, step.forward, step.backward, step.optimize)


def peak_of(
    spec: BackboneSpec, method: Method, config: Any, setting: Setting, *, accumulating: bool = False
) -> PeakMemory:
    """Peaks of one training step alone, in half the time of ``count``; also of one that adds up several batches."""
    adapted = Adapted(spec, method, config, setting)
    with adapted.among() as step:
        _, peak, _ = measure_step(Accumulated(step) if accumulating else step)
        return adapted.on_device(peak)


def summary(
    model: Any, ledger: Ledger, held: Bytes, peak: PeakMemory, delta_bytes: int, notes: Iterable[str] = ()
) -> Counts:
    """Bring the figures of a counted step of ``model``, which has ``body`` and ``head``, together."""
    return Counts(
        **{field.name: getattr(ledger, field.name) for field in dataclasses.fields(StepFigures)},
        trainable_parameters=Trainable(method=trainable(model.body), head=trainable(model.head)),
        delta_bytes=delta_bytes,
        bytes=held.model_copy(update={"saved_activations": ledger.saved_activations}),
        predicted_peak_memory_bytes=peak,
        largest_saved=ledger.saved[:LARGEST],
        trained_dtypes=trained_dtypes(model),
        work=ledger.work,
        notes=(*notes, *_left_out(ledger), *_mixed(trained_dtypes(model.body))),
    )


def _mixed(dtypes: Mapping[str, tuple[str, ...]]) -> list[str]:
    """That a method trains in more than one type, as a sentence."""
    parts = [
        f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)} in {dtype}" for dtype, names in dtypes.items()
    ]
    return [f"trains in several types: {'; '.join(parts)}"] if len(parts) > 1 else []


def _left_out(ledger: Ledger) -> list[str]:
    """What the FLOPs of a step leave out, as a sentence."""
    names = ", ".join(ledger.uncounted)
    return [f"FLOPs leave out {names}: there is no formula for them here (METHODOLOGY.md, FLOPs)"] if names else []


class Adapted:
    """A backbone of one depth with a method on it, on the meta device: what steps on fake tensors are built of.

    Modules cannot change their type or device among fake tensors, and some families draw weights by value.

    Raises:
        BenchError: The family cannot carry the method in this setting.
    """

    def __init__(self, spec: BackboneSpec, method: Method, config: Any, setting: Setting) -> None:
        check_shares(setting)
        self.method, self.config, self.setting = method, config, setting
        bare = shape_for(spec, setting)  # no file of weights is read
        self.shape = bare.config
        whole = left_whole(bare)
        self._own = {} if registry.ours(method) else dict(bare.named_parameters())
        with Writes(self._own) if self._own else contextlib.nullcontext() as writes:
            self.origin, self.model = adapt(bare, method, config, make_objective(bare, setting), setting)
        written = _written(Frozen(self._own, self.model.body), writes) if writes else []
        self.notes = (*written, *kept_narrow(method, self.model, self.origin, setting))
        """What a reader must know of how it was built."""
        if setting.weights != "native":
            pack(self.origin, whole, setting.weights, keeps_inputs=setting.keeps_inputs)

    @contextlib.contextmanager
    def among(self) -> Iterator[TrainingStep]:
        """The step, among the devices that share the model out where the setting has any; inside it all is fake."""
        apart = self.setting.shard
        with pretended(self.setting.devices) if apart else contextlib.nullcontext() as mesh:
            with without_data(self.setting.device):
                yield self.step(mesh)

    def on_device(self, peak: PeakMemory) -> PeakMemory:
        """``peak`` with what is there throughout: CUDA's workspace, and DDP's buckets, a copy of the gradients."""
        setting = self.setting
        buckets = gradient_bytes(self.model) if setting.devices > 1 and not setting.shard else 0
        return with_workspace(_shifted(peak, rounded(buckets)), setting.device)

    def step(self, mesh: DeviceMesh | None = None) -> TrainingStep:
        """The step on fake tensors, once, inside ``without_data``: the model's own tensors give way to them.

        On devices of ``mesh`` each has a share of these.
        """
        method, model, setting = self.method, self.model, self.setting
        fakes = fakeify(model, setting.device)
        self.origin.replaced(fakes)
        if mesh is not None:
            shard(model, method, self.origin.layers, mesh)
        groups = optimizer_groups(model, method)
        eight_bit = setting.optimizer == "adamw_8bit"  # its library has no fake kernels
        make = EightBitState if eight_bit else functools.partial(make_optimizer, form=setting.optimizer)
        notes: list[str] = [*self.notes]
        optimizer = optimizer_for(method, model.body, groups, make=make, notes=notes)
        own = self._own
        frozen = Frozen({name: fakes.get(p, p) for name, p in own.items()}, model.body) if own else None
        batch = step_batch(self.shape, setting)
        return TrainingStep(
            method, self.config, model, self.origin, optimizer, batch, setting.autocast, tuple(notes), frozen,
            setting.clipping, setting.padded,
        )  # fmt: skip


def _written(frozen: Frozen, writes: Writes) -> list[str]:
    """That ``apply`` wrote into weights that stay frozen, as a sentence."""
    names = [name for name in frozen.weights if name in writes.seen]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"apply() writes into frozen weights of the backbone: {names[0]}{more}"] if names else []


def with_workspace(peak: PeakMemory, device: str) -> PeakMemory:
    """``peak`` with the workspace that the first product on CUDA takes and keeps."""
    return _shifted(peak, CUBLAS_WORKSPACE) if device == "cuda" else peak


def with_workspace_seen(counts: Counts, taken: int) -> Counts:
    """Counts for CUDA with what products took on the GPU at hand, in bytes, in place of the smallest workspace."""
    return dataclasses.replace(
        counts,
        predicted_peak_memory_bytes=_shifted(counts.peak, taken - CUBLAS_WORKSPACE),
        notes=(*counts.notes, f"the predicted peak holds {taken / 1e6:,.1f} MB that cuBLAS keeps on this GPU"),
    )


def _shifted(peak: PeakMemory, always: int) -> PeakMemory:
    return PeakMemory(**{phase: value + always for phase, value in peak})


Loss = Callable[[Any], Tensor]


def account(
    module: nn.Module,
    batch: Any,
    *,
    loss: Loss | None = None,
    optimizer: Optimizer = "adamw_fused",
    device: str = "cpu",
) -> Counts:
    """Count one training step of ``module`` on ``batch``, without running it and without touching either.

    There are no values: where the module branches on one, the answer is always yes, or 1.

    Frozen parameters count as ``backbone``, trainable ones as ``method``. Layers are the entries of the longest list
    of modules; what is frozen outside of them counts to ``embeddings``, what trains there to ``other``.

    Args:
        module: Any module in the mode in which it trains; also on the meta device.
        batch: Keyword arguments as a mapping, positional ones as a tuple or list, or one tensor; shapes matter alone.
        loss: Output of the module -> scalar; by default ``output.loss``, or the output where it is a scalar.
        optimizer: Form of the optimizer.
        device: ``cpu`` or ``cuda``: whose forms are counted.

    Returns:
        Counts; ``delta_bytes`` are those of the trainable parameters.

    Raises:
        BenchError: A form is unknown, nothing trains, no scalar loss comes out or does not reach all that trains, an
            operation needs data, or the module does not run on the batch.
    """
    for what, name, known in (("optimizer", optimizer, get_args(Optimizer)), ("device", device, ("cpu", "cuda"))):
        if name not in known:
            raise unknown(what, name, known, "account")
    if not any(p.requires_grad for p in module.parameters()):
        raise BenchError("account: the module has no trainable parameter; set requires_grad on what trains")
    try:
        with without_data(device):
            fakes = {id(t): fake_like(t) for t in [*module.parameters(), *module.buffers(), *tensors(batch)]}
            given = tree_map_only(Tensor, lambda tensor: fakes[id(tensor)], batch)
            with unset_fake_temporarily():  # other tensors in the module stay real: a fake copy of those cannot be made
                own = copy.deepcopy(module, dict(fakes))
            return _counted(_Step(own, given, loss or _own_loss, optimizer), device)
    except BenchError as error:
        refused = str(error)
        raise BenchError(refused if refused.startswith("account: ") else f"account: {refused}") from error
    except Exception as error:  # whatever the module, its loss or a library below them says
        reason = said(error)
        if (beyond := limit(error)) is not None:
            raise BenchError(f"account: {beyond}") from error
        if lacks_fake_form(error):
            raise BenchError(
                f"account: an operation of the module cannot run without data ({reason}); give it a fake form with "
                "torch.library.register_fake, or leave it out of the step"
            ) from error
        raise BenchError(f"account: the step does not run on this batch ({type(error).__name__}: {reason})") from error


def _counted(step: "_Step", device: str) -> Counts:
    ledger = count_step(step.model, step.origin, step.forward, optimize=step.optimize)
    step.zero()
    held, peak, _ = measure_step(step)
    stored = sum(p.nbytes for p in step.model.parameters() if p.requires_grad)
    return summary(step.model, ledger, held, with_workspace(peak, device), stored)


class _Whole(nn.Module):
    """A module in the place where a task model has its body, with nothing on top."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Identity()


class _Step:
    """One training step of a user's module."""

    def __init__(self, module: nn.Module, batch: Any, loss: Loss, form: Optimizer) -> None:
        self.model = _Whole(module)
        self.batch = {str(i): tensor for i, tensor in enumerate(tensors(batch))}
        self._given = batch
        self._loss = loss
        lists = [
            (path, part) for path, part in module.named_modules() if isinstance(part, nn.ModuleList | nn.Sequential)
        ]
        path, longest = max(lists, key=lambda found: len(found[1]), default=("", ()))
        self.origin = Origin(module, [f"{path}.{i}".lstrip(".") for i in range(len(longest))])
        self.origin.parameters = {p: place for p, place in self.origin.parameters.items() if not p.requires_grad}
        groups = [{"params": [p for p in module.parameters() if p.requires_grad], "lr": 1e-3}]
        self.optimizer = EightBitState(groups) if form == "adamw_8bit" else make_optimizer(groups, form=form)

    def forward(self) -> Tensor:
        """Scalar loss."""
        module, given = self.model.body, self._given
        if isinstance(given, Mapping):
            output = module(**given)
        else:
            output = module(*given) if isinstance(given, tuple | list) else module(given)
        value = self._loss(output)
        if not isinstance(value, Tensor) or value.ndim:
            raise BenchError("account: no scalar loss comes out of the module; give loss=, output -> scalar")
        if not value.requires_grad:
            raise BenchError("account: no trainable parameter enters the loss, so that it has no gradient")
        return value

    def backward(self, loss: Tensor) -> None:
        """Gradients of all trainable parameters."""
        loss.backward()  # type: ignore[no-untyped-call]

    def optimize(self) -> None:
        """Optimizer step."""
        self.optimizer.step()

    def zero(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def kept(self) -> tuple[()]:
        """Nothing: no method takes part."""
        return ()


def _own_loss(output: Any) -> Any:
    found = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    return found
