"""A method has one colour and one marker by its name, in every run, and none that could be taken for another."""

import itertools
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle

from bench.report.charts import canvas
from bench.report.charts.canvas import MANY
from bench.report.charts.sheet import FILLS, LONGEST, SHADES, TABLE, groups, looks, shade
from methods import BRIDGES, BUILTIN

METHODS = (*BUILTIN, *BRIDGES)
LISTED = {
    name: (look[0], look[1] if isinstance(look[1], str) else tuple(map(tuple, [*look[1], look[1][0]])))
    for part in tomllib.loads(TABLE.read_text()).values()
    for name, look in part.items()
}
MACHADO = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}
"""What an eye without one kind of cone sees, in linear RGB (Machado, Oliveira, Fernandes 2009, severity 1)."""


def look_of(label, others=(), baseline=""):
    return looks([label, *others], baseline)[label]


def seen(colour, matrix):
    """CIE L*a*b* of a colour as an eye sees it whose cones `matrix` stands for."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def outline(marker, fill="full"):
    """Corners of a marker as it is drawn, its filled part alone where it is filled by half."""
    drawn = MarkerStyle(marker, fill)
    return np.round(drawn.get_path().transformed(drawn.get_transform()).vertices, 6).tolist()


def test_the_table_lists_methods_that_exist():
    assert set(LISTED) <= set(METHODS)


@pytest.mark.parametrize("part", ["colour", "marker"])
def test_every_method_of_the_table_has_a_colour_and_a_marker_of_its_own(part):
    """A method that is new has a pair of its own until it is listed."""
    chosen = looks(METHODS, "full")
    assert len({(look.colour, look.marker) for look in chosen.values()}) == len(METHODS)
    users = {}
    for name in LISTED:
        users.setdefault(str(getattr(chosen[name], part)), []).append(name)
    assert {found: names for found, names in users.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", LISTED)
def test_a_method_s_marker_is_seen_and_no_other_s_outline(name):
    own = outline(LISTED[name][1])
    assert len(own) > 2 and np.ptp(own, axis=0).min() > 0.25
    assert own not in [outline(marker) for other, (_, marker) in LISTED.items() if other != name]


@pytest.mark.parametrize("missing", MACHADO)
def test_colours_stay_apart_whichever_cone_is_missing(missing):
    colours = [seen(colour, MACHADO[missing]) for colour, _ in LISTED.values()]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(colours, 2)) > 12


@pytest.mark.parametrize("name", LISTED)
def test_a_look_depends_on_neither_place_nor_baseline_nor_other_methods(name):
    alone, last = look_of(name), look_of(name, ["ours", "theirs"], name)
    assert (alone.colour, alone.marker) == (last.colour, last.marker) == LISTED[name]
    assert last.is_baseline and not alone.is_baseline


def test_configurations_of_a_method_share_marker_and_hue_and_differ_in_fill_line_or_shade():
    labels = [f"lora(rank={rank})" for rank in range(1, 41)]
    chosen = looks(["full", *labels], "full")
    colour, marker = LISTED["lora"]
    assert {chosen[label].marker for label in labels} == {marker}
    assert {chosen[label].colour for label in labels} == {shade(colour, share) for share in SHADES}
    assert len({(k.colour, k.fill, k.line) for k in map(chosen.get, labels)}) == len(labels)
    assert chosen[labels[0]].colour == colour and "none" not in FILLS  # an empty marker is a merged model


@pytest.mark.parametrize("name", METHODS)
def test_marks_of_one_method_are_told_apart_by_what_is_filled(name):
    figure = Figure((0.5, 0.5), dpi=100)
    FigureCanvasAgg(figure)
    seen = []
    for fill, hollow in (*((fill, False) for fill in FILLS), ("full", True)):  # a merged model is hollow
        figure.clear()
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        canvas.mark(axes, 0, 0, replace(look_of(name), fill=fill), 20, hollow=hollow)
        figure.canvas.draw()
        seen.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].tobytes())
    assert len(set(seen)) == len(seen)


def test_a_method_that_the_table_does_not_list_has_a_look_by_its_name_that_no_other_has():
    names = [f"method_{at}" for at in range(100)]
    chosen = looks(names, "").values()
    assert not {(look.colour, look.marker) for look in chosen} & set(LISTED.values())
    assert len({(look.colour, look.marker) for look in chosen}) == 100
    assert look_of("method_7").colour == look_of("method_7", ["ours", "lora"]).colour


def test_many_methods_fall_into_groups_of_their_kind():
    names = ["full", "lora(rank=1)", "ia3", *(f"dora(rank={at})" for at in range(9)), "bitfit", "lora(rank=2)"]
    assert len(names) > MANY
    assert [(title, len(members)) for title, members in groups(looks(names, ""), names, 8)] == [
        ("whole model", 1), ("lora", 2), ("biases, scales and ladders", 2), ("dora", 5), ("dora", 4),
    ]  # fmt: skip
    alone = ["full", "head", "lora", "ia3", "bitfit"]
    assert groups(looks(alone, ""), alone, 8)[0] == ("whole model, low rank", ["full", "head", "lora"])


def test_looks_of_methods_that_the_table_does_not_list_depend_on_no_order():
    names = [f"package/method_{at}" for at in range(100)]
    assert looks(names, "") == {name: looks(names[::-1], "")[name] for name in names}


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
                    "peft('LORA', …, use_quantised…", "lora(rank=8)", "not a call at …ng for a figure"]  # fmt: skip


def test_a_first_argument_that_no_other_has_stands_alone_where_the_rest_is_too_long():
    labels = [
        "peft(peft_type='OFT', oft_block_size=32, r=0, target_modules=['query', 'value'])",
        "peft(peft_type='LILY', target_modules=['query', 'value'])",
    ]
    assert [look.text for look in looks(labels, "").values()] == ["peft('OFT', …)", "peft('LILY', …)"]


def test_long_lists_are_counted_and_no_two_methods_share_a_text():
    labels = [
        "lora(rank=4, targets=['query', 'key', 'value', 'output'])",
        "lora(rank=9, targets=['query', 'key', 'value'])",
        "lora(rank=9, targets=['query', 'key', 'output'])",
    ]
    told = [look.text for look in looks(labels, "").values()]
    assert told[0] == "lora(4, 4 targets)"
    (alone,) = looks(["lora(targets=['query', 'key', 'value', 'output', 'ffn_in', 'ffn_out'])"], "").values()
    assert alone.text == "lora(6 targets)"
    assert len(set(told)) == 3 and max(map(len, told)) <= LONGEST + 3
