"""AdaLoRA equals peft on equal weights, also in what it prunes; ranks follow the cubic budget; it folds and unfolds."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch

from bench.errors import BenchError
from bench.registry import make
from methods.adalora import Triplets
from tests.methods.adapted import ONE_OF_EACH, adapt, bert_base, count, loss, randomise, shape_of, states, trained
from tests.methods.families import FAMILIES, tiny

ALL_LINEAR = ["query", "key", "value", "output", "ffn_in", "ffn_out"]
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
OURS = {"lora_A": "Q", "lora_B": "P", "lora_E": "L"}


def triplets(module):
    return [part for part in module.modules() if isinstance(part, Triplets)]


def active(module):
    return sum(int(t.L.ne(0).sum()) for t in triplets(module))


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, 442_656), ({"initial_rank": 8}, 295_104), ({"targets": ALL_LINEAR}, 1_991_520)],
)
def test_count_on_bert_base(config, expected):
    assert count(adapt("adalora", bert_base(), **config)[1]) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_first_forward_is_the_backbones(family):
    assert states(adapt("adalora", family, targets=ALL_LINEAR)[1]).equal(states(tiny(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_triplets_alone(family):
    _, module = adapt("adalora", family, targets=ALL_LINEAR)
    loss(randomise(module)).backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None and parameter.grad.any().item()) == parameter.requires_grad, name


def test_the_task_moves_the_values_first():
    _, module = adapt("adalora", "bert")
    loss(module).backward()
    assert all(p.grad.any().item() == name.endswith(".L") for name, p in trained(module).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_a_backbone_with_the_same_output_and_unmerges(family):
    method, module = adapt("adalora", family, initial_rank=5, target_rank=3, alpha=70, targets=ALL_LINEAR)
    merged = method.merge(randomise(module))
    assert shape_of(merged) == shape_of(tiny(family))
    torch.testing.assert_close(states(merged), states(module), atol=1e-5, rtol=1e-5)
    assert not states(merged).allclose(states(tiny(family)), atol=1e-3)
    plain = method.unmerge(merged, method.delta(module))
    torch.testing.assert_close(plain.state_dict(), tiny(family).state_dict(), atol=1e-5, rtol=0)


def test_unmerging_asks_for_what_merge_returned_and_for_a_delta_of_this_backbone():
    method, module = adapt("adalora", "bert")
    with pytest.raises(BenchError, match="takes a module that merge returned"):
        method.unmerge(tiny("bert"), method.delta(module))
    delta = method.delta(module)
    del delta["encoder.layer.1.attention.self.value.triplets.value.L"]
    with pytest.raises(BenchError, match=r"layer.1.attention.self.value.triplets.value.*no AdaLoRA update"):
        method.unmerge(method.merge(module), delta)


# The schedule


def test_the_budget_falls_cubically_between_the_two_phases():
    _, config = make("adalora", {"initial_rank": 12, "target_rank": 8, "initial_share": 0.1, "final_share": 0.3})
    assert config.phases(100) == (10, 70)
    assert [config.budget(step, 100, targets=2) for step in (1, 10, 11, 40, 70, 100)] == [24, 24, 23, 17, 16, 16]
    assert [step for step in range(101) if config.prunes(step, 100)] == list(range(11, 71))


def test_pruning_keeps_to_its_interval_and_always_ends_at_the_last_step_of_its_phase():
    _, config = make("adalora", {"interval": 7})
    assert [step for step in range(101) if config.prunes(step, 100)] == [14, 21, 28, 35, 42, 49, 56, 63, 70]
    _, config = make("adalora", {"interval": 40})
    assert [step for step in range(101) if config.prunes(step, 100)] == [40, 70]


def trained_for(total, **config):
    """Module after ``total`` steps, and its active triplets after each."""
    method, module = adapt("adalora", "bert", **config)
    optimizer = torch.optim.AdamW(trained(module).values(), lr=1e-2)
    seen, kept = [], []
    for step in range(1, total + 1):
        (loss(module) + method.regularizer(module)).backward()
        optimizer.step()
        method.after_step(module, step, total)
        optimizer.zero_grad()
        seen.append(active(module))
        kept.append(torch.cat([t.L.detach().ne(0) for t in triplets(module)]))
    return method, module, seen, kept


def test_active_triplets_follow_the_budget_and_stay_at_the_target():
    config = {"initial_rank": 6, "target_rank": 2, "initial_share": 0.2, "final_share": 0.3}
    _, module, seen, kept = trained_for(20, **config)
    _, parsed = make("adalora", config)
    assert seen == [parsed.budget(step, 20, targets=4) for step in range(1, 21)]
    assert seen[3] == 24 and seen[13:] == [8] * 7
    assert all(torch.equal(kept[13], later) for later in kept[14:])
    assert len({int(t.L.ne(0).sum()) for t in triplets(module)}) > 1, "every target kept the same rank"
    assert all(t.sensitivity == t.uncertainty == [] for t in triplets(module))


def test_a_pruned_triplet_can_come_back():
    _, _, _, kept = trained_for(20, initial_rank=6, target_rank=2, initial_share=0, final_share=0)
    assert any((after & ~before).any() for before, after in itertools.pairwise(kept))


@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_end_at_the_target_rank(total):
    assert active(trained_for(total, initial_rank=6, target_rank=2)[1]) == 4 * 2


def test_equal_ranks_prune_nothing():
    assert trained_for(6, initial_rank=3, target_rank=3)[2] == [12] * 6


def test_a_pruned_delta_gives_the_same_output_on_a_fresh_backbone():
    method, module, _, _ = trained_for(5, initial_rank=6, target_rank=2)
    delta = method.delta(module)
    assert delta.keys() == trained(module).keys()
    _, config = make("adalora", {"initial_rank": 6, "target_rank": 2})
    loaded = method.load_delta(tiny("bert"), config, delta)
    assert states(loaded).equal(states(module))
    assert all(t.equal(delta[name]) for name, t in method.delta(loaded).items())


def test_a_delta_holds_what_is_left_and_a_fresh_one_as_much_as_training_will_leave():
    config = {"initial_rank": 6, "target_rank": 2}
    method, module, _, _ = trained_for(5, **config)
    delta = method.delta(module)
    for path, t in ((path, part) for path, part in module.named_modules() if isinstance(part, Triplets)):
        left = t.L.detach().nonzero().flatten()
        assert delta[f"{path}.L"].equal(t.L)
        assert delta[f"{path}.P"].equal(t.P[:, left]) and delta[f"{path}.Q"].equal(t.Q[left])
    fresh = method.delta(adapt("adalora", "bert", **config)[1])
    assert sum(t.numel() for t in fresh.values()) == sum(t.numel() for t in delta.values()) == 4 * (2 * (32 + 32) + 6)


def test_a_pruned_delta_folds_out_of_a_merged_backbone():
    method, module, _, _ = trained_for(5, initial_rank=6, target_rank=2)
    merged = method.merge(module)
    plain = method.unmerge(merged, method.delta(module))
    torch.testing.assert_close(states(plain), states(tiny("bert")), rtol=1e-4, atol=1e-5)


def test_a_delta_whose_values_and_factors_disagree_is_refused():
    method, module, _, _ = trained_for(5, initial_rank=6, target_rank=2)
    delta = method.delta(module)
    name = next(name for name in delta if name.endswith(".Q"))
    delta[name] = delta[name].repeat(2, 1)[: len(delta[name]) + 1]
    _, config = make("adalora", {"initial_rank": 6, "target_rank": 2})
    with pytest.raises(BenchError, match=rf"delta '{name}' holds \d triplets, and \d have a value that is not zero"):
        method.load_delta(tiny("bert"), config, delta)


def test_a_copy_in_mid_training_is_of_its_own():
    method, module, _, _ = trained_for(1, initial_share=0.9, final_share=0)
    loss(module).backward()
    method.after_step(module, 1, 10)
    twin = copy.deepcopy(module)
    loss(twin).backward()
    before = triplets(module)[0].sensitivity[1].clone()
    method.after_step(twin, 2, 10)
    assert triplets(module)[0].sensitivity[1].equal(before)
    assert not triplets(twin)[0].sensitivity[1].equal(before)


def test_orthogonal_factors_cost_nothing():
    method, module = adapt("adalora", "gpt2", orthogonality=0.3)
    start = method.regularizer(module)
    for t in triplets(module):
        torch.nn.init.orthogonal_(t.P)
        torch.nn.init.orthogonal_(t.Q)
    assert start > 0.9 and method.regularizer(module) < 1e-5
    with torch.no_grad():
        triplets(module)[0].Q.mul_(2)  # 2 matrices a target, 4 targets: |4 I - I|_F / 8
    assert method.regularizer(module).item() == pytest.approx(0.3 * 3 * 12**0.5 / 8, rel=1e-5)
    method, module = adapt("adalora", "gpt2", orthogonality=0)
    assert method.regularizer(module) is None


def test_the_regularizer_is_float32_under_autocast():
    method, module = adapt("adalora", "bert")
    with torch.autocast("cpu", torch.bfloat16):
        inside = method.regularizer(module)
    assert inside.equal(method.regularizer(module))


# Refusals


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"initial_rank": 0}, "adalora: initial_rank = 0 is too small; it takes at least 1"),
        ({"target_rank": 13}, "target_rank = 13 exceeds initial_rank = 12"),
        ({"alpha": 0}, "alpha = 0 leaves nothing to train"),
        ({"dropout": 1.0}, "dropout = 1.0 drops everything"),
        ({"beta1": 1.0}, "beta1 = 1.0 smooths nothing"),
        ({"beta2": 0}, "beta2 = 0 smooths nothing"),
        ({"orthogonality": -0.1}, "orthogonality = -0.1 is too small"),
        ({"initial_share": 0.5, "final_share": 0.5}, "leaves no step to prune in"),
        ({"interval": 0}, "interval = 0 is too small"),
        ({"targets": ["query", "query"]}, "names a role twice"),
    ],
)
def test_bad_values_are_refused(config, sentence):
    with pytest.raises(BenchError, match=sentence):
        make("adalora", config)


def test_rank_beyond_the_map_is_refused():
    sentence = r"initial_rank = 17 exceeds the 16 x 32 map 'layers.0.self_attn.v_proj' \(value\); it takes at most 16"
    with pytest.raises(BenchError, match=sentence):
        adapt("adalora", "llama", initial_rank=17)


def test_dropout_acts_on_the_branch_in_training_alone():
    _, module = adapt("adalora", tiny("llama"), dropout=0.5)
    randomise(module, sigma=1)
    assert not states(module.train()).equal(states(module))
    assert states(module.eval()).equal(states(module))


# peft


def peft_of(family, modules, total=20, **config):
    from peft import AdaLoraConfig, get_peft_model

    values = {"init_r": 6, "target_r": 2, "lora_alpha": 16, "tinit": 2, "tfinal": 6, "deltaT": 1, **config}
    adapted = AdaLoraConfig(target_modules=modules, total_step=total, fan_in_fan_out=family == "gpt2", **values)
    return get_peft_model(tiny(family), adapted)


def paired(ours, peft):
    """Our parameter -> peft's, which holds our values from now on."""
    theirs = {}
    for name, parameter in trained(peft).items():
        path, _, matrix = name.removeprefix("base_model.model.").removesuffix(".default").rpartition(".")
        (match,) = [k for k in ours if k.startswith(f"{path}.triplets.") and k.endswith(f".{OURS[matrix]}")]
        theirs[match] = parameter
    assert theirs.keys() == ours.keys()
    with torch.no_grad():
        for name, parameter in ours.items():
            theirs[name].copy_(parameter.view(theirs[name].shape))
    return theirs


