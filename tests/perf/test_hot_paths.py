"""What the harness does most often, timed so that a change which slows it down is seen against the revision before."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.results import Results
from bench.count.count import count
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import label
from bench.registry import make
from bench.report.charts import catalogue as plots
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting
from bench.stats.intervals import block_bootstrap_ratio
from bench.store.store import read_records
from bench.verdicts.claims import judge
from bench.verdicts.gate import check, stale, verdict
from bench.verdicts.reference import figures_of, read_reference, reference_of, write_reference
from tests.factories import reports
from tests.factories.records import glue_small, score

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
RECORDS = 10_000
# Neighbours on a shared machine take wall time, not CPU time; when the collector comes depends on all objects alive.
pytestmark = pytest.mark.benchmark(timer=time.process_time, disable_gc=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of glue-small with the methods and the claims of its suite."""
    suite = load_suite("glue-small")
    run = glue_small(tmp_path_factory.mktemp("glue-small"), labels=[label(method) for method in suite.method])
    claims = [claim.model_dump(exclude_none=True) for claim in suite.claim]
    return dataclasses.replace(run, suite=run.suite.changed(claims=claims))


def test_reading_10_000_records(benchmark, tmp_path):
    path, record = tmp_path / "records.jsonl", score("full", "sst2", 0)
    lines = (record.model_copy(update={"id": f"{n}"}).model_dump_json(by_alias=True) for n in range(RECORDS))
    path.write_text("\n".join(lines) + "\n")
    assert len(benchmark.pedantic(read_records, [path], rounds=5, warmup_rounds=1)) == RECORDS


def test_the_block_bootstrap_of_a_ratio(benchmark):
    seconds = np.random.default_rng(0).lognormal(sigma=0.05, size=(2, 12, 20))
    ratio, (low, high) = benchmark(block_bootstrap_ratio, *seconds)
    assert low < ratio < high


def test_judging_the_claims_of_glue_small(benchmark, finished):
    found = benchmark.pedantic(judge, [finished], rounds=10, warmup_rounds=1)
    assert len(found) == len(finished.suite.claims)


def test_the_ledger_of_a_lora_step_on_bert_base(benchmark):
    bert_base, setting = BackboneSpec(name="bert-base", weights="random"), Setting(batch=8, length=128)

    def ledger():
        return count(bert_base, *make("lora", {"rank": 8}), setting)

    assert benchmark.pedantic(ledger, rounds=3, warmup_rounds=1).trainable.method == 294_912


def test_the_plan_of_glue_small(benchmark):
    suite = load_suite("glue-small")
    plan = benchmark.pedantic(make_plan, [suite, "glue-small", "cpu"], rounds=3, warmup_rounds=1)
    assert len(plan.cells) == len(suite.method) * len(suite.tasks) * len(suite.seeds)


def test_the_gate_of_cost_bert_base(benchmark, tmp_path):
    folder, path = PUBLISHED / "cost-bert-base", tmp_path / "reference.json"
    write_reference(reference_of(Results(folder)), path)

    def gate():
        results, reference = Results(folder), read_reference(path)
        ours = figures_of(results)
        assert stale(ours, reference) is None
        return verdict(check(results, ours, reference))

    assert benchmark.pedantic(gate, rounds=10, warmup_rounds=1) == "pass"


def test_writing_the_report_of_glue_small(benchmark, finished):
    assert "lora(rank=8)" in benchmark.pedantic(reports.markdown, [finished], rounds=5, warmup_rounds=1)


def test_showing_glue_small_on_the_terminal(benchmark, finished):
    assert "lora(rank=8)" in benchmark.pedantic(reports.screen, [finished], rounds=5, warmup_rounds=1)


def test_drawing_the_plots_of_glue_small(benchmark, finished):
    assert benchmark.pedantic(plots.draw, [finished], rounds=2, warmup_rounds=1)
