"""A run that has one method at several sizes shows score and cost against that size."""

from dataclasses import replace

import pytest

from bench.analysis.results import Results
from bench.analysis.sweeps import series
from bench.report.charts import sweeps
from bench.report.charts.canvas import styled
from bench.report.charts.sheet import Sheet
from tests.factories.records import cost, glue_small, results, score

RANKS = (1, 8, 64)


def at(label, made, **config):
    """A record under another configuration."""
    return made.model_copy(update={"method": made.method.model_copy(update={"label": label, "config": config})})


def sized(name="lora", ranks=RANKS, **others):
    made = {rank: f"{name}(rank={rank}{''.join(f', {k}={v!r}' for k, v in others.items())})" for rank in ranks}
    return {label: at(label, cost(f"{name}(rank=8)"), rank=rank, alpha=16, **others) for rank, label in made.items()}


def test_a_method_at_three_values_of_a_field_is_a_series_with_its_values_rising():
    records = [*sized(ranks=(64, 1, 8)).values(), cost("full"), cost("ia3")]
    (found,) = series(results(records))
    assert (found.name, found.field, found.others) == ("lora", "rank", ())
    assert list(found.labels.items()) == [(rank, f"lora(rank={rank})") for rank in RANKS]


def test_two_values_or_two_fields_that_change_at_once_are_none():
    assert series(results(sized(ranks=(1, 8)).values())) == []
    both = [at(f"lora({n})", cost("lora(rank=8)"), rank=n, length=10 * n) for n in (1, 2, 3)]
    assert series(results(both)) == []


def test_series_of_one_method_are_told_apart_by_the_fields_in_which_they_differ():
    records = [*sized(targets=["query"]).values(), *sized(targets=["value"], ranks=(1, 2, 4, 8)).values()]
    first, second = series(results(records))
    assert (len(first.labels), first.others) == (4, (("targets", ["value"]),))
    assert second.others == (("targets", ["query"]),)


@pytest.fixture
def run(tmp_path):
    costs = sized()
    scored = {seed: score("lora(rank=8)", "sst2", seed) for seed in range(3)}
    scores = [
        at(label, scored[seed], **record.method.config).model_copy(update={"id": f"{label} {seed}"})
        for label, record in costs.items()
        for seed in scored
    ]
    full = [cost("full"), *(score("full", "sst2", seed) for seed in range(3))]
    made = glue_small(tmp_path)
    suite = made.suite.changed(methods=["full", *costs], tasks=["sst2"], seeds=[0, 1, 2])
    return replace(made, suite=suite, records=(*full, *costs.values(), *scores))


def drawn(run):
    with styled():
        return sweeps.against_size(Sheet(Results(run)))


def test_the_figure_has_a_panel_a_figure_and_a_curve_through_every_value(run):
    figure = drawn(run)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "score", "forward FLOPs / full", "backward FLOPs / full", "stored bytes / full", "peak memory / full",
        "step time / full",
    ]  # fmt: skip
    for axes in figure.axes:
        assert list(axes.lines[0].get_xdata()) == list(RANKS)
        assert axes.get_xlabel() == "rank"
    scores = Results(run).score_table
    assert list(figure.axes[0].lines[0].get_ydata()) == [scores.loc[f"lora(rank={rank})", "mean"] for rank in RANKS]


def test_a_run_without_a_series_has_no_such_figure(tmp_path):
    assert drawn(glue_small(tmp_path)) is None
