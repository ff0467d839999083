"""Runs any configuration of the ``peft`` library under this harness."""

import contextlib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import methods.peft_optimizer as peft_optimizer
import methods.peft_text as peft_text
from bench.errors import BenchError
from bench.method import Method, clone, copy_delta, without_values
from methods.adalora import spread, unpruned
from methods.peft_config import PeftConfig, fills_total, first_line, library, shortest, to_library
from methods.peft_names import Fitted
from methods.peft_notes import base_states, folded, moved, said_of, task_of
from methods.peft_refusals import SHAPES, check_ranks, refusal

ADAPTER = "default"
"""peft's name of the one adapter."""
VALUES = ".lora_E."
"""In the names of AdaLoRA's values, one for each rank."""
PROMPT = f"peft.prompt_encoder.{ADAPTER}.embedding.weight"
"""What a prompt is once its encoder is gone."""
MENDED = (
    "fan_in_fan_out is set to",
    "Note that `r` is not used in AdaLora",
    "`is_gradient_checkpointing` is deprecated",
    "Failed to load the CUDA extension",
    r"Unsupported layer type '<class '[^']*Norm'",
    "Setting boft_n_butterfly_factor to 1",
    "Detected that the base layer has no bias term",
    "The following rank_pattern keys did not match",
    "The following alpha_pattern keys did not match",
)
"""Beginnings of warnings on what peft mends itself (the form that fits a layer, BOFT without its compiled kernel), on
norms, which are the layers that LN_TUNING is for, on merges, which are tried, on what it asks of transformers, and on
patterns, which are checked here: peft also says it of those that it made for fused experts, where they act."""
CACHED = ("PREFIX_TUNING", "CARTRIDGE")
"""Types whose prefix enters as ``past_key_values``."""
REFUSALS = (
    ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError, ArithmeticError, ImportError,
)  # fmt: skip
"""What peft raises where a configuration does not fit a backbone."""
READS = ("CPT", "POLY", "WAVEFT")
"""Types that branch on values, or make sizes of them, in every forward."""


class Bridged(nn.Module):
    """peft's model under the bare backbone's call contract: states of the caller's tokens alone."""

    def __init__(self, model: nn.Module, config: PeftConfig, structure: Any, notes: tuple[str, ...]) -> None:
        super().__init__()
        self.notes = notes
        self.peft: Any = model
        self.options = config
        self.structure = structure
        self.config = model.config
        self.prompted = bool(model.peft_config[ADAPTER].is_prompt_learning)
        self.numbers_tasks = any(hasattr(config, field) for field in ("n_tasks", "num_tasks"))
        if self.prompted and self.numbers_tasks:
            model.prompt_encoder[ADAPTER].register_forward_pre_hook(_first_task)
        for layer in (part for part in model.modules() if hasattr(part, "vblora_logits_A")):
            layer.register_forward_pre_hook(_unread)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Map tokens ``[B, T]`` to an output whose ``last_hidden_state`` is ``[B, T, d]``."""
        model = self.peft
        if self.prompted:
            kwargs.pop("token_type_ids", None)  # peft has no place for them beside a prompt
        if self.prompted and kwargs.get("past_key_values") is not None:
            model = self.peft.base_model  # peft would put the prompt behind the cache once more
            if attention_mask is not None:
                front = self.peft.peft_config[ADAPTER].num_virtual_tokens
                attention_mask = nn.functional.pad(attention_mask, (front, 0), value=1)
        elif self.numbers_tasks:
            kwargs["task_ids"] = input_ids.new_zeros(len(input_ids))
        try:
            output = model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        except (RuntimeError, ValueError) as error:
            kind = self.options.peft_type
            if kind in READS and without_values(self):
                raise NotImplementedError(
                    f"peft {kind} reads values in every forward, which tensors without data lack; run counts it"
                ) from error
            if SHAPES.search(str(error)):
                raise BenchError(f"peft: {kind} does not fit this backbone: {first_line(error)}") from error
            raise
        length = kwargs.get("decoder_input_ids", input_ids).shape[1]
        if output.last_hidden_state.shape[1] > length:
            output.last_hidden_state = output.last_hidden_state[:, -length:]
            if layers := output.get("hidden_states"):
                output.hidden_states = tuple(states[:, -length:] for states in layers)
        return output


def _unread(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """VB-LoRA looks for infinite logits where it trains, and on tensors without data the answer is always yes."""
    layer.training = layer.training and not without_values(layer)  # its dropout is a module with a mode of its own


def _first_task(encoder: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Task 0 for every row: a cell trains one task."""
    indices, task_ids = (*args, None)[:2]
    return (indices, indices.new_zeros(len(indices)) if task_ids is None else task_ids)


