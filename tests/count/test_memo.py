"""What an operation without data gave is remembered, and given again only where torch would give the same."""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from bench import registry
from bench.count import count as whole
from bench.count import memo
from bench.count.fake import without_data
from bench.count.predict import setting_for
from bench.models import backbone
from bench.schema.shape import StepShape


def described(out, given):
    """Shapes, strides, type, autograd's part, and where an output lies."""
    if not isinstance(out, torch.Tensor):
        return [described(one, given) for one in out] if isinstance(out, list | tuple) else out
    storage = out.untyped_storage()
    shared = [place for place, one in enumerate(given) if one.untyped_storage()._cdata == storage._cdata]
    same = [place for place, one in enumerate(given) if one is out]
    keys = torch._C._dispatch_key_set(out)
    return (*out.shape, *out.stride(), out.dtype, out.storage_offset(), storage.nbytes(), out.device, out.requires_grad,
            type(out), keys, shared, same)  # fmt: skip


class Checked(memo.Memory):
    """Asks torch as well, each time."""

    asked = 0

    def ask(self, func, args, kwargs):
        out = super().ask(func, args, kwargs)
        if memo._known(func) and "_foreach" not in func.name() and not func._schema.is_mutable:
            given = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor)]
            assert described(out, given) == described(func(*args, **kwargs), given), func
            Checked.asked += 1
        return out


@pytest.mark.parametrize(
    ("name", "method", "form"),
    [
        ("bert-base", "lora", {"optimizer": "adamw_foreach", "dtype": "bfloat16_autocast"}),
        ("llama-3.2-3b", "adalora", {"dtype": "bfloat16", "checkpointing": True}),
    ],
)
def test_every_answer_in_a_step_is_the_one_of_torch(name, method, form, monkeypatch):
    spec = dataclasses.replace(backbone.shape_of(name), layers=1)
    setting = setting_for(name, StepShape(batch=2, length=16, **form), weights="native", device="cuda")
    setting = setting.model_copy(update={"attention": backbone.attention_of(spec)})
    given = spec, *registry.make(method, {}, "test"), setting
    monkeypatch.setattr(memo, "_answers", {})
    expected = whole.ledger_of(*given)
    assert len(memo._answers) > 100
    monkeypatch.setattr("bench.count.fake.Memory", Checked)
    monkeypatch.setattr(Checked, "asked", 0)
    found = whole.ledger_of(*given)
    assert Checked.asked > 100
    assert found == expected


def ask(function, *tensors):
    """The answers of two questions alike, with what they were asked of."""
    return [(function(*given), given) for given in (tensors, [torch.empty_like(one) for one in tensors])]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1,
        lambda x: x.t(),
        lambda x: x[1:, 2],
        lambda x: x.add_(1),
        lambda x: x.unbind(0),
        lambda x: x.view(torch.int32),
        lambda x: x.max(0).indices,
        lambda x: x.split(1),
    ],
)
def test_a_second_answer_lies_where_the_first_does(function):
    with without_data():
        (first, of_first), (second, of_second) = ask(function, torch.empty(3, 4))
        assert described(first, of_first) == described(second, of_second)


def test_numbers_of_several_types_are_several_questions():
    with without_data():
        whole_numbers = torch.ones(2, dtype=torch.int64)
        assert [(whole_numbers * factor).dtype for factor in (2, 2.0, True, 2.0)] == [
            torch.int64, torch.float32, torch.int64, torch.float32
        ]  # fmt: skip


def test_what_a_step_frees_is_not_held():
    with without_data():
        first, second = torch.empty(5), torch.empty(5)
        storages = [torch.multiprocessing.reductions.StorageWeakRef(made.untyped_storage())
                    for made in (first * 1, second * 1)]  # fmt: skip
        assert all(storage.expired() for storage in storages)


def test_values_and_changed_shapes_are_asked_each_time():
    with without_data():
        x = torch.empty(2, 3)
        for _ in range(2):
            y = x.clone()
            assert y.t_().shape == (3, 2)
        with pytest.raises(Exception, match=r"nonzero|dynamic"):
            x.nonzero()


def test_a_full_memory_begins_anew(monkeypatch):
    monkeypatch.setattr(memo, "_answers", {})
    monkeypatch.setattr(memo, "MOST", 3)
    with without_data():
        for size in range(1, 10):
            torch.empty(size) * 2
    assert 0 < len(memo._answers) <= 3
