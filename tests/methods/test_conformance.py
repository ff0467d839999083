"""What every method owes the harness, one table over all methods and all tiny backbone families."""

import copy
import dataclasses
import functools
import typing

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.errors import BenchError
from bench.models.head import TaskModel, inputs_of, make_head
from bench.models.text import TextBackbone, TextHead
from bench.registry import load_method, make, resolved
from bench.training.loop import check_groups, head_groups, make_optimizer
from methods import BRIDGES, BUILTIN
from tests.factories.methods import METHODS, sized
from tests.methods.adapted import ONE_OF_EACH, randomise, shape_of
from tests.methods.families import ENCODER_DECODERS, EVERY, MIXTURES, batch, beside_decoder, tiny

REFUSED = {(name, family): words for name, row in METHODS.items() for family, words in row.refused.items()}
"""(method, family) -> words of the refusal; every other pair works."""
STEPS = 3


def pairs(own: list[str], relatives: list[str]) -> list[object]:
    """Every method on every family; slow where it is not among ``own``, of a relative ``relatives``."""
    return [
        pytest.param(
            (method, family),
            marks=[] if family in (relatives if METHODS[method].relative else own) else [pytest.mark.slow],
        )
        for method in METHODS
        for family in (*EVERY, *ENCODER_DECODERS)
        if (method, family) not in REFUSED
    ]


on_one_of_each = pytest.mark.parametrize(
    "trained", pairs([*ONE_OF_EACH, "t5_whole"], ["bert"]), indirect=True, ids="-".join
)
"""For what a method's own tensors decide, wherever they stand in the backbone; of relatives one place is enough."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A method on a tiny backbone, before and after three steps."""

    method: object
    config: object
    family: str
    start: dict[str, torch.Tensor]
    """Frozen parameters and all buffers right after ``apply``."""
    first: torch.Tensor
    """Last hidden state before training, in eval mode."""
    moved: dict[str, bool]
    """Trainable parameter -> whether a step gave it a gradient other than zero; missing where it got none at all."""
    losses: tuple[float, ...]
    module: nn.Module
    """The trained module, in eval mode."""


def adapted(method: str, backbone: nn.Module):
    instance, config = make(method, sized(method))
    return instance, config, instance.apply(backbone, config)


