"""What the search for rates changed in the ranking is said with how sure it is, from trials or from two runs."""

import json
from dataclasses import replace

import pytest

from bench.analysis.results import Results
from bench.analysis.tuning import change_in, default_rates, rate_change
from bench.errors import BenchError
from bench.report.charts import catalogue as plots
from bench.report.charts.canvas import styled
from bench.report.charts.sheet import Sheet
from bench.report.charts.sweeps import rank_slope
from bench.report.sections import tuning
from bench.store.store import Run, open_store
from tests.factories import reports
from tests.factories.command import bench
from tests.factories.records import score, suite
from tests.factories.trials import trial

DEFAULT = (1e-3, 1e-3)
GRID = (DEFAULT, (1e-2, 1e-3))
SEARCHED = {"trials": 2, "seeds": 1, "steps": 60, "selection_rows": 256}
SCORES = {"full": (80, 81), "ia3": (60, 85), "head": (70, 70)}
"""At the default rates, and at the others: searching lifts ia3 from the last place to the first."""


def trials(seeds=(100,)):
    """Trials of every method at each pair of rates."""
    return tuple(
        trial(label, "sst2", rates, seed=seed, score=points / 100)
        for label, found in SCORES.items() for rates, points in zip(GRID, found, strict=True) for seed in seeds
    )  # fmt: skip


def run_of(folder, labels=tuple(SCORES), *, searched=True, scores=None, seeds=3):
    """A run whose rates came from a search, or did not."""
    scores = scores or {label: found[1] for label, found in SCORES.items()}
    tuning = SEARCHED if searched else None
    found = tuple(
        score(label, "sst2", seed, source="hub", score=scores[label] / 100, tuning=tuning)
        for label in labels for seed in range(seeds)
    )  # fmt: skip
    return Run.of(
        folder, suite(methods=list(labels), tasks=["sst2"], seeds=list(range(seeds)), data={"kind": "hub"}), found
    )


def changed(run, other):
    return rate_change(Results(run), other)


def test_trials_give_both_rankings_and_how_far_they_agree(tmp_path):
    found = changed(run_of(tmp_path), trials())
    assert list(found.table["default_rank"]) == [1, 3, 2]
    assert list(found.table["tuned_rank"]) == [2, 1, 3]
    assert list(found.table["gain"]) == pytest.approx([1, 25, 0])
    assert found.table.loc["ia3", "rates"] == {"sst2": (1e-2, 1e-3)}
    assert found.table.loc["head", "rates"] == {"sst2": DEFAULT}  # equal: the smaller rates
    assert (found.swapped, found.pairs) == (2, 3)
    assert found.tau == pytest.approx(-1 / 3)
    assert (found.rows, found.default) == ("selection", DEFAULT)


def test_one_seed_says_nothing_of_luck_and_three_do(tmp_path):
    assert changed(run_of(tmp_path), trials()).tau_interval is None
    assert "Not enough seeds to say how much of it is luck: 1 seed." in tuning.summary(
        changed(run_of(tmp_path), trials())
    )
    sure = changed(run_of(tmp_path), trials(seeds=(100, 101, 102)))
    assert sure.tau_interval == pytest.approx((-1 / 3, -1 / 3))  # no luck, no width
    assert sure.swapped_interval == (2, 2)


def test_seeds_are_drawn_again_with_the_choice_of_rates(tmp_path):
    # Which rates are the best of ia3, and so its place, hangs on the seeds drawn.
    points = {100: (60, 90), 101: (60, 40), 102: (60, 84)}
    found = tuple(
        trial(label, "sst2", rates, seed=seed, score=value / 100)
        for seed, own in points.items()
        for label, values in (("full", (70, 70)), ("ia3", own))
        for rates, value in zip(GRID, values, strict=True)
    )
    change = changed(run_of(tmp_path), found)
    assert change.swapped == 1
    assert change.swapped_interval == (0, 1)
    assert change.tau_interval == pytest.approx((-1, 1))


def test_diverged_trials_count_as_the_worst_and_failed_ones_are_no_choice(tmp_path):
    def ended(status, at):
        return tuple(
            trial("ia3", "sst2", rates, status=status) if r.method.label == "ia3" and rates == GRID[at] else r
            for r in trials()
            for rates in [(r.recipe["learning_rate"], r.recipe["head_learning_rate"])]
        )

    found = changed(run_of(tmp_path), ended("nan", 0))
    assert found.table.loc["ia3", "default"] == 0
    assert found.table.loc["ia3", "tuned"] == pytest.approx(85)
    left = changed(run_of(tmp_path), ended("crashed", 0))
    assert left.left_out == {"ia3": "no score of sst2 at the default rates"}
    assert list(left.table.index) == ["full", "head"]
    assert changed(run_of(tmp_path), ended("crashed", 1)).table.loc["ia3", "tuned"] == pytest.approx(60)


