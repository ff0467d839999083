"""Figures show what the records hold and nothing else: right lengths, named doubts, one look a method, small files."""

import itertools
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Annotation

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.charts import catalogue as plots
from bench.report.charts.breakdown import memory_breakdown
from bench.report.charts.canvas import Words, save, styled
from bench.report.charts.depth import backward_by_depth
from bench.report.charts.looks import MARKERS, PALETTE, looks
from bench.report.charts.plot_anatomy import anatomy
from bench.report.charts.plot_inference import inference
from bench.report.charts.plot_latency import latency_map
from bench.report.charts.plot_scores import training_loss
from bench.report.charts.plot_times import latency
from bench.report.charts.scatter import COSTS, score_against
from bench.report.charts.tables import Tables
from bench.schema.record import Flops
from tests.factories.records import LABELS, cost, glue_small, score
from tests.report.test_report import broken, hostile_run

MACHADO = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}
"""What an eye without one kind of cone sees, in linear RGB (Machado, Oliveira, Fernandes 2009, severity 1)."""


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


def texts(figure):
    """Every text of a figure, its panels' with it."""
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [text.get_text() for text in figure.texts]


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


def test_there_is_no_anatomy_without_the_baseline():
    others = {label: found for label, found in FLOPS.items() if label != "full"}
    assert anatomy(others, "full", Words("title", "caption"), looks(list(FLOPS), "full")) is None


def test_the_map_says_of_a_row_without_backward_that_it_is_empty():
    with styled():
        figure = backward_by_depth(FLOPS, "full", "title", "there", looks(list(FLOPS), "full"))
    assert texts(figure).count("empty: backward never enters the backbone") == 1
    own, whole = figure.axes[1].images[0].get_array().T
    assert own.tolist() == [0, 0.05, 0.04]
    assert whole.tolist() == [1, 0.55, 0.06]


def test_the_maps_scale_stays_readable_where_a_method_exceeds_next_to_nothing_a_thousandfold(tmp_path):
    found = FLOPS | {"beside the loss": FLOPS["inside"]}
    head = found["beside the loss"].by_layer["head"].model_copy(update={"backward": 4000})
    by_layer = found["beside the loss"].by_layer | {"head": head}
    found["beside the loss"] = found["beside the loss"].model_copy(update={"by_layer": by_layer})
    with styled():
        figure = backward_by_depth(found, "full", "title", "there", looks(list(found), "full"))
        assert len(figure.axes[2].get_yticks()) < 12
        save(figure, tmp_path, "map")
    assert "2000" in texts(figure)
    assert {panel.images[0].get_clim() for panel in figure.axes[:2]} == {(1e-9, 2.0)}  # one colour, one meaning
    assert (tmp_path / "map.svg").stat().st_size < 100_000


def memory(peak):
    parts = {"weights": 40, "gradients": 10, "optimizer_state": 20, "saved_activations": 30}
    return {"method": "full", "bytes": {key: 1e6 * value for key, value in parts.items()},
            "peak_memory_bytes": {"step": 1e6 * peak}, "peak_memory_source": "tracker"}  # fmt: skip


@pytest.mark.parametrize(("peak", "rest"), [(125, 25), (90, 0)])
def test_memory_shows_what_lies_between_the_parts_and_the_peak(peak, rest):
    with styled():
        figure = memory_breakdown([memory(peak)], "title", "there", looks(["full"], "full"))
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [40, 10, 20, 30, rest]
    assert f"{peak:.1f} MB" in texts(figure) or f"{peak} MB" in texts(figure)
    assert "peak, counted" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_peak_that_a_gpu_measured_is_not_called_counted(run):
    records = (cost(label, peak_memory_source="cuda_allocated") for label in ("full", "ia3"))
    plots.draw(replace(run, records=tuple(records)))
    text = (run.folder / "plots" / "memory.svg").read_text()
    assert "peak, measured on this GPU" in text
    assert "exact on any machine" not in text


def test_scores_alone_draw_no_figure_of_costs(tmp_path):
    drawn = {path.stem for path in plots.draw(glue_small(tmp_path, costs=False))}
    assert drawn == {"score-parameters", "score-task", "training-loss"}


@pytest.mark.parametrize("name", COSTS)
def test_no_label_covers_another_or_a_point(run, name):
    with styled():
        figure = score_against(Tables(Results(run)), name)
    axes = figure.axes[0]
    renderer = figure.canvas.get_renderer()
    labels = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]
    assert {text.get_text() for text in labels} == set(LABELS)
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in labels}
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        assert not first.overlaps(second), (one, other)
    points = [line.get_transform().transform(line.get_xydata())[0] for line in axes.lines if len(line.get_xdata()) == 1]
    for label, box in boxes.items():
        assert not any(box.contains(*point) for point in points), label


def test_the_loss_is_the_mean_over_seeds_and_no_curve_of_scores_is_claimed(run):
    records = tuple(score("full", "sst2", seed, losses=[1.0 + seed, 0.5 + seed]) for seed in (0, 1))
    with styled():
        figure = training_loss(Tables(Results(replace(run, records=records))))
    curve = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 2)
    assert curve.get_ydata().tolist() == [1.5, 1.0]
    assert "no curve of scores was recorded" in " ".join(texts(figure))
    single = tuple(score("full", "sst2", seed, losses=[1.0]) for seed in (0, 1))
    assert training_loss(Tables(Results(replace(run, records=single)))) is None


