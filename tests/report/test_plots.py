"""Figures show what the records hold and nothing else: right lengths, named doubts, one look a method, small files."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.charts import catalogue as plots
from bench.report.charts.canvas import Words, save, styled
from bench.report.charts.curves import score_on_the_way, training_loss
from bench.report.charts.scores import COSTS, score_against, score_task
from bench.report.charts.sheet import LONGEST, Sheet, groups, looks
from bench.report.charts.step import anatomy, backward_by_depth, memory_breakdown, moved_by_phase
from bench.report.charts.times import inference, latency, latency_map
from bench.schema.record import Flops, Traffic
from bench.store.store import Run
from tests.factories.figures import cells_of, named, overlapping, tangles, texts, written
from tests.factories.records import LABELS, cost, curve, glue_small, score, suite
from tests.report.test_report import broken, hostile_run


@pytest.fixture
def run(tmp_path):
    return glue_small(tmp_path)


def owners(inputs=0, weights=0, attention=0):
    return {"forward": 0, "backward": inputs + weights + attention, "backward_input_gradient": inputs,
            "backward_weight_gradient": weights, "backward_attention": attention}  # fmt: skip


def flops(backbone, method, layers):
    """FLOPs with a backbone of these layers, each of these kinds; the head has 2."""
    parts = {"backbone": owners(*backbone), "method": owners(*method), "head": owners(1, 1)}
    names = ["embeddings", *(f"layer_{at}" for at in range(1, len(layers) + 1))]
    by_layer = {name: owners(*kinds) for name, kinds in zip(names, [(), *layers], strict=True)}
    whole = {key: sum(part[key] for part in parts.values()) for key in owners()}
    return Flops.model_validate(
        whole | parts | {"by_layer": by_layer | {"head": owners(1, 1)}, "backbone_by_layer": by_layer}
    )


FLOPS = {
    "full": flops((50, 40, 8), (0, 0, 0), [(25, 20, 4), (25, 20, 4)]),
    "inside": flops((40, 0, 8), (2, 3, 0), [(15, 0, 4), (25, 0, 4)]),
    "beside": flops((0, 0, 0), (1, 2, 1), [(0, 0, 0), (0, 0, 0)]),
}
"""Of the baseline, of a method inside the backbone, and of one beside it."""


def test_each_figure_is_listed_once_with_a_heading_and_a_sentence():
    names = [plot.name for plot in plots.PLOTS]
    assert len(set(names)) == len(names)
    assert all(plot.title and plot.alt.endswith(".") for plot in plots.PLOTS)


def test_the_anatomy_stacks_each_kind_of_gradient_to_its_share_of_the_baseline():
    with styled():
        figure = anatomy(FLOPS, "full", Words("title", "caption"), looks(list(FLOPS), "full"))
    lengths = {}
    for bar in figure.axes[0].patches:
        row = list(FLOPS)[2 - round(bar.get_y() + bar.get_height() / 2)]
        lengths.setdefault(row, []).append((to_hex(bar.get_facecolor()), bool(bar.get_hatch()), bar.get_width()))
    blue, orange, green = "#77aadd", "#ee8866", "#44bb99"
    wanted = {
        "full": [(blue, False, 51), (orange, False, 41), (green, False, 8)],
        "inside": [(blue, False, 41), (blue, True, 2), (orange, False, 1), (orange, True, 3), (green, False, 8)],
        "beside": [(blue, False, 1), (blue, True, 1), (orange, False, 1), (orange, True, 2), (green, True, 1)],
    }
    for row, bars in wanted.items():
        assert lengths[row] == [(colour, own, pytest.approx(flop / 100)) for colour, own, flop in bars], row
    assert "0.55 x" in texts(figure)
    assert texts(figure).count("none of it in the backbone") == 1
    assert "51 %: all input gradients of full" in texts(figure)


@pytest.mark.parametrize("times", [1, 40, 1_000_000])
def test_the_anatomy_s_scales_stay_readable_whatever_the_baseline_spends(times):
    """With the head alone as the baseline the others' backward is some hundred thousand times as long."""
    small = {"full": FLOPS["full"], "huge": flops((50 * times, 40 * times, 8 * times), (0, 0, 0), [(1, 1, 1)])}
    with styled():
        figure = anatomy(small, "full", Words("title", "caption"), looks(list(small), "full"))
    assert 2 <= len(figure.axes[0].get_xticks()) <= 12
    above = [text.get_text() for text in figure.axes[0].texts if re.match(r"[\d,]+ %( of full)?$", text.get_text())]
    assert 2 <= len(above) <= 10


