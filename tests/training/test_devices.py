"""Two devices train as one does: processes that talk by gloo, dropout off, on the same batches."""

import atexit
import dataclasses
import functools
import itertools
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from bench.count.step import set_dropout
from bench.errors import BenchError
from bench.method import Method
from bench.models import backbone
from bench.models.head import TaskModel, make_head
from bench.models.text import IGNORED, TextHead, text_backbone, with_targets
from bench.plan.load import load_suite, parse_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.registry import make
from bench.store.environment import check_devices
from bench.training.cell import run_cell
from bench.training.devices import Alone, Shares, joined, part_of
from bench.training.loop import Recipe, train
from bench.training.ranks import Lost, side_by_side
from methods import BUILTIN
from tests.factories.methods import sized
from tests.methods.families import batch, tiny

RECIPE = Recipe(
    steps=4, batch_size=4, max_length=10, learning_rate=1e-3, head_learning_rate=1e-2, warmup=0.3, weight_decay=0.01,
    gradient_clip=0.1,
)  # fmt: skip
WITHIN = 1e-6
"""By which a loss may differ from that of one process."""
CANNOT_SHARE = {"adalora": "regularizer() of the method reads weights", "vera": "stands in layer 1 and in layer 2"}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, and on what."""

    method: str
    parts: int = 1
    rows: int = 4
    text: bool = False
    weighted: bool = False
    """Whether classes have weights of their own."""

    @property
    def name(self):
        said = [f"{self.parts} parts"] * (self.parts > 1) + [f"{self.rows} rows"] * (self.rows != 4)
        return ", ".join([self.method, *said, *["text"] * self.text, *["weighted"] * self.weighted])


CASES = [
    *map(Case, BUILTIN), Case("lora", parts=2), Case("lora", rows=5), Case("lora", weighted=True),
    Case("lora", text=True), Case("full", text=True, parts=2),
]  # fmt: skip


def model_of(case, team):
    torch.manual_seed(0)
    method, config = make(case.method, sized(case.method))
    bare = language_model() if case.text else tiny("bert")
    team.meet(bare)
    head = TextHead(bare.config, "target") if case.text else make_head(bare, 2, dropout=0.0)
    if case.weighted:
        head.class_weights = torch.tensor([0.5, 3.0])
    model = TaskModel(method.apply(bare, config), head)
    set_dropout(model, 0.0)
    return method, model


def language_model():
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**shape, intermediate_size=64, max_position_embeddings=64, use_cache=False)
    return text_backbone(AutoModelForCausalLM.from_config(config).eval()).requires_grad_(False)


def batches(case):
    for seed in itertools.count():
        given = batch(rows=case.rows, seed=seed)
        if not case.text:
            yield {**given, "labels": torch.tensor([0, 1, 1, 0, 1])[: case.rows]}
            continue
        labels = given["input_ids"].clone()
        for row in range(case.rows):  # rows have unequally many targets
            labels[row, : 1 + 2 * row] = IGNORED
        yield with_targets({**given, "labels": labels}, shifted=True)


def trained(case, team):
    """Losses of each step, and a few numbers of each weight that came out."""
    method, model = model_of(case, team)
    recipe = dataclasses.replace(RECIPE, gradient_accumulation=case.parts)
    losses = train(model, method, model.body, batches(case), recipe, team=team)
    weights = {name: p.detach().flatten()[:3].tolist() for name, p in model.named_parameters() if p.requires_grad}
    return losses, weights


class Aside(Method):
    """Has a parameter that never enters the loss, beside one that does."""

    def apply(self, backbone, config):
        backbone.aside = torch.nn.Parameter(torch.zeros(3))
        backbone.embeddings.LayerNorm.bias.requires_grad_(True)
        return backbone


def aside(team):
    """What becomes of it."""
    bare = tiny("bert")
    model = TaskModel(Aside().apply(bare, None), make_head(bare, 2, dropout=0.0))
    try:
        train(model, Aside(), model.body, batches(CASES[0]), RECIPE, team=team)
    except BenchError as error:
        return str(error)


class OneRow(Method):
    """Trains one vector that it keeps as a row: of two devices, one has all of it and the other nothing."""

    def apply(self, backbone, config):
        backbone.embeddings.row = torch.nn.Parameter(torch.zeros(1, backbone.config.hidden_size))
        backbone.embeddings.register_forward_hook(lambda module, given, made: made + module.row)
        return backbone


def one_row(team):
    """Losses of it."""
    torch.manual_seed(0)
    bare = tiny("bert")
    bare.requires_grad_(False)
    team.meet(bare)
    model = TaskModel(OneRow().apply(bare, None), make_head(bare, 2, dropout=0.0))
    set_dropout(model, 0.0)
    return train(model, OneRow(), model.body, batches(CASES[0]), RECIPE, team=team)


def in_company(meeting, rank, send):
    """In each of two processes: every case, alone and together."""
    torch.set_num_threads(1)
    with joined(rank, 2, device="cpu", shard=False, meeting=Path(meeting), seconds=3600) as replicas:
        for case in CASES:
            found = [trained(case, Alone()), trained(case, replicas)]
            try:
                found.append(trained(case, Shares(rank, 2, "cpu")))
            except BenchError as error:
                found.append(str(error))
            if rank == 0:
                send((case.name, found))
        told = {"aside": aside(replicas), "one row": (one_row(Alone()), one_row(Shares(rank, 2, "cpu")))}
        for said in told.items() if rank == 0 else ():
            send(said)


@pytest.fixture(scope="module")
def company(tmp_path_factory):
    meeting = tmp_path_factory.mktemp("company") / "meeting"
    return dict(said for _, said in side_by_side(functools.partial(in_company, str(meeting)), 2))


# Training


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_losses_of_replicas_are_those_of_one_process(company, case):
    (alone, weights), (together, others), _ = company[case.name]
    assert together == pytest.approx(alone, abs=WITHIN)
    for name, values in weights.items():
        assert others[name] == pytest.approx(values, abs=1e-4), name


@pytest.mark.parametrize("case", [c for c in CASES if c.method not in CANNOT_SHARE], ids=lambda case: case.name)
def test_losses_of_devices_that_share_the_weights_are_those_of_one_process(company, case):
    (alone, weights), _, (together, others) = company[case.name]
    assert together == pytest.approx(alone, abs=WITHIN)
    assert others.keys() == weights.keys()  # the whole model is back, under its own names
    for name, values in weights.items():
        assert others[name] == pytest.approx(values, abs=1e-4), name


@pytest.mark.parametrize(("name", "words"), CANNOT_SHARE.items())
def test_a_method_that_reads_weights_elsewhere_does_not_share_them(company, name, words):
    assert words in company[name][2]
    assert "leave shard out" in company[name][2]


def test_a_weight_of_one_row_is_shared_by_one_device_and_trains(company):
    alone, shared = company["one row"]
    assert shared == pytest.approx(alone, abs=WITHIN)


def test_a_parameter_that_never_enters_the_loss_is_told_of_and_not_waited_for(company):
    assert company["aside"].startswith("a parameter that is set to train got no gradient in a step")
    assert aside(Alone()).startswith("parameter 'aside' is set to train but gets no gradient")


@pytest.mark.parametrize("text", [False, True], ids=["classes", "text"])
def test_parts_of_a_batch_make_up_its_loss(text):
    case = Case("full", rows=5, text=text)
    _, model = model_of(case, Alone())
    whole = next(batches(case))
    parts = [part_of(whole, number, 3) for number in range(3)]
    weighed = sum(model.loss(part).item() * model.averaged_over(part) for part in parts)
    assert weighed / model.averaged_over(whole) == pytest.approx(model.loss(whole).item(), abs=1e-6)
    assert [len(part["labels"]) for part in parts] == [2, 2, 1]


# Cells


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A backbone without dropout: masks are drawn for each device by itself."""
    file = tmp_path_factory.mktemp("still") / "config.json"
    values = backbone.configuration(backbone.resolve("tiny", "random")).to_dict()
    file.write_text(json.dumps(values | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return backbone.resolve(str(file), "random")


def cell_of(spec, **recipe):
    suite = select(load_suite("smoke"), Selection(methods=("lora(rank=8)",), seeds=(0,)))
    (cell,) = (cell for cell in make_plan(suite, "smoke", "cpu").cells if cell.method.name == "lora")
    values = {**cell.recipe, "steps": 3, "head_dropout": 0.0, **recipe}
    return cell.model_copy(update={"backbone": spec, "recipe": values})


def test_a_cell_on_two_devices_scores_as_on_one(still):
    said = []
    alone, _ = run_cell(cell_of(still))
    together, sidecars = run_cell(cell_of(still, devices=2, shard=False), said.append)
    assert (together.status, together.reason) == ("ok", None)
    assert together.losses == pytest.approx(alone.losses, abs=WITHIN)
    assert together.score == pytest.approx(alone.score, abs=1e-2)
    assert together.recipe["devices"] == 2
    assert [line.partition(" loss")[0] for line in said] == ["step 1/3", "step 2/3", "step 3/3"]
    assert len(sidecars.predictions["prediction"]) == together.task.test_rows


def test_a_fault_on_one_device_is_the_reason_of_the_record(still):
    cell = cell_of(still, devices=2, shard=False)
    record, sidecars = run_cell(cell.model_copy(update={"task": cell.task.model_copy(update={"content_sha256": "0"})}))
    assert (record.status, sidecars) == ("failed", None)
    assert "the rows of sst2 changed since the run was planned" in record.reason


def killed(rank, send):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    send("waits")
    signal.pause()


def does_not_end_well(rank, send):
    send(f"done {rank}")
    atexit.register(os.abort)  # as threads of gloo do at times that still run as Python ends


def test_how_a_process_ends_that_has_done_its_work_does_not_matter():
    assert {said for _, said in side_by_side(does_not_end_well, 2)} == {"done 0", "done 1"}


def fails(rank, send):
    raise ValueError(f"of {rank}")


def test_a_process_that_raises_is_named(capfd):
    with pytest.raises(Lost, match=r"process of device [01] ended without a record \(exit code 1\)"):
        list(side_by_side(fails, 2))
    assert "ValueError: of" in capfd.readouterr().err


def test_a_process_that_is_killed_ends_the_others_and_is_named():
    with pytest.raises(Lost, match=r"process of device 1 ended without a record \(killed by SIGKILL\)"):
        list(side_by_side(killed, 2))


def test_devices_that_cannot_talk_to_one_another_are_no_fault_of_the_method(still, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nope")
    record, _ = run_cell(cell_of(still, devices=2, shard=False))
    assert record.status == "failed"
    assert record.reason.startswith("the 2 devices of this machine find no way to talk to one another by gloo (")
    assert record.reason.endswith("; see GLOO_SOCKET_IFNAME, which names the network interface")


# Suites


def planned(**recipe):
    values = {
        "name": "two", "question": "?", "baseline": "full", "seeds": [0], "tasks": ["sst2"], "data": "synthetic",
        "backbone": {"name": "tiny", "weights": "random"}, "method": [{"name": "full"}],
        "recipe": {"steps": 3, "batch_size": 8, "max_length": 24} | recipe,
    }  # fmt: skip
    return make_plan(parse_suite(values, "suite.toml"), "suite.toml", "cpu").cells[0]


def test_one_device_is_no_part_of_a_recipe_and_several_are():
    assert planned().id == planned(devices=1).id
    assert not {"devices", "shard"} & planned().recipe.keys()
    two = planned(devices=2)
    assert two.recipe["devices"] == two.devices == 2
    assert len({planned().id, two.id, planned(devices=2, shard=True).id}) == 3


@pytest.mark.parametrize(("recipe", "words"), [
    ({"devices": 3}, "batch_size = 8 is that of all devices, and 3 of them cannot have the same rows"),
    ({"shard": True}, "shard shares the weights out among several devices; give devices too"),
    ({"devices": 2, "shard": True, "curve_points": 2}, "curve_points reads the model between steps"),
    ({"devices": 0}, "devices"),
])  # fmt: skip
def test_what_cannot_be_shared_out_is_refused_before_anything_runs(recipe, words):
    with pytest.raises(BenchError, match=words):
        planned(**recipe)


def test_costs_of_several_devices_are_refused_with_what_there_is_instead():
    cost = {"batch": 8, "length": 32, "devices": 2}
    values = {"name": "two", "question": "?", "backbone": {"name": "tiny", "weights": "random"},
              "method": [{"name": "full"}], "cost": [cost]}  # fmt: skip
    with pytest.raises(BenchError, match=r"costs are measured on one device; .* predict --devices"):
        parse_suite(values, "suite.toml")


def test_a_cell_under_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    check_devices(1, "cpu")
    with pytest.raises(BenchError, match="torchrun has started several of this command; run it without torchrun"):
        check_devices(2, "cpu")


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BenchError, match="devices = 2: this machine has 1 GPU; lower it"):
        check_devices(2, "cuda")
