"""Two runs are compared by what may be compared: counts exactly, ratios and scores with intervals, times never."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.analysis import runs as comparing
from bench.analysis.results import Results
from bench.analysis.runs import ALL_TASKS, ratio_of_ratios
from bench.errors import BenchError
from bench.report.export import encoded
from bench.report.render import markdown, terminal
from bench.report.sections import comparison
from bench.schema.record import CountRecord, RowFigures
from bench.stats.intervals import block_bootstrap_ratio
from bench.store.store import Run, open_store
from tests.factories.command import bench
from tests.factories.records import ENVIRONMENT, common, cost, failed, glue_small, score, suite

LABELS = ("full", "lora(rank=8)", "head")
SEEDS = (0, 1, 2, 3, 4)


def compare_runs(runs):
    return comparing.compare_runs([Results(run) for run in runs])


def run(folder, *records, **asked):
    return Run.of(folder, suite(methods=list(LABELS), **asked), records)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "before", tmp_path / "after"


def costs(**changes):
    return [cost(label, **changes) for label in LABELS]


def scores(shift=0.0, seeds=SEEDS, **changes):
    """Scores of two tasks; the luck of a seed is the same in every run."""
    return [
        score(label, task, seed, source="hub", score=0.8 + 0.01 * seed + shift * (1 + 0.1 * seed) / 100, **changes)
        for label in LABELS
        for task in ("sst2", "mrpc")
        for seed in seeds
    ]


def changes(*runs, kind=None, **where):
    found = compare_runs(runs).changes
    found = found if kind is None else found[found["kind"] == kind]
    for column, value in where.items():
        found = found[found[column] == value]
    return found


def settings(*runs):
    table = compare_runs(runs).settings
    return {(row.about, row.method, row.key): (row.first, row.other) for row in table.itertuples()}


def test_the_same_records_again_are_equal_everywhere_and_no_setting_differs(folders):
    same = (*costs(), *scores())
    found = compare_runs([run(folders[0], *same), run(folders[1], *same)])
    assert found.settings.empty
    assert set(found.changes.loc[found.changes["kind"] == "exact", "verdict"]) == {"equal"}
    assert set(found.changes.loc[found.changes["kind"] == "score", "verdict"]) == {"equal"}
    assert set(found.changes.loc[found.changes["kind"] == "ratio", "verdict"]) == {"not told apart"}


def test_an_exact_figure_that_differs_by_one_is_different_with_both_values(folders):
    other = cost("lora(rank=8)", delta_bytes=294_913)
    (row,) = changes(
        run(folders[0], *costs()), run(folders[1], cost("full"), other, cost("head")), verdict="different"
    ).to_dict("records")
    assert (row["method"], row["figure"], row["unit"]) == ("lora(rank=8)", "delta_bytes", "bytes")
    assert (row["first"], row["other"], row["difference"]) == (294_912, 294_913, 1)


def test_a_figure_that_one_run_lacks_is_said_and_is_no_difference(folders):
    found = changes(run(folders[0], *costs(merged_equals_base=None)), run(folders[1], *costs()), method="full")
    merged = found[found["figure"].str.startswith("merged_equals_base")]
    assert set(merged["verdict"]) == {"only in other"}
    assert merged["first"].isna().all() and (merged["other"] == 1).all()


def test_a_method_that_fails_in_one_run_alone_is_a_difference(folders):
    broken = [cost("full"), failed(cost("lora(rank=8)"), "oom", "12 GB asked of 8"), cost("head")]
    (row,) = changes(run(folders[0], *costs()), run(folders[1], *broken), figure="status").to_dict("records")
    assert row["verdict"] == "different"
    assert row["why"] == "ok against oom: 12 GB asked of 8"


def test_a_peak_that_cuda_measured_is_never_called_exact_and_never_held_against_a_counted_one(folders):
    peak = {"forward": 1, "backward": 2, "optimizer": 1}
    gpu = [costs(peak_memory_source="cuda_allocated", peak_memory_bytes=peak | {"step": size}) for size in (2, 3)]
    found = changes(run(folders[0], *gpu[0]), run(folders[1], *gpu[1]), figure="peak_memory_bytes.step")
    assert set(found["kind"]) == {"measured"}
    assert set(found["verdict"]) == {"no verdict"}
    assert changes(run(folders[0], *costs()), run(folders[1], *gpu[0]), figure="peak_memory_bytes.step").empty


def slower(label, factor):
    """``label`` with a backward pass that takes ``factor`` as long, against the same baseline."""
    plain = cost(label)
    timing = plain.backward_seconds.model_dump()
    timing["ratio_to_baseline"] *= factor
    timing["ratio_interval"] = [factor * bound for bound in timing["ratio_interval"]]
    return cost(label, backward_seconds=timing)


@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "higher"), (0.8, "lower"), (1.0, "not told apart")])
def test_times_are_compared_as_ratios_to_each_run_s_own_baseline(folders, factor, verdict):
    other = run(folders[1], cost("full"), slower("lora(rank=8)", factor))
    (row,) = changes(run(folders[0], *costs()), other, figure="backward_seconds / full").to_dict("records")
    assert row["ratio"] == pytest.approx(factor)
    assert row["low"] < factor < row["high"]
    assert row["verdict"] == verdict


def test_a_machine_twice_as_slow_changes_nothing(folders):
    def doubled(record):
        timing = record.backward_seconds.model_dump()
        timing |= {"median": 2 * timing["median"], "samples": [[2 * s for s in b] for b in timing["samples"]]}
        return cost(record.method.label, backward_seconds=timing)

    found = changes(run(folders[0], *costs()), run(folders[1], *map(doubled, costs())), kind="ratio")
    assert set(found["verdict"]) == {"not told apart"}
    assert not found["figure"].str.endswith("median").any()


def test_times_of_a_noisy_run_carry_no_verdict(folders):
    other = run(folders[1], cost("full", noise=0.05), slower("lora(rank=8)", 1.2))
    (row,) = changes(run(folders[0], *costs()), other, figure="backward_seconds / full").to_dict("records")
    assert (row["verdict"], row["why"]) == ("no verdict", "A/A control of backward not quiet")
    untested = run(folders[1], cost("full", aa_control={}), cost("lora(rank=8)", aa_control={}))
    found = changes(run(folders[0], *costs()), untested, kind="ratio")
    assert found["why"].str.startswith("no A/A control of").all()


def test_ratios_to_different_baselines_are_not_compared(folders):
    other = run(folders[1], *costs(baseline="head"), baseline="head")
    found = changes(run(folders[0], *costs()), other, kind="ratio")
    assert found["figure"].str.startswith("latency").all()
    assert settings(run(folders[0], *costs()), other)["coverage", "all", "baseline"] == ("full", "head")


def test_the_interval_of_two_ratios_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        measured = []
        for truth in (0.5, 0.6):
            base = np.exp(rng.normal(0, 0.1, (8, 3)))
            block = rng.normal(0, 0.02, (8, 1))
            samples = truth * base * np.exp(block + rng.normal(0, 0.02, (8, 3)))
            measured.append(block_bootstrap_ratio(samples, base, resamples=300))
        _, (low, high) = ratio_of_ratios(*measured)
        held += low <= 0.6 / 0.5 <= high
    assert 0.93 <= held / 200 <= 1.0


def test_scores_are_paired_by_task_and_seed(folders):
    first, other = run(folders[0], *scores()), run(folders[1], *scores(shift=1.0))
    (row,) = changes(first, other, kind="score", method="head", place=ALL_TASKS).to_dict("records")
    assert row["pairs"] == 10
    assert row["difference"] == pytest.approx(1.2)
    assert 1.0 < row["low"] < 1.2 < row["high"] < 1.4  # far narrower than the seeds' own spread of 4 points
    assert row["verdict"] == "higher"
    assert set(changes(first, other, kind="score", method="head")["place"]) == {"sst2", "mrpc", ALL_TASKS}


def test_cells_of_one_run_alone_are_counted_and_left_out(folders):
    found = changes(run(folders[0], *scores()), run(folders[1], *scores(shift=1.0)[:-1]), method="head", place="mrpc")
    (row,) = found.to_dict("records")
    assert (row["pairs"], row["verdict"]) == (4, "no verdict")
    assert row["why"] == "4 seeds; 1 cells only in one run"


@pytest.mark.parametrize(
    ("other", "doubt"),
    [
        (scores(shift=1.0, flags=["still_improving"]), "still improving"),
        (scores(shift=1.0, flags=["random_weights"]), "random weights"),
        (scores(shift=1.0, seeds=(0, 1, 2)), "3 seeds"),
    ],
)
def test_doubtful_scores_carry_no_verdict(folders, other, doubt):
    found = changes(run(folders[0], *scores()), run(folders[1], *other), kind="score")
    assert set(found["verdict"]) == {"no verdict"}
    assert found["why"].str.contains(doubt).all()


def test_scores_on_other_rows_are_not_compared_and_the_data_is_named(folders):
    first = run(folders[0], *costs(), *scores())
    other = run(folders[1], *costs(), *scores(content="0123"))
    assert changes(first, other, kind="score").empty
    assert settings(first, other)["data", "all", "sst2: content_sha256"] == ("hubsst2", "0123")


def counted_rows(labels, records):
    """``records`` whose tasks say what was counted of their rows, as every new run's do."""
    figures = RowFigures(labels=labels, duplicates=0, tokens={"50": 8, "100": 12}, truncated=0.0)
    return [one.model_copy(update={"task": one.task.model_copy(update={"rows": figures})}) for one in records]


