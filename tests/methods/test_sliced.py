"""A branch beside one role of a fused map is what it would be beside a map of the role's own."""

import pytest
import torch
from torch import nn

from bench.anatomy import Projection
from bench.registry import make
from methods.adalora import AdaLoRAConfig, Adaptive
from methods.dora import Decomposed
from methods.ia3 import ScaledOutput
from methods.low_rank import LoRAConfig, LowRank
from methods.sliced import changed, part_of
from methods.vera import Pair, Scaled, VeRAConfig
from tests.methods.adapted import randomise

LAYOUTS = {
    "equal": ((1, 1, 1), 1),
    "grouped keys": ((4, 2, 2), 1),
    "one key for all": ((6, 1, 1), 1),
    "head by head": ((1, 1, 1), 4),
    "group by group": ((2, 1, 1), 2),
}
"""Sizes of query, key and value, and how often they alternate: GPT-2, Phi-3, Falcon 7B, GPT-NeoX, Falcon 40B."""
ROLES = ("query", "key", "value")


def scaled(base, projections):
    shapes = {p.role: (p.width(base.out_features), base.in_features) for p in projections}
    stream = torch.Generator().manual_seed(3)

    def pair(shape):
        return Pair(torch.ones(5, shape[1]) / 5, torch.randn(shape[0], 5, generator=stream))

    return Scaled(base, projections, {role: pair(shape) for role, shape in shapes.items()}, VeRAConfig(rank=5))


WRAPPED = {
    "lora": lambda base, projections: LowRank(base, projections, LoRAConfig(rank=2), 2.0, "lora"),
    "dora": lambda base, projections: Decomposed(base, projections, LoRAConfig(rank=2)),
    "adalora": lambda base, projections: Adaptive(base, projections, AdaLoRAConfig(initial_rank=3, target_rank=2)),
    "vera": scaled,
    "ia3": ScaledOutput,
}


def fused(layout):
    """A frozen map of three roles, and where each stands."""
    sizes, groups = LAYOUTS[layout]
    torch.manual_seed(0)
    base = nn.Linear(16, 4 * groups * sum(sizes)).requires_grad_(False)
    return base, {role: Projection(role, "0", part, sizes, groups) for part, role in enumerate(ROLES)}


def alone(base, projection):
    """A map of the role's own, with the same rows."""
    rows = projection.rows(base.out_features)
    own = nn.Linear(16, projection.width(base.out_features)).requires_grad_(False)
    own.load_state_dict({"weight": base.weight[rows], "bias": base.bias[rows]})
    return own


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", WRAPPED)
def test_a_fused_map_is_adapted_as_separate_ones_are(method, layout):
    base, at = fused(layout)
    adapted = [at["query"], at["value"]]
    layer = randomise(WRAPPED[method](base, adapted))
    x = torch.randn(2, 3, 16)
    out = layer(x)
    for projection in adapted:
        separate = WRAPPED[method](alone(base, projection), [Projection(projection.role, "0")])
        held = layer.state_dict()
        separate.load_state_dict({k: held[k] if projection.role in k.split(".") else v
                                  for k, v in separate.state_dict().items()})  # fmt: skip
        torch.testing.assert_close(out[..., projection.rows(base.out_features)], separate(x), atol=1e-5, rtol=1e-5)
    key = at["key"].rows(base.out_features)
    torch.testing.assert_close(out[..., key], base(x)[..., key], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", WRAPPED)
def test_a_fused_map_merges_into_its_own_rows(method, layout):
    base, at = fused(layout)
    layer = randomise(WRAPPED[method](base, [at["query"], at["value"]]))
    x = torch.randn(2, 3, 16)
    merged = make(method, {})[0].merge(nn.Sequential(layer))
    assert type(merged[0]) is nn.Linear
    torch.testing.assert_close(merged(x), layer(x), atol=1e-5, rtol=1e-5)
    key = at["key"].rows(base.out_features)
    assert torch.equal(merged[0].weight[key], base.weight[key])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_found_with_and_without_indices_alike(layout):
    base, at = fused(layout)
    for projection in at.values():
        rows = projection.rows(base.out_features)
        assert torch.equal(part_of(base.weight, projection), base.weight[rows])
        moved = changed(base.weight.t(), list(at.values()), {projection.role: lambda part: part + 1})
        assert torch.equal(moved.t()[rows], base.weight[rows] + 1)
    assert sorted(torch.cat([torch.arange(base.out_features)[p.rows(base.out_features)] for p in at.values()]).tolist(
    )) == list(range(base.out_features))  # fmt: skip
