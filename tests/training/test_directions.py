"""Directions of updates: figures are what the definitions say, and two cells are compared by what lies beside them."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from bench.analysis.results import Results
from bench.errors import BenchError
from bench.plan.load import load_suite, parse_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.report.charts import catalogue as plots
from bench.report.charts.canvas import styled
from bench.report.charts.scores import directions as draw
from bench.report.charts.sheet import Sheet
from bench.report.sections import scores as told
from bench.stats.subspaces import angles, overlap
from bench.store.store import open_store, read_run
from bench.training.cell import run_cell
from bench.training.diagnostics import directions, weights
from methods.low_rank import low_rank
from tests.factories import reports
from tests.factories.records import glue_small
from tests.methods.adapted import adapt, randomise
from tests.methods.families import tiny

LEADING, LABELS = 4, ("full", "lora(rank=8)", "pfeiffer_adapter", "head")


def matrix(seed, rows=24, columns=20):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()


def leading(of, number=LEADING):
    return torch.linalg.svd(of)[0][:, :number].numpy()


def test_overlap_is_the_formula_of_the_paper_and_angles_those_of_scipy():
    first, second = leading(matrix(0)), leading(matrix(1))
    assert overlap(first, second) == pytest.approx(np.linalg.norm(first.T @ second) ** 2 / LEADING)
    assert angles(first, second) == pytest.approx(np.rad2deg(scipy.linalg.subspace_angles(first, second))[::-1])


def test_a_subspace_lies_in_itself_and_not_in_its_complement():
    whole = leading(matrix(2), 2 * LEADING)
    first, rest = whole[:, :LEADING], whole[:, LEADING:]
    assert overlap(first, first) == pytest.approx(1)
    assert angles(first, first)[0] == pytest.approx(0, abs=1e-4)
    assert overlap(first, rest) == pytest.approx(0, abs=1e-6)


def test_two_random_subspaces_share_what_chance_says():
    shared = [overlap(leading(matrix(2 * n, 60)), leading(matrix(2 * n + 1, 60))) for n in range(100)]
    assert np.mean(shared) == pytest.approx(LEADING / 60, rel=0.15)


def test_an_update_along_the_weights_leading_directions_is_found_as_such():
    weight = matrix(3)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    along = 0.1 * (left[:, :LEADING] * values[:LEADING]) @ right[:LEADING]
    before = {"0.query": weight, "1.query": weight, "2.query": weight}
    found = directions(before, {"0.query": weight + along, "1.query": weight, "2.query": weight + matrix(4)}, LEADING)
    assert found.figures.keys() == found.left.keys() == {"0.query", "2.query"}, "where nothing moved there is nothing"
    first, other = found.figures["0.query"], found.figures["2.query"]
    assert (first.with_weight, first.leading_share) == (pytest.approx(1), pytest.approx(1))
    assert first.relative_norm == pytest.approx(float(along.norm() / weight.norm()))
    assert first.stable_rank == pytest.approx(float((values[:LEADING] ** 2).sum() / values[0] ** 2))
    assert other.with_weight == pytest.approx(overlap(leading(matrix(4)), leading(weight)))
    assert (first.leading, first.outputs) == (LEADING, 24)
    assert overlap(found.left["0.query"], leading(weight)) == pytest.approx(1, abs=1e-5), "half precision is enough"


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_a_fused_or_transposed_map_is_seen_as_the_linear_map_that_it_is(family):
    """What LoRA on the values alone adds is its product, on these maps and on no other."""
    method, adapted = adapt("lora", family, rank=2, targets=("value",))
    before, products = weights(tiny(family)), {}
    for at, (_, layer) in enumerate(low_rank(randomise(adapted))):
        products[f"{at}.value"] = (layer.scale * layer.B["value"] @ layer.A["value"]).detach()
    found = directions(before, weights(method.merge(adapted)), 1)
    assert found.figures.keys() == products.keys()
    for name, product in products.items():
        assert found.figures[name].relative_norm == pytest.approx(float(product.norm() / before[name].norm()), rel=1e-4)
        assert overlap(found.left[name], leading(product, 1)) == pytest.approx(1, abs=1e-4)


def test_an_update_of_low_rank_has_no_more_directions_than_its_rank():
    weight = matrix(5).float()
    merged = weight + matrix(6)[:, :2].float() @ matrix(7, 2).float()
    found = directions({"0.query": weight}, {"0.query": merged}, LEADING)
    assert (found.figures["0.query"].leading, found.left["0.query"].shape) == (2, (24, 2))


def test_rounded_weights_are_refused():
    suite = """
    question = "q"\ntasks = ["sst2"]\nseeds = [0]
    backbone = { name = "tiny", weights = "random" }
    recipe = { steps = 2, directions = 4, dtype = "bfloat16_autocast" }
    method = [{ name = "full" }]
    """
    with pytest.raises(BenchError, match="recipe: directions needs dtype float32"):
        parse_suite({"name": "mine", **tomllib.loads(suite.replace("    ", ""))}, "mine.toml")


def planned(**changes):
    suite = select(load_suite("smoke"), Selection(methods=LABELS, seeds=(0, 1), data="synthetic"))
    return make_plan(suite.model_copy(update={"recipe": suite.recipe.model_copy(update=changes)}), "smoke", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of four methods and two seeds whose recipe asks for directions."""
    folder, plan = tmp_path_factory.mktemp("run"), planned(directions=LEADING)
    with open_store(folder, plan.suite) as store:
        for cell in plan.cells:
            store.append(*run_cell(cell))
    return folder


