"""The head pools by the mask, has random streams of its own, and runs a frozen body without a graph."""

import pytest
import torch

from bench.models.head import TaskModel, generator, make_head
from tests.methods.families import batch, tiny


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padding_changes_no_logit(family, pooling):
    backbone = tiny(family)
    model = TaskModel(backbone, make_head(backbone, 2, pooling=pooling)).eval()
    torch.testing.assert_close(model(batch(pad=0)), model(batch(pad=5)), atol=1e-5, rtol=1e-5)


def test_weights_come_from_the_stream_of_seed_and_head_alone():
    backbone = tiny("bert")
    torch.manual_seed(1)
    first = make_head(backbone, 2, seed=3)
    torch.manual_seed(2)
    again, other = make_head(backbone, 2, seed=3), make_head(backbone, 2, seed=4)
    assert torch.equal(first.linear.weight, again.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)
    assert first.linear.weight.std().item() == pytest.approx(0.02, rel=0.4)
    assert not first.linear.bias.any()


def test_streams_of_different_purpose_differ():
    draws = {purpose: torch.rand(1, generator=generator(0, purpose)).item() for purpose in ("head", "order", "method")}
    assert len(set(draws.values())) == 3


def test_a_frozen_body_keeps_nothing_for_backward():
    backbone = tiny("bert")
    saved = []
    model = TaskModel(backbone, make_head(backbone, 2)).train()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)), lambda t: t):
        model.loss({**batch(), "labels": torch.tensor([0, 1, 0])})
    assert all(len(shape) <= 2 for shape in saved)  # nothing of [B, T, d] is kept


def test_loss_is_cross_entropy_for_classes_and_squared_error_for_numbers():
    backbone = tiny("bert")
    inputs = batch()
    classes = TaskModel(backbone, make_head(backbone, 2)).eval()
    labels = torch.tensor([0, 1, 1])
    expected = -classes(inputs).log_softmax(-1)[torch.arange(3), labels].mean()
    torch.testing.assert_close(classes.loss({**inputs, "labels": labels}), expected)
    numbers = TaskModel(backbone, make_head(backbone, 1)).eval()
    targets = torch.tensor([0.5, 1.0, 4.5])
    expected = (numbers(inputs).squeeze(-1) - targets).square().mean()
    torch.testing.assert_close(numbers.loss({**inputs, "labels": targets}), expected)