@PEFT_WARNS
@pytest.mark.parametrize(
    ("family", "targets", "modules"),
    [
        ("bert", ["query", "value"], ["query", "value"]),
        ("llama", ["query", "value"], ["q_proj", "v_proj"]),
        ("t5", ["query", "value"], ["q", "v"]),
        ("gpt2", ["output", "ffn_in", "ffn_out"], ["c_proj", "c_fc"]),
    ],
)
def test_equals_peft(family, targets, modules):
    _, module = adapt("adalora", family, targets=targets, initial_rank=6, target_rank=2)
    ours = trained(randomise(module, sigma=0.3))
    peft = peft_of(family, modules)
    theirs = paired(ours, peft)
    torch.testing.assert_close(states(peft), states(module), atol=1e-5, rtol=1e-5)  # peft divides by r + 1e-5
    assert not states(module).allclose(states(tiny(family)), atol=1e-2)
    loss(module).backward()
    loss(peft).backward()
    for name, parameter in ours.items():
        torch.testing.assert_close(theirs[name].grad.view(parameter.shape), parameter.grad, atol=1e-6, rtol=1e-4)


@PEFT_WARNS
def test_regularizer_equals_pefts():
    method, module = adapt("adalora", "bert", targets=ALL_LINEAR, initial_rank=6, target_rank=2)
    ours = trained(randomise(module))
    peft = peft_of("bert", ["query", "key", "value", "dense"])
    theirs = paired(ours, peft)
    peft.base_model.model.forward = lambda: SimpleNamespace(loss=torch.zeros(()))  # peft adds to a loss alone
    mine, other = method.regularizer(module), peft.base_model().loss
    torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)
    mine.backward()
    other.backward()
    for name, parameter in ours.items():
        if not name.endswith(".L"):
            torch.testing.assert_close(theirs[name].grad, parameter.grad, atol=1e-6, rtol=1e-5)


