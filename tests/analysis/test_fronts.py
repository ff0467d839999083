"""Who is on the front: as sure as tasks, seeds and test rows allow, and no figure where seeds are too few."""

import hashlib
import re
import time
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import rankdata

from bench.analysis.results import Results
from bench.analysis.scores import cells
from bench.errors import BenchError
from bench.report.sections import scores as sections
from bench.store.store import Run
from tests.factories import reports
from tests.factories.records import cost, failed, glue_small, score, suite

MEMORY = "peak_step_bytes"
PARAMETERS = "trainable_method"


def made(folder, scores, costs, *, tasks=("sst2",), flags=None):
    """A run of hand-made figures: ``scores[label][task][seed]`` in points, ``costs[label]`` in bytes."""
    records = []
    for label, memory in costs.items():
        peak = {"forward": 0, "backward": 0, "optimizer": 0, "step": memory}
        trained = {"method": memory, "head": 2}
        records.append(cost(label, peak_memory_bytes=peak, trainable_parameters=trained))
    for label, found in scores.items():
        for task, points in zip(tasks, found, strict=True):
            records += [
                score(label, task, seed, source="hub", score=value / 100, flags=(flags or {}).get(label, []))
                for seed, value in enumerate(points)
            ]
    seeds = list(range(max(len(points) for found in scores.values() for points in found)))
    asked = suite(methods=list(scores), tasks=list(tasks), seeds=seeds, data={"kind": "hub"})
    return Run.of(folder, asked, tuple(records))


def on_front(run, column=MEMORY):
    return Results(run).fronts([column]).table[f"{column}_front"]


def section(run):
    found = re.search(r"## Pareto fronts and ranks.*?(?=\n## )", reports.markdown(run), re.DOTALL)
    return found and found[0]


def shown(run):
    return reports.screen(run)


def test_the_cheapest_and_the_always_better_are_certain_and_a_dominated_method_never_is(tmp_path):
    scores = {"full": [[90, 91, 92]], "ia3": [[70, 71, 72]], "bitfit": [[60, 61, 62]]}
    shares = on_front(made(tmp_path, scores, {"full": 300, "ia3": 100, "bitfit": 200}))
    assert dict(shares) == {"full": 1.0, "ia3": 1.0, "bitfit": 0.0}


def test_equal_methods_share_front_and_rank(tmp_path):
    same = [[80, 82, 81]]
    run = made(
        tmp_path, {"full": same, "ia3": same, "bitfit": [[70, 70, 70]]}, {"full": 100, "ia3": 100, "bitfit": 200}
    )
    table = Results(run).fronts([MEMORY]).table
    assert list(table[f"{MEMORY}_front"]) == [1.0, 1.0, 0.0]
    assert list(table["best"]) == [0.5, 0.5, 0.0]
    assert list(table["rank"]) == [1.5, 1.5, 3.0]


def test_the_probability_is_that_of_the_seeds_drawn(tmp_path):
    # full beats the cheaper ia3 unless seeds 0 and 1 are never drawn: 1 - (1/3)**3 = 0.963 of draws.
    run = made(tmp_path, {"full": [[81, 81, 80]], "ia3": [[80, 80, 80]]}, {"full": 200, "ia3": 100})
    assert on_front(run)["full"] == pytest.approx(26 / 27, abs=0.02)
    assert on_front(run)["ia3"] == 1.0
    best = Results(run).fronts([MEMORY]).table["best"]
    assert best["full"] == pytest.approx(26 / 27 + 0.5 / 27, abs=0.02)  # a tie of two is half a place for each
    assert on_front(run, PARAMETERS)["full"] == on_front(run)["full"]


def test_tasks_are_drawn_too(tmp_path):
    # full is better on sst2 and as much worse on mrpc: on the front unless the draw of two tasks is mrpc twice.
    scores = {"full": [[90] * 3, [70] * 3], "ia3": [[80] * 3, [80] * 3]}
    run = made(tmp_path, scores, {"full": 200, "ia3": 100}, tasks=("sst2", "mrpc"))
    # A tie of one task each leaves the dearer method behind: sst2 twice is a quarter of the draws.
    assert on_front(run)["full"] == pytest.approx(0.25, abs=0.05)
    assert "2 tasks, 3 seeds" in section(run)


def test_the_same_records_give_the_same_figures(tmp_path):
    run = glue_small(tmp_path)
    first = Results(run).fronts([PARAMETERS, MEMORY])
    assert first.table.equals(Results(run).fronts([PARAMETERS, MEMORY]).table)


def test_ranks_are_those_of_every_task_and_seed_with_an_interval_that_stays_among_ranks(tmp_path):
    run = glue_small(tmp_path)
    table = Results(run).fronts([MEMORY]).table
    scores = pd.DataFrame(cells(Results(run).score_records)).dropna()
    wanted = dict(zip(scores, rankdata(-scores, axis=1).mean(axis=0), strict=True))
    assert dict(table["rank"]) == pytest.approx(wanted)
    assert (table["rank_low"] <= table["rank"]).all() and (table["rank"] <= table["rank_high"]).all()
    assert table["rank_low"].min() >= 1 and table["rank_high"].max() <= 13


def test_two_seeds_give_words_instead_of_figures(tmp_path):
    run = glue_small(tmp_path, seeds=(0, 1))
    assert on_front(run).isna().all()
    assert "front   not enough seeds to say who is on it: 3 of every task are needed" in shown(run)
    assert "Not enough seeds" in section(run)
    assert "|" not in section(run)