def test_the_default_rates_are_those_of_the_recipe():
    assert default_rates(suite(recipe={})) == DEFAULT
    assert default_rates(suite(recipe={"learning_rate": 0.01})) == (0.01, 1e-3)


def test_two_runs_are_ranked_by_their_test_scores(tmp_path):
    plain = run_of(tmp_path, searched=False, scores={label: found[0] for label, found in SCORES.items()})
    found = changed(run_of(tmp_path), plain.records)
    assert (found.rows, found.default, found.seeds) == ("test", None, (0, 1, 2))
    assert list(found.table["default_rank"]) == [1, 3, 2]
    assert list(found.table["tuned_rank"]) == [2, 1, 3]
    assert "on the test rows of sst2, 3 seeds: at the rates of the other run" in tuning.sentences(found)[0]


@pytest.mark.parametrize("searched", [True, False])
def test_two_runs_of_one_kind_are_refused(tmp_path, searched):
    run = run_of(tmp_path, searched=searched)
    with pytest.raises(BenchError, match=r"no score of sst2 at (the default|searched) rates"):
        changed(run, replace(run, records=tuple(run.records)).records)


def test_a_folder_without_records_is_refused_by_name(tmp_path):
    with pytest.raises(BenchError, match=r"records\.jsonl: holds no record; give the folder of a search"):
        change_in(tmp_path / "nothing", Results(run_of(tmp_path)))


@pytest.mark.usefixtures("svg_alone")
def test_the_reports_show_both_rankings_side_by_side(tmp_path):
    run = run_of(tmp_path)
    change = changed(run, trials())
    text, page = reports.markdown(run, change=change), reports.page(run, plots.draw(run, change), change)
    screen = reports.screen(run, change=change)
    assert "| ia3 | 60.0 | 3 | 85.0 | 1 | +25.0 | 2 | 0.01, 0.001 |" in text
    assert "Kendall's tau -0.33; 2 of 3 pairs of methods change places." in text
    assert "which luck makes too high" in text
    assert '<section id="tuning"' in page and "Ranking at default and searched rates. Place of each method" in page
    assert "tuned   Ranking at default and at searched rates: Kendall's tau -0.33; 2 of 3" in screen
    assert "## Ranking" not in reports.markdown(run)
    assert (tmp_path / "plots" / "tuning-ranking.svg").exists()
    plots.draw(run)
    assert not (tmp_path / "plots" / "tuning-ranking.svg").exists()


def test_the_slope_leads_from_place_to_place_the_first_on_top(tmp_path):
    run = run_of(tmp_path)
    with styled():
        figure = rank_slope(Sheet(Results(run), changed(run, trials())))
    (axes,) = figure.axes
    lines = {line.get_color(): list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 2}
    assert sorted(lines.values()) == [[1, 2], [2, 3], [3, 1]]
    assert lines["#000000"] == [1, 2]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    said = {text.get_text() for text in axes.texts}
    assert {"60.0  ia3  3", "1  ia3  85.0", "default rates (0.001, 0.001)", "searched rates"} <= said


def stored(folder, run, records):
    with open_store(folder, run.suite):
        (folder / "records.jsonl").write_text("".join(r.model_dump_json(by_alias=True) + "\n" for r in records))
    return folder


@pytest.mark.usefixtures("svg_alone")
def test_the_command_takes_the_folder_of_a_search(tmp_path):
    run = run_of(tmp_path / "run")
    folder, search = stored(tmp_path / "run", run, run.records), stored(tmp_path / "search", run, trials())
    summary = json.loads(bench("report", folder, "--tuning", search, "--json").stdout)
    assert summary["tuning"] == {"kendall_tau": pytest.approx(-1 / 3), "pairs_swapped": 2, "pairs": 3}
    assert (folder / "plots" / "tuning-ranking.svg").exists()
    assert "omit --tuning" in bench("report", folder, "--tuning", search, "--format", "csv", code=2).stderr
    assert "holds no record" in bench("report", folder, "--tuning", tmp_path / "none", code=2).stderr
