"""A shape measures the methods that it names, and a claim is judged on the shape that it names."""

from dataclasses import replace

import pytest

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.plan.load import parse_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.report.sections import claims as told
from bench.report.sections import overview as facts
from bench.schema.claims import judged_on
from bench.schema.suite import claimed_shape
from bench.store.store import Run
from bench.timing.probe import run_probe
from bench.verdicts.claims import JudgedResults, judge
from tests.factories import reports
from tests.factories.cost_steps import here
from tests.factories.records import cost, glue_small, results, suite

LORA, PROMPT = "lora(rank=8)", "prompt_tuning"
SHORT, LONG = {"batch": 1, "length": 16, "latency_length": 24}, {"batch": 1, "length": 40, "latency_length": 48}


def suite_of(*costs, claims=(), **changes):
    """A suite of three methods on these shapes."""
    values = {
        "name": "mine", "question": "q", "backbone": {"name": "tiny", "weights": "random"}, "cost": list(costs),
        "method": [{"name": "full"}, {"name": "lora", "config": {"rank": 8}}, {"name": PROMPT}], "claim": list(claims),
    }  # fmt: skip
    return parse_suite(values | changes, "mine.toml")


def claim(**values):
    return {"name": "c", "says": "a sentence", "metric": "flops.backward", "method": LORA, "versus": "full",
            "ratio": {"max": 1.0}} | values  # fmt: skip


def planned(suite):
    return [[method.label for method in probe.methods] for probe in make_plan(suite, "mine", "cpu").probes]


NARROW = LONG | {"methods": ["full", LORA]}


def test_a_shape_measures_all_methods_or_those_that_it_names():
    assert planned(suite_of(SHORT, NARROW)) == [["full", LORA, PROMPT], ["full", LORA]]


@pytest.mark.parametrize(
    ("methods", "left"),
    [
        ((LORA,), [["full", LORA], ["full", LORA]]),
        ((PROMPT,), [["full", PROMPT]]),
        (("full",), [["full"], ["full"]]),
        (("lora(rank=4)",), [["full", "lora(rank=4)"]]),
    ],
)
def test_a_shape_that_has_lost_all_but_the_baseline_goes(methods, left):
    assert planned(select(suite_of(SHORT, NARROW), Selection(methods=methods))) == left


def test_methods_that_no_shape_measures_are_refused():
    with pytest.raises(BenchError, match=r"no \[\[cost\]\] measures any of these methods; name others with --methods"):
        select(suite_of(NARROW), Selection(methods=(PROMPT,)))


def test_counts_alone_keep_to_the_methods_of_a_shape():
    counted = select(suite_of(SHORT, NARROW), Selection(methods=(PROMPT,), counts=True))
    assert planned(counted) == [["full", PROMPT]]


def test_a_budget_is_for_shapes_that_all_methods_run_on():
    with pytest.raises(BenchError, match=r"cost\[1\].methods and match exclude each other"):
        suite_of(SHORT, NARROW, match={"trainable_parameters": 5000})


def test_a_shape_stands_once():
    with pytest.raises(BenchError, match=r"cost\[1\] repeats the shape of an earlier"):
        suite_of(SHORT, SHORT | {"latency_length": 12, "methods": ["full", LORA]})
    assert len(planned(suite_of(SHORT, SHORT | {"threads": 1}))) == 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"methods": ["full", "lora"]},
            r"cost\[1\].methods: the suite has no method 'lora'; it has full, lora\(rank=8\)",
        ),
        ({"methods": [LORA]}, r"cost\[1\].methods lacks the baseline full; add it"),
    ],
)
def test_a_shape_names_methods_of_the_suite_and_the_baseline(values, sentence):
    with pytest.raises(BenchError, match=sentence):
        suite_of(SHORT, LONG | values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"length": 24}, r"no \[\[cost\]\] has length = 24; the suite has 16, 40"),
        ({"metric": "latency_seconds.unmerged.batch_1", "versus": "base", "length": 16},
         r"no \[\[cost\]\] has latency_length = 16; the suite has 24, 48"),
        ({"method": PROMPT, "length": 40}, r"no \[\[cost\]\] of length 40 measures all of full, prompt_tuning"),
        ({"metric": "score", "ratio": None, "difference": {"min": 0.0}, "length": 16}, "length applies to costs only"),
        ({"length": 0}, "length"),
    ],
)  # fmt: skip
def test_a_claim_that_no_shape_could_decide_is_refused(values, sentence):
    asked = {key: value for key, value in claim(**values).items() if value is not None}
    with pytest.raises(BenchError, match=sentence):
        suite_of(SHORT, NARROW, claims=[asked])


def test_a_claim_over_methods_of_different_shapes_is_refused():
    apart = [SHORT | {"methods": ["full", PROMPT]}, NARROW]
    with pytest.raises(BenchError, match=r"no \[\[cost\]\] of the suite measures all of full, lora.*, prompt_tuning"):
        suite_of(*apart, claims=[claim(method=[LORA, PROMPT])])


