"""Figures that others published: every experiment is a method of this harness, and orders are rank correlations."""

import pytest

from tests.methods.comparison import experiments
from tools import validation
from tools.validation import LIKE, Counted, orders, published


def test_every_published_experiment_has_a_configuration_or_one_like_it() -> None:
    names = [row["experiment"] for row in published()]
    assert len(set(names)) == len(names) == 63
    assert [name for name in names if LIKE.get(name, name) not in experiments()] == ["full-finetuning/lr_0.00001"]


def test_what_trains_is_published_alike_in_both_files() -> None:
    for row in published():
        name = LIKE.get(row["experiment"], row["experiment"])
        if name in experiments():
            assert experiments()[name].trainable == int(row["published_params"]), name


def test_full_fine_tuning_and_an_experiment_s_folder_are_made(tmp_path) -> None:
    full, _ = validation.method("full-finetuning/lr_0.00001", tmp_path)
    assert type(full).__name__ == "FullFineTuning"
    pytest.importorskip("peft")
    _, config = validation.method("ia3/lr_0.001", tmp_path)
    assert (tmp_path / "ia3" / "default" / "adapter_config.json").is_file()
    assert config is not None


def test_an_order_is_of_what_is_counted_alone() -> None:
    rows = [
        Counted(experiment=str(at), published_step_time_s=at, flops=9 - at, traffic_bytes=at * at,
                estimated_step_seconds=at % 3)
        for at in range(4)
    ]  # fmt: skip
    rows.append(Counted(experiment="lost", published_step_time_s=1.5, not_counted="it starts from values"))
    assert orders(rows) == pytest.approx({"flops": -1, "traffic_bytes": 1, "estimated_step_seconds": 0.1054}, abs=0.01)
