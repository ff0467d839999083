"""What devices that take a step together tell one another: collective operations, by the bytes of whole tensors.

Nothing is sent here: FSDP2 runs as it is, on tensors without data, in a process group whose operations do nothing.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from bench.count.fake import Mode
from bench.count.operations import tensors
from bench.errors import BenchError
from bench.schema.record import Communication
from bench.schema.shape import Setting

_C10D, _FUNCTIONAL = torch.ops.c10d, torch.ops._c10d_functional
_WHOLE: dict[Any, tuple[str, Callable[[Any, Any], Any]]] = {
    _C10D.allreduce_.default: ("all_reduce", lambda args, out: args[0]),
    _C10D._allgather_base_.default: ("all_gather", lambda args, out: args[0]),
    _C10D._reduce_scatter_base_.default: ("reduce_scatter", lambda args, out: args[1]),
    _FUNCTIONAL.all_reduce.default: ("all_reduce", lambda args, out: args[0]),
    _FUNCTIONAL.all_gather_into_tensor.default: ("all_gather", lambda args, out: out),
    _FUNCTIONAL.reduce_scatter_tensor.default: ("reduce_scatter", lambda args, out: args[0]),
}
"""Collective operations -> field of a `Communication`, and which of their tensors is the whole one."""
_SILENT = {_FUNCTIONAL.wait_tensor.default}


class Collectives(Mode):
    """Adds up the whole tensors that collective operations are about, on real and on fake tensors alike."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: dict[str, int] = collections.defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:  # what it does with its share comes by in turn
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        if func in _WHOLE:
            kind, whole = _WHOLE[func]
            self.bytes[kind] += sum(t.numel() * t.element_size() for t in tensors(whole(args, out)))
        elif func.namespace in ("c10d", "_c10d_functional") and func not in _SILENT:
            raise BenchError(f"the step calls {func}, a collective operation that is not counted here; leave shard out")
        return out

    def among(self, devices: int) -> Communication:
        """What was seen, of one of so many devices."""
        return communication(devices, **self.bytes)


def communication(devices: int, *, all_reduce: int = 0, all_gather: int = 0, reduce_scatter: int = 0) -> Communication:
    """Whole tensors of a step, and what each of ``devices`` sends of them around a ring.

    A ring all-reduces by scattering sums and gathering them: 2 (N - 1) / N of the whole pass through each device, half
    of it where there is one of the two alone (Patarasuk and Yuan, 2009, J. Parallel Distrib. Comput. 69(2)).
    """
    once = 2 * all_reduce + all_gather + reduce_scatter
    return Communication(
        all_reduce=all_reduce, all_gather=all_gather, reduce_scatter=reduce_scatter,
        sent=-(-once * (devices - 1) // devices),
    )  # fmt: skip


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients of all that trains: what DDP all-reduces in a step."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


UNSHARED = ("adamw_8bit", "adafactor")
"""Optimizers that torch cannot run on shares of a weight: its DTensor has no form of what they do."""


def check_shares(setting: Setting) -> None:
    """Hold the form of a step against weights of which each device has a share.

    Raises:
        BenchError: They are packed in 4 bits, or the optimizer knows whole ones alone.
    """
    if setting.shard and setting.weights != "native":
        raise BenchError(f"shard is counted of weights as they are, not of {setting.weights} ones; omit one of the two")
    if setting.shard and setting.optimizer in UNSHARED:
        raise BenchError(
            f"optimizer {setting.optimizer} cannot update weights of which each device has a share; take adamw_fused, "
            "or leave shard out"
        )


@contextlib.contextmanager
def pretended(devices: int) -> Iterator[DeviceMesh]:
    """One of so many devices, the others of which are not there.

    Raises:
        BenchError: This process is one of a group already.
    """
    if dist.is_initialized():
        raise BenchError("shard is counted in a process group of its own, and this process is in another; count it "
                         "outside of torchrun")  # fmt: skip
    store = dist.HashStore()  # type: ignore[attr-defined]  # public, though torch's types do not say so
    dist.init_process_group("fake", rank=0, world_size=devices, store=store)
    try:
        yield init_device_mesh("cpu", (devices,))
    finally:
        dist.destroy_process_group()