def test_a_method_with_too_few_seeds_is_left_out_and_said_so_and_hinders_no_other(tmp_path):
    run = glue_small(tmp_path, labels=["full", "head", "ia3"])
    records = tuple(failed(r) if r.id == "score-ia3-mrpc-1" else r for r in run.records)
    found = Results(replace(run, records=records)).fronts([MEMORY])
    assert list(found.table["compared"]) == [True, True, False]
    assert found.table.loc["ia3", "why"] == ("not enough seeds",)
    text = section(replace(run, records=records))
    assert "1 method of 3 not compared: too few seeds finished." in text
    assert re.search(r"^\| ia3 \| 13,824 \| - \| .+ \| - \| - \| - \| not enough seeds \|$", text, re.M)


def test_flagged_scores_count_and_carry_their_doubt_as_in_the_table_of_scores(tmp_path):
    scores = {"full": [[90] * 5], "ia3": [[80] * 5], "bitfit": [[70] * 5]}
    flags = {"full": ["still_improving"], "ia3": ["did_not_learn"]}
    run = made(tmp_path, scores, {"full": 300, "ia3": 200, "bitfit": 100}, flags=flags)
    table = Results(run).fronts([MEMORY]).table
    assert list(table["why"]) == [("still improving",), ("did not learn",), ()]
    assert "bitfit 1.00, ia3 1.00!, full 1.00*" in shown(run)


def test_a_method_without_the_cost_has_a_rank_and_no_place_on_that_front(tmp_path):
    run = made(tmp_path, {"full": [[90, 91, 92]], "ia3": [[70, 71, 72]]}, {"full": 300, "ia3": 100})
    broken = replace(run, records=(failed(run.records[0]), *run.records[1:]))
    table = Results(broken).fronts([PARAMETERS, MEMORY]).table
    assert table.loc["full"].isna()[f"{MEMORY}_front"]
    assert table.loc["full", f"{PARAMETERS}_front"] == 1.0  # the cells counted it themselves
    assert table.loc["full", "rank"] == 1.0


def test_without_costs_there_is_a_front_of_parameters_alone_and_without_scores_none(tmp_path):
    scored = glue_small(tmp_path, costs=False)
    assert "front   " not in shown(scored)
    head = "| method | trainable params (excl. head) | on the Pareto front | the best | average rank, 95 % | no verdict"
    assert head in section(scored)
    probed = glue_small(tmp_path, scores=False)
    assert "front   " not in shown(probed)
    assert section(probed) is None


def with_rows(folder, hits, *, metrics=None, skip=()):
    """A run whose cells keep predictions: ``hits[label][seed]`` tells which test rows were right."""
    run = made(folder, {label: [[100 * sum(h) / len(h) for h in found]] for label, found in hits.items()},
               {"full": 200, "ia3": 100})  # fmt: skip
    records = []
    (folder / "predictions").mkdir()
    for record in run.records:
        if record.kind == "score":
            rows = hits[record.method.label][record.seed]
            name = hashlib.sha256(record.id.encode()).hexdigest()
            record = record.model_copy(update={"id": name, "metrics": metrics or {"accuracy": record.score}})
            if (record.method.label, record.seed) not in skip:
                columns = {"row": range(len(rows)), "label": [1] * len(rows), "prediction": rows}
                table = pa.table({key: list(values) for key, values in columns.items()})
                pq.write_table(table, folder / "predictions" / f"{name}.parquet")
        records.append(record)
    return replace(run, records=tuple(records))


HITS = {"full": [[1, 1, 1, 0]] * 3, "ia3": [[1, 1, 0, 0]] * 3}
"""One row of four tells them apart, in every seed alike."""


def test_test_rows_are_drawn_where_the_folder_has_their_predictions(tmp_path):
    run = with_rows(tmp_path, HITS)
    assert on_front(run)["full"] == pytest.approx(1 - 0.75**4, abs=0.05)  # the row that differs is drawn at least once
    assert "3 seeds, test rows of sst2; not tasks, there is one." in section(run)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"skip": [("ia3", 2)]}, "its predictions are not in the run folder"),
        ({"metrics": {"matthews_correlation": 0.5}}, "its metric is no mean over rows"),
    ],
)
def test_rows_stay_whole_where_predictions_are_missing_or_the_metric_is_no_mean_and_it_is_said(
    tmp_path, change, reason
):
    run = with_rows(tmp_path, HITS, **change)
    assert on_front(run)["full"] == 1.0
    assert f"3 seeds; not tasks, there is one; not test rows of sst2, {reason}." in section(run)


def test_predictions_of_another_cell_or_damaged_ones_are_refused_by_name(tmp_path):
    run = with_rows(tmp_path, HITS)
    path = tmp_path / "predictions" / f"{run.records[-1].id}.parquet"
    pq.write_table(pa.table({"label": [1, 1], "prediction": [1, 1]}), path)
    with pytest.raises(
        BenchError,
        match=rf"{path.name}: rows of record {path.stem[:12]} score 100\.00, the record says 50\.00; restore or",
    ):
        on_front(run)
    path.write_bytes(b"torn")
    with pytest.raises(BenchError, match=rf"{path.name}: not readable predictions"):
        on_front(run)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0"), (0.001, "<0.01"), (0.32, "0.32"), (0.999, ">0.99"), (1.0, "1.00"), (float("nan"), "-")],
)
def test_only_what_every_draw_says_is_certain(share, text):
    assert sections.probability(share) == text


def test_thirteen_methods_are_resampled_in_a_second(tmp_path):
    run = glue_small(tmp_path, seeds=range(5))
    began = time.process_time()
    assert sections.standing(Results(run))
    assert reports.parts(sections.fronts(Results(run)))[2]
    assert time.process_time() - began < 1
