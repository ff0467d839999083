"""Inference as trained, merged and bare: exact structure, counts, times, merge error, task switch."""

import copy
import dataclasses
import statistics
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from bench.count.ledger import forward_flops
from bench.count.operations import CriticalPath
from bench.method import Batch, Method, copy_delta
from bench.models.head import TaskModel, inputs_of
from bench.schema.record import Inference, MergedEqualsBase
from bench.timing.interleave import Arm, Round, between, clock
from bench.training.contract import Contract, finalize, merge

MERGE_DTYPES = (torch.float32, torch.bfloat16)
NARROW_TOKENS = 8
"""Of a row on which a merge is checked in bfloat16 (measured of GPT-2 medium: 0.1 GFLOP/s, 13 minutes for 128)."""
SWITCHES = 5
"""Loads of a delta that the switch time is the median of."""


@dataclasses.dataclass
class Deployed:
    """A method ready for inference."""

    method: Method
    unmerged: TaskModel
    merged: TaskModel | None
    """None where the method cannot be merged; ``unmerged`` itself where there is nothing to fold."""

    @property
    def folded(self) -> TaskModel | None:
        """``merged`` where it is a model of its own."""
        return None if self.merged is self.unmerged else self.merged


def deploy(method: Method, body: nn.Module, head: nn.Module, contract: Contract | None = None) -> Deployed:
    """Finalize and merge a trained body; both variants share the head.

    Raises:
        BenchError: ``contract`` finds that one of them computes something else.
    """
    if contract:
        contract.trained(body)
    finalized = finalize(method, body).eval()
    if contract:
        contract.finalized(finalized)
    unmerged = TaskModel(finalized, head).eval()
    folded = merge(method, finalized)
    if contract:
        contract.merged(finalized, folded)
    if folded is None:
        return Deployed(method, unmerged, None)
    return Deployed(method, unmerged, unmerged if folded is finalized else TaskModel(folded, head).eval())


def inference_arm(
    key: Hashable, running: Callable[[], nn.Module | None], batch: Batch, device: str, phase: str = "latency"
) -> Arm:
    """Logits of ``batch`` under ``inference_mode``, checked to be finite and the same in every run.

    ``running`` gives the model of the moment, which may be another build in every block.
    """
    first: list[Tensor] = []

    def run() -> Round:
        model = running()
        assert model is not None
        with torch.inference_mode():
            start = clock(device)
            logits = model(batch)
            end = clock(device)
            if not first:
                if not bool(logits.isfinite().all()):
                    raise ArithmeticError(f"the logits of {key} are not finite")
                first.append(logits)
            same = torch.equal(logits, first[0]) or (device == "cuda" and torch.allclose(logits, first[0], rtol=1e-3))
            if not same:
                raise ArithmeticError(f"the logits of {key} differ between two runs on the same input")
        return {phase: between(start, end)}

    return Arm(key, run)


def count_inference(model: nn.Module, batch: Batch) -> Inference:
    """Operations, FLOPs and critical path of the logits of ``batch``; exact, on real and on fake tensors alike.

    Not under ``inference_mode``, where composite operations such as a linear map are dispatched whole.
    """
    with torch.no_grad(), CriticalPath() as path:
        model(batch)
    return Inference(operations=path.operations, depth=path.depth, flops=path.flops)


def compare_structure(merged: nn.Module, base: nn.Module, batch: Batch) -> MergedEqualsBase:
    """Whether the merged body is the bare backbone again, by everything but the values of its parameters."""
    ours, ours_trace = forward_flops(lambda: merged(**inputs_of(batch)))
    theirs, base_trace = forward_flops(lambda: base(**inputs_of(batch)))
    return MergedEqualsBase(
        modules=_classes(merged) == _classes(base),
        parameters=_shapes(merged) == _shapes(base),
        op_trace=ours_trace == base_trace,
        flops=ours == theirs,
    )


def merge_error(method: Method, unmerged: nn.Module, batch: Batch) -> dict[str, float]:
    """Largest absolute difference of the last hidden state, merged against unmerged, merged in each dtype.

    In bfloat16 of the first tokens of each row alone: processors without that type take minutes for a long one.
    """
    errors = {}
    for dtype in MERGE_DTYPES:
        module = unmerged
        if dtype == torch.bfloat16:
            batch = {name: tensor[:, :NARROW_TOKENS] for name, tensor in batch.items() if tensor.ndim > 1}
        if any(p.dtype != dtype for p in unmerged.parameters()):
            module = copy.deepcopy(unmerged).to(dtype)
        merged = merge(method, module)
        assert merged is not None
        if merged is module:  # nothing to fold
            errors[str(dtype).removeprefix("torch.")] = 0.0
            continue
        with torch.inference_mode():
            ours = merged(**inputs_of(batch)).last_hidden_state
            theirs = module(**inputs_of(batch)).last_hidden_state
        errors[str(dtype).removeprefix("torch.")] = (ours.float() - theirs.float()).abs().max().item()
    return errors


def switch_seconds(method: Method, finalized: nn.Module, device: str) -> float | None:
    """Median time to load another task's delta into the running module; None where a delta is no set of tensors in it.

    That of the module itself stands for the other. The module holds what it held again afterwards.
    """
    own = method.delta(finalized)
    held = {**dict(finalized.named_parameters()), **dict(finalized.named_buffers())}
    whole = method.unpack(finalized, own)
    if not own or any(name not in held or held[name].shape != tensor.shape for name, tensor in whole.items()):
        return None
    before = {name: held[name].detach().clone() for name in own}
    seconds = []
    for _ in range(SWITCHES):
        start = clock(device)
        copy_delta(held, own.keys(), method.unpack(finalized, own))
        seconds.append(between(start, clock(device))[0])
    copy_delta(held, own.keys(), before)
    return statistics.median(seconds)


def _classes(module: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(part)) for name, part in module.named_modules()]


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    held: Sequence[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in held]
