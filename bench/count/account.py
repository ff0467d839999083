"""``account(module, batch)``: the ledger of a user's own module; it knows neither methods nor suites."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, get_args

from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_map_only

from bench.count.attribution import Origin
from bench.count.count import Counts, EightBitState, summary, with_workspace
from bench.count.fake import fake_like, lacks_fake_form, without_data
from bench.count.ledger import count_step
from bench.count.memory import measure_step
from bench.count.operations import tensors
from bench.errors import BenchError, unknown
from bench.schema.forms import Optimizer
from bench.training.loop import make_optimizer

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
        BenchError: A form is unknown, nothing trains, no scalar loss comes out, or an operation needs data.
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
    except RuntimeError as error:
        if not lacks_fake_form(error):
            raise
        reason = str(error).splitlines()[0]
        raise BenchError(
            f"account: an operation of the module cannot run without data ({reason}); give it a fake form with "
            "torch.library.register_fake, or leave it out of the step"
        ) from error


def _counted(step: "_Step", device: str) -> Counts:
    ledger = count_step(step.model, step.origin, step.forward)
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


def _own_loss(output: Any) -> Any:
    found = output if isinstance(output, Tensor) else getattr(output, "loss", None)
    return found
