"""Roofline: the least time of counted operations from a device's peak rates alone."""

import pytest

from bench.count.predict import predictions
from bench.count.roofline import DEVICES, Load, Rates, rates
from bench.errors import BenchError
from bench.schema.shape import Setting

DEVICE = Rates(half=100.0, single=10.0, bandwidth=5.0)


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        ({}, 0),
        ({Load("bfloat16", 1000, 5): 1}, 10),  # 1 s of bytes lies within 10 s of products
        ({Load("bfloat16", 100, 50): 1}, 10),  # and 1 s of products within 10 s of bytes
        ({Load("float32", 100, 5): 1}, 10),
        ({Load("complex64", 100, 5): 1}, 10),
        ({Load("", 0, 50): 3}, 30),  # one after another
        ({Load("bfloat16", 1000, 5): 1, Load("", 0, 50): 1}, 20),  # nothing overlaps between operations
    ],
)
def test_each_operation_takes_as_long_as_its_slower_half(work: dict[Load, int], seconds: float) -> None:
    assert DEVICE.seconds(work) == seconds


def test_a_device_is_a_name_or_two_rates() -> None:
    assert rates("L40S") == DEVICES["l40s"]
    assert rates("362e12,864e9") == Rates(362e12, 362e12, 864e9)


@pytest.mark.parametrize("text", ["l41s", "", "1e12", "1e12,0", "1e12,-5", "nan,1", "inf,1", "a,b", "1,2,3"])
def test_anything_else_is_refused_with_the_known_names(text: str) -> None:
    with pytest.raises(BenchError, match=r"give FLOP/s and bytes/s, such as 362e12,864e9, or one of a100-80gb"):
        rates(text)


def test_products_in_half_precision_are_the_fast_ones_on_every_named_device() -> None:
    assert all(device.half > device.single > device.bandwidth for device in DEVICES.values())


def test_a_prediction_has_seconds_and_tokens_a_second_only_where_rates_are_given() -> None:
    setting = Setting(batch=2, length=8)
    (plain,) = predictions("tiny", ["lora"], setting)
    (slow,) = predictions("tiny", ["lora"], setting, rates=Rates(1e9, 1e9, 1e30))
    (narrow,) = predictions("tiny", ["lora"], setting, rates=Rates(1e30, 1e30, 1e9))
    assert plain.estimated_step_seconds is None
    assert plain.flops is not None
    assert slow.estimated_step_seconds == pytest.approx((plain.flops.forward + plain.flops.backward) / 1e9)
    assert plain.traffic_bytes is not None
    assert narrow.estimated_step_seconds == pytest.approx(plain.traffic_bytes.step / 1e9)
    assert narrow.estimated_tokens_per_second == pytest.approx(2 * 8 / narrow.estimated_step_seconds)
    assert any("an estimate, not measured" in note for note in narrow.notes)
    (both,) = predictions("tiny", ["lora"], setting, rates=Rates(1e9, 1e9, 1e9))
    assert both.estimated_step_seconds is not None
    parts = (slow.estimated_step_seconds, narrow.estimated_step_seconds)
    assert max(parts) < both.estimated_step_seconds < sum(parts)