class Peft(Method):
    """Whatever ``peft_type`` says: the library's own layers on this project's backbones, head, recipe and ledger.

    A prompt's positions are stripped from the output. An orthogonality weight and losses that a tuner offers are added
    to the task's; budgets are reallocated after each step, AdaLoRA's over the recipe's steps unless ``total_step`` is
    given. LoRA takes peft's three optimizers for it by ``optimizer_type`` (``methods.peft_optimizer``). Left out is
    what needs a head of peft's own (SHADOW's auxiliary loss, CPT's weighted one).

    Paper: that of the ``peft_type``; LoRA, for one, is arXiv:2106.09685.
    Trains: exactly what peft sets to ``requires_grad``.
    Backward: that of the ``peft_type``.
    Merging: by peft, where what comes out has the backbone's own modules and shapes; else none.
    Use: for the methods that have no file here, and to hold peft's form of a method against this project's.
    """

    Config = PeftConfig
    takes_float32 = True
    identity_at_init = False  # the configuration decides: zeros in LoRA, a random prompt elsewhere
    zero_gradient = (f"trainable_tokens_delta.{ADAPTER}",)  # of tokens that a batch does not hold

    def apply(self, backbone: nn.Module, config: PeftConfig) -> Bridged:
        """Let peft adapt ``backbone`` in place.

        Raises:
            BenchError: peft refuses the configuration on this backbone.
            NotImplementedError: The backbone has no weights, and this type starts from their values.
        """
        return _build(backbone, config)

    def widen(self, module: Bridged, added: Sequence[nn.Parameter]) -> None:
        """As peft's ``autocast_adapter_dtype``: what its tuner layers hold, frozen tensors of theirs among it."""
        cast = getattr(module.peft.base_model, "_cast_adapter_dtype", None)
        if module.prompted or cast is None:  # prompts are float32 from the start, and adaption prompts stay as they are
            return
        trains = {name: p.requires_grad for name, p in module.named_parameters()}
        cast(ADAPTER, autocast_adapter_dtype=True)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(trains[name])  # where it makes a new parameter of a frozen one, that one trains

    def param_groups(self, module: Bridged, lr: float) -> list[dict[str, Any]]:
        """As for every method, but under ``optimizer_type = "lora+"``, whose B have a rate of their own."""
        if peft_optimizer.kind(module.options) == "lora+":
            return peft_optimizer.groups(module.peft, module.options, lr)
        return super().param_groups(module, lr)

    def optimizer(
        self, module: Bridged, groups: list[dict[str, Any]], weight_decay: float
    ) -> torch.optim.Optimizer | None:
        """That of peft under ``optimizer_type = "lora-fa"`` or ``"riemannian"``, else None: the recipe's."""
        own = {"lora-fa": peft_optimizer.lora_fa, "riemannian": peft_optimizer.riemannian}
        make = own.get(peft_optimizer.kind(module.options) or "")
        return make(module.peft, module.options, groups, weight_decay) if make else None

    def regularizer(self, module: Bridged) -> Tensor | None:
        """Sum of the losses that the tuner adds to the task's, or None."""
        tuner = module.peft.base_model
        # peft offers them under these names for training loops of one's own
        names = [name for name in dir(type(tuner)) if name.startswith("_get_") and name.endswith("_loss")]
        found = [getattr(tuner, name)() for name in names]
        if weight := getattr(module.options, "orth_reg_weight", 0):
            found.append(weight * _orthogonality(module))
        losses = [loss for loss in found if isinstance(loss, Tensor)]
        return torch.stack(losses).sum() if losses else None

    def after_step(self, module: Bridged, step: int, total: int) -> None:
        """Reallocate the budget of a tuner that has one.

        Raises:
            BenchError: ``total`` steps are too few for the schedule.
        """
        tuner = module.peft.base_model
        if not _deals_out(module):
            return
        if fills_total(module.options) and step > 0:  # step 0 is a probe's, which repeats one step
            if total < shortest(module.options):
                raise BenchError(
                    f"tinit and tfinal take {shortest(module.options) - 1} steps, the recipe has {total}; lower them"
                )
            tuner.peft_config[ADAPTER].total_step = total
        tuner.update_and_allocate(step)

    def state(self, module: Bridged) -> Iterable[Tensor]:
        """What AdaLoRA's allocator notes of each weight: its importance, and two running means."""
        allocator = getattr(module.peft.base_model, "rankallocator", None)
        if allocator is not None:
            for noted in (allocator.ipt, allocator.exp_avg_ipt, allocator.exp_avg_unc):
                yield from noted.values()

    def ranks(self, module: Bridged) -> dict[str, int]:
        """AdaLoRA's triplets that are not masked, by layer; no other type deals out ranks."""
        if not _deals_out(module):
            return {}
        held = module.peft.base_model.model.named_parameters()
        return {name.partition(VALUES)[0]: int(value.count_nonzero()) for name, value in held if VALUES in name}

    def notes(self, module: Bridged) -> tuple[str, ...]:
        """What of the configuration has no place here, what peft warned of, and what was measured of ``module``."""
        return module.notes

    def merge(self, module: Bridged) -> nn.Module | None:
        """Fold the update into the weights by peft; None where peft cannot, or gives another structure."""
        tuner = clone(module).peft.base_model
        if not hasattr(type(tuner), "merge_and_unload"):
            return None
        notes: list[str] = []
        try:
            with _heard(notes):
                merged: nn.Module = tuner.merge_and_unload(progressbar=False)
        except (NotImplementedError, *REFUSALS):
            return None
        except RuntimeError as error:
            if "Impossible to merge" not in str(error):
                raise
            return None
        if _structure(merged) != module.structure:
            return None
        module.notes = tuple(dict.fromkeys((*module.notes, *notes, *folded(module, merged))))
        return merged

    def delta(self, module: Bridged) -> dict[str, Tensor]:
        """What peft would save, by the names that the tensors have in ``module``; a prompt without its encoder.

        A tensor that layers share is there as often as peft's file has it, from the second time on under peft's key.
        Of AdaLoRA's factors the ranks that are not masked, as in peft's file, and all of its values, which say which.
        """
        if module.prompted:
            return _prompt(module)
        names = {id(tensor): name for name, tensor in _held(module).items()}
        stored: dict[str, Tensor] = {}
        for key, tensor in _saved(module).items():
            name = names.get(id(tensor), key)
            stored[key if name in stored else name] = tensor.detach().clone()
        return _packed(module, stored) if _deals_out(module) else stored

    def unpack(self, module: Bridged, delta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Zeros where AdaLoRA's ranks were masked; every other type stores its tensors whole.

        Raises:
            BenchError: A factor has not one rank for each value that is not zero.
        """
        if not _deals_out(module):
            return delta
        whole = dict(delta)
        for name, values in delta.items():
            if VALUES in name:
                for key, dim in _factors(name):
                    if key in delta and delta[key].ndim == 2:
                        whole[key] = spread(key, delta[key], values, dim)
        return whole

    def load_delta(self, backbone: nn.Module, config: PeftConfig, delta: Mapping[str, Tensor]) -> nn.Module:
        """Put ``delta`` onto a fresh, frozen backbone.

        Raises:
            BenchError: The keys or shapes of ``delta`` are not exactly those that this configuration stores.
        """
        module = _build(backbone, config)
        if module.prompted and _reparametrised(module):
            module = _build(backbone, config, deployed=True)
        own = dict(self.unpack(module, self.delta(module)))
        copy_delta(own, own.keys(), self.unpack(module, delta))
        held = _held(module)
        with torch.no_grad():
            for name in own.keys() & held.keys():
                held[name].copy_(own[name])
        if rest := {name: tensor for name, tensor in own.items() if name not in held}:
            library().set_peft_model_state_dict(module.peft, rest, adapter_name=ADAPTER)
        return module

    def to_peft(self, module: Bridged, backbone: nn.Module) -> nn.Module:
        """Peft's own model, as it is.

        Raises:
            BenchError: A program that loads it could not run it as a bare backbone.
        """
        kind = module.options.peft_type
        if module.numbers_tasks:
            raise BenchError(f"peft's {kind} asks for the number of a task with every batch, which no reader gives")
        if kind == "CPT":
            raise BenchError("peft loads CPT onto language models alone, and this is a bare backbone")
        model: nn.Module = module.peft
        return model

    def reserved_positions(self, config: PeftConfig) -> int:
        """Positions that a prompt or prefix takes from the tokens."""
        with _heard([]):
            return int(getattr(to_library(config), "num_virtual_tokens", None) or 0)


def _build(backbone: nn.Module, config: PeftConfig, *, deployed: bool = False) -> Bridged:
    structure, task = _structure(backbone), task_of(backbone)
    checkpointed = any(getattr(part, "gradient_checkpointing", False) for part in backbone.modules())
    weightless = next(backbone.parameters()).is_meta
    notes: list[str] = []
    if config.peft_type in CACHED and "past_key_values" not in inspect.signature(backbone.forward).parameters:
        raise BenchError(
            f"peft: {config.peft_type} hands its prefix over as a cache of keys and values, which this backbone does "
            "not read: no layer would see it; prefix_tuning puts a prefix into the attention itself"
        )
    if weightless and getattr(config, "monteclora_config", None) is not None:
        raise NotImplementedError(
            "peft LORA with monteclora_config makes its samplers, which train, where there are values alone; run "
            "counts it on real ones"
        )
    if config.peft_type in CACHED and backbone.config.is_encoder_decoder:
        raise BenchError(
            f"peft: {config.peft_type} hands its prefix over as one cache, which cannot stand in front of an encoder "
            "and its decoder; prefix_tuning has a prefix in all of their attentions"
        )
    start = None if deployed else base_states(backbone)
    if not torch.sparse.check_sparse_tensor_invariants.is_enabled():
        torch.sparse.check_sparse_tensor_invariants.disable()  # the default, said aloud: torch warns of it unsaid
    fitted: Fitted | None = None
    try:
        with torch.device("meta") if weightless else contextlib.nullcontext(), _heard(notes):
            options = to_library(config, deployed=deployed)
            peft_text.settle(options, backbone)
            fitted = Fitted(options, backbone)
            # in the backbone's type, as every method here: widen() casts where the step asks for it
            model = library().get_peft_model(backbone, options, ADAPTER, autocast_adapter_dtype=False)
            peft_optimizer.freeze(model, config)
            _freeze_unused(model)
            if weightless:
                _cast(model)
    except (NotImplementedError, RuntimeError, *REFUSALS) as error:
        raise refusal(error, config, fitted, weightless) from error
    assert fitted is not None
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    if not deployed and not all((trained, *trained.values())):
        empty = next((name for name, size in trained.items() if not size), None)
        where = f"in {empty!r}: a rank or length is too large for it" if empty else "here: name other target_modules"
        raise BenchError(f"peft: {config.peft_type} finds nothing to train {where}")
    if checkpointed:
        backbone.disable_input_require_grads()  # type: ignore[operator]
    fitted.check(*(getattr(model.base_model, f"targeted_{kind}_names", ()) for kind in ("module", "parameter")))
    check_ranks(model, config)
    module = Bridged(model, config, structure, (*notes, *fitted.notes, *said_of(model, config, task)))
    if start is not None and not module.prompted:
        module.notes += moved(module, start)
    return module


def _cast(model: nn.Module) -> None:
    """Give adapters without values the type of the layer that they stand on, as peft gives those with values."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in (part for part in model.modules() if isinstance(part, BaseTunerLayer)):
        dtype = getattr(getattr(layer.get_base_layer(), "weight", None), "dtype", None)
        for name in (*layer.adapter_layer_names, *layer.other_param_names):
            held = getattr(layer, name, None)
            if dtype is not None and dtype.is_floating_point and isinstance(held, nn.ModuleDict | nn.ParameterDict):
                held.to(dtype)


def _freeze_unused(model: Any) -> None:
    """Freeze what peft marks as trainable by mistake, and what no step of its type uses.

    AdaLoRA's number of ranks starts to train where the cast to bfloat16 makes a new parameter of it. SHADOW's last
    update of the shadow state, its pooler, and word embeddings of its own beside the backbone's feed nothing.
    """
    for ranks in (part.ranknum for part in model.modules() if hasattr(part, "ranknum")):
        ranks.requires_grad_(False)
    shadows = getattr(model.base_model, "shadow_backbone", None)
    if shadows is None:
        return
    shadow = shadows[ADAPTER]
    unused: list[Any] = [part for name, part in shadow.named_modules() if name.rpartition(".")[2] == "pooler"]
    if model.base_model._shadow_share_embeddings[ADAPTER]:
        with contextlib.suppress(
            AttributeError, NotImplementedError
        ):  # peft has taken them out of some families itself
            unused.append(shadow.get_input_embeddings())
    *_, last = (part for part in model.modules() if hasattr(part, "shadow_update_gate"))
    for part in (*unused, last.shadow_update_transform, last.shadow_update_gate):
        part.requires_grad_(False)


@contextlib.contextmanager
def _heard(notes: list[str]) -> Iterator[None]:
    """What peft warns of inside goes to ``notes`` as sentences, each once, in place of the screen."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for of_python in (DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", of_python)
        for beginning in MENDED:
            warnings.filterwarnings("ignore", message=beginning)
        yield
    said = (" ".join(str(warning.message).split()).rstrip(".") for warning in caught)
    notes += dict.fromkeys(f"peft: {sentence}" for sentence in said)


def _structure(module: nn.Module) -> tuple[Any, ...]:
    """Names and classes of all modules, names and sizes of all tensors."""
    return (
        [(name, type(part)) for name, part in module.named_modules()],
        [(name, tensor.shape) for name, tensor in (*module.named_parameters(), *module.named_buffers())],
    )


def _held(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _saved(module: Bridged) -> dict[str, Tensor]:
    """What peft saves; the tensors themselves wherever it saves them as they are."""
    options = module.peft.peft_config[ADAPTER]
    state = module.peft.state_dict(keep_vars=True)
    masked = hasattr(type(module.peft.base_model), "resize_state_dict_by_rank_pattern")
    with _without(options, "rank_pattern") if masked else contextlib.nullcontext():
        found: dict[str, Tensor] = library().get_peft_model_state_dict(
            module.peft, state, adapter_name=ADAPTER, save_embedding_layers=False
        )
    return found


@contextlib.contextmanager
def _without(holder: Any, field: str) -> Iterator[None]:
    value = getattr(holder, field)
    setattr(holder, field, None)
    try:
        yield
    finally:
        setattr(holder, field, value)


def _deals_out(module: Bridged) -> bool:
    """Whether training chooses ranks, as AdaLoRA's does."""
    return hasattr(type(module.peft.base_model), "update_and_allocate")


def _packed(module: Bridged, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """AdaLoRA's values ``[r, 1]`` whole; of its factors ``[r, in]`` and ``[out, r]`` the ranks that are not masked."""
    values = {name: tensor.flatten() for name, tensor in stored.items() if VALUES in name}
    target = module.peft.peft_config[ADAPTER].target_r
    for name, standing in zip(values, unpruned(module, [*values.values()], target), strict=True):
        for key, dim in _factors(name):
            stored[key] = (stored[key][standing] if dim == 0 else stored[key][:, standing]).clone()
    return stored


def _factors(name: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """Names of the two factors beside AdaLoRA's values ``name``, and the dimension of each that is the rank."""
    return (name.replace(VALUES, ".lora_A."), 0), (name.replace(VALUES, ".lora_B."), 1)


def _prompt(module: Bridged) -> dict[str, Tensor]:
    """Prompt and task tensors; computed once where an encoder makes them."""
    if _reparametrised(module):
        return {PROMPT: module.peft.get_prompt_embedding_to_save(ADAPTER)}
    encoder = f"peft.prompt_encoder.{ADAPTER}."
    return {name: t.detach().clone() for name, t in _held(module).items() if name.startswith(encoder)}


def _reparametrised(module: Bridged) -> bool:
    """Whether the prompt comes out of a network that inference does not need."""
    encoder = module.peft.prompt_encoder[ADAPTER]
    kept = sum(tensor.numel() for tensor in _saved(module).values())
    return sum(tensor.numel() for tensor in _held(encoder).values()) > kept


def _orthogonality(module: Bridged) -> Tensor:
    """Mean over the factors of ``||P P^T - I||``, as AdaLoRA adds it to a loss of the model's own."""
    parts = []
    for name, p in module.peft.base_model.model.named_parameters():
        if f"lora_A.{ADAPTER}" in name or f"lora_B.{ADAPTER}" in name:
            product = p @ p.T if "lora_A" in name else p.T @ p
            parts.append(torch.linalg.matrix_norm(product - torch.eye(*product.shape, out=torch.empty_like(product))))
    return torch.stack(parts).mean()
