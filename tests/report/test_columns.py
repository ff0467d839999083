"""What one row does to the others: a column stands where any row has it, and a missing cell is a dash."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bench.count.predict import predictions
from bench.report import format as fmt
from bench.report.document import Table
from bench.report.sections import costs
from bench.report.sections.sweeps import prediction
from bench.schema.record import CostRecord
from bench.schema.shape import Setting
from tests.factories import records
from tests.factories.cost_steps import tiny_shape

TIMES = ("forward_seconds", "backward_seconds", "optimizer_seconds", "step_seconds", "latency_seconds")
UNTIMED = {**dict.fromkeys((*TIMES, "switch_seconds", "peak_memory_bytes", "peak_memory_source")), "aa_control": {}}
PEAK = {"forward": 8, "backward": 9, "optimizer": 7, "step": 9}


def counted(label: str) -> CostRecord:
    """As ``run --counts`` leaves it."""
    return records.cost(label, predicted_peak_memory_bytes=PEAK, **UNTIMED)


ODD: dict[str, Mapping[str, Any]] = {
    "counted on real tensors": {"peak_memory_bytes": PEAK, "peak_memory_source": "tracker",
                                "predicted_peak_memory_bytes": None},
    "measured on a GPU": {"peak_memory_bytes": PEAK, "peak_memory_source": "cuda_allocated",
                          "predicted_peak_memory_bytes": None},
    "no peak at all": {"predicted_peak_memory_bytes": None},
    "no bytes": {"bytes": None},
    "nothing stored": {"delta_bytes": None},
    "nothing trained": {"trainable_parameters": None},
    "no FLOPs": {"flops": None, "backward_path": None},
    "no inference": {"inference": None, "latency_length": None},
    "does not merge": {"merged_equals_base": None, "merge_error": None},
    "no merge error": {"merge_error": None},
    "no largest tensors": {"largest_saved": ()},
    "failed": {"status": "failed", "reason": "no", "flops": None, "bytes": None, "predicted_peak_memory_bytes": None,
               "trainable_parameters": None, "delta_bytes": None, "inference": None, "merged_equals_base": None},
}  # fmt: skip


def tables(*made: CostRecord) -> dict[str, Table]:
    found = records.results(made, [record.method.label for record in made])
    first = costs.methods(found)
    assert first is not None
    return {table.caption: table for table in (first, *costs.of_shape(found, made[0].shape))}


def cells(table: Table, label: str) -> dict[str, str]:
    heads = [column.name for column in table.columns]
    row = next(row for row in table.rows if row[0].text.startswith(label))
    return dict(zip(heads, (cell.text for cell in row), strict=True))


@pytest.mark.parametrize("name", ODD)
def test_a_method_without_some_figures_takes_none_from_the_others(name: str) -> None:
    usual = [counted("full"), counted("lora(rank=8)")]
    odd = CostRecord.model_validate(counted("lst(reduction=8)").model_dump(by_alias=True) | ODD[name])
    alone, beside = tables(*usual), tables(*usual, odd)
    assert alone.keys() <= beside.keys()
    for caption, table in alone.items():
        for label in ("full", "lora(rank=8)"):
            if any(row[0].text.startswith(label) for row in table.rows):
                before, after = cells(table, label), cells(beside[caption], label)
                changed = {head: (text, after.get(head)) for head, text in before.items() if after.get(head) != text}
                assert set(changed) <= {"peak memory (counted)", "peak GPU memory"}, changed


def test_tokens_a_second_stand_beside_the_times_of_a_step() -> None:
    whole = records.cost("full")
    (timed,) = [table for caption, table in tables(whole).items() if caption.startswith("Timed")]
    assert whole.step_seconds is not None
    a_second = whole.shape.batch * whole.shape.length / whole.step_seconds.median
    assert cells(timed, "full")["tokens / s"] == fmt.count(a_second)
    assert "target tokens / s" not in cells(timed, "full")


def test_a_predicted_peak_and_saved_bytes_stand_beside_a_counted_peak() -> None:
    odd = CostRecord.model_validate(counted("ia3").model_dump(by_alias=True) | ODD["counted on real tensors"])
    methods = tables(counted("full"), odd)["Costs and scores of each method"]
    assert cells(methods, "full")["predicted peak"] == "9 B"
    assert cells(methods, "full")["peak memory (counted)"] == "-"
    assert cells(methods, "ia3")["peak memory (counted)"] == "9 B"
    assert cells(methods, "ia3")["predicted peak"] == "-"
    assert cells(methods, "full")["saved for backward"] != "-"
    assert cells(methods, "full")["merged is base"] == "="


def shown(rows: Any) -> Callable[[str], dict[str, str]]:
    blocks = prediction(rows).sections[0].screen
    table = next(block for block in blocks if isinstance(block, Table))
    return lambda label: cells(table, label)


def test_a_refused_and_an_uncounted_row_of_a_prediction_leave_the_other_as_it_is(tmp_path: Any) -> None:
    shape, setting = tiny_shape("bert", tmp_path).name, Setting(batch=2, length=8)
    valued = "peft(peft_type='WAVEFT', n_frequency=8, target_modules=['query'])"
    refused = "peft(peft_type='LORA', target_modules=['nothing'])"
    alone = shown(predictions(shape, ["lora"], setting))("lora")
    beside = shown(predictions(shape, ["lora", valued, refused], setting))
    assert beside("lora") == alone
    assert set(beside("peft(peft_type='LORA'").values()) >= {"refused", "-"}
    assert beside("peft(peft_type='WAVEFT'")["FLOPs fwd"] == "-"