def test_there_is_no_anatomy_without_the_baseline():
    others = {label: found for label, found in FLOPS.items() if label != "full"}
    assert anatomy(others, "full", Words("title", "caption"), looks(list(FLOPS), "full")) is None


def test_the_map_says_of_a_row_without_backward_that_it_is_empty():
    with styled():
        figure = backward_by_depth(FLOPS, "full", Words("title", ""), looks(list(FLOPS), "full"))
    assert texts(figure).count("empty: backward never enters the backbone") == 1
    own, whole = zip(*cells_of(figure.axes[1]), strict=True)
    assert own == (0, 0.05, 0.04)
    assert whole == (1, 0.55, 0.06)


def test_the_maps_scale_stays_readable_where_a_method_exceeds_next_to_nothing_a_thousandfold(tmp_path):
    found = FLOPS | {"beside the loss": FLOPS["inside"]}
    head = found["beside the loss"].by_layer["head"].model_copy(update={"backward": 4000})
    by_layer = found["beside the loss"].by_layer | {"head": head}
    found["beside the loss"] = found["beside the loss"].model_copy(update={"by_layer": by_layer})
    with styled():
        figure = backward_by_depth(found, "full", Words("title", ""), looks(list(found), "full"))
        assert len(figure.axes[2].get_yticks()) < 12
        save(figure, tmp_path, "map")
    assert "2000" in texts(figure)
    ends = {image.get_clim() for panel in figure.axes[:2] for image in panel.images}
    assert ends == {(1e-9, 2.0)}  # one colour, one meaning
    assert (tmp_path / "map.svg").stat().st_size < 100_000


def traffic(forward, backward, optimizer):
    whole = {"forward": forward, "backward": backward}
    none = {"forward": 0, "backward": 0}
    return Traffic(**whole, optimizer=optimizer, step=forward + backward + optimizer, backbone=whole, method=none,
                   head=none)  # fmt: skip


def test_traffic_stacks_its_phases_and_says_the_whole_beside_the_baseline_s():
    moved = {
        "full": traffic(40_000_000, 60_000_000, 100_000_000),
        "inside": traffic(40_000_000, 50_000_000, 10_000_000),
    }
    with styled():
        figure = moved_by_phase(moved, "full", Words("title", ""), looks(list(moved), "full"))
        without = moved_by_phase({"inside": moved["inside"]}, "full", Words("", ""), looks(["inside"], "full"))
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [40, 40, 60, 50, 100, 10]
    assert {"200 MB, 1.00 x", "100 MB, 0.50 x"} <= set(texts(figure))
    assert without is None


def memory(peak):
    parts = {"weights": 40, "gradients": 10, "optimizer_state": 20, "saved_activations": 30}
    return {"method": "full", "bytes": {key: 1e6 * value for key, value in parts.items()},
            "peak_memory_bytes": {"step": 1e6 * peak}, "peak_memory_source": "tracker"}  # fmt: skip


@pytest.mark.parametrize(("peak", "rest"), [(125, 25), (90, 0)])
def test_memory_shows_what_lies_between_the_parts_and_the_peak(peak, rest):
    with styled():
        figure = memory_breakdown([memory(peak)], Words("title", ""), looks(["full"], "full"))
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [40, 10, 20, 30, rest]
    assert f"{peak:.1f} MB" in texts(figure) or f"{peak} MB" in texts(figure)
    assert "peak, counted" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.usefixtures("svg_alone")
def test_a_peak_that_a_gpu_measured_is_not_called_counted(run):
    records = (cost(label, peak_memory_source="cuda_allocated") for label in ("full", "ia3"))
    plots.draw(replace(run, records=tuple(records)))
    text = (run.folder / "plots" / "memory.svg").read_text()
    assert "peak, measured on this GPU" in text
    assert "exact on any machine" not in text


@pytest.mark.usefixtures("svg_alone")
def test_scores_alone_draw_no_figure_of_what_only_a_probe_knows(tmp_path):
    drawn = {path.stem for path in plots.draw(glue_small(tmp_path, costs=False))}
    assert drawn == {"score-parameters", "score-stored", "score-task", "training-loss"}


