"""Every figure of a record stands in one catalogue, and columns, exports, references and claims read it there."""

import re
from pathlib import Path

import pytest

from bench.analysis.export import SHAPE
from bench.analysis.results import Results
from bench.report.sections import costs
from bench.schema import figures
from bench.schema.figures import ANY, FIGURES, NOT_FIGURES, RECORDS, TERMS
from bench.schema.record import Shape
from bench.store.store import Run
from bench.verdicts.reference import figures_of
from tests.factories.records import cost, results, suite

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results" / "published"
METHODOLOGY = (ROOT / "METHODOLOGY.md").read_text()
LEAVES = list(dict.fromkeys(leaf for model in RECORDS for leaf in figures.leaves(model)))


def test_every_leaf_of_a_record_is_a_figure_or_a_named_exception():
    assert len(LEAVES) > 100
    assert figures.unlisted() == []


def test_the_catalogue_and_its_exceptions_name_nothing_that_no_record_holds():
    assert [f.path for f in FIGURES if not any(f.holds(leaf) for leaf in LEAVES)] == []
    assert sorted(NOT_FIGURES.keys() - {leaf.partition(".")[0] for leaf in LEAVES}) == []


def test_no_figure_and_no_column_stands_twice():
    for names in ([f.path for f in FIGURES], [name for f in FIGURES if f.group for name in f.columns]):
        assert len(names) == len(set(names))


def test_every_term_is_a_heading_of_the_methodology_under_its_chapter():
    chapter, found = "", {}
    for level, heading in re.findall(r"^(##+) (.+)$", METHODOLOGY, flags=re.MULTILINE):
        chapter = heading if level == "##" else chapter
        found[heading.lower()] = chapter
    assert {name: term.chapter for name, term in TERMS.items()} == {name: found[name.lower()] for name in TERMS}
    assert {f.methodology for f in FIGURES} <= TERMS.keys()


def test_what_a_cost_table_shows_is_what_records_hold():
    record = cost("lora(rank=8)")
    row = results([record]).cost_table().loc["lora(rank=8)"]
    shown = {name: path for f in FIGURES if f.group and f.kind != "timed" for name, path in f.columns.items()}
    assert {name for name in shown if name in row} == set(shown)
    for name, path in shown.items():
        value = figures.read(record, path)
        assert row[name] == value or (value is None and row[name] != row[name])
    assert row["step_seconds"] == record.step_seconds.median
    assert row["merged_batch_32_ratio"] == record.latency_seconds.merged.by_batch[32].ratio_to_baseline


def test_a_reference_holds_every_exact_figure_of_a_record_and_no_other(tmp_path):
    record = cost("lora(rank=8)")
    (exact,) = figures_of(Results(Run.of(tmp_path, suite(), (record,)))).costs
    held = exact.methods["lora(rank=8)"]
    kinds = {figures.figure_of(name.removesuffix(".all")) for name in held if not name.startswith("merged_equals_base")}
    assert {figure.kind for figure in kinds} == {"counted"}
    for figure in FIGURES:
        value = figures.read(record, figure.path)
        if figure.kind == "counted" and isinstance(value, int) and figure.path != "merged_equals_base":
            assert held[figure.path] == value


def test_a_report_has_a_column_for_every_figure_of_a_group(tmp_path):
    """Those of the base model stand in a note below the table: they are the same for every method."""
    energy = {"median": 1.5, "samples": [1.5], "source": "rapl", "covers": "package-0", "resolution_seconds": 0.001,
              "stretch_seconds": 0.5}  # fmt: skip
    records = (cost("full", step_energy=energy), cost("lora(rank=8)"))
    runs = [Run.of(tmp_path, suite(), records)]  # it has figures that no published run has
    tables = []
    for made in map(Results, (*runs, *(PUBLISHED / name for name in ("counts-bert-base", "why-latency")))):
        tables += [costs.methods(made), *(table for shape in made.shapes for table in costs.of_shape(made, shape))]
    headings = [column.name.replace(" (counted)", "") for table in tables for column in table.columns]
    labels = {f.label.replace(ANY, key) for f in FIGURES if f.group for key in f.keys or ("",)}
    labels -= {f.label for f in FIGURES if f.path.startswith(f"inference.{figures.BASE}.")}
    assert [label for label in labels if not any(heading.startswith(label) for heading in headings)] == []


@pytest.mark.parametrize(
    ("column", "outside"),
    [
        ("trainable_head", "trainable_head_parameters"),
        ("delta_bytes", "delta_bytes"),
        ("flops_backward_ratio", "flops_backward_ratio"),
        ("inference_merged_depth", "inference_merged_depth_operations"),
        ("inference_merged_operations", "inference_merged_operations"),
        ("latency_length", "latency_length_tokens"),
        ("step_p95", "step_p95_seconds"),
        ("merged_batch_1_low", "merged_batch_1_ratio_low"),
    ],
)
def test_a_column_leaves_with_its_unit(column, outside):
    assert figures.exported(column) == outside


def test_an_export_names_the_whole_shape():
    assert sorted(SHAPE) == sorted(Shape.model_fields)


def test_an_export_holds_the_columns_of_the_catalogue(tmp_path):
    table = Results(Run.of(tmp_path, suite(), (cost("full"), cost("lora(rank=8)")))).figures
    counted = {figures.exported(name) for f in FIGURES if f.group in ("counted", "inference") for name in f.columns}
    assert counted <= set(table.columns)


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("flops.backward", "counted"),
        ("flops.head.backward_attention", "counted"),
        ("backward_path.depth", "counted"),
        ("peak_memory_bytes.step", "measured"),
        ("step_seconds", "timed"),
        ("latency_seconds.merged.batch_7", "timed"),
        ("merged_equals_base", "counted"),
    ],
)
def test_a_claim_may_be_about_a_figure_of_a_cost_record(metric, kind):
    assert figures.claimed(metric).kind == kind


@pytest.mark.parametrize(
    "metric",
    [
        *("", "flops", "flops.backwards", "flops.by_layer.layer_1.forward", "flops.by_layer.*.forward"),
        *("latency_seconds.merged", "latency_seconds.merged.batch_0", "latency_seconds.merged.batch_*"),
        *("score", "losses.0", "train_seconds", "switch_seconds", "merge_error.float32", "aa_control.step", "shape"),
    ],
)
def test_a_claim_may_be_about_nothing_else(metric):
    assert figures.claimed(metric) is None
