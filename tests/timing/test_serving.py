"""A batch of mixed tasks is one task after another, for every method; deltas of tasks share one backbone."""

import pytest
import torch

from bench.errors import BenchError
from bench.timing.serving import APART, Tasks, check, serving_arm
from tests.factories.methods import METHODS, sized
from tests.methods.adapted import adapt, randomise
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
    with pytest.raises(BenchError, match="a batch cannot mix tasks of this method: torch.func.vmap: "):
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
