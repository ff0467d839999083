"""The drawing of where each method sits is current, and nothing in it covers anything else."""

import itertools
from pathlib import Path

import pytest
from matplotlib import pyplot
from matplotlib.text import Text

from tools import drawing

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@pytest.fixture
def boxes():
    """Every text with its box in pixels at a width of 800."""
    figure = drawing.draw()
    figure.set_dpi(100)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.axes.get_visible()]
    yield [(text.get_text(), Text.get_window_extent(text, renderer)) for text in shown]
    pyplot.close(figure)


def test_the_documented_command_draws_exactly_the_committed_drawing(tmp_path):
    drawing.write(tmp_path)
    name = f"{drawing.NAME}.svg"
    assert (tmp_path / name).read_bytes() == (IMAGES / name).read_bytes(), "python -m tools.drawing docs/images"


def test_no_text_covers_another_or_leaves_the_drawing(boxes):
    apart = [(text, box.shrunk(0.98, 0.8)) for text, box in boxes if text not in ("BA", "P", "×")]
    assert not [(one, two) for (one, a), (two, b) in itertools.combinations(apart, 2) if a.overlaps(b)]
    assert not [text for text, box in boxes if box.x0 < 0 or box.x1 > drawing.WIDTH or box.y0 < 0]


def test_every_text_is_legible_at_a_width_of_800_pixels(boxes):
    assert min(box.height / (text.count("\n") + 1) for text, box in boxes) >= 7


def test_every_method_of_the_page_is_drawn_twice_where_it_sits_and_how_far_it_reaches(boxes):
    said = " ".join(text.replace("\n", " ") for text, _ in boxes)
    for name in ("head", "full", "BitFit", "LoRA", "(IA)³", "Houlsby", "Pfeiffer", "P-Tuning v2", "P-Tuning", "LST"):
        assert said.count(name) >= 2, name
