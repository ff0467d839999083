"""Sweeps are planned, counted, stored, fitted and compared without a run; every mistake in them is named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis import sweeps
from bench.analysis.results import Results
from bench.count.sweep import run_sweep
from bench.errors import BenchError
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.report.charts import catalogue as plots
from bench.report.format import markdown as text
from bench.report.sections import sweeps as words
from bench.schema.record import CountRecord
from bench.store.store import Run, read_run
from tests.factories import reports
from tests.factories.command import bench
from tests.factories.records import common

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "scaling"
SUITE = """
question = "What grows?"
[backbone]
name = "tiny"
weights = "random"
[[sweep]]
vary = "batch"
values = [1, 2, 4]
length = 8
[[sweep]]
name = "other"
vary = "batch"
values = [2, 4]
length = 8
backbone = "minilm-l6"
methods = ["head"]
[[crossover]]
sweep = "batch"
method = "full"
than_sweep = "other"
than = "head"
[[method]]
name = "full"
[[method]]
name = "head"
"""


def written(tmp_path, text=SUITE):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def planned(tmp_path, text=SUITE, selection=None):
    suite = load_suite(written(tmp_path, text))
    return make_plan(select(suite, selection) if selection else suite, "mine.toml", "cpu")


def sweep_of(vary, values, *, methods="", **fixed):
    """A suite of one sweep over ``vary``."""
    fixed = {"batch": 2, "length": 8} | fixed
    lines = [f"{key} = {json.dumps(value)}" for key, value in fixed.items() if key != vary and value is not None]
    head = SUITE.partition("[[sweep]]")[0]
    table = "\n".join(["[[sweep]]", f'vary = "{vary}"', f"values = {values}", *lines])
    return f'{head}{table}\n[[method]]\nname = "full"\n[[method]]\nname = "head"\n{methods}'


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('vary = "batch"', 'vary = "depth"', r"mine.toml: sweep\[0\]: vary takes length, batch, layers, width or con"),
        ("[1, 2, 4]", "[1, 4, 2]", r"mine.toml: sweep\[0\]: values must increase"),
        ("[1, 2, 4]", "[1, 1, 2]", r"mine.toml: sweep\[0\]: values must increase"),
        ("[1, 2, 4]", "[]", r"mine.toml: sweep\[0\].values: must be a list of 2 or more"),
        ("[1, 2, 4]", "[0, 2]", r"mine.toml: sweep\[0\].values\[0\]: must be at least 1, not 0"),
        ("length = 8", "", r"mine.toml: sweep\[0\]: length is missing; only the swept quantity"),
        ("length = 8", "length = 8\nbatch = 2", r"mine.toml: sweep\[0\]: batch is the swept quantity; remove batch"),
        ("length = 8", "lenght = 8", r"mine.toml: sweep\[0\]: unknown key 'lenght'.*Did you mean 'length'"),
        ('name = "other"', "", r"mine.toml: suite: two sweeps are named 'batch'"),
        ('than_sweep = "other"', 'than_sweep = "othr"', r"crossover\[0\]: there is no sweep 'othr'; known: batch"),
        ('methods = ["head"]', 'methods = ["haed"]', r"sweep\[1\].methods: unknown method 'haed'.*Did you mean 'head'"),
        ('than = "head"', 'than = "full"', r"crossover\[0\].than of 'other': unknown method 'full'; known: head"),
        ('backbone = "minilm-l6"', 'backbone = "mini"', r"unknown backbone shape 'mini'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_sweep_is_named(tmp_path, old, new, sentence):
    assert SUITE.count(old) >= 1
    with pytest.raises(BenchError, match=sentence):
        planned(tmp_path, SUITE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (sweep_of("width", [64, 100]), r"sweep\[0\].values: width 100 .* heads of 'tiny'.*; give multiples of 16"),
        (sweep_of("config.rank", [1, 2]), r"sweep\[0\].vary: no method of this sweep has an integer field 'rank'"),
        (sweep_of("length", [8, 129]), r"sweep\[0\]: 129 tokens need 129 positions, the backbone has 128"),
    ],
)  # fmt: skip
def test_a_value_that_gives_no_shape_is_refused_before_anything_is_counted(tmp_path, text, sentence):
    with pytest.raises(BenchError, match=sentence):
        planned(tmp_path, text)


def test_sweeps_of_two_quantities_are_not_compared(tmp_path):
    text = SUITE.replace('vary = "batch"\nvalues = [2, 4]\nlength = 8', 'vary = "length"\nvalues = [2, 4]\nbatch = 8')
    with pytest.raises(BenchError, match=r"'batch' sweeps batch but 'other' sweeps length; compare sweeps of one"):
        planned(tmp_path, text)


def test_a_suite_may_sweep_measure_and_score(tmp_path):
    both = 'tasks = ["sst2"]\nseeds = [0]\ndata = "synthetic"\n[recipe]\nsteps = 2\n[[cost]]\nbatch = 2\nlength = 8\n'
    plan = planned(tmp_path, SUITE.replace("[backbone]", f"{both}[backbone]", 1))
    assert (len(plan.sweeps), len(plan.probes), len(plan.cells)) == (2, 1, 2)
    assert len(plan.job_ids()) == 3 * 2 + 2 + 2 + 2


def test_what_is_counted_decides_a_sweeps_identity_and_a_time_limit_does_not(tmp_path):
    first = planned(tmp_path).sweeps[0].id
    assert planned(tmp_path, SUITE.replace("length = 8", "length = 9", 1)).sweeps[0].id != first
    assert planned(tmp_path, SUITE.replace("length = 8", 'length = 8\ndtype = "bfloat16"', 1)).sweeps[0].id != first
    assert planned(tmp_path, SUITE.replace("length = 8", "length = 8\ntimeout_seconds = 5.0", 1)).sweeps[0].id == first


def test_a_narrowed_suite_keeps_the_sweeps_and_crossovers_that_still_have_their_methods(tmp_path):
    whole = planned(tmp_path, selection=Selection(methods=("full", "head")))
    assert whole.suite.crossover
    narrowed = planned(tmp_path, selection=Selection(methods=("full",)))
    assert [sweep.title for sweep in narrowed.sweeps] == ["batch"]
    assert narrowed.suite.crossover == []


def test_a_narrowed_suite_drops_a_sweep_over_a_field_that_no_method_left_has():
    narrowed = select(load_suite("scaling"), Selection(methods=("full", "lora(rank=8)")))
    titles = [table.title for table in narrowed.sweep]
    assert "prompt length" not in titles and "length" in titles
    assert {table.sweep for table in narrowed.crossover} <= set(titles)


def test_a_sweep_counts_4_bit_weights_and_says_so(tmp_path):
    plain, packed = (
        records_of(tmp_path, sweep_of("batch", [1, 2], weights=weights)) for weights in ("native", "nf4")
    )  # fmt: skip
    assert {record.shape.weights for record in packed.values()} == {"nf4"}
    for value in (1, 2):
        whole, small = plain[value, "head"], packed[value, "head"]
        assert small.bytes.weights < whole.bytes.weights
        assert small.flops == whole.flops


def records_of(tmp_path, text):
    return {(r.value, r.method.label): r for sweep in planned(tmp_path, text).sweeps for r in run_sweep(sweep)}


def test_depth_width_and_length_change_what_they_say(tmp_path):
    by_depth = records_of(tmp_path, sweep_of("layers", [1, 2, 3]))
    parameters = [by_depth[layers, "full"].backbone.parameters for layers in (1, 2, 3)]
    assert parameters[1] - parameters[0] == parameters[2] - parameters[1] > 0
    assert by_depth[3, "full"].backbone.name == "tiny, 3 layers"
    by_width = records_of(tmp_path, sweep_of("width", [32, 64]))
    assert by_width[64, "full"].backbone.parameters == parameters[1]
    assert by_width[32, "full"].backbone.parameters < parameters[1]
    by_length = records_of(tmp_path, sweep_of("length", [8, 16]))
    assert [by_length[t, "head"].shape.length for t in (8, 16)] == [8, 16]
    assert by_length[8, "full"].flops == by_width[64, "full"].flops


def test_a_number_of_a_method_is_varied_and_what_has_none_stays(tmp_path):
    found = records_of(tmp_path, sweep_of("config.rank", [2, 4], methods='[[method]]\nname = "lora"'))
    trained = [found[rank, "lora"].trainable_parameters.method for rank in (2, 4)]
    assert trained[1] == 2 * trained[0]
    assert found[4, "lora"].method.config["rank"] == 4
    assert found[2, "full"].flops == found[4, "full"].flops


def test_a_point_that_cannot_be_counted_is_a_record_and_the_others_go_on(tmp_path):
    found = records_of(tmp_path, sweep_of("length", [8, 120], methods='[[method]]\nname = "prompt_tuning"'))
    failed = found[120, "prompt_tuning"]
    assert failed.status == "failed"
    assert "a prompt of 20 and 120 tokens need 140 positions" in failed.reason
    assert {r.status for key, r in found.items() if key != (120, "prompt_tuning")} == {"ok"}


def test_a_run_of_sweeps_alone_prints_them_resumes_and_answers_in_json(tmp_path):
    suite, out = written(tmp_path), tmp_path / "run"
    done = bench("run", "--suite", suite, "--out", out)
    assert "counts  8/8 counted, none run" in done.stdout
    assert "backward" not in done.stdout  # no empty table of costs
    assert "scores" not in done.stdout.partition("mine ·")[2]
    whole = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join(whole[:5]))
    summary = json.loads(bench("run", "--suite", suite, "--out", out, "--json").stdout)
    assert (summary["records"], summary["failed"]) == (8, [])
    assert [path.rpartition("/")[2] for path in summary["plots"]] == ["scaling.png", "scaling.svg"]
    assert figures_of(whole) == figures_of((out / "records.jsonl").read_text().splitlines())
    assert "## Growth" in (out / "report.md").read_text()


def figures_of(lines):
    """Records by identity without when and where they were made."""
    records = [json.loads(line) for line in lines]
    return {r["id"]: {k: v for k, v in r.items() if k not in ("started", "ended", "environment")} for r in records}


def counted(sweep, method, value, peak, *, vary="batch", flops=300, **changes):
    """A count record with this peak."""
    owners = {"forward": flops // 3, "backward": flops - flops // 3, "backward_weight_gradient": flops - flops // 3}
    values = common(method, weights="random") | {
        "id": f"{sweep}-{method}-{value}", "kind": "count", "sweep": sweep, "vary": vary, "value": value,
        "shape": {"batch": value, "length": 8, "dtype": "float32", "device": "cpu", "attention": "sdpa",
                  "optimizer": "adamw_fused", "dropout": 0.0, "threads": 1},
        "trainable_parameters": {"method": 1, "head": 1}, "delta_bytes": 4,
        "flops": owners | {"backbone": owners, "method": {}, "head": {}, "by_layer": {}},
        "bytes": {"weights": 1, "gradients": 1, "optimizer_state": 1, "saved_activations": peak // 2},
        "predicted_peak_memory_bytes": {"forward": peak, "backward": peak, "optimizer": 0, "step": peak},
    } | changes  # fmt: skip
    return CountRecord.model_validate(values)


def run_of(folder, curves, **crossover):
    """A run of one sweep over batch with these peaks by method and value."""
    records = tuple(counted("batch", name, x, y) for name, points in curves.items() for x, y in points.items())
    values = sorted({x for points in curves.values() for x in points})
    sweep = {"title": "batch", "vary": "batch", "values": values, "methods": list(curves), "length": 8,
             "backbone": "tiny"}  # fmt: skip
    asked = {"sweep": "batch", "method": "a", "than": "b", "figure": "peak_memory"} | crossover
    suite = {"name": "mine", "methods": list(curves), "baseline": "b", "backbone": {"name": "tiny"},
             "sweep": [sweep], "crossover": [asked]}  # fmt: skip
    return Run.of(folder, suite, records)


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ({1: 10, 2: 20, 3: 40}, {1: 30, 2: 30, 3: 30},
         "a takes more peak memory than b from batch 3 on: 20 B against 30 B at 2, 40 B against 30 B at 3 (8 tokens)."),
        ({1: 40, 2: 20}, {1: 30, 2: 30},
         "a takes more peak memory than b up to batch 1: 40 B against 30 B at 1, 20 B against 30 B at 2 (8 tokens)."),
        ({1: 10, 5: 50}, {1: 30, 5: 30},
         "a takes more peak memory than b from some batch between 1 and 5 (near 3 on a straight line): "
         "10 B against 30 B at 1, 50 B against 30 B at 5 (8 tokens)."),
        ({1: 40, 2: 50}, {1: 30, 2: 30},
         "a takes more peak memory than b at every batch counted, 1 to 2 (8 tokens): no crossover; nearest at 1, "
         "40 B against 30 B."),
        ({1: 10, 2: 20}, {1: 30, 2: 30},
         "a takes no more peak memory than b at any batch counted, 1 to 2 (8 tokens): no crossover; nearest at 2, "
         "20 B against 30 B."),
        ({1: 10}, {2: 30}, "a against b: not counted at a common batch yet."),
    ],
)  # fmt: skip
def test_a_crossover_is_a_sentence_that_claims_no_more_than_was_counted(tmp_path, first, second, sentence):
    assert words.sentences(Results(run_of(tmp_path, {"a": first, "b": second}))) == [sentence]


def test_a_failed_point_takes_no_part_in_a_crossover(tmp_path):
    run = run_of(tmp_path, {"a": {1: 10, 2: 20, 3: 40}, "b": {1: 30, 2: 30, 3: 30}})
    lost = run.records[1].model_copy(update={"status": "failed", "flops": None, "bytes": None})
    changed = Run.of(run.folder, run.suite, (run.records[0], lost, *run.records[2:]))
    (sentence,) = words.sentences(Results(changed))
    assert "between 1 and 3" in sentence
    assert np.isnan(Results(changed).sweep_table("batch", "peak_memory").loc["a", 2])


@given(
    constant=st.integers(0, 10**9), slope=st.integers(1, 10**6), curve=st.integers(0, 10**4),
    values=st.lists(st.integers(1, 500), min_size=4, max_size=8, unique=True).map(sorted),
)  # fmt: skip
def test_a_polynomial_is_found_again_with_its_exponent(constant, slope, curve, values):
    points = pd.Series({x: constant + slope * x + curve * x * x for x in values})
    found = sweeps.growth(points, "length")
    assert found.holds
    last = values[-1]
    exponent = (slope * last + 2 * curve * last**2) / points[last]
    fitted = sum(c * last**power for power, c in enumerate(found.coefficients))
    assert fitted == pytest.approx(points[last], rel=2e-3)
    assert found.exponent == pytest.approx(exponent, abs=0.1)


def test_a_bend_starts_the_range_later_and_a_jump_does_not_pass_for_a_line():
    bent = pd.Series({1: 100, 2: 100, 4: 100, 8: 200, 16: 400, 32: 800})
    found = sweeps.growth(bent, "batch")
    assert (found.since, found.bent) == (4, True)
    assert found.coefficients[1] == pytest.approx(25)
    rough = sweeps.growth(pd.Series({1: 100, 2: 300, 4: 200, 8: 900}), "batch")
    assert not rough.holds
    assert words.formula("peak_memory", rough).startswith("≈")
    assert sweeps.growth(pd.Series({1: 1.0, 2: 2.0}), "batch") is None


def test_a_quantity_that_costs_nothing_has_exponent_zero():
    found = sweeps.growth(pd.Series({1: 7.0, 2: 7.0, 3: 7.0}), "batch")
    assert (found.exponent, found.r_squared, len(found.coefficients)) == (0.0, 1.0, 1)


def test_the_report_holds_every_value_and_the_figure_is_drawn(tmp_path):
    run = run_of(tmp_path, {"a": {1: 10_000, 2: 20_000, 3: 40_000}, "b": {1: 30_000, 2: 30_000, 3: 30_000}})
    drawn = [path.name for path in plots.draw(run)]
    assert drawn == ["scaling.png", "scaling.svg"]
    assert "peak memory as one quantity grows" in (tmp_path / "plots" / "scaling.svg").read_text()
    report = reports.markdown(run)
    assert "| b | 30.0 kB | 30.0 kB | 30.0 kB | 30.0 kB | exact | 1.000000 | 0.00 |" in report
    assert "from batch 3 on" in report


def test_the_report_of_the_committed_run_says_where_curves_cross(tmp_path):
    run = replace(read_run(PUBLISHED), folder=tmp_path)
    assert {record.kind for record in run.records} == {"count"}
    assert all(record.status == "ok" for record in run.records)
    told = words.sentences(Results(run))
    assert len(told) == len(load_suite("scaling").crossover)
    assert not any("not counted" in line or "straight line" in line for line in told)
    report = reports.markdown(run)
    assert all(text(line) in report for line in told)
