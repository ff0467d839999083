"""Experiments of peft's public method comparison, as they lie in its folders, run under this harness."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.registry import make
from tests.factories.command import bench
from tests.methods.comparison import experiments, method_of, trainable
from tools import peft_comparison

EXPERIMENTS = experiments()
LACKS = {
    "bdlora/rank46": "unknown peft_type 'BDLORA'",
    "bone/bat": "unknown peft_type 'BONE'",
    "bone/default": "unknown peft_type 'BONE'",
    "ewora/default": "unknown peft_type 'EWORA'",
    "finegates/default": "unknown peft_type 'FINEGATES'",
    "finegates/sparsity30-lr1e-3": "unknown peft_type 'FINEGATES'",
    "gralora/rank32": "unknown key 'gralora_alpha'",
    "loha/rank32-khatri-rao": "unknown key 'use_khatri_rao'",
    "paca/rank32-all-linear-lr5e-4": "unknown peft_type 'PACA'",
    "paca/rank80-lr3e-4": "unknown peft_type 'PACA'",
    "road/variant2": "variant = '1'; it takes 'road_1' or 'road_2' or 'road_4'",
    "supertuning/s99-supra-r8": "unknown key 'selection_direction'",
    "supertuning/s9935-topk": "unknown key 'selection_direction'",
}
"""What the installed peft has not, or no longer: the comparison follows its development."""
BUILT = [
    "ia3/default", "loha/rank32", "lora/rank10-target-mlp", "lora/rank32",
    "lora/rank32-dora", "lora/rank32-lorafa", "lora/rank32-riemannian", "lora/rank64-rslora", "oft/rank32",
    "prompt_tuning/lr_0.001", "ptuning/default", "vera/default",
]  # fmt: skip
PAGE = Path(__file__).resolve().parents[2] / "docs" / "peft-comparison.md"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_taken_as_it_is_where_the_installed_peft_has_it(name, tmp_path):
    if name in LACKS:
        with pytest.raises(BenchError, match=LACKS[name]):
            method_of(EXPERIMENTS[name], tmp_path)
        return
    _, config = method_of(EXPERIMENTS[name], tmp_path)
    held = {key: value for key, value in EXPERIMENTS[name].adapter.items() if hasattr(config, key)}
    assert held == {key: json.loads(json.dumps(getattr(config, key))) for key in held}
    assert all(not value for key, value in EXPERIMENTS[name].adapter.items() if key not in held)


@pytest.mark.parametrize("name", BUILT)
def test_as_many_parameters_train_as_the_comparison_publishes(name, tmp_path):
    assert EXPERIMENTS[name].trainable is not None
    assert trainable(EXPERIMENTS[name], tmp_path) == EXPERIMENTS[name].trainable


def test_the_command_of_the_page_predicts_what_an_experiment_costs(tmp_path, monkeypatch):
    (command,) = re.findall(r"^python -m bench (.*)$", PAGE.read_text(), flags=re.MULTILINE)
    words = shlex.split(command)
    (path,) = re.findall(r'adapter_config="(.*?)"', words[-1])
    experiment = dataclasses.replace(EXPERIMENTS["lora/rank32"], name=path)
    experiment.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (row,) = json.loads(bench(*words, "--batch", 1, "--seq", 16, "--json").stdout)
    assert row["trainable_parameters"]["method"] == experiment.trainable


@pytest.mark.slow
def test_the_page_is_what_becomes_of_every_experiment():
    """All of them on the shape of Llama 3.2 3B; many minutes."""
    assert PAGE.read_text() == peft_comparison.text()


def made(folder, training, **beside):
    """Configuration of LoRA with rank 8 in a folder with ``training`` beside it."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16}))
    (folder / "training_params.json").write_text(training if isinstance(training, str) else json.dumps(training))
    return make("peft", {"adapter_config": str(folder), **beside})[1]


