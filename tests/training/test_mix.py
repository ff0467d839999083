"""General text among the rows of a task: how many rows, which, disjoint from what is read, and told apart by label."""

import itertools
import json
import tomllib

import pytest
import torch
from transformers import AutoModelForCausalLM, T5Config

from bench.errors import BenchError
from bench.models.tokenizer import HashingTokenizer
from bench.plan.load import _moved, parse_suite
from bench.plan.planner import make_plan, plan_search
from bench.plan.select import Selection, select
from bench.schema.jobs import PlainText
from bench.tasks import index, plain
from bench.training.cell import run_cell
from bench.training.mix import MixedBatches, pieces
from bench.training.text import TextRows
from tests.training.test_retention import GPT2, tokenizer_of_bytes
from tests.training.test_text import ROWS

GENERAL = "\n\n".join(f"paragraph {n} of a text about ships and the sea, with its {n} harbours" for n in range(20))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny language model of bytes, a task of three rows, a general text and another one to be read."""
    made = tmp_path_factory.mktemp("mixed")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(GPT2).save_pretrained(made)
    tokenizer_of_bytes().save_pretrained(made)
    (made / "general.txt").write_text(GENERAL)
    (made / "read.txt").write_text("Something else entirely, about bread and the people who bake it every morning.")
    rows = [{"q": f"say {word}:", "a": word} for word in ("one", "two", "six", "ten", "cat", "dog")]
    (made / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def suite_of(folder, *, mix=None, text=None, **changes):
    """A suite of full, and of full with ``mix``; where that lists share 0 the first is in the second."""
    task = {"name": "echo", "kind": "text", "train": "rows.jsonl", "test": "rows.jsonl", "text": "q", "label": "a"}
    recipe = {"steps": 6, "batch_size": 3, "max_length": 16, "learning_rate": 1e-2, "warmup": 0.0}
    if mix is not None:
        recipe["mix"] = {"text": "general.txt", "length": 8} | (text or {})
    methods = [] if mix is None else [{"name": "full", "mix": mix}]
    if mix is None or not isinstance(mix["share"], list) or 0 not in mix["share"]:
        methods.insert(0, {"name": "full"})
    values = {
        "name": "mixed", "question": "?", "baseline": "full", "seeds": [0], "task": [task],
        "method": methods, "backbone": {"name": str(folder)},
        "recipe": recipe,
    }  # fmt: skip
    values = {key: value for key, value in (values | changes).items() if value is not None}
    return parse_suite(values, str(folder / "suite.toml"))


def plan_of(folder, **asked):
    return make_plan(suite_of(folder, **asked), "suite.toml", "cpu")


# how many rows


@pytest.mark.parametrize(
    ("share", "hold", "rows"),
    [
        (0.1, "total", (20, 72, 8)),
        (0.5, "total", (20, 40, 40)),
        (0.01, "total", (20, 79, 1)),
        (0.5, "domain", (40, 80, 80)),
        (0.25, "domain", (27, 80, 27)),
        (0.01, "domain", (21, 80, 1)),
    ],
)
def test_total_keeps_the_steps_and_domain_keeps_the_rows_of_the_task(share, hold, rows):
    assert plain.mixed_rows(20, 4, share, hold) == rows
    steps, domain, general = rows
    assert abs(general / (domain + general) - share) <= 0.5 / (domain + general)
    assert steps == -(-(domain + general) // 4)


def test_a_share_of_no_row_and_one_of_all_rows_are_refused():
    with pytest.raises(ValueError, match=r"a share of 0.01 is no row of 40; raise it, or steps"):
        plain.mixed_rows(10, 4, 0.01, "total")
    with pytest.raises(ValueError, match=r"a share of 0.99 leaves no row of the task among 8; lower it"):
        plain.mixed_rows(2, 4, 0.99, "total")


# which rows


def batches_of(folder, seed=0, **mix):
    _, cell = plan_of(folder, mix={"share": 0.5} | mix, seeds=[seed]).cells
    rows = TextRows(ROWS, HashingTokenizer(97), 24, config=GPT2, device="cpu")
    mixed = MixedBatches(cell, rows, HashingTokenizer(97))
    return rows, mixed, list(mixed)


def told(rows):
    return [tuple(row[row != 0].tolist()) for batch in rows for row in batch["input_ids"]]


@pytest.mark.parametrize("hold", ["total", "domain"])
def test_rows_of_the_task_come_in_the_order_that_they_have_without_a_mix(folder, hold):
    rows, mixed, batches = batches_of(folder, hold=hold)
    own = told(rows.batch([row]) for row in range(len(rows)))
    seen = [row for row in told(batches) if row in own]
    assert seen == told(itertools.islice(rows.shuffled(3, 0), 6))[: len(seen)]
    used = mixed.used()
    assert (len(batches), used.domain_rows, used.general_rows) == ((6, 9, 9) if hold == "total" else (12, 18, 18))
    assert len(seen) == used.domain_rows
    assert used.domain_targets == 3 * used.domain_rows  # two words and the end
    assert sum(len(batch["targets"]) for batch in batches) == used.domain_targets + used.general_targets


def test_a_seed_draws_the_same_rows_again_and_another_seed_others(folder):
    first, again, other = (told(batches_of(folder, seed)[2]) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_row_of_general_text_is_a_piece_of_one_paragraph_whose_every_token_but_the_first_is_a_target():
    tokenizer = HashingTokenizer(97)
    found = pieces("one two three four five\n\nsix seven\n\neight", tokenizer, 3)
    words = tokenizer(["one two three four five six seven"], truncation=False, max_length=0, add_special_tokens=False)
    ids = words["input_ids"][0]
    assert [piece[: len(row)] for piece, row in zip(found, (ids[:3], ids[3:5], ids[5:7]), strict=False)] == [
        ids[:3], ids[3:5], ids[5:7]
    ]  # fmt: skip
    rows = TextRows(ROWS, tokenizer, 24, config=GPT2, device="cpu").beside([ids[:3]])
    batch = rows.batch([len(ROWS)])
    assert batch["input_ids"][0].tolist() == ids[:3]
    assert batch["targets"].tolist() == ids[1:3]
    assert batch["positions"].tolist() == [0, 1]
    with pytest.raises(BenchError, match=r"the text of recipe\.mix has no paragraph of two tokens; name a longer one"):
        pieces("\n\n", tokenizer, 3)


# a cell


def test_a_share_of_nothing_is_the_method_without_a_mix_bit_for_bit(folder):
    bare, mixed = plan_of(folder), plan_of(folder, mix={"share": [0, 0.5]})
    assert [cell.method.label for cell in mixed.cells] == ["full", "full(mix=0.5)"]
    assert mixed.cells[0].id == bare.cells[0].id
    assert mixed.cells[0].recipe == bare.cells[0].recipe
    assert run_cell(mixed.cells[0])[0].losses == run_cell(bare.cells[0])[0].losses


def test_a_record_says_what_was_mixed_in(folder):
    plan = plan_of(folder, mix={"share": [0, 0.5]}, retention={"texts": ["read.txt"], "context": 8})
    first, half = (run_cell(cell)[0] for cell in plan.cells)
    assert half.status == "ok", half.reason
    assert (half.mixed.text, half.mixed.bytes) == ("general.txt", len(GENERAL.encode()))
    assert (half.mixed.domain_rows, half.mixed.general_rows) == (9, 9)
    assert half.recipe["mix"] == {"text": "general.txt", "share": 0.5, "hold": "total", "length": 8,
                                  "domain_rows": 9, "general_rows": 9}  # fmt: skip
    assert first.mixed is None
    assert first.retention["read.txt"].before == half.retention["read.txt"].before


def test_the_steps_that_domain_adds_are_in_the_work_that_is_counted(folder):
    recipe = {"steps": 6, "batch_size": 3, "max_length": 16, "learning_rate": 1e-2, "curve_points": 1,
              "mix": {"text": "general.txt", "length": 8}}  # fmt: skip
    plan = plan_of(folder, mix={"share": [0, 0.5], "hold": ["total", "domain"]}, recipe=recipe)
    assert [(cell.method.label, cell.recipe["steps"]) for cell in plan.cells] == [
        ("full", 6), ("full(mix=0.5)", 6), ("full(mix=0.5, hold='domain')", 12)
    ]  # fmt: skip
    assert [run_cell(cell)[0].curve[-1].rows for cell in plan.cells] == [18, 18, 36]


@pytest.mark.parametrize(("method", "kept"), [("full", False), ("lora", True)])
def test_texts_are_read_on_the_way_and_the_backbone_is_looked_at_after(folder, method, kept):
    recipe = {"steps": 4, "batch_size": 3, "max_length": 16, "learning_rate": 1e-2, "warmup": 0.0, "curve_points": 2}
    asked = {"method": [{"name": method}], "baseline": method, "recipe": recipe}
    table = {"texts": ["read.txt"], "context": 16}
    alone, record = (
        run_cell(plan_of(folder, retention=table | way, **asked).cells[0])[0] for way in ({}, {"on_the_way": True})
    )
    assert record.status == "ok", record.reason
    assert record.backbone_kept is kept
    assert [{*point.retention} for point in record.curve] == [{"read.txt"}, set()]
    assert record.losses == alone.losses
    assert [point.retention for point in alone.curve] == [{}, {}]
    with pytest.raises(BenchError, match=r"retention\.on_the_way reads at the recipe's curve_points, and there are"):
        plan_of(folder, retention=table | {"on_the_way": True})


# apart from what is read


def test_no_run_of_words_of_what_is_read_is_trained_on():
    shared = "one two three four five six seven eight"
    text = f"A first paragraph.\n\nThen {shared}, and on.\n\nOne two three four five six seven, and nine."
    assert (
        plain.apart(text, [f"It said: {shared}!"])
        == "A first paragraph.\n\nOne two three four five six seven, and nine."
    )
    assert plain.apart(text, []) == text


def test_editorials_that_are_read_are_left_out_of_those_that_are_mixed_in(monkeypatch):
    lines = [f"{n}_1\t0\tThe council of town number {n} met {n} times in spring." for n in range(9)]
    monkeypatch.setattr(index, "_content", lambda name: ("\r\n".join(lines).encode(), name))
    (read,) = plain.found(["editorials"], 150, "suite.toml")
    general = plain.general("editorials", 10_000, [read], "suite.toml")
    left = plain.apart(plain.read(general), [plain.read(read)])
    assert "number 0" not in left and "number 1" not in left
    assert left.startswith("The council of town number 3 met")
    with pytest.raises(BenchError, match=r"every paragraph of editorials has a run of 8 words in common with what"):
        plain.general("editorials", 150, [read], "suite.toml")


def test_a_text_that_changed_ends_the_cell_with_a_sentence(folder, tmp_path):
    (tmp_path / "general.txt").write_text(GENERAL)
    _, cell = plan_of(folder, mix={"share": 0.5}, text={"text": str(tmp_path / "general.txt")}).cells
    assert cell.general == PlainText(
        name="general.txt", sha256=cell.general.sha256, bytes=len(GENERAL.encode()), path=str(tmp_path / "general.txt")
    )
    _, there = plan_of(folder, mix={"share": 0.5}).cells
    assert there.id == cell.id  # where a text lies decides nothing, what it says does
    (tmp_path / "general.txt").write_text(GENERAL.replace("sea", "bay"))
    record, _ = run_cell(cell)
    assert record.reason == "the text general.txt changed since the run was planned; begin with --fresh"


# arms


def test_arms_of_one_method_are_methods_of_scores_and_one_method_of_costs(folder):
    cost = {"batch": 1, "length": 8, "timed": False}
    plan = plan_of(folder, mix={"share": [0, 0.1, 0.5]}, cost=[cost])
    assert plan.suite.methods == ["full", "full(mix=0.1)", "full(mix=0.5)"]
    assert [method.label for method in plan.probes[0].methods] == ["full"]
    assert plan.suite.cost[0].methods == ["full"]
    narrowed = select(suite_of(folder, mix={"share": [0, 0.1, 0.5]}), Selection(methods=("full(mix=0.5)",)))
    assert [method.label for method in narrowed.method] == ["full", "full(mix=0.5)"]


def test_a_search_for_rates_tries_each_method_once_and_without_a_mix(folder):
    tuning = {"learning_rates": [1e-3], "head_learning_rates": [1e-3], "seeds": [7], "selection_rows": 2}
    arms = [{"name": "full", "mix": {"share": [0.1, 0.5]}}]
    suite = suite_of(folder, mix={"share": 0.1}, method=arms, tuning=tuning, baseline="full(mix=0.1)")
    plan = plan_search(suite, "suite.toml", "cpu")
    assert [(cell.method.label, cell.general) for cell in plan.cells] == [("full", None)]


def test_a_suite_that_is_written_elsewhere_names_the_same_texts(tmp_path):
    text = '[retention]\ntexts = ["editorials", "read.txt"]\n[recipe.mix]\ntext = "general.txt"\n'
    moved = tomllib.loads(_moved(text, tmp_path / "here", tmp_path / "there"))
    assert moved["retention"]["texts"] == ["editorials", "../here/read.txt"]
    assert moved["recipe"]["mix"]["text"] == "../here/general.txt"
    assert _moved(text, tmp_path, tmp_path) == text


REFUSED = {
    "no text": ({"mix": {"share": 0.1}, "recipe": {"steps": 2}},
                r"full\(mix=0\.1\) trains on a share of general text; name the text in \[recipe\.mix\]"),
    "no method": ({"recipe": {"steps": 2, "mix": {"text": "general.txt"}}},
                  r"recipe\.mix: no method trains on a share of it; give one mix = \{ share = 0\.1 \}, or remove"),
    "share": ({"mix": {"share": 1.5}}, r"method\[1\]\.mix\.share: must be below 1, not 1\.5"),
    "hold": ({"mix": {"share": 0.1, "hold": "rows"}}, r"method\[1\]\.mix\.hold: must be 'total' or 'domain', not"),
    "key": ({"mix": {"share": 0.1, "shares": 0.1}}, r"method\[1\]\.mix: unknown key 'shares'.* Did you mean 'share'\?"),
    "key of text": ({"mix": {"share": 0.5}, "text": {"file": "x"}}, r"recipe\.mix: unknown key 'file'"),
    "no file": ({"mix": {"share": 0.5}, "text": {"text": "novel.txt"}},
                r"recipe\.mix\.text: .*novel\.txt cannot be read .*one of: editorials, product-reviews"),
    "long": ({"mix": {"share": 0.5}, "text": {"length": 64}},
             r"recipe\.mix\.length = 64 is above max_length = 16 of echo; lower it"),
    "few": ({"mix": {"share": 0.01}}, r"mix of full\(mix=0\.01\) on echo: a share of 0\.01 is no row of 18; raise it"),
    "twice": ({"mix": {"share": [0.5, 0.5]}}, r"method full\(mix=0\.5\) is listed twice; give each its own config"),
    "read": ({"mix": {"share": 0.5}, "retention": {"texts": ["general.txt"], "context": 8}},
             r"recipe\.mix\.text: every paragraph of general\.txt has a run of 8 words in common with what"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_mix_that_cannot_be_is_one_sentence(folder, fault):
    changes, sentence = REFUSED[fault]
    with pytest.raises(BenchError, match=sentence):
        plan_of(folder, **changes)


def test_what_is_no_decoder_of_text_has_no_mix(folder, tmp_path):
    config = T5Config(vocab_size=257, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, eos_token_id=256)
    (tmp_path / "config.json").write_text(config.to_json_string())
    for name in ("rows.jsonl", "general.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    backbone = {"name": str(tmp_path / "config.json"), "weights": "random"}
    with pytest.raises(BenchError, match=r"recipe\.mix: .* has an encoder, and a plain text alone is read by decoders"):
        plan_of(tmp_path, mix={"share": 0.5}, backbone=backbone)
    bert = {"name": "tiny", "weights": "random"}
    with pytest.raises(BenchError, match=r"recipe\.mix: task sst2 trains no language model that could read a text"):
        plan_of(folder, mix={"share": 0.5}, task=None, tasks=["sst2"], data="synthetic", backbone=bert)