def test_what_was_counted_of_the_rows_is_compared(folders):
    first = run(folders[0], *counted_rows({"a": 30, "b": 10}, scores()))
    assert compare_runs([first, run(folders[1], *counted_rows({"a": 30, "b": 10}, scores()))]).settings.empty
    other = run(folders[1], *counted_rows({"a": 31, "b": 9}, scores()))
    assert settings(first, other)["data", "all", "sst2: rows.labels.a"] == ("30", "31")


def test_what_a_suite_says_of_a_task_is_compared_where_both_say_it(folders):
    table = {"kind": "classes", "labels": ["a", "b"], "metrics": ["accuracy"], "main_metric": "accuracy"}
    first = run(folders[0], *scores(), task={"sst2": table})
    other = run(folders[1], *scores(), task={"sst2": table | {"class_weights": "balanced"}})
    assert compare_runs([first, run(folders[1], *scores(), task={})]).settings.empty
    assert settings(first, other) == {("data", "all", "sst2: class_weights"): ("", "balanced")}


def test_every_setting_that_differs_is_named_by_its_key(folders):
    environment = ENVIRONMENT | {
        "versions": ENVIRONMENT["versions"] | {"torch": "2.14.0"},
        "hardware": ENVIRONMENT["hardware"] | {"cpu": "Xeon"},
        "commit": "fedcba", "load_average": [9.0, 9.0, 9.0],
    }  # fmt: skip
    recipe = {"steps": 90, "batch_size": 16, "learning_rate": 0.001}
    method = common("head")["method"] | {"config": {"rank": 9}}
    other = run(
        folders[1],
        *costs(environment=environment, shape={"threads": 4}),
        *[record for record in scores(recipe=recipe, environment=environment) if record.method.label != "head"],
        *[score("head", "sst2", 0, source="hub", recipe=recipe, method=method, environment=environment)],
    )
    found = settings(run(folders[0], *costs(), *scores()), other)
    assert found["versions", "all", "versions.torch"] == ("2.13.0", "2.14.0")
    assert found["hardware", "all", "hardware.cpu"] == ("AMD EPYC", "Xeon")
    assert found["code", "all", "commit"] == (ENVIRONMENT["commit"], "fedcba")
    assert found["shape", "all", "32 x 64 float32 sdpa adamw_fused: threads"] == ("2", "4")
    assert found["recipe", "all", "steps"] == ("60", "90")  # of every method: told once
    assert found["method", "head", "config.rank"] == ("8", "9")
    assert not any("load_average" in key for _, _, key in found)