RATES = {"lr": 1e-4, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({}, (None, None, None)),
        ({"optimizer_kwargs": RATES}, (None, None, None)),
        ({"optimizer_type": "AdamW", "optimizer_kwargs": RATES}, (None, None, None)),
        ({"optimizer_type": "lora-fa", "optimizer_kwargs": {"r": 8, "lora_alpha": 16, **RATES}},
         ("lora-fa", None, None)),
        ({"optimizer_type": "riemannian", "optimizer_kwargs": {"reg": 0.02, **RATES}}, ("riemannian", None, 0.02)),
        ({"optimizer_type": "riemannian"}, ("riemannian", None, None)),
        ({"optimizer_type": "lora+", "optimizer_kwargs": {"optimizer_kwargs": RATES, "loraplus_lr_ratio": 16}},
         ("lora+", 16, None)),
    ],
    ids=str,
)  # fmt: skip
def test_the_optimizer_of_lora_comes_from_the_file_beside_it_and_rates_from_the_suite(training, expected, tmp_path):
    config = made(tmp_path, training)
    assert (config.optimizer_type, config.loraplus_lr_ratio, config.riemannian_reg) == expected
    assert config == make("peft", {"adapter_config": str(tmp_path / "adapter_config.json")})[1]


PLUS = {"optimizer_type": "lora+", "optimizer_kwargs": {"loraplus_lr_ratio": 16}}


@pytest.mark.parametrize(
    ("training", "beside", "expected"),
    [
        ({"optimizer_type": "riemannian"}, {"optimizer_type": "lora-fa"}, ("lora-fa", None, None)),
        (PLUS, {"optimizer_type": "lora-fa"}, ("lora-fa", None, None)),
        (PLUS, {"loraplus_lr_ratio": 4}, ("lora+", 4, None)),
        ({"optimizer_type": "riemannian"}, {"riemannian_reg": 0.5}, ("riemannian", None, 0.5)),
        ({"optimizer_type": "riemannian", "optimizer_kwargs": {"reg": 0.1}},
         {"optimizer_type": "lora+", "loraplus_lr_ratio": 4}, ("lora+", 4, None)),
    ],
    ids=str,
)  # fmt: skip
def test_what_stands_beside_the_path_wins(training, beside, expected, tmp_path):
    config = made(tmp_path, training, **beside)
    assert (config.optimizer_type, config.loraplus_lr_ratio, config.riemannian_reg) == expected


def test_another_type_beside_the_path_has_none_of_lora_s_optimizers(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 4}')
    (tmp_path / "training_params.json").write_text('{"optimizer_type": "riemannian"}')
    assert make("peft", {"adapter_config": str(tmp_path), "peft_type": "HRA"})[1].r == 4
    assert make("peft", {"adapter_config": str(tmp_path), "peft_type": "LORA"})[1].optimizer_type == "riemannian"


@pytest.mark.parametrize("kind", [["LORA"], {"LORA": 1}, 7, True])
def test_a_type_that_is_no_name_is_refused_by_one_sentence(kind, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    with pytest.raises(BenchError, match="unknown peft_type"):
        make("peft", {"adapter_config": str(tmp_path)})


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"optimizer_type": "lora-fa", "optimizer_kwargs": {"r": 16}}, "training_params.json: optimizer_kwargs has r"),
        ({"optimizer_type": "lora+"}, "'lora\\+' needs loraplus_lr_ratio"),
        ({"optimizer_type": "riemannian", "optimizer_kwargs": {"reg": "much"}}, "riemannian_reg = 'much'; it takes"),
        ("{", "training_params.json is no readable JSON"),
        ([1], "training_params.json holds no table"),
    ],
    ids=str,
)
def test_a_file_beside_it_that_makes_no_optimizer_is_refused_by_one_sentence(training, words, tmp_path):
    with pytest.raises(BenchError, match=words):
        made(tmp_path, training)


def test_another_type_s_file_beside_it_is_the_suite_s_business(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    (tmp_path / "training_params.json").write_text('{"optimizer_type": "SGD"}')
    assert make("peft", {"adapter_config": str(tmp_path)})[1].peft_type == "IA3"


@pytest.mark.parametrize("value", [None, False, {}, [], ""])
def test_a_field_that_the_installed_peft_lacks_and_that_asks_for_nothing_is_left_out(value, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "of_tomorrow": value}))
    assert not hasattr(make("peft", {"adapter_config": str(tmp_path)})[1], "of_tomorrow")


@pytest.mark.parametrize("value", [1, 0, 0.0, "no", [0]])
def test_a_field_that_the_installed_peft_lacks_and_that_asks_for_something_is_refused(value, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", "of_tomorrow": value}))
    with pytest.raises(BenchError, match="unknown key 'of_tomorrow'"):
        make("peft", {"adapter_config": str(tmp_path)})