def hidden(module: nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
    """Last states ``[B, T, 32]``; of a decoder beside an encoder those of ten fixed tokens."""
    given = inputs or batch()
    if any(isinstance(part, TextBackbone) for part in module.modules()):
        given = inputs_of(beside_decoder(given))
    with torch.no_grad():
        return module(**given).last_hidden_state


def head_on(backbone: nn.Module, seed: int = 0) -> nn.Module:
    whole = isinstance(backbone, TextBackbone)
    return TextHead(backbone.config, "target") if whole else make_head(backbone, 2, seed=seed)


def answered(family: str, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``given`` with what the loss asks for."""
    return beside_decoder(given) if family in ENCODER_DECODERS else given | {"labels": torch.tensor([0, 1, 1])}


@functools.cache
def bare(family: str) -> nn.Module:
    """The backbone by itself, for tests that look at it and change nothing."""
    return tiny(family)


def still(module: nn.Module) -> dict[str, torch.Tensor]:
    """Everything that training must leave alone."""
    tensors = {name: p for name, p in module.named_parameters() if not p.requires_grad} | dict(module.named_buffers())
    return {name: t.detach().clone() for name, t in tensors.items()}


def run(method: str, family: str, seed: int = 0) -> Run:
    backbone = tiny(family)
    head = head_on(backbone, seed)
    torch.manual_seed(seed)
    instance, config, module = adapted(method, backbone)
    first, start = hidden(module.eval()), still(module)
    model = TaskModel(module, head).train()
    groups = [*instance.param_groups(module, 1e-2), *head_groups(head, 1e-2)]
    check_groups(groups, model)
    optimizer = make_optimizer(groups)
    moved, losses = {}, []
    for step in range(STEPS):
        loss = model.loss(answered(family, batch(pad=2, seed=step)))
        extra = instance.regularizer(module)
        (loss if extra is None else loss + extra).backward()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and parameter.grad is not None:
                moved[name] = moved.get(name, False) or bool(parameter.grad.ne(0).any())
        optimizer.step()
        instance.after_step(module, step, STEPS)
        optimizer.zero_grad()
        losses.append(loss.item())
    return Run(instance, config, family, start, first, moved, tuple(losses), module.eval())


cached = functools.cache(run)


@pytest.fixture(scope="module", params=pairs([*EVERY, *ENCODER_DECODERS], [*ONE_OF_EACH, "t5_whole"]), ids="-".join)
def trained(request) -> Run:
    return cached(*request.param)


def test_every_method_has_its_row_in_the_table():
    missing = [name for name in (*BUILTIN, *BRIDGES) if name not in METHODS]
    assert not missing, f"give {', '.join(missing)} a row in METHODS of tests/factories/methods.py"
    assert list(METHODS) == [*BUILTIN, *BRIDGES]


@pytest.mark.parametrize("method", METHODS)
def test_config_survives_a_round_trip(method):
    """Through the plain values that a record keeps."""
    cls = load_method(method)
    config = cls.Config.parse(sized(method))
    assert cls.Config.parse(resolved(config)) == config


@pytest.mark.parametrize("method", METHODS)
def test_unknown_key_is_refused_with_the_known_ones(method):
    with pytest.raises(BenchError, match=f"suite.toml: {method}: unknown key 'rnak'"):
        make(method, {"rnak": 4}, "suite.toml")


FIELDS = [(name, field.name) for name in BUILTIN for field in dataclasses.fields(load_method(name).Config)]
NO_VALUE = (float("nan"), float("inf"), -float("inf"), [float("nan")], 2**63, 1 << 30, {"a": 1}, "x", True)


@pytest.mark.parametrize(("method", "field"), FIELDS, ids="-".join)
def test_no_field_takes_what_is_no_number_or_is_beyond_any_machine(method, field):
    hint = str(typing.get_type_hints(load_method(method).Config)[field])
    for value in NO_VALUE:
        if (value is True and "bool" in hint) or (value == 1 << 30 and ("float" in hint or field.endswith("seed"))):
            continue
        with pytest.raises(BenchError, match=rf"{field} = .*; it takes") as refusal:
            make(method, sized(method) | {field: value}, "")
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.wrong])
def test_wrong_target_is_refused(method):
    (wrong,) = METHODS[method].wrong.values()
    with pytest.raises(BenchError, match=str(wrong if isinstance(wrong, str) else wrong[0])):
        instance, config = make(method, METHODS[method].wrong)
        instance.apply(tiny("bert"), config)


@pytest.mark.parametrize("pair", REFUSED, ids="-".join)
def test_a_refusal_is_one_sentence_that_names_the_family(pair):
    method, family = pair
    with pytest.raises(BenchError) as refusal:
        adapted(method, tiny(family))
    message = str(refusal.value)
    assert REFUSED[pair] in message and "\n" not in message


def test_output_is_aligned_with_the_callers_tokens(trained):
    assert trained.first.shape == (3, 10, 32)


def test_output_is_the_backbones_before_training_where_declared(trained):
    same = torch.allclose(trained.first, hidden(bare(trained.family)), atol=1e-6)
    assert same or not trained.method.identity_at_init


def test_every_trainable_parameter_gets_a_gradient_from_padded_rows(trained):
    names = {name for name, p in trained.module.named_parameters() if p.requires_grad}
    assert names == trained.moved.keys(), "a trainable parameter outside the graph"
    silent = {name for name, moves in trained.moved.items() if not moves}
    assert all(name.endswith(trained.method.zero_gradient or "\0") for name in silent)


def test_nothing_frozen_moves(trained):
    end = still(trained.module)
    assert end.keys() == trained.start.keys()
    assert [name for name in end if not torch.equal(end[name], trained.start[name])] == []


def test_delta_on_a_fresh_backbone_gives_the_same_output_exactly(trained):
    final = trained.method.finalize(trained.module).eval()
    delta = trained.method.delta(final)
    torch.manual_seed(99)
    loaded = trained.method.load_delta(tiny(trained.family), trained.config, delta).eval()
    assert torch.equal(hidden(loaded), hidden(final))
    for name in list(delta)[:1]:
        with pytest.raises(BenchError):
            trained.method.load_delta(
                tiny(trained.family), trained.config, {k: v for k, v in delta.items() if k != name}
            )


def test_padding_changes_nothing(trained):
    bare = hidden(trained.module, **batch())
    for pad in (2, 9):
        torch.testing.assert_close(hidden(trained.module, **batch(pad=pad))[:, :10], bare, atol=1e-5, rtol=1e-5)
    ragged = batch()
    ragged["attention_mask"][0, 6:] = 0
    alone = hidden(trained.module, **{name: tensor[:1, :6] for name, tensor in batch().items()})
    mixed = hidden(trained.module, **ragged)
    torch.testing.assert_close(mixed[:1, :6], alone[:, :6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1:], bare[1:], atol=1e-5, rtol=1e-5)


def test_final_form_equals_training_form(trained):
    final = trained.method.finalize(copy.deepcopy(trained.module)).eval()
    torch.testing.assert_close(hidden(final), hidden(trained.module), atol=1e-6, rtol=1e-5)


def test_merged_equals_unmerged_in_the_backbones_own_structure(trained, request):
    name = request.node.callspec.params["trained"][0]
    module = randomise(copy.deepcopy(trained.module))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    merged = trained.method.merge(module)
    assert (merged is not None) == METHODS[name].merges
    if merged is None:
        return
    (modules, sizes), (own_modules, own_sizes) = shape_of(merged), shape_of(bare(trained.family))
    assert modules == own_modules
    assert [size for size in sizes if size[0] != "lm_head.weight"] == own_sizes  # head unties a tied matrix
    torch.testing.assert_close(hidden(merged.eval()), hidden(module), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    if METHODS[name].unmerges:
        apart = trained.method.unmerge(merged, trained.method.delta(module))
        torch.testing.assert_close(hidden(apart.eval()), hidden(bare(trained.family)), atol=1e-5, rtol=1e-4)


def test_every_trainable_parameter_belongs_to_one_part_of_the_delta(trained):
    parts = trained.method.parts(trained.module)
    given = [id(p) for parameters in parts.values() for p in parameters]
    assert len(given) == len(set(given))
    assert set(given) == {id(p) for p in trained.module.parameters() if p.requires_grad}
    assert all(parts.values()), "a part without parameters"


def test_no_vector_decays(trained):
    """Biases, norms, gates and (IA)^3's factors; what decays is a matrix, and none where a method asks for that."""
    groups = trained.method.param_groups(trained.module, 1e-2)
    assert all(p.ndim > 1 for group in groups if group.get("weight_decay") != 0 for p in group["params"])


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_backbone_keeps_its_type_through_step_and_merge(method):
    backbone = tiny("bert").to(torch.bfloat16)
    instance, _, module = adapted(method, backbone)
    model = TaskModel(module, make_head(backbone, 2))
    optimizer = make_optimizer([*instance.param_groups(module, 1e-2), *head_groups(model.head, 1e-2)])
    model.loss(batch() | {"labels": torch.tensor([0, 1, 1])}).backward()
    optimizer.step()
    final = instance.finalize(module).eval()
    assert {p.dtype for p in final.parameters() if p.ndim > 1} == {torch.bfloat16}
    assert hidden(final).dtype == torch.bfloat16 and hidden(final).isfinite().all()
    if (merged := instance.merge(final)) is not None:
        assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
        torch.testing.assert_close(hidden(merged), hidden(final), atol=0.1, rtol=0.1)


@on_one_of_each
def test_module_can_be_copied(trained):
    assert torch.equal(hidden(copy.deepcopy(trained.module)), hidden(trained.module))


@on_one_of_each
def test_seed_decides_every_bit(trained, request):
    pair = request.node.callspec.params["trained"]
    assert run(*pair).losses == trained.losses
    assert run(*pair, seed=1).losses != trained.losses


@on_one_of_each
def test_counts_and_steps_need_no_weights(trained, request):
    method, family = request.node.callspec.params["trained"]
    with torch.device("meta"):
        backbone = tiny(family)
    if family in MIXTURES:  # torch's own fake tensors have products by expert in this type alone
        backbone.to(torch.bfloat16)
    # outside of that context: what a method and the head add goes by itself to the device of the backbone
    _, _, module = adapted(method, backbone)
    head = head_on(backbone)
    assert all(t.is_meta for part in (module, head) for t in (*part.parameters(), *part.buffers()))
    shapes = {name: (p.shape, p.requires_grad) for name, p in module.named_parameters()}
    assert shapes == {name: (p.shape, p.requires_grad) for name, p in trained.module.named_parameters()}
    with FakeTensorMode():
        model = TaskModel(without_storage(module), without_storage(head))
        model.loss(answered(family, batch())).backward()
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def without_storage(module: nn.Module) -> nn.Module:
    """Replace every parameter and buffer by a fake tensor on the CPU, in place; tied ones stay tied."""
    memo = {}
    for inner in module.modules():
        for held in (inner._parameters, inner._buffers):
            for name, tensor in held.items():
                if tensor is not None and id(tensor) not in memo:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if held is inner._parameters else fake
                held[name] = None if tensor is None else memo[id(tensor)]
    return module