def seen(colour, matrix):
    """CIE L*a*b* of a colour as an eye sees it whose cones `matrix` stands for."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("missing", MACHADO)
def test_colours_stay_apart_whichever_cone_is_missing(missing):
    colours = [seen(colour, MACHADO[missing]) for colour in ("#000000", *PALETTE)]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(colours, 2)) > 14


def test_a_hundred_methods_share_no_colour_and_mark():
    found = looks([f"m{at}" for at in range(100)], "m0").values()
    assert len({(look.colour, look.marker) for look in found}) == 100


def test_long_labels_are_told_apart_by_what_no_other_has():
    labels = [
        "peft(peft_type='LORA', r=8, target_modules=['query', 'value'])",
        "peft(peft_type='LORA', r=8, target_modules=['query', 'value'], use_dora=True)",
        "peft(peft_type='PREFIX_TUNING', num_virtual_tokens=20)",
        "peft(peft_type='LORA', r=8, target_modules=['query', 'value'], optimizer_type='lora-fa')",
        "peft(peft_type='LORA', r=8, target_modules=['query', 'value'], optimizer_type='lora+', loraplus_lr_ratio=16)",
        "peft(peft_type='LORA', r=8, target_modules=['query', 'value'], use_quantised_lora=True)",
        "lora(rank=8)", "not a call at all, and much too long for a figure",
    ]  # fmt: skip
    told = [look.text for look in looks(labels, labels[0]).values()]
    assert told == ["peft('LORA', …)", "peft('LORA', …, use_dora=True)", "peft('PREFIX_TUNING', 20)",
                    "peft('LORA', …, 'lora-fa')", "peft('LORA', …, 'lora+', 16)",
                    "peft('LORA', …, use_quantised…", "lora(rank=8)", "not a call at all, and much t…"]  # fmt: skip


def test_a_title_has_room_for_a_short_baseline_alone():
    assert [fmt.brief(name) for name in ("full", "lora(rank=8)", "peft(peft_type='LORA', r=8)")] == [
        "full", "lora(rank=8)", "baseline"
    ]  # fmt: skip


def test_every_figure_carries_what_it_measures_unit_n_and_interval(run):
    paths = plots.draw(run)
    lacking = {"size", "scaling", "score-steps", "score-seconds", "score-flops", "cost-to-reach", "tuning-ranking"}
    lacking |= {"gradient-norms", "directions", "latency-map"}
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
    for name in ("backward-depth", "backward-anatomy", "memory", "inference", "score-memory", "score-stored"):
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
    assert len(before) == 24
    assert [path.read_bytes() for path in plots.draw(broken(run))] == before


def test_figures_stand_hostile_labels(tmp_path):
    for path in plots.draw(hostile_run(tmp_path)):
        if path.suffix == ".svg":
            assert b"<script" not in path.read_bytes()


def test_a_figure_that_no_longer_holds_is_removed(run):
    stale = run.folder / "plots" / "score-task.png"
    stale.parent.mkdir()
    stale.touch()
    names = {path.name for path in plots.draw(replace(run, records=tuple(cost(label) for label in ("full", "ia3"))))}
    assert not stale.exists()
    kept = ("backward-depth", "backward-anatomy", "memory", "step-time", "latency", "inference")
    assert names == {f"{name}.{kind}" for name in kept for kind in ("png", "svg")}


def test_a_method_looks_the_same_in_every_figure_and_like_no_other(run):
    looks = Tables(Results(run)).looks
    assert len({look.colour for look in looks.values()}) == 13
    assert looks["full"].colour == "#000000"


def at_lengths(run, lengths):
    """``run`` with costs alone, each method timed on rows of each length."""
    records = [cost(label, shape={"length": at}, latency_length=at) for at in lengths for label in LABELS]
    return Tables(replace(run, records=tuple(records)))


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
    drawn = trained.images[0].get_array()
    assert drawn[list(LABELS).index("prompt_tuning")].min() > 1.2
    assert np.ma.getmaskarray(drawn)[list(LABELS).index("full")].all()  # its interval holds 1: no colour


def test_one_length_has_no_map_of_latency(run):
    assert latency_map(at_lengths(run, (32,))) is None


def test_inference_is_drawn_against_the_base_with_what_merging_makes_of_it(run):
    with styled():
        figure = inference(Tables(Results(run)))
    assert "1 row of 32 tokens" in "".join(texts(figure))
    assert "87 operations, 69 of them on the critical path" in " ".join(texts(figure)).replace("\n", " ")
    operations = figure.axes[0]
    assert [text.get_text() for text in operations.texts][list(LABELS).index("prompt_tuning")] == "1.30"
    drawn = [
        line for line in operations.lines if line.get_marker() in set("*" + MARKERS) and len(line.get_xdata()) == 1
    ]
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
        figure = latency(Tables(replace(run, records=tuple(records))))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["batch 1, n = 18 blocks", "batch 32, n = 6 blocks"]
