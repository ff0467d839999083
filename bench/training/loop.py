"""The training loop, the same for every method."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bench.errors import BenchError, given
from bench.method import Method
from bench.models.head import TaskModel
from bench.schema.forms import Optimizer
from bench.training.devices import Alone, part_of
from bench.training.frozen import check_unchanged


class NonFiniteLoss(ArithmeticError):
    """The training loss became NaN or infinite; the cell ends with status ``nan``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a cell trains; every field is part of the cell's identity."""

    steps: int
    """Optimizer steps."""
    batch_size: int
    """Rows per step."""
    max_length: int
    """Tokens per row at most, prompts not counted."""
    learning_rate: float
    """Peak rate of the method's parameters."""
    head_learning_rate: float
    """Peak rate of the task head."""
    warmup: float
    """Share of steps with linearly rising rate."""
    weight_decay: float
    """AdamW decay of matrices; vectors, norms and biases take none."""
    gradient_clip: float
    """Largest global gradient norm; 0 switches clipping off."""
    gradient_accumulation: int = 1
    """Parts that the rows of a step are computed in, one after the other: less memory, the same gradient."""
    dtype: Literal["float32", "bfloat16_autocast"] = "float32"
    """See ``bench.schema.forms.Dtype``."""


def make_optimizer(
    groups: list[dict[str, Any]], *, form: Optimizer = "adamw_fused", weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """Optimizer over parameter groups; a group's own ``weight_decay`` stands.

    Args:
        groups: Parameter groups with their learning rates.
        form: The fused AdamW costs full fine-tuning of a 22 M backbone about a fifth of the default one on CPU.
        weight_decay: For groups that set none.

    Raises:
        BenchError: ``adamw_8bit`` without the library that has it, or complex parameters for a form that takes none.
    """
    check_real(groups, form)
    if form == "adamw_8bit":
        return _eight_bit(groups, weight_decay)
    makers: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adamw_fused": functools.partial(torch.optim.AdamW, fused=True),
        "adamw_foreach": functools.partial(torch.optim.AdamW, foreach=True),
        "adamw_loop": functools.partial(torch.optim.AdamW, foreach=False),
        "sgd": functools.partial(torch.optim.SGD, lr=1e-3),
        "adafactor": torch.optim.Adafactor,
    }
    return makers[form](groups, weight_decay=weight_decay)


_TAKE_COMPLEX = ("adamw_foreach", "adamw_loop", "sgd")


def check_real(groups: list[dict[str, Any]], form: Optimizer) -> None:
    """Hold the types of what trains against what an optimizer of this form takes.

    Raises:
        BenchError: A parameter is complex, and the form takes real ones alone.
    """
    for parameter in (p for group in groups for p in group["params"]):
        if parameter.is_complex() and form not in _TAKE_COMPLEX:
            raise BenchError(
                f"optimizer {form} takes no complex parameters, and one of {list(parameter.shape)} trains in "
                f"{str(parameter.dtype).removeprefix('torch.')}; {', '.join(_TAKE_COMPLEX)} take them"
            )


def optimizer_for(
    method: Method,
    body: nn.Module,
    groups: list[dict[str, Any]],
    *,
    make: Callable[..., torch.optim.Optimizer] = make_optimizer,
    weight_decay: float = 0.01,
    notes: list[str] | None = None,
) -> torch.optim.Optimizer:
    """``method``'s own optimizer over ``groups`` where it has one, else ``make(groups, weight_decay=)``.

    Args:
        method: The method.
        body: What its ``apply`` returned.
        groups: Of delta and head, with their rates.
        make: Makes the recipe's optimizer.
        weight_decay: For groups that set none.
        notes: Gains a sentence where the method's own optimizer runs.

    Raises:
        BenchError: The method's own is no optimizer, needs a closure, or does not hold exactly what ``groups`` hold.
    """
    asked = sorted(id(p) for group in groups for p in group["params"])
    # copies: it may change them, and where it gives None the recipe's rates stand
    own = method.optimizer(body, [{**group, "params": list(group["params"])} for group in groups], weight_decay)
    if own is None:
        return make(groups, weight_decay=weight_decay)
    if any(isinstance(p, DTensor) for group in groups for p in group["params"]):
        raise BenchError(
            "optimizer() of the method gives an optimizer of its own, which cannot be known to update weights of which "
            "each device has a share; leave shard out"
        )
    if not isinstance(own, torch.optim.Optimizer):
        raise BenchError(
            f"optimizer() of the method gives {type(own).__name__}; it takes a torch.optim.Optimizer over the groups, "
            "or None for the recipe's"
        )
    if any(p.default is p.empty for p in inspect.signature(own.step).parameters.values() if p.name == "closure"):
        raise BenchError(
            f"optimizer() of the method gives {type(own).__name__}, whose step() needs a closure; the harness calls "
            "step() once a step, after backward: take one that needs the gradients alone"
        )
    # frozen ones may stand beside: LoRA-FA's reads A where it moves B
    if sorted(id(p) for group in own.param_groups for p in group["params"] if p.requires_grad) != asked:
        raise BenchError(
            "the optimizer that optimizer() of the method gives does not hold exactly the trainable parameters, each "
            "once; make it over all groups that it is given, the head's among them"
        )
    if notes is not None:
        notes.append(f"trains with an optimizer of its own, {type(own).__name__}, in place of the recipe's")
    return own