def test_threads_do_not_part_a_shape_but_its_length_does(folders):
    first = run(folders[0], *costs())
    assert set(changes(first, run(folders[1], *costs(shape={"threads": 9})), kind="exact")["verdict"]) == {"equal"}
    with pytest.raises(BenchError, match=r"after: shares no figure with .*before"):
        compare_runs([first, run(folders[1], *costs(shape={"length": 65}))])


def test_points_of_a_sweep_are_compared_exactly(folders):
    def count(flops):
        values = common("full") | {
            "id": f"count-{flops}", "kind": "count", "sweep": "length", "vary": "length", "value": 64,
            "shape": cost("full").shape, "delta_bytes": flops,
        }  # fmt: skip
        return CountRecord.model_validate(values)

    (row,) = changes(run(folders[0], count(5)), run(folders[1], count(6))).to_dict("records")
    assert (row["place"], row["figure"], row["verdict"]) == ("length at 64", "delta_bytes", "different")


def test_more_than_two_runs_are_each_compared_with_the_first(folders, tmp_path):
    runs = [run(folder, *costs()) for folder in (*folders, tmp_path / "third")]
    found = compare_runs(runs)
    assert found.names == ("before", "after", "third")
    assert set(found.changes["run"]) == {"after", "third"}


def test_folders_of_one_name_are_told_apart(tmp_path):
    assert compare_runs([run(tmp_path / name / "run", *costs()) for name in "ab"]).names == (
        str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"),
    )  # fmt: skip


def test_a_mistake_is_one_sentence(folders):
    one = run(folders[0], *costs())
    for runs, sentence in (
        ([one], "takes two run folders or more"),
        ([one, run(folders[0], *costs())], "before: given twice"),
        ([one, run(folders[1])], "after: holds no record that is ok; finish the run first: python -m bench run"),
        ([one, run(folders[1], *map(failed, costs()))], "holds no record that is ok"),
    ):
        with pytest.raises(BenchError, match=sentence):
            compare_runs(runs)


