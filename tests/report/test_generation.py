"""What writing takes, in tables, in the figure of time per token, in references and in claims."""

import pytest

from bench.analysis.results import Results
from bench.report.charts.canvas import styled
from bench.report.charts.catalogue import PLOTS
from bench.report.charts.sheet import Sheet
from bench.report.sections import costs
from bench.store.store import Run
from bench.verdicts.claims import judge
from bench.verdicts.reference import figures_of
from tests.factories.figures import overlapping, written
from tests.factories.records import cost, results, suite, writing

LORA, LST = "lora(rank=8)", "lst(reduction=8)"
METHODS = {"full": (1.0, True), LORA: (1.1, True), LST: (2.0, False)}


def records(**kept):
    return [cost(label, **writing(*how, **kept)) for label, how in METHODS.items()]


def test_the_table_has_a_row_a_method_mode_context_and_batch():
    made = records()
    table = results(made, list(METHODS)).generation_table()
    assert len(table) == (3 + 3 + 2) * 2 * 2
    assert list(dict.fromkeys(table["method"])) == list(METHODS)
    row = table.set_index(["method", "mode", "context", "batch"]).loc[(LST, "unmerged", 512, 8)]
    held = made[2].decode_seconds.unmerged["context_512"].by_batch[8]
    assert (row["decode_seconds"], row["decode_ratio"]) == (held.median, held.ratio_to_baseline)
    assert (row["decode_low"], row["decode_high"]) == held.ratio_interval
    assert row["tokens_per_second"] == pytest.approx(8 / held.median)
    assert (row["cache_bytes"], row["cache_bytes_per_token"]) == (1024 * 512 * 2, 2048)
    assert (row["prefill_operations"], row["decode_depth"]) == (322, 224)
    assert (row["decode_control_low"], row["decode_control_high"], row["blocks"]) == (0.99, 1.01, 6)


def test_a_run_that_asks_for_no_generation_has_neither_table_nor_figure():
    made = results([cost(label) for label in METHODS], list(METHODS))
    assert made.generation_table().empty
    captions = [table.caption for table in costs.of_shape(made, made.shapes[0])]
    assert not any("KV cache" in caption for caption in captions)
    assert drawn(made) is None


def drawn(made: Results):
    (plot,) = [plot for plot in PLOTS if plot.name == "decode"]
    with styled():
        return plot.make(Sheet(made))


def tables_of(made: Results) -> dict[str, list[str]]:
    """Of each table about writing, by the first word of its caption, its rows as texts."""
    return {
        table.caption.partition(":")[0]: [[cell.text for cell in row] for row in table.rows]
        for table in costs.of_shape(made, made.shapes[0])
        if "KV cache" in table.caption or "decode" in table.caption
    }


def test_a_report_tells_what_each_token_takes_and_marks_what_is_the_base():
    found = tables_of(results(records(), list(METHODS)))
    assert [row[:2] for row in found["Counted"]] == [[m, c] for m in METHODS for c in ("32", "512")]
    of = {row[0]: row for row in found["Counted"] if row[1] == "32"}
    assert of[LORA][2:8] == ["177", "123", "1.100", "161 =", "112", "1.000"]
    assert of[LST][2:8] == ["322", "224", "2.000", "-", "-", "-"]
    assert of[LST][-2:] == ["65.5 kB", "2.0 kB"]
    assert [row[:3] for row in found["Timed"] if row[0] == LST] == [
        [LST, context, batch] for context in ("32", "512") for batch in ("1", "8")
    ]
    ours = next(row for row in found["Timed"] if row[:3] == [LORA, "32", "1"])
    assert ours[-2].endswith(" =") and ours[3].endswith("ms") and ours[-1].isdigit()


def test_counts_alone_have_no_table_of_times_and_no_figure():
    made = results([cost(label, **writing(*how) | {"prefill_seconds": None, "decode_seconds": None, "new_tokens": None})
                    for label, how in METHODS.items()], list(METHODS))  # fmt: skip
    assert list(tables_of(made)) == ["Counted"]
    assert drawn(made) is None
    assert made.generation_table()["batch"].isna().all()