def test_a_probe_is_asked_only_what_is_judged_on_its_shape():
    timed = claim(metric="latency_seconds.unmerged.batch_1", versus="base")
    asked = [claim(name="a", metric="step_seconds", length=40), timed | {"name": "b", "length": 24},
             claim(name="c", metric="step_seconds", method=PROMPT),
             timed | {"name": "d", "ratio": None, "equivalent_within": 0.1}]  # fmt: skip
    asked[3] = {key: value for key, value in asked[3].items() if value is not None}
    short, long = make_plan(suite_of(SHORT, NARROW, claims=asked), "mine", "cpu").probes
    told = [[(b.phase, b.method, b.equivalence) for b in probe.bounds] for probe in (short, long)]
    latency = ("latency", LORA, False)
    assert told[0] == [latency, ("step", PROMPT, False), ("latency", LORA, True)]
    assert told[1] == [("step", LORA, False)]


def test_a_claim_about_a_time_is_judged_where_times_are_taken():
    timed, counted = SHORT | {"methods": ["full", LORA]}, LONG | {"timed": False}
    asked = [claim(name="a", metric="step_seconds"), claim(name="b")]
    made = suite_of(timed, counted, claims=asked)
    short, long = make_plan(made, "mine", "cpu").probes
    assert [bound.phase for bound in short.bounds] == ["step"] and long.bounds == ()
    shapes = [claimed_shape(cost, ["full", LORA, PROMPT], "cpu") for cost in made.cost]
    assert [judged_on(one, shapes).length for one in made.claim] == [short.length, long.length]


def run_of(tmp_path, *claims):
    """Backward of LoRA costs 0.51 of full's in records; on the long shape its figures are those of a prompt: 0.66."""
    long = {"batch": 32, "length": 128}
    moved = cost("prompt_tuning", shape=long).model_copy(update={"method": cost(LORA).method, "latency_length": 48})
    base = cost("full", shape=long).model_copy(update={"latency_length": 48})
    records = (*(cost(label) for label in ("full", LORA, PROMPT)), base, moved)
    asked = suite(methods=["full", LORA, PROMPT], claims=[c | {"name": f"c{n}"} for n, c in enumerate(claims)])
    return replace(glue_small(tmp_path, scores=False), records=records, suite=asked)


def test_a_claim_is_judged_on_the_shape_of_its_length(tmp_path):
    run = run_of(tmp_path, claim(length=64), claim(length=128), claim())
    short, long, first = (found.outcomes[0].value for found in judge(Results(run)))
    assert (short, long) == (pytest.approx(0.51, abs=0.01), pytest.approx(0.66, abs=0.01))
    assert first == short, "the first shape is the one that holds all methods"
    assert [claim.row.line.rpartition("(")[2] for claim in told.tell(JudgedResults(run))] == [
        "exact, any machine, 64 tokens)", "exact, any machine, 128 tokens)", "exact, any machine)"
    ]  # fmt: skip


def test_a_claim_of_inference_is_judged_by_the_length_of_its_rows(tmp_path):
    timed = claim(metric="latency_seconds.unmerged.batch_1", versus="base")
    found = judge(Results(run_of(tmp_path, timed | {"length": 32}, timed | {"length": 48})))
    assert [judgement.outcomes[0].value for judgement in found] == [
        pytest.approx(1.02, abs=0.02),
        pytest.approx(1.3, abs=0.02),
    ]


def test_several_methods_with_one_figure_show_it_once(tmp_path):
    run = run_of(tmp_path, claim(metric="inference.base.operations", method=["full", LORA], versus=None, ratio=None,
                                 value={"min": 1.0}))  # fmt: skip
    claims = [{key: value for key, value in c.items() if value is not None} for c in run.suite.claims]
    run = replace(run, suite=run.suite.changed(claims=claims))
    (claimed,) = told.tell(JudgedResults(run))
    assert " - " not in claimed.row.line


def test_the_first_shape_holds_most_methods_and_then_most_tokens(tmp_path):
    run = run_of(tmp_path)
    assert [shape.length for shape in Results(run).shapes] == [64, 128]
    alike = (*run.records, cost(PROMPT, shape={"batch": 32, "length": 128}))
    assert [shape.length for shape in results(alike).shapes] == [128, 64]


def test_a_report_counts_and_shows_what_each_shape_was_asked_for(tmp_path):
    untimed = (shape | {"timed": False} for shape in (SHORT, NARROW))
    made = make_plan(suite_of(*untimed), "mine", "cpu")
    with here():
        records = tuple(record for probe in made.probes for record in run_probe(probe))
    run = Run.of(tmp_path, made.suite, records)
    assert [table.methods for table in made.suite.cost] == [[], ["full", LORA]]
    assert facts.progress(Results(run))["costs"] == "5/5 counted, none run"
    assert facts.progress(Results(replace(run, records=records[:3])))["costs"] == "3/5 counted, none run"
    results = Results(run)
    shown = [results.labels_on(shape) for shape in results.shapes]
    assert shown == [["full", LORA, PROMPT], ["full", LORA]]
    told = reports.markdown(run)
    assert [f"\n| {PROMPT} |" in part for part in told.split("## Costs")[1].split("### ")[1:]] == [True, False]