def screen(found):
    out = io.StringIO()
    terminal.render(comparison.document(found), Console(file=out, width=118))
    return out.getvalue()


def test_the_screen_shows_settings_counts_ratios_scores_and_what_is_open(folders):
    other = [cost("full"), cost("lora(rank=8)", delta_bytes=300_000), cost("head")]
    text = screen(compare_runs([
        run(folders[0], *costs(), *scores()),
        run(folders[1], *other, *scores(shift=-1.0, recipe={"steps": 90}), seeds=[0]),
    ]))  # fmt: skip
    assert "after against before" in text
    assert "recipe: steps 60 -> 90" in text
    assert "1 of " in text and "lora(rank=8), 32 x 64 float32 sdpa adamw_fused: delta_bytes 294,912 -> 300,000" in text
    assert "-1.2 [-1." in text
    assert "Absolute times of two runs are not compared" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 118


def test_names_from_files_move_no_cursor_and_break_no_table(folders):
    hostile = "a|b\x1b[31m\n# c"
    records = [cost("full"), cost("full", method=common(hostile)["method"], id="x")]
    found = compare_runs([run(folders[0], *records), run(folders[1], *records)])
    assert "\x1b" not in screen(found) + markdown.render(comparison.document(found))
    rows = [line for line in markdown.render(comparison.document(found)).splitlines() if line.startswith("|")]
    assert any(r"a\|b" in row for row in rows)


def test_exports_hold_every_change_and_read_back(folders, tmp_path):
    found = compare_runs([run(folders[0], *costs(), *scores()), run(folders[1], *costs(), *scores(shift=1.0))])
    (tmp_path / "t.parquet").write_bytes(encoded(found.changes, "parquet"))
    back = pd.read_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(back, found.changes, check_dtype=False)
    assert len(pd.read_csv(io.BytesIO(encoded(found.changes, "csv")))) == len(found.changes)
    formula = found.changes.assign(method="=1+1").rename(columns={"run": "@run"})
    shown = pd.read_csv(io.BytesIO(encoded(formula, "csv")))
    assert set(shown["method"]) == {"'=1+1"}
    assert "@run" not in shown.columns
    values = json.loads(json.dumps(comparison.plain(found)))
    assert len(values["changes"]) == len(found.changes)
    assert "NaN" not in json.dumps(comparison.plain(found))


def test_a_run_exports_one_row_per_method_and_shape_or_task_with_units_in_the_names(tmp_path):
    table = Results(glue_small(tmp_path)).figures
    assert table.groupby("kind").size().to_dict() == {"cost": 13, "score": 26, "standing": 13}
    lora = table[table["method"] == "lora(rank=8)"]
    cost_row, score_row = lora[lora["kind"] == "cost"].iloc[0], lora[lora["task"] == "mrpc"].iloc[0]
    assert cost_row["trainable_method_parameters"] == 73_728
    assert cost_row["step_p95_seconds"] > cost_row["step_seconds"] > 0
    assert (cost_row["batch"], cost_row["length"]) == (32, 64)
    assert (cost_row["latency_length_tokens"], cost_row["inference_merged_depth_operations"]) == (32, 69)
    assert score_row["seeds"] == 3 and 70 < score_row["score_mean_points"] < 80
    assert math.isnan(score_row["step_seconds"])
    plain = {"ratio", "low", "high", "blocks", "samples", "interval", "rank", "probability"}
    units = {"bytes", "seconds", "parameters", "points", "gradient", "forward", "backward", "backbone"} | plain
    units |= {"tokens", "operations", "flops", "second"}
    figures = [name for name in table.columns if table[name].dtype.kind == "f" and name not in ("dropout", "seeds")]
    assert all(
        name.rpartition("_")[2] in units or name.startswith(("merge_error", "batch", "length", "threads", "failed"))
        for name in figures
    ), figures


def stored(folder, records):
    with open_store(folder, suite(methods=list(LABELS))):
        lines = [record.model_dump_json(by_alias=True) + "\n" for record in records]
        (folder / "records.jsonl").write_text("".join(lines))
    return folder


def test_the_command_writes_what_is_asked_for(folders):
    before, after = [stored(folder, costs()) for folder in folders]
    assert "after against before" in bench("compare", before, after).stdout
    bench("compare", before, after, "--format", "parquet", "-o", before.parent / "new" / "c.parquet")
    assert (pd.read_parquet(before.parent / "new" / "c.parquet")["verdict"] == "equal").any()
    assert bench("report", before, "--format", "csv").stdout.startswith("suite,kind,method,status,batch,length")
    assert "give a file with -o" in bench("compare", before, after, "--format", "parquet", code=2).stderr
    assert "-o needs a file format" in bench("report", before, "-o", "x.md", code=2).stderr
