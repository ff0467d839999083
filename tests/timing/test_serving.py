"""A batch of mixed tasks is one task after another, for every method; deltas of tasks share one backbone."""

import json

import pytest
import torch

from bench.count.memory import nbytes
from bench.errors import BenchError
from bench.plan.load import parse_suite
from bench.plan.planner import make_plan
from bench.schema.jobs import Probe
from bench.schema.record import ServedBytes
from bench.timing.inference import deploy
from bench.timing.probe import run_probe
from bench.timing.serving import APART, Tasks, answers, check, serving_arm
from tests.factories.methods import METHODS, sized
from tests.methods.adapted import adapt, randomise
from tests.methods.families import CONFIGS, tiny
from tests.methods.peft_types import suited

IDS = torch.arange(5, 5 + 4 * 7).reshape(4, 7)
EACH = torch.tensor([2, 0, 1, 2])
TYPES = ["LORA", "ADALORA", "IA3", "VERA", "MISS", "HIRA", "ROAD", "LN_TUNING", "PROMPT_TUNING"]
CASES = [
    (name, family, sized(name))
    for name in METHODS
    for family in ("bert", "llama")
    if name != "head" and family not in METHODS[name].refused
] + [("peft", family, suited(kind, family)) for kind in TYPES for family in ("bert", "llama")]


def tasks(name, family, count=3, **config):
    method, module = adapt(name, family, **config)
    randomise(module)
    return Tasks(method, method.finalize(module).eval(), count)


@pytest.mark.parametrize(
    ("name", "family", "config"), CASES, ids=[f"{c.get('peft_type', name)}-{family}" for name, family, c in CASES]
)
def test_a_mixed_batch_is_one_task_after_another(name, family, config):
    found = tasks(name, family, **config)
    check(found, IDS, EACH)
    with torch.no_grad():
        one = found.mixed(IDS, torch.zeros(4, dtype=torch.long))
        assert (one - found.mixed(IDS, EACH))[[0, 2, 3]].abs().amax(dim=(1, 2)).gt(0).all(), "tasks answer alike"


@pytest.mark.parametrize("name", ["lora", "ia3", "bitfit"])
def test_merging_task_after_task_gives_the_same_states(name):
    found = tasks(name, "bert", **sized(name))
    with torch.no_grad():
        merged = found.in_turns(IDS, EACH, merged=True)
        torch.testing.assert_close(merged, found.in_turns(IDS, EACH), rtol=1e-4, atol=1e-5)


def test_k_tasks_take_k_deltas_beside_one_backbone():
    method, module = adapt("lora", "bert", rank=4)
    stored = sum(t.numel() * t.element_size() for t in method.delta(module).values())
    assert [Tasks(method, module, count).nbytes for count in (1, 10)] == [stored, 10 * stored]
    apart = torch.cat([t.diff(dim=0).flatten() for t in Tasks(method, module, 10).stacked.values()])
    torch.testing.assert_close(apart.std(), torch.tensor(2**0.5 * APART), rtol=0.05, atol=0)


def test_a_method_that_stores_nothing_has_no_tasks():
    method, module = adapt("head", "bert")
    with pytest.raises(BenchError, match="no tasks to serve"):
        Tasks(method, module, 2)


def test_a_delta_that_is_stored_sparsely_has_no_rows_of_its_own():
    method, module = adapt("peft", "bert", **suited("SHIRA", "bert"))
    with pytest.raises(BenchError, match="no tasks to serve"):
        Tasks(method, module, 2)


def test_a_module_that_writes_into_what_all_rows_share_cannot_mix_tasks():
    with pytest.raises(BenchError, match=r"a batch cannot mix tasks of this method: torch\.func\.vmap: "):
        check(tasks("peft", "bert", **suited("OFT", "bert")), IDS, EACH)


def test_a_module_that_ignores_the_delta_of_a_row_is_found_out():
    found = tasks("lora", "bert", rank=4)
    found._row = lambda delta, ids: torch.func.functional_call(
        found.body, {}, kwargs={"input_ids": ids[None]}
    ).last_hidden_state[0]
    with pytest.raises(BenchError, match="mixed tasks computes something else"):
        check(found, IDS, EACH)


def test_states_that_are_not_finite_end_the_arm():
    with pytest.raises(ArithmeticError, match="the states of k are not finite"):
        serving_arm("k", lambda: torch.tensor([float("nan")]), "cpu").run()


def suite_of(folder, family="bert", methods=("full", "lora", "lst", "head"), **cost):
    model_type, values = CONFIGS[family]
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **values}))
    own = {"lora": {"rank": 2}, "lst": {"reduction": 4}}
    tables = [{"name": name, "config": own[name]} if name in own else {"name": name} for name in methods]
    shape = {"batch": 1, "length": 8, "blocks": 2, "latency_batches": [], "latency_length": 8, "extra_seconds": 0.0,
             "serving": {"tasks": [1, 3], "rows": 4}}  # fmt: skip
    values = {
        "name": "serves", "question": "?", "method": tables,
        "backbone": {"name": str(folder / "config.json"), "weights": "random"}, "cost": [shape | cost],
    }  # fmt: skip
    return parse_suite(values, str(folder / "suite.toml"))


def test_a_probe_serves_as_many_tasks_as_its_suite_asks_for(tmp_path):
    (planned,) = make_plan(suite_of(tmp_path), "suite.toml", "cpu").probes
    probe = Probe.model_validate_json(planned.model_dump_json())  # as a worker reads it
    assert probe == planned
    records = {record.method.name: record for record in run_probe(probe)}
    assert {record.status for record in records.values()} == {"ok"}, [r.reason for r in records.values()]
    bare = tiny("bert")
    backbone = nbytes([*bare.parameters(), *bare.buffers()])
    for name, record in records.items():
        assert record.serving_bytes == {
            f"tasks_{k}": ServedBytes(deltas=k * record.delta_bytes, copies=k * backbone) for k in (1, 3)
        }
        if name == "head":
            assert record.serving_seconds is None
            assert [line for line in record.warnings if line.startswith("no times of serving: no tasks to serve")]
            continue
        times = record.serving_seconds
        assert record.serving_rows == 4 and "serving" in record.aa_control
        for way in (times.mixed, times.in_turns, *([times.merged_in_turns] if name == "lora" else [])):
            assert [*way] == ["tasks_1", "tasks_3"]
            assert all(timing.median > 0 and len(timing.samples) == 2 for timing in way.values())
        assert (times.merged_in_turns is None) == (name in ("lst", "full"))


def test_deltas_that_do_not_fit_are_not_held():
    method, module = adapt("lora", "bert", rank=4)
    said = []
    found = answers(deploy(method, module, torch.nn.Identity()), IDS, [1, 1000], 1_000_000, said)
    assert {number for _, number in found} == {1}
    assert [line.startswith("no times of serving 1000 tasks: their deltas take ") for line in said] == [True]


REFUSED = [
    ({"serving": {"tasks": [1, 1]}}, "bert", r"serving.tasks lists a number twice; list each once"),
    ({"serving": {"tasks": [0]}}, "bert", r"serving.tasks.*0"),
    ({}, "t5", r"cost\[0\].serving: .* has a decoder beside its encoder"),
]


@pytest.mark.parametrize(("cost", "family", "sentence"), REFUSED)
def test_what_cannot_be_served_is_refused_before_anything_runs(tmp_path, cost, family, sentence):
    with pytest.raises(BenchError, match=sentence):
        make_plan(suite_of(tmp_path, family, **cost), "suite.toml", "cpu")
