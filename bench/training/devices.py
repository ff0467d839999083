"""Several devices that train one model together: each has some rows of a step, and all or a share of the weights.

Whatever their number, a step has the rows and the gradient that it has on one device.
"""

import contextlib
import copy
import datetime
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from bench import registry
from bench.anatomy import anatomy
from bench.errors import BenchError, message, said
from bench.method import Batch, Method
from bench.models.head import TaskModel


class Alone:
    """One device, which has all rows and all weights; the base of those that train together."""

    devices = 1
    rank = 0
    """Place of this device among them; the first one scores, and writes the record."""

    def meet(self, bare: nn.Module) -> None:
        """Look at the bare backbone, before a method changes it."""

    def join(self, model: TaskModel, method: Method) -> TaskModel:
        """What takes the steps in place of ``model``, which must not be touched until ``leave``."""
        self._loss: nn.Module | None = None
        self._model = model
        return model

    def leave(self) -> None:
        """Bring what was trained back into the model that joined."""

    def loss(self, batch: Batch) -> Tensor:
        """Scalar loss of rows of this device."""
        loss: Tensor = self._model.loss(batch) if self._loss is None else self._loss(batch)
        return loss

    def rows(self, batch: Batch) -> Batch:
        """Those of ``batch`` that this device computes."""
        return batch

    def adding(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Around forward and backward of a part of the rows: gradients of the ``last`` part alone are sent."""
        return contextlib.nullcontext()

    def total(self, loss: Tensor) -> Tensor:
        """Sum over all devices."""
        return loss


class Replicas(Alone):
    """Devices that all have the whole model and all-reduce its gradients (DDP).

    Args:
        rank: Of this one.
        devices: How many there are.
    """

    def __init__(self, rank: int, devices: int) -> None:
        self.rank, self.devices = rank, devices

    def join(self, model: TaskModel, method: Method) -> TaskModel:
        """``model`` itself: its parameters are made those of the first device, and their gradients are sent."""
        super().join(model, method)
        with warnings.catch_warnings():  # from torch 2.13 on it has another name, which versions before do not know
            warnings.simplefilter("ignore", FutureWarning)
            # buffers hold nothing that training changes, or what a method computes from gradients, equal everywhere
            self._loss = DistributedDataParallel(_Loss(model), broadcast_buffers=False)
        return model

    def loss(self, batch: Batch) -> Tensor:
        """As for one device.

        Raises:
            BenchError: A parameter has got no gradient in the step before, and DDP waits for that of every one.
        """
        try:
            return super().loss(batch)
        except RuntimeError as error:
            if "finished reduction" not in message(error):
                raise
            raise BenchError(
                "a parameter that is set to train got no gradient in a step, and DDP waits for that of every one; let "
                "each enter the loss in every step, or train on one device"
            ) from error

    def rows(self, batch: Batch) -> Batch:
        """An equal share of the rows; one more for the first devices where they do not divide.

        Raises:
            BenchError: There are fewer rows than devices.
        """
        rows = len(batch["labels"])
        if rows < self.devices:
            raise BenchError(
                f"a step of {rows} rows leaves some of {self.devices} devices without one; raise batch_size"
            )
        return part_of(batch, self.rank, self.devices)

    def adding(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """As for one device."""
        assert isinstance(self._loss, DistributedDataParallel)
        return contextlib.nullcontext() if last else self._loss.no_sync()

    def total(self, loss: Tensor) -> Tensor:
        """Sum over all devices; for the record, which is no part of a step."""
        dist.all_reduce(loss)
        return loss


class Shares(Replicas):
    """Devices that each keep a share of weights, gradients and optimizer state (FSDP2)."""

    def __init__(self, rank: int, devices: int, device: str) -> None:
        super().__init__(rank, devices)
        self._mesh = init_device_mesh(device, (devices,))
        self._layers: list[nn.Module] = []

    def meet(self, bare: nn.Module) -> None:
        """Take down its layers."""
        self._layers = [bare.get_submodule(layer.path) for layer in anatomy(bare).layers]

    def join(self, model: TaskModel, method: Method) -> TaskModel:
        """A copy of ``model`` whose weights are shared out; those of ``model`` are given up until ``leave``.

        Raises:
            BenchError: As ``shard``.
        """
        super(Replicas, self).join(model, method)
        names = {module: name for name, module in model.named_modules()}
        layers = [names[layer] for layer in self._layers if layer in names]
        # FSDP2 has no way back: the copy gets its hooks, and takes the parameters along
        self._shared = copy.deepcopy(model, {id(p): p for p in model.parameters()})
        shard(self._shared, method, map(self._shared.get_submodule, layers), self._mesh)
        for parameter in model.parameters():
            parameter.data = parameter.data.new_empty(0)
        self._whole, self._model = model, self._shared
        return self._shared

    def leave(self) -> None:
        """Gather all weights into the model that joined, on every device."""
        shared = dict(self._shared.named_parameters())
        with torch.no_grad():
            for name, parameter in self._whole.named_parameters():
                share = shared[name]
                assert isinstance(share, DTensor)
                parameter.data = share.full_tensor()
            buffers = dict(self._shared.named_buffers())
            for name, buffer in self._whole.named_buffers():
                buffer.copy_(buffers[name])

    def adding(self, last: bool) -> contextlib.AbstractContextManager[object]:
        """Every part sends: shares of gradients add up, where whole ones would take the memory that is spared."""
        return contextlib.nullcontext()


class _Loss(nn.Module):
    """The loss of a model as its forward, which is what DDP follows."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.loss(batch)


@contextlib.contextmanager
def joined(
    rank: int, devices: int, *, device: str, shard: bool, meeting: Path, seconds: float
) -> Iterator[Replicas]:  # fmt: skip
    """This process as one of those that train together, until it leaves.

    Args:
        rank: Of this one.
        devices: How many there are.
        device: ``cpu`` (gloo) or ``cuda`` (nccl), of which the process takes the one of its rank.
        shard: Whether each keeps a share of the weights.
        meeting: A file that does not exist yet, the same for all, by which they find one another.
        seconds: How long one waits for the others.

    Raises:
        BenchError: They are more or fewer than planned, or cannot talk to one another.
    """
    if device == "cuda":
        torch.cuda.set_device(rank)
    store = dist.FileStore(str(meeting), devices)  # type: ignore[attr-defined]  # public, though its types do not say so
    by = "nccl" if device == "cuda" else "gloo"
    try:
        dist.init_process_group(
            by, store=store, rank=rank, world_size=devices, timeout=datetime.timedelta(seconds=seconds)
        )
    except RuntimeError as error:
        raise BenchError(
            f"the {devices} devices of this machine find no way to talk to one another by {by} ({said(error)}); see "
            f"{by.upper()}_SOCKET_IFNAME, which names the network interface"
        ) from error
    try:
        found = torch.ones((), device=device)
        dist.all_reduce(found)  # counts those that are there, whatever each was told
        if (present := int(found.item())) != devices or dist.get_world_size() != devices:
            raise BenchError(f"{present} processes train together where the recipe has devices = {devices}")
        yield Shares(rank, devices, device) if shard else Replicas(rank, devices)
    finally:
        dist.destroy_process_group()


def part_of(batch: Batch, number: int, parts: int) -> Batch:
    """Part ``number``, from 0, of ``batch`` in ``parts`` parts of nearly as many rows each, padded as the whole is.

    Of a batch of text also which states tell which token: ``positions`` and ``targets``, ``[N]`` over all rows.
    """
    rows = len(batch["labels"])
    bounds = torch.arange(rows).tensor_split(parts)[number]
    first, last = int(bounds[0]), int(bounds[-1]) + 1
    part = {name: column[first:last] for name, column in batch.items() if name not in ("positions", "targets")}
    if "positions" not in batch:
        return part
    width = batch["labels"].shape[1]
    row = batch["positions"] // width
    mine = (row >= first) & (row < last)
    return part | {"positions": batch["positions"][mine] - first * width, "targets": batch["targets"][mine]}


def shard(model: TaskModel, method: Method, layers: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Share the weights of ``model`` out among the devices of ``mesh`` by FSDP2, in place.

    Each layer of the backbone, with what a method has put into it, is a group: its weights are whole on a device while
    it computes, and gathered again for backward. All else is the group of the model itself, which stays whole from
    forward to the end of backward. These are torch's defaults (``torch.distributed.fsdp.fully_shard``).

    Args:
        model: Adapted backbone with its head; ``loss`` is what a step calls.
        method: The method that adapted it.
        layers: Layers of the bare backbone; those that a method has put aside are left out.
        mesh: One dimension of devices.

    Raises:
        BenchError: The method reads or writes weights where they are not whole.
    """
    standing = set(model.modules())
    groups = [layer for layer in layers if layer in standing]
    check_shardable(model, method, groups)
    for layer in groups:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "loss")


def check_shardable(model: TaskModel, method: Method, layers: Iterable[nn.Module]) -> None:
    """Hold what a method does beside forward and backward against weights of which a device has a share alone.

    Raises:
        BenchError: It reads weights outside of forward, or one parameter stands in two layers.
    """
    if (hook := _reads_weights(method, model.body)) is not None:
        raise BenchError(
            f"{hook} of the method reads weights outside of forward, where each device has a share of them alone; "
            "leave shard out, so that all devices have them whole"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    places: dict[nn.Parameter, str] = {}
    rest = set(model.modules())
    for number, layer in enumerate(layers, 1):
        rest -= (parts := set(layer.modules()))
        _place(parts, f"layer {number}", places, names)
    _place(rest, "what is outside of the layers", places, names)


def _reads_weights(method: Method, body: nn.Module) -> str | None:
    """The hook by which a method reads or writes weights between two steps; None where it has none."""
    if method.regularizer(body) is not None:
        return "regularizer()"
    # a bridge overrides every hook, and this one acts where training deals out ranks
    acts = method.ranks(body) if registry.ours(method) else type(method).after_step is not Method.after_step
    return "after_step()" if acts else None


def _place(
    parts: set[nn.Module], where: str, places: dict[nn.Parameter, str], names: dict[nn.Parameter, str]
) -> None:  # fmt: skip
    for part in parts:
        for parameter in part.parameters(recurse=False):
            if (other := places.setdefault(parameter, where)) != where:
                raise BenchError(
                    f"parameter {names[parameter].removeprefix('body.')!r} stands in {other} and in {where}, and FSDP2 "
                    "shares each layer out by itself; leave shard out, so that all devices have it whole"
                )
