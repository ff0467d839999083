"""A third party's method and task: installed by pip, found by entry point, used like built-in ones; a broken one harms
no other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories.command import forked

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tests" / "plugin_package"

USE = """
import json
import torch
from bench.errors import BenchError
from bench.plan.load import listing, parse_suite
from bench.plan.planner import make_plan
from bench.tasks.catalogue import task
from bench.training.cell import run_cell
from bench.models.head import TaskModel, make_head
from bench.registry import load_method, make, method_names, provenance
from tests.methods.families import batch, tiny

name, broken = "peft-ledger-scale-plugin/scale", "peft-ledger-scale-plugin/broken"
seen = {"names": method_names(), "provenance": provenance(name), "class": load_method(name).__name__}
method, config = make(name, {"shift": True})
backbone = tiny("bert")
bare = backbone(**batch()).last_hidden_state
module = method.apply(backbone, config)
seen["identity"] = torch.equal(module(**batch()).last_hidden_state, bare)
model = TaskModel(module, make_head(backbone, 2))
model.loss(batch() | {"labels": torch.tensor([0, 1, 1])}).backward()
torch.optim.SGD(method.param_groups(module, 0.1)[0]["params"], lr=0.1).step()
delta = method.delta(module)
seen["delta"] = {key: list(value.shape) for key, value in delta.items()}
loaded = method.load_delta(tiny("bert"), config, delta)
again = loaded(**batch()).last_hidden_state
seen["round_trip"] = torch.equal(again, module(**batch()).last_hidden_state) and not torch.equal(again, bare)
for wrong, values in ((name, {"shft": True}), (broken, {})):
    try:
        make(wrong, values, "suite.toml: methods[1]")
    except BenchError as error:
        seen[wrong] = str(error)
seen["listed"] = [row for row in listing("tasks") if row[1] == "third-party task"]
recipe = {"steps": 2, "batch_size": 4, "max_length": 16}
suite = parse_suite(
    {"name": "mine", "question": "?", "tasks": ["peft-ledger-scale-plugin/topics"], "seeds": [0], "baseline": "head",
     "recipe": recipe, "method": [{"name": "head"}], "backbone": {"name": "tiny", "weights": "random"}},
    "suite.toml",
)
(cell,) = make_plan(suite, "suite.toml", "cpu").cells
record, _ = run_cell(cell)
used = record.task
seen["task"] = [record.status, used.name, used.source, used.train_rows + used.test_rows, sorted(used.rows.labels)]
try:
    task(broken)
except BenchError as error:
    seen["broken task"] = str(error)
seen["lora"] = load_method("lora").__name__
print(json.dumps(seen))
"""


def python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder into which pip has installed the package, without a network and without a build backend."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    python("-m", "pip", "install", "--quiet", *options, "--target", str(target), str(PACKAGE))
    return target


@pytest.fixture(scope="module")
def seen(site) -> dict:
    """What a process sees that has the package on its path; torch is loaded in the one that it is a fork of."""

    def use():
        sys.path.insert(0, str(site))
        exec(USE, {})

    return json.loads(forked(use))


def test_listed_behind_the_built_in_methods(seen):
    from methods import BRIDGES, BUILTIN

    assert seen["names"] == [*BUILTIN, *BRIDGES, "peft-ledger-scale-plugin/broken", "peft-ledger-scale-plugin/scale"]


def test_absent_where_the_package_is_not_installed():
    from bench.registry import method_names

    assert not [name for name in method_names() if "scale-plugin" in name]


def test_record_names_the_distribution_and_version(seen):
    assert seen["provenance"] == {"distribution": "peft-ledger-scale-plugin", "version": "0.3.0"}


def test_used_like_a_built_in(seen):
    assert seen["class"] == "OutputScale"
    assert seen["identity"] and seen["round_trip"]
    assert seen["delta"] == {"scale": [32], "shift": [32]}


def test_its_configuration_is_checked(seen):
    message = seen["peft-ledger-scale-plugin/scale"]
    assert message.startswith("suite.toml: methods[1]: peft-ledger-scale-plugin/scale: unknown key 'shft'")
    assert message.endswith("Did you mean 'shift'?")


def test_a_broken_one_fails_only_where_it_is_named(seen):
    message = seen["peft-ledger-scale-plugin/broken"]
    assert "its plug-in cannot be imported (ImportError: needs the library nowhere-to-be-found)" in message
    assert seen["lora"] == "LoRA" and seen["class"] == "OutputScale"


def test_its_task_is_listed_and_runs_on_the_file_in_the_package(seen):
    named = [f"peft-ledger-scale-plugin/{name}" for name in ("broken", "topics")]
    assert seen["listed"] == [[name, "third-party task"] for name in named]
    assert seen["task"] == ["ok", "peft-ledger-scale-plugin/topics", "files", 24, ["billing", "delivery"]]


def test_a_broken_task_says_whose_it_is(seen):
    said = "task 'peft-ledger-scale-plugin/broken', entry point 'peft_ledger_scale.broken:TASK': it cannot be imported"
    assert seen["broken task"].startswith(f"{said} (ImportError: needs the library nowhere-to-be-found)")


def test_listing_imports_no_plug_in(site):
    script = (
        "import sys; from bench.registry import method_names; from bench.tasks.catalogue import task_names; "
        "method_names(); task_names(); print('peft_ledger_scale' in sys.modules)"
    )
    assert python("-c", script, PYTHONPATH=str(site)).strip() == "False"