def regularized(loss: Tensor, extra: Any) -> Tensor:
    """``loss`` with what a method's regularizer gave.

    Raises:
        BenchError: That is no scalar.
    """
    if extra is None:
        return loss
    added = given("regularizer", extra, Tensor, "a scalar tensor, or None")
    if added.numel() != 1:
        raise BenchError(
            f"regularizer() of the method gives a tensor of shape {list(added.shape)}; let it return a scalar, such as "
            "its sum"
        )
    return loss + added


def _eight_bit(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise BenchError("optimizer adamw_8bit needs bitsandbytes; install it, or take adamw_fused") from error
    made: torch.optim.Optimizer = AdamW8bit(groups, weight_decay=weight_decay)
    return made


def head_groups(head: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Optimizer groups of the head at its own rate, none where it has nothing that trains; biases take no decay."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "lr": lr}, {"params": vectors, "lr": lr, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def groups_of(method: Method, model: TaskModel, rate: float, head_rate: float) -> list[dict[str, Any]]:
    """Optimizer groups of method and head at their rates, checked to hold exactly what trains, each once.

    Raises:
        BenchError: What ``param_groups`` gives are no groups, or not those of what trains.
    """
    own: Any = method.param_groups(model.body, rate)
    if not isinstance(own, list | tuple) or not all(isinstance(one, dict) and "params" in one for one in own):
        raise BenchError("param_groups() of the method gives no list of groups; let each be a dict with its params")
    groups = [{**one, "params": list(one["params"])} for one in own] + head_groups(model.head, head_rate)
    check_groups(groups, model)
    return groups


def check_groups(groups: list[dict[str, Any]], module: nn.Module) -> None:
    """Hold groups against the parameters that require a gradient.

    Raises:
        BenchError: They do not hold exactly those, each once.
    """
    held = [id(p) for group in groups for p in group["params"]]
    wanted = {id(p) for p in module.parameters() if p.requires_grad}
    if len(held) != len(set(held)) or set(held) != wanted:
        raise BenchError(
            "param_groups() of the method does not hold exactly the trainable parameters, each once; give every "
            "parameter with requires_grad to one group"
        )


def zeros_of(method: Method, body: nn.Module) -> tuple[str, ...]:
    """Name endings of parameters that the method says never move.

    Raises:
        BenchError: That is no list of names: a text would stand for each of its letters.
    """
    said: Any = method.zero_gradients(body)
    if isinstance(said, str) or not all(isinstance(one, str) and one for one in said):
        raise BenchError(f"zero_gradients() of the method gives {said!r}; it takes a list of name endings, or ()")
    return tuple(said)


PROOF = 10
"""Training steps within which the loss has to reach every trainable parameter: layer drop may leave one out of some."""


class Reached:
    """Proves, by the gradients of one or more backward passes, that the loss reaches every trainable parameter.

    One that gets no gradient at all is outside of the graph: it never trains. One whose gradient is zero is in the
    graph: the factors that a method starts at zero give the others none until the first step.

    Args:
        module: What trains, with or without its head.
        zero: Name endings of parameters whose gradient is zero by theory (``Method.zero_gradients``).
    """

    def __init__(self, module: nn.Module, zero: Sequence[str] = ()) -> None:
        self._unreached = {name: p for name, p in module.named_parameters() if p.requires_grad}
        found = [(name.removeprefix("body."), p) for name, p in self._unreached.items() if not name.startswith("head.")]
        self.total = len(self._unreached)
        self._still = {name: p for name, p in found if not name.endswith(tuple(zero) or "\0")}

    def see(self) -> "Reached":
        """Look at the gradients that a backward pass has just left."""
        self._unreached = {name: p for name, p in self._unreached.items() if p.grad is None and not _taken(p)}
        return self

    def see_graph(self, loss: Tensor) -> "Reached":
        """Look at what backward of ``loss`` would reach, without taking it."""
        leaves = {id(node.variable) for node in _nodes(loss) if hasattr(node, "variable")}
        self._unreached = {name: p for name, p in self._unreached.items() if id(p) not in leaves}
        return self

    def see_values(self) -> "Reached":
        """Also look at their values; one parameter that moves ends the search."""
        if any(_moves(p) for p in self._still.values()):
            self._still = {}
        return self.see()

    def check(self) -> None:
        """End where a trainable parameter has got no gradient.

        Raises:
            BenchError: It names the first of them.
        """
        if self._unreached:
            first = next(iter(self._unreached)).removeprefix("body.")
            more = f" (and {len(self._unreached) - 1} more of {self.total})" if len(self._unreached) > 1 else ""
            raise BenchError(
                f"parameter {first!r}{more} is set to train but gets no gradient: it never enters the loss on this "
                "backbone, so that a cost or score of it would be that of something else"
            )

    def check_values(self) -> None:
        """End also where every gradient of the method has been zero.

        Raises:
            BenchError: It names the first parameter.
        """
        self.check()
        if self._still:
            raise BenchError(
                f"the gradient of {next(iter(self._still))!r} and of every other parameter of the method is zero: "
                "nothing of it would train"
            )


def _nodes(loss: Tensor) -> set[Any]:
    """Every node of the graph of ``loss``; those of leaves, which accumulate gradients, have a ``variable``."""
    seen: set[Any] = set()
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return seen


def _taken(parameter: Tensor) -> bool:
    """Whether the method takes the gradient away as soon as it is there, as updates fused into backward do."""
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


def _moves(parameter: Tensor) -> bool:
    gradient = parameter.grad
    if gradient is None:
        return _taken(parameter)
    if isinstance(gradient, DTensor):  # any() is of this device's share, which may have no row of the parameter
        return bool(gradient.count_nonzero().full_tensor())  # type: ignore[attr-defined]
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


def linear_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then linear decay to zero at the last step."""
    rising = max(1, math.ceil(recipe.warmup * recipe.steps))

    def factor(step: int) -> float:
        return min((step + 1) / rising, (recipe.steps - step) / max(1, recipe.steps - rising + 1))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def to_autocast(model: nn.Module) -> None:
    """Store ``model`` as ``bfloat16_autocast`` asks, in place: frozen matrices bfloat16, all else float32."""
    for parameter in model.parameters():
        whole = parameter.requires_grad or parameter.ndim < 2
        parameter.data = parameter.data.to(torch.float32 if whole else torch.bfloat16)


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Context of a forward pass: bfloat16 products where ``dtype`` is ``bfloat16_autocast``, else nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16_autocast")


def train(
    model: TaskModel,
    method: Method,
    body: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    recipe: Recipe,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_gradient: Callable[[int], None] = lambda step: None,
    notes: list[str] | None = None,
    team: Alone | None = None,
) -> list[float]:
    """Train ``model`` for ``recipe.steps`` steps.

    Args:
        model: Adapted backbone with its head, on its device.
        method: The method that adapted ``body``; its hooks are called, its name is never asked.
        body: The adapted backbone.
        batches: At least ``recipe.steps`` batches on the model's device.
        recipe: Rates, steps and clipping.
        on_step: Called with the step (from 1) and its loss once the step is done; it may evaluate the model, and
            leaves it in training mode.
        on_gradient: Called with the step once its gradients are whole, before they are clipped; it changes none.
        notes: Gains a sentence where the method's own optimizer runs.
        team: Devices that train together, of which each calls this with the same batches; one where None.

    Returns:
        The loss of each step, of all devices, taken before its update: the first is that of the start.

    Raises:
        NonFiniteLoss: The loss is NaN or infinite.
        BenchError: The loss never reaches a trainable parameter, or what trains changes on the way.
    """
    team = Alone() if team is None else team
    model = team.join(model, method)
    body = model.body
    groups = groups_of(method, model, recipe.learning_rate, recipe.head_learning_rate)
    optimizer = optimizer_for(method, body, groups, weight_decay=recipe.weight_decay, notes=notes)
    schedule = linear_schedule(optimizer, recipe)
    trained = [p for group in groups for p in group["params"]]
    model.train()
    losses: list[float] = []
    reached = Reached(model, zeros_of(method, body))
    for step, batch in zip(range(1, recipe.steps + 1), batches, strict=False):
        loss = _backward(model, method, batch, recipe, team)
        reached.see_values()
        if step == min(PROOF, recipe.steps):
            reached.check()
        on_gradient(step)
        if recipe.gradient_clip:
            nn.utils.clip_grad_norm_(trained, recipe.gradient_clip)
        optimizer.step()
        method.after_step(body, step, recipe.steps)
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise NonFiniteLoss(f"the loss is {losses[-1]} at step {step}; a lower learning rate may help")
        on_step(step, losses[-1])
    if len(losses) < recipe.steps:
        raise RuntimeError(f"the data gave {len(losses)} batches, the recipe asks for {recipe.steps} steps")
    reached.check_values()
    check_unchanged(model, trained)
    team.leave()
    return losses


def _backward(model: TaskModel, method: Method, batch: dict[str, Tensor], recipe: Recipe, team: Alone) -> Tensor:
    """Add to ``.grad`` the gradient of the mean loss over all rows and of the regularizer, once; returns that mean."""
    whole, own = model.averaged_over(batch), team.rows(batch)
    mean = torch.zeros((), device=batch["labels"].device)
    number = min(recipe.gradient_accumulation, len(own["labels"]))
    for index in range(number):
        part = part_of(own, index, number) if number > 1 else own
        with team.adding(index == number - 1):
            with autocast(mean.device, recipe.dtype):
                loss = team.loss(part) * (model.averaged_over(part) / whole)  # parts may differ by a row
                extra = method.regularizer(model.body) if index == 0 else None
            # gradients of several devices are averaged: the sum over their rows is as many times that
            scaled = loss * team.devices if team.devices > 1 else loss
            regularized(scaled, extra).backward()  # type: ignore[no-untyped-call]
        mean += loss.detach()
    return team.total(mean)
