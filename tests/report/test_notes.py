"""What a method notes of how it ran stands in its records of every kind, and once below the tables."""

import pytest

from bench.analysis.results import Results
from bench.count.predict import predictions
from bench.count.sweep import run_sweep
from bench.method import Method
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.report.sections.overview import method_notes
from bench.report.sections.sweeps import prediction
from bench.schema.record import Prediction
from bench.schema.shape import Setting
from bench.store.store import Run
from bench.timing.probe import run_probe
from bench.training.cell import run_cell
from methods import BUILTIN
from tests.factories.reports import markdown, on_screen, screen

SAID = "the option x does nothing on this backbone"
SUITE = """
question = "Are notes kept?"
baseline = "full"
tasks = ["sst2"]
seeds = [0]
data = "synthetic"

[backbone]
name = "tiny"
weights = "random"

[recipe]
steps = 2
batch_size = 4
train_rows = 32
test_rows = 16

[[cost]]
batch = 2
length = 8
latency_length = 8
timed = false

[[sweep]]
vary = "batch"
values = [1, 2]
backbone = "tiny"
length = 8

[[method]]
name = "full"

[[method]]
name = "noted"
"""


class Noted(Method):
    """Trains one bias and has something to say."""

    def apply(self, backbone, config):
        backbone.embeddings.LayerNorm.bias.requires_grad_(True)
        return backbone

    def notes(self, module):
        assert any(p.requires_grad for p in module.parameters()), "asked before apply"
        return [SAID]


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """The plan, and records of every kind."""
    folder = tmp_path_factory.mktemp("noted")
    (folder / "suite.toml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILTIN, "noted", f"{__name__}:Noted")
        plan = make_plan(select(load_suite(str(folder / "suite.toml")), Selection()), "noted", "cpu")
        yield (
            plan,
            {
                "score": [run_cell(cell)[0] for cell in plan.cells],
                "cost": list(run_probe(plan.probes[0])),
                "count": list(run_sweep(plan.sweeps[0])),
                "prediction": predictions("tiny", ["full", "noted"], Setting(batch=2, length=8)),
            },
        )


@pytest.mark.parametrize("kind", ["score", "cost", "count", "prediction"])
def test_a_note_stands_in_the_records_of_its_method_alone(noted, kind):
    records = noted[1][kind]
    assert len(records) >= 2
    for record in records:
        label = record.method if isinstance(record, Prediction) else record.method.label
        assert record.notes.count(SAID) == (label == "noted"), getattr(record, "reason", None)


@pytest.mark.parametrize("kinds", [("cost",), ("score",), ("count",), ("score", "cost", "count")], ids="+".join)
def test_a_note_stands_once_below_the_tables(noted, kinds, tmp_path):
    plan, records = noted
    run = Run.of(tmp_path, plan.suite.plain(), [record for kind in kinds for record in records[kind]])
    for text in (markdown(run), " ".join(screen(run).split())):
        assert text.count(f"noted: {SAID}") == text.count(SAID) == 1


def test_a_prediction_says_whose_note_it_is_where_not_all_have_it(noted):
    both = noted[1]["prediction"]
    for rows, said in ((both, f"noted: {SAID}"), (both[1:], f" {SAID}")):
        text = " ".join(on_screen(prediction(rows)).split())
        assert text.count(SAID) == 1 and said in text and "the peak leaves out" in text


def test_a_record_from_before_there_were_notes_has_none(noted):
    (record,) = (record for record in noted[1]["cost"] if record.notes)
    before = record.model_dump(mode="json", by_alias=True)
    del before["notes"]
    assert type(record).model_validate(before).notes == ()


def test_a_measured_share_that_moves_with_the_seed_stands_once_at_its_largest(noted, tmp_path):
    plan, records = noted
    (one,) = (record for record in records["cost"] if record.notes)
    moved = [
        one.model_copy(update={"id": f"{one.id}{number}", "notes": (f"off by {share} of 8",)})
        for number, share in enumerate(("0.012", "2.5e-05", "0.3"))
    ]
    texts = method_notes(Results(Run.of(tmp_path, plan.suite.plain(), [*records["score"], *moved])))
    assert [text for text in texts if "off by" in text] == ["noted: off by 0.3 of 8"]