def told(figure):
    """Every name of a point, in a panel or in a key."""
    keys = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    return [text for axes in figure.axes for text in named(axes)] + [
        text.get_text() for key in keys for text in key.get_texts() if text.get_style() == "normal"
    ]


def legible(figure, names):
    """Each name stands once, and nothing is covered, cut off or taken for another's."""
    assert sorted(told(figure)) == sorted(names)
    assert [tangle for axes in figure.axes for tangle in tangles(figure, axes)] == []
    shown = [(text, box) for text, box, _ in written(figure)]
    assert [(shown[one][0], shown[two][0]) for one, two in overlapping([box for _, box in shown])] == []
    assert [text for text, box in shown if min(box.min) < -2 or (box.max > figure.bbox.max + 2).any()] == []


@pytest.mark.parametrize("name", COSTS)
def test_every_point_has_its_name_clear_of_all_others(run, name):
    with styled():
        legible(score_against(Sheet(Results(run)), name), LABELS)


SMOKE = json.loads((Path(__file__).parents[2] / "results/reference/smoke.json").read_text())["costs"][0]["methods"]
"""Counted figures of twenty methods, many of them equal or nearly so."""


def crowd(costs, points):
    """A sheet of methods with these trainable parameters and peaks, and these scores."""
    records = []
    for (label, (trained, peak)), value in zip(costs.items(), points, strict=True):
        peaks = dict.fromkeys(("forward", "backward", "optimizer", "step"), peak)
        parts = {"method": trained, "head": 770}
        records.append(cost(label, trainable_parameters=parts, delta_bytes=4 * trained, peak_memory_bytes=peaks))
        records.append(score(label, "sst2", 0, score=value))
    asked = suite(methods=list(costs), tasks=["sst2"], seeds=[0])
    return Sheet(Results(Run.of(Path("run"), asked, tuple(records))))


@pytest.mark.parametrize("name", COSTS)
def test_twenty_methods_that_score_alike_have_their_names(name):
    costs = {
        label: (int(held["trainable_parameters.method"]), int(held["predicted_peak_memory_bytes.step"]))
        for label, held in SMOKE.items()
    }
    assert len(costs) >= 20
    sheet = crowd(costs, [0.5] * len(costs))
    with styled():
        legible(score_against(sheet, name), [look.text for look in sheet.looks.values()])


@pytest.mark.parametrize(("metric", "least"), [("accuracy", 0), ("pearson", -100), ("mine.py:metric", -100)])
def test_no_panel_shows_scores_that_no_metric_has(metric, least):
    records = [
        score("full", "sst2", seed, score=value, metrics={metric: value}, curve=curve(0, 100 * value))
        for seed, value in enumerate((0.0, 0.9))
    ]
    records = [one.model_copy(update={"task": one.task.model_copy(update={"main_metric": metric})}) for one in records]
    asked = suite(methods=["full"], tasks=["sst2"], seeds=[0, 1])
    sheet = Sheet(Results(Run.of(Path("run"), asked, (cost("full"), *records))))
    low, high = sheet.results.score_table.loc["full", ["mean_low", "mean_high"]]
    assert low < -100 and high > 100
    with styled():
        points, tasks, way = (
            score_against(sheet, "score-memory"),
            score_task(sheet),
            score_on_the_way(sheet, "score-steps"),
        )
    assert points.axes[0].get_ylim() == (least, 100)
    assert tasks.axes[0].get_xlim() == (least, 100)
    assert way.axes[0].get_ylim()[0] >= least
    assert f"cut at {least} and 100" in " ".join(" ".join(text for text, _, _ in written(points)).split())


