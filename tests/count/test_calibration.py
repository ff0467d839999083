"""Methods of known cost are recovered: bytes to the byte, times within the interval."""

import dataclasses
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.method import Method, MethodConfig
from bench.plan.planner import MethodSpec
from bench.timing.probe import run_probe
from tests.timing.test_probe import probe

MIB = 2**20


class _Allocate(torch.autograd.Function):
    """Identity that holds ``amount`` bytes for a moment in backward."""

    @staticmethod
    def forward(context: Any, states: Tensor, amount: int) -> Tensor:
        context.amount = amount
        return states.view_as(states)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        torch.empty(context.amount, dtype=torch.uint8)
        return gradient, None


class _Save(torch.autograd.Function):
    """Identity that keeps ``amount`` bytes of its own for backward."""

    @staticmethod
    def forward(context: Any, states: Tensor, amount: int) -> Tensor:
        context.save_for_backward(torch.zeros(amount, dtype=torch.uint8))
        return states.view_as(states)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class Known(Method):
    """Scales the last state by one number, at costs that its configuration names."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(MethodConfig):
        """The costs."""

        allocates: int = 0
        """Bytes held for a moment in backward."""
        saves: int = 0
        """Bytes kept for backward."""
        burns: float = 0.0
        """Milliseconds of work after each optimizer step."""

    def apply(self, backbone: nn.Module, config: Any) -> nn.Module:
        self.burns = config.burns
        return _Known(backbone, config)

    def after_step(self, module: nn.Module, step: int, total: int) -> None:
        end = time.process_time() + self.burns / 1000
        while time.process_time() < end:
            pass


class _Known(nn.Module):
    def __init__(self, backbone: nn.Module, config: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.known = config
        self.scale = nn.Parameter(torch.ones((), device=next(backbone.parameters()).device))

    def forward(self, **inputs: Any) -> Any:
        output = self.backbone(**inputs)
        states = output.last_hidden_state * self.scale
        if self.known.allocates:
            states = _Allocate.apply(states, self.known.allocates)
        if self.known.saves:
            states = _Save.apply(states, self.known.saves)
        output.last_hidden_state = states
        return output


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load_method
    monkeypatch.setattr(registry, "load_method", lambda name, *a: Known if name == "known" else load(name, *a))


def costs(*configs: dict[str, Any], **changes: Any) -> list[Any]:
    """Records of ``Known`` in each configuration, the first as the baseline."""
    specs = tuple(
        MethodSpec(label=f"known {number}", name="known", config=config, source_sha256="")
        for number, config in enumerate(configs)
    )
    found = list(run_probe(probe(methods=specs, baseline="known 0", latency_batches=(1,), **changes)))
    assert [record.status for record in found] == ["ok"] * len(configs), [record.traceback for record in found]
    return found


def test_memory_held_for_a_moment_in_backward_is_found_to_the_byte() -> None:
    less, more = costs({"allocates": 64 * MIB}, {"allocates": 80 * MIB})
    for peak in ("peak_memory_bytes", "predicted_peak_memory_bytes"):
        before, after = getattr(less, peak), getattr(more, peak)
        assert after.backward - before.backward == 16 * MIB
        assert after.step - before.step == 16 * MIB
        assert (after.forward, after.optimizer) == (before.forward, before.optimizer)
    assert more.bytes == less.bytes
    assert more.flops == less.flops


def test_a_tensor_kept_for_backward_is_found_to_the_byte_and_named() -> None:
    less, more = costs({"saves": 3 * MIB + 7}, {"saves": 4 * MIB + 7})
    assert more.bytes.saved_activations - less.bytes.saved_activations == MIB
    largest = more.largest_saved[0]
    assert (largest.bytes, largest.shape, largest.dtype) == (4 * MIB + 7, (4 * MIB + 7,), "uint8")
    assert largest.owner == "method"
    for phase in ("forward", "backward"):
        assert getattr(more.peak_memory_bytes, phase) - getattr(less.peak_memory_bytes, phase) == MIB
    assert more.delta_bytes == less.delta_bytes


def test_time_burnt_in_the_optimizer_is_found_within_the_interval_and_in_no_other_phase() -> None:
    once, twice = costs({"burns": 20.0}, {"burns": 40.0}, blocks=6, rounds=3)
    assert once.optimizer_seconds.cpu_median == pytest.approx(0.020, rel=0.25)  # neighbours lengthen the other median
    own = once.optimizer_seconds.cpu_median - 0.020  # the optimizer's own work, the same for both
    # one interval in twenty misses by luck: a twentieth of slack keeps luck from failing the test
    low, high = twice.optimizer_seconds.ratio_interval
    assert 0.95 * low <= (0.040 + own) / (0.020 + own) <= 1.05 * high
    low, high = twice.backward_seconds.ratio_interval
    assert 0.8 * low <= 1.0 <= 1.25 * high