@PEFT_WARNS
@pytest.mark.parametrize(("interval", "total"), [(1, 20), (3, 20)])
def test_prunes_as_peft_does_on_equal_gradients(interval, total):
    config = {"initial_rank": 6, "target_rank": 2, "initial_share": 0.1, "final_share": 0.3, "interval": interval}
    method, module = adapt("adalora", "bert", **config)
    ours = trained(randomise(module))
    peft = peft_of("bert", ["query", "value"], total, deltaT=interval)
    theirs = paired(ours, peft)
    optimizers = [torch.optim.SGD(side.values(), lr=0.1) for side in (ours, theirs)]
    generator = torch.Generator().manual_seed(5)
    patterns = set()
    for step in range(1, total + 1):
        for name, parameter in ours.items():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            theirs[name].grad = parameter.grad.view(theirs[name].shape)
        for optimizer in optimizers:
            optimizer.step()
        method.after_step(module, step, total)
        peft.base_model.update_and_allocate(step)
        for name, parameter in ours.items():
            assert parameter.equal(theirs[name].view(parameter.shape)), (step, name)
        patterns.add(tuple(torch.cat([t.L.detach().ne(0) for t in triplets(module)]).tolist()))
    assert len(patterns) > 2
    assert active(module) == 2 * 4
    kept = peft.peft_config["default"].rank_pattern
    assert sum(sum(mask) for mask in kept.values()) == 2 * 4


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_half_precision_state_follows_the_weights(family):
    method, module = adapt("adalora", tiny(family).to(torch.bfloat16))
    loss(module).backward()
    method.after_step(module, 1, 10)
    assert {t.dtype for part in triplets(module) for t in part.sensitivity} == {torch.bfloat16}
