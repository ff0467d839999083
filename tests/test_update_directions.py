"""Directions of updates: what is compared is what the definitions say, and the committed figures are of the field."""

import json
from pathlib import Path

import pytest
import scipy.linalg
import torch

from tests.evidence.update_directions import LEADING, compared, directions, overlap, smallest_angle

PUBLISHED = Path(__file__).resolve().parents[1] / "results/published/update-directions/directions.json"


def matrix(seed, rows=24, columns=20):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_overlap_and_angle_are_those_of_scipy():
    first, second = (directions(matrix(seed)).left for seed in (0, 1))
    angles = scipy.linalg.subspace_angles(first.numpy(), second.numpy())
    assert overlap(first, second) == pytest.approx((torch.from_numpy(angles).cos() ** 2).mean().item())
    assert smallest_angle(first, second) == pytest.approx(float(torch.rad2deg(torch.tensor(angles.min()))))


def test_a_subspace_lies_in_itself_and_not_in_its_complement():
    left, _, _ = torch.linalg.svd(matrix(2))
    assert overlap(left[:, :LEADING], left[:, :LEADING]) == pytest.approx(1)
    assert smallest_angle(left[:, :LEADING], left[:, :LEADING]) == pytest.approx(0, abs=1e-4)
    assert overlap(left[:, :LEADING], left[:, LEADING : 2 * LEADING]) == pytest.approx(0, abs=1e-6)


def test_an_update_along_the_weights_leading_direction_is_found_as_such():
    weight = matrix(3)
    of_weight = directions(weight)
    along = 0.1 * of_weight.values[0] * of_weight.left[:, :1] @ of_weight.right[:, :1].t()
    found = {("full", 0): {"0.query": directions(along)}, ("lora", 0): {"0.query": directions(matrix(4))}}
    norms = {("full", 0, "0.query"): float(along.norm() / weight.norm()), ("lora", 0, "0.query"): 1.0}
    first, second = compared(found, {"0.query": of_weight}, norms)
    assert first["with_weight_first"] == pytest.approx(1)
    assert first["stable_rank"] == pytest.approx(1)
    assert first["share_of_leading"] == pytest.approx(1)
    assert second["with_weight_first"] < 0.5
    assert second["with_full"] == pytest.approx(overlap(directions(matrix(4)).left, directions(along).left))


def test_the_committed_figures_are_of_real_files_and_every_method_seed_and_map():
    result = json.loads(PUBLISHED.read_text())
    labels = {row["method"] for row in result["rows"]}
    assert result["source"] == "folder"
    assert labels == {"full", "lora(rank=8)", "lora(rank=64)", "pissa(rank=8)"}
    assert len(result["rows"]) == len(labels) * len(result["suite"]["seeds"]) * 12
    assert all(row["share_of_leading"] > 1 - 1e-6 for row in result["rows"] if row["method"] == "lora(rank=8)")