def test_the_figure_has_a_panel_a_batch_and_a_line_a_method_beside_the_base():
    made = results(records(), list(METHODS))
    figure = drawn(made)
    assert [axes.get_title("left") for axes in figure.axes] == ["batch 1", "batch 8"]
    lines = figure.axes[1].get_lines()
    assert len(lines) == len(METHODS) + 1
    seconds = [records()[2].decode_seconds.unmerged[f"context_{at}"].by_batch[8].median for at in (32, 512)]
    assert list(lines[2].get_xdata()) == [32, 512]
    assert list(lines[2].get_ydata()) == pytest.approx([1e3 * one for one in seconds])
    shown = written(figure)
    assert not overlapping([box for _, box, _ in shown])
    assert all(min(box.min) >= 0 and (box.max <= figure.bbox.max).all() for _, box, _ in shown)
    assert any("n = 6 blocks" in text.replace("\n", " ") for text, *_ in shown)


def test_of_one_context_the_figure_has_a_row_a_method_with_its_times_unmerged_and_merged():
    made = results(records(contexts=(32,)), list(METHODS))
    figure = drawn(made)
    assert [axes.get_title("left") for axes in figure.axes] == ["batch 1", "batch 8"]
    axes = figure.axes[1]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [""] * len(METHODS)  # they stand beside the first
    table = made.generation_table().set_index(["method", "mode", "batch"])["decode_seconds"]
    expected = [1e3 * table[name, mode, 8] for name in METHODS for mode in ("unmerged", "merged")
                if (name, mode, 8) in table.index]  # fmt: skip
    marks = [line for line in axes.get_lines() if line.get_marker() != "None"]
    assert sorted(float(line.get_xdata()[0]) for line in marks) == pytest.approx(sorted(expected))
    shown = written(figure)
    assert not overlapping([box for _, box, _ in shown])
    assert any("behind 32 tokens" in text for text, *_ in shown)


def test_the_figure_is_of_the_shape_that_was_timed_where_another_holds_more_methods():
    untimed = {"prefill_seconds": None, "decode_seconds": None, "new_tokens": None}
    counted = [cost(label, shape={"length": 128}, **writing(*how) | untimed) for label, how in METHODS.items()]
    made = results([*records()[:2], *counted], list(METHODS))
    assert [shape.length for shape in made.shapes] == [128, 64]
    assert len(drawn(made).axes[0].get_lines()) == 2 + 1


def test_an_export_has_a_row_for_each_with_units_in_the_names():
    table = results(records(), list(METHODS)).figures
    rows = table[table["kind"] == "generation"]
    assert len(rows) == (3 + 3 + 2) * 2 * 2
    asked = (rows["method"] == LST) & (rows["mode"] == "unmerged") & (rows["context_tokens"] == 512)
    (one,) = rows[asked & (rows["generation_rows"] == 8)].to_dict("records")
    held = records()[2].decode_seconds.unmerged["context_512"].by_batch[8]
    assert (one["batch"], one["length"]) == (32, 64)
    assert (one["decode_seconds"], one["decode_ratio_high"]) == (held.median, held.ratio_interval[1])
    assert (one["decode_operations"], one["decode_depth_operations"], one["cache_bytes"]) == (322, 224, 1024 * 512 * 2)


def test_a_reference_holds_the_counts_of_writing(tmp_path):
    (exact,) = figures_of(Results(Run.of(tmp_path, suite(methods=list(METHODS)), tuple(records())))).costs
    held = exact.methods[LORA]
    assert held["decode.merged.context_32.operations"] == held["decode.base.context_32.operations"] == 161
    assert held["kv_cache.unmerged.context_512.bytes_per_token"] == round(1024 * 1.1)
    assert not any("seconds" in name for name in held)


def claim(**values):
    return {"name": "c", "says": "a sentence", "method": LORA, "versus": "base"} | values


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ({"metric": "decode.merged.context_32.operations", "ratio": {"min": 1.0, "max": 1.0}}, "pass"),
        ({"metric": "decode.unmerged.context_32.flops", "ratio": {"max": 1.0}}, "fail"),
        (
            {"metric": "kv_cache.unmerged.context_512.bytes", "method": LST, "versus": LORA, "ratio": {"min": 1.5}},
            "pass",
        ),
        ({"metric": "decode_seconds.unmerged.context_512.batch_8", "method": LST, "ratio": {"min": 1.5}}, "pass"),
        ({"metric": "prefill_seconds.unmerged.context_32.batch_1", "method": LST, "ratio": {"max": 1.5}}, "fail"),
        (
            {"metric": "decode_seconds.unmerged.context_64.batch_8", "method": LST, "ratio": {"min": 1.5}},
            "inconclusive",
        ),
    ],
)
def test_a_claim_is_judged_on_the_figure_that_it_names(tmp_path, asked, verdict):
    run = Run.of(tmp_path, suite(methods=list(METHODS), claims=[claim(**asked)], tasks=[]), tuple(records()))
    (judged,) = judge(Results(run))
    assert judged.verdict == verdict