@pytest.fixture
def run(folder):
    return read_run(folder)


def test_training_does_not_notice_that_directions_are_taken(run):
    (cell,) = (cell for cell in planned().cells if cell.method.name == "lora" and cell.seed == 0)
    alone, _ = run_cell(cell)
    asked = next(r for r in run.records if r.method.name == "lora" and r.seed == 0)
    assert (asked.losses, asked.predictions_sha256) == (alone.losses, alone.predictions_sha256)
    assert "directions" not in cell.recipe
    assert (alone.directions, alone.directions_sha256) == ({}, None)


def test_a_low_rank_update_has_no_more_directions_than_its_rank(run):
    for record in (r for r in run.records if r.method.name == "lora"):
        assert record.directions.keys() == {f"{layer}.{role}" for layer in (0, 1) for role in ("query", "value")}
        assert all(1 <= found.stable_rank <= 8 for found in record.directions.values())


def test_what_cannot_be_merged_or_moves_no_weight_has_no_directions(run):
    without = {r.method.label for r in run.records if r.kind == "score" and not r.directions}
    assert without == {"pfeiffer_adapter", "head"}
    assert all(r.status == "ok" for r in run.records)


def test_updates_are_compared_with_the_baselines_and_with_another_seeds(run):
    table = Results(run).direction_table
    assert list(dict.fromkeys(table["method"])) == ["full", "lora(rank=8)"]
    assert len(table) == 2 * 2 * 4
    full, lora = (table[table["method"] == label] for label in ("full", "lora(rank=8)"))
    assert full["with_baseline"].to_numpy() == pytest.approx(1, abs=1e-4)
    assert (lora["with_baseline"] < 0.95).all()
    assert lora["with_seed"].between(0, 1).all()
    assert table["by_chance"].unique() == pytest.approx(LEADING / 64)
    alone = Results(replace(run, records=tuple(r for r in run.records if r.seed == 0))).direction_table
    assert alone["with_seed"].isna().all()


def test_without_the_files_what_needs_two_cells_is_missing_and_the_rest_stands(run, tmp_path):
    table = Results(replace(run, folder=tmp_path)).direction_table
    assert table[["with_baseline", "angle_to_baseline", "with_seed"]].isna().all(axis=None)
    assert table["with_weight"].notna().all()
    _, _, rows = reports.parts(told.directions(Results(replace(run, folder=tmp_path))))
    assert [row[-3:] for row in rows] == [["-"] * 3] * 2


@pytest.mark.parametrize("damage", [lambda content: content[:-10], lambda content: content[:-1] + b"\x7f"])
def test_a_file_that_is_not_the_records_is_named(run, tmp_path, damage):
    record = next(r for r in run.records if r.directions)
    (tmp_path / "directions").mkdir()
    whole = (run.folder / "directions" / f"{record.id}.safetensors").read_bytes()
    path = tmp_path / "directions" / f"{record.id}.safetensors"
    path.write_bytes(damage(whole))
    with pytest.raises(BenchError, match=f"{record.id}.safetensors.*restore or remove the file"):
        _ = Results(replace(run, folder=tmp_path)).direction_table


def test_report_page_and_figure_tell_the_same(run):
    sentences, head, rows = reports.parts(told.directions(Results(run)))
    assert "0.062 what two random ones share" in sentences[0]
    assert [row[0] for row in rows] == ["full", "lora(rank=8)"]
    assert told.DIRECTIONS in reports.markdown(run)
    assert told.DIRECTIONS in reports.page(run)
    with styled():
        figure = draw(Sheet(Results(run)))
    assert [axes.get_title("left") for axes in figure.axes] == ["with W_0", "with full's update", "with another seed's"]
    assert len(head) == len(rows[0])


def test_a_run_that_asked_for_none_shows_none(tmp_path):
    run = glue_small(tmp_path)
    assert reports.parts(told.directions(Results(run))) == ([], [], [])
    assert draw(Sheet(Results(run))) is None
    assert "directions" in {plot.name for plot in plots.PLOTS}