@pytest.mark.parametrize(
    ("count", "spread"), [(1, 0.2), (2, 0.0), (9, 0.003), (9, 0.2), (24, 0.0), (24, 0.2), (40, 0.003)]
)
def test_names_find_room_in_one_panel_in_groups_or_in_a_key(count, spread):
    luck = np.random.default_rng(count)
    kinds = ["lora", "ia3", "pfeiffer_adapter", "prompt_tuning", "ours", "theirs"]
    labels = ["full", *(f"{kinds[at % len(kinds)]}(rank={at})" for at in range(1, count))]
    costs = {label: (70_000 + at // 2, int(3e8 * (1 + spread * luck.normal()))) for at, label in enumerate(labels)}
    sheet = crowd(costs, np.clip(0.8 + spread * luck.normal(size=count), 0, 1))
    with styled():
        legible(score_against(sheet, "score-memory"), [look.text for look in sheet.looks.values()])


@pytest.mark.parametrize("count", [9, 30])
def test_methods_of_long_names_that_no_table_lists_have_their_names(count):
    labels = ["full", *(f"a-package-of-somebody/a_method_with_a_long_name_{at}" for at in range(1, count))]
    sheet = crowd({label: (70_000, 300_000_000) for label in labels}, [0.5] * count)
    assert all(len(title) <= LONGEST for title, _ in groups(sheet.looks, labels, 8))
    with styled():
        legible(score_against(sheet, "score-memory"), [look.text for look in sheet.looks.values()])


def test_the_loss_is_the_mean_over_seeds_and_no_curve_of_scores_is_claimed(run):
    records = tuple(score("full", "sst2", seed, losses=[1.0 + seed, 0.5 + seed]) for seed in (0, 1))
    with styled():
        figure = training_loss(Sheet(Results(replace(run, records=records))))
    curve = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 2)
    assert curve.get_ydata().tolist() == [1.5, 1.0]
    assert "no curve of scores was recorded" in " ".join(texts(figure))
    single = tuple(score("full", "sst2", seed, losses=[1.0]) for seed in (0, 1))
    assert training_loss(Sheet(Results(replace(run, records=single)))) is None


def test_a_title_has_room_for_a_short_baseline_alone():
    assert [fmt.brief(name) for name in ("full", "lora(rank=8)", "peft(peft_type='LORA', r=8)")] == [
        "full", "lora(rank=8)", "baseline"
    ]  # fmt: skip


@pytest.mark.usefixtures("svg_alone")
def test_every_figure_carries_what_it_measures_unit_n_and_interval(run):
    paths = plots.draw(run)
    lacking = {"size", "scaling", "score-steps", "score-seconds", "score-flops", "cost-to-reach", "tuning-ranking"}
    lacking |= {
        "gradient-norms",
        "directions",
        "nearest-words",
        "latency-map",
        "decode",
        "score-retention",
        "retention-share",
    }
    drawn = [plot.name for plot in plots.PLOTS if plot.name not in lacking]  # of sizes and readings: there are none
    assert [path.name for path in paths] == [f"{name}.{kind}" for name in drawn for kind in ("png", "svg")]
    shown = {
        path.stem: "".join(ElementTree.parse(path).getroot().itertext()) for path in paths if path.suffix == ".svg"
    }
    assert max(path.stat().st_size for path in paths if path.suffix == ".svg") < 150_000
    for name in (*COSTS, "score-task"):
        assert "SYNTHETIC data" in shown[name] and "n = 3 seeds" in shown[name] and "points of 100" in shown[name]
    assert "peak memory (counted) of one training step (MB)" in shown["score-memory"]
    assert "(ms)" in shown["step-time"] and "n = 6 blocks" in shown["step-time"]
    assert "within 3 % of the base" in shown["latency"]
    for name in (
        "backward-depth",
        "backward-anatomy",
        "traffic",
        "memory",
        "inference",
        "score-memory",
        "score-stored",
    ):
        assert "counted · exact on any machine" in shown[name]
    for name in ("step-time", "latency", "score-time"):
        assert "timed · this machine: CPU, 2 cores, no GPU" in shown[name]
    for text in shown.values():
        assert all(label in text for label in LABELS)


def test_a_second_drawing_has_the_same_bytes(tmp_path):
    run = glue_small(tmp_path, labels=["full", "ia3"])
    before = [path.read_bytes() for path in plots.draw(run)]
    assert [path.read_bytes() for path in plots.draw(run)] == before


@pytest.mark.slow
def test_a_second_drawing_has_the_same_bytes_also_of_a_broken_run(run):
    before = [path.read_bytes() for path in plots.draw(broken(run))]
    assert len(before) == 26
    assert [path.read_bytes() for path in plots.draw(broken(run))] == before


@pytest.mark.usefixtures("svg_alone")
def test_figures_stand_hostile_labels(tmp_path):
    for path in plots.draw(hostile_run(tmp_path)):
        if path.suffix == ".svg":
            assert b"<script" not in path.read_bytes()


@pytest.mark.usefixtures("svg_alone")
def test_a_figure_that_no_longer_holds_is_removed(run):
    stale = run.folder / "plots" / "score-task.png"
    stale.parent.mkdir()
    stale.touch()
    names = {path.name for path in plots.draw(replace(run, records=tuple(cost(label) for label in ("full", "ia3"))))}
    assert not stale.exists()
    kept = ("backward-depth", "backward-anatomy", "traffic", "memory", "step-time", "latency", "inference")
    assert names == {f"{name}.{kind}" for name in kept for kind in ("png", "svg")}


def at_lengths(run, lengths):
    """``run`` with costs alone, each method timed on rows of each length."""
    records = [cost(label, shape={"length": at}, latency_length=at) for at in lengths for label in LABELS]
    return Sheet(Results(replace(run, records=tuple(records))))


def test_the_map_of_latency_has_a_cell_for_each_length_and_batch_and_says_what_cannot_merge(run):
    with styled():
        figure = latency_map(at_lengths(run, (128, 32)))
    trained, merged = figure.axes
    assert [tick.get_text() for tick in trained.get_xticklabels()] == ["1", "32"] * 2
    cells = [text.get_text() for text in trained.texts]
    assert [text for text in cells if "tokens" in text] == ["32 tokens", "128 tokens"]
    assert len(cells) == 4 * (len(LABELS) + 1) + 2
    unmerged = sum(not merges for *_, merges in LABELS.values())
    assert [text.get_text() for text in merged.texts].count("-") == 4 * unmerged
    drawn = dict(zip(LABELS, cells_of(trained), strict=False))
    assert min(drawn["prompt_tuning"]) > 1.2
    assert set(drawn["full"]) == {-1}  # its interval contains 1: no colour


def test_one_length_has_no_map_of_latency(run):
    assert latency_map(at_lengths(run, (32,))) is None


def test_inference_is_drawn_against_the_base_with_what_merging_makes_of_it(run):
    with styled():
        figure = inference(Sheet(Results(run)))
    assert "1 row of 32 tokens" in "".join(texts(figure))
    assert "87 operations, 69 of them on the critical path" in " ".join(texts(figure)).replace("\n", " ")
    operations = figure.axes[0]
    assert [text.get_text() for text in operations.texts][list(LABELS).index("prompt_tuning")] == "1.30"
    drawn = [line for line in operations.lines if len(line.get_xdata()) == 1]
    hollow = [line for line in drawn if line.get_markerfacecolor() == "white"]
    assert len(hollow) == sum(merges for *_, merges in LABELS.values())
    assert {float(line.get_xdata()[0]) for line in hollow} == {1.0}


def test_each_panel_of_latency_names_its_own_number_of_blocks(run):
    def longer(record):
        """``record`` with three times the blocks at batch 1, as a claim may ask for."""
        found = record.latency_seconds
        modes = {
            mode: latency.model_copy(
                update={"batch_1": latency.batch_1.model_copy(update={"samples": latency.batch_1.samples * 3})}
            )
            for mode, latency in found
            if latency is not None
        }
        return record.model_copy(update={"latency_seconds": found.model_copy(update=modes)})

    records = [longer(r) if r.kind == "cost" else r for r in run.records]
    with styled():
        figure = latency(Sheet(Results(replace(run, records=tuple(records)))))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["batch 1, n = 18 blocks", "batch 32, n = 6 blocks"]


def test_a_merged_model_s_sign_stays_in_the_panel_however_wide_its_interval(run):
    def noisy(record):
        """``record`` with merged times that say next to nothing."""
        if record.kind != "cost" or record.latency_seconds.merged is None:
            return record
        found, wide = record.latency_seconds, {"ratio_interval": (0.1, 10.0)}
        times = {name: getattr(found.merged, name).model_copy(update=wide) for name in ("batch_1", "batch_32")}
        merged = found.merged.model_copy(update=times)
        return record.model_copy(update={"latency_seconds": found.model_copy(update={"merged": merged})})

    sheet = Sheet(Results(replace(run, records=tuple(map(noisy, run.records)))))
    with styled():
        figure = latency(sheet)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    merging = sum(merges for *_, merges in LABELS.values())
    for axes in figure.axes:
        assert (
            np.nanmax([line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata()) == 2]) > axes.get_xlim()[1]
        )
        signs = [text.get_window_extent(renderer) for text in axes.texts if text.get_text() == "="]
        assert len(signs) == merging
        panel = axes.get_window_extent(renderer)
        assert all(panel.x0 <= sign.x0 and sign.x1 <= panel.x1 for sign in signs)
