"""Figures that others published: every experiment is a method of this harness, and the page says what the files say."""

import dataclasses
import re

import pytest

from bench.models import backbone
from tests.methods.comparison import experiments
from tools import validation, validation_page
from tools.validation import LIKE, PUBLISHED, counted_rows, counts_of, read


def test_every_published_experiment_has_a_configuration_or_one_like_it() -> None:
    names = [row["experiment"] for row in read(PUBLISHED)]
    assert len(set(names)) == len(names) == 63
    assert [name for name in names if LIKE.get(name, name) not in experiments()] == ["full-finetuning/lr_0.00001"]


def test_what_trains_is_published_alike_in_both_files() -> None:
    for row in read(PUBLISHED):
        name = LIKE.get(row["experiment"], row["experiment"])
        if name in experiments():
            assert experiments()[name].trainable == int(row["published_params"]), name


def test_what_is_counted_to_train_is_what_was_published() -> None:
    published = {row["experiment"]: int(row["published_params"]) for row in read(PUBLISHED)}
    held = {name: row.trainable for name, row in counted_rows().items() if row.trainable is not None}
    assert held
    assert held == {name: published[name] for name in held}


def test_full_fine_tuning_and_an_experiment_s_folder_are_made(tmp_path) -> None:
    full, _ = validation.method("full-finetuning/lr_0.00001", tmp_path)
    assert type(full).__name__ == "FullFineTuning"
    pytest.importorskip("peft")
    _, config = validation.method("ia3/lr_0.001", tmp_path)
    assert (tmp_path / "ia3" / "default" / "adapter_config.json").is_file()
    assert config is not None


def test_the_page_is_current() -> None:
    assert validation_page.PAGE.read_text(encoding="utf-8") == validation_page.page()


def test_rows_of_litgpt_lie_within_their_targets() -> None:
    page = validation_page.page()
    rows = re.findall(r"\| litgpt-\S+-(Q?LoRA)-b\d \|.*\| ([\d.]+) \|\n", page)
    assert len(rows) == len(validation.LITGPT)
    assert all(abs(float(ratio) - 1) <= {"LoRA": 0.10, "QLoRA": 0.15}[kind] for kind, ratio in rows)


def test_a_graph_that_lives_on_holds_what_4_bit_layers_keep() -> None:
    """bitsandbytes of that time kept the input of every product; layers that are not packed leave nothing behind."""
    spec = backbone.shape_of("smollm2-135m")
    plain = validation.LITGPT_SETTING.model_copy(update={"dropout": 0.05})
    packed = plain.model_copy(update={"weights": "nf4", "bitsandbytes": validation.LITGPT_BITSANDBYTES})
    assert validation.graph_bytes(spec, validation.QV, plain) < 512
    a_state = 2 * plain.length * backbone.configuration(spec).hidden_size
    assert validation.graph_bytes(spec, validation.QV, packed) > 30 * 4 * a_state


def test_the_plot_is_current(tmp_path) -> None:
    drawn = tmp_path / validation_page.PLOT.name
    validation_page.draw(drawn)
    assert drawn.read_bytes() == validation_page.PLOT.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora/rank32", "ln_tuning/default"])
def test_a_count_is_what_the_file_says(name: str) -> None:
    pytest.importorskip("peft")
    written = counted_rows()[name]
    assert counts_of(name, padded=written.padded_backward_bytes is not None) == dataclasses.replace(
        written, estimated_step_seconds=pytest.approx(written.estimated_step_seconds)
    )


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_both_readmes_quote_the_page(name: str) -> None:
    page, readme = validation_page.page(), (validation_page.PAGE.parents[1] / name).read_text(encoding="utf-8")
    (median,) = re.findall(r"\| counted / published peak, median \| ([\d.]+) \|", page)
    ((within, counted),) = re.findall(r"\| within 5 % \| (\d+) of (\d+) ", page)
    assert {median, within, counted} <= set(re.findall(r"[\d.]+", readme.partition("validation.md")[0]))
