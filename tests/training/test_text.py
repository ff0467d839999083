"""Cells of text: prompt and target are one row, scored as greedy decoding would be; what cannot be is a sentence."""

import itertools
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BertConfig, GPT2Config, T5Config

from bench.count.step import set_dropout
from bench.errors import BenchError
from bench.models.head import TaskModel
from bench.models.text import TextHead, text_backbone
from bench.models.tokenizer import HashingTokenizer
from bench.plan.load import parse_suite
from bench.plan.planner import make_plan
from bench.registry import make
from bench.tasks.rows import Rows
from bench.training.cell import run_cell
from bench.training.loop import Recipe, train
from bench.training.text import TextRows, evaluate_text

GPT2 = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
T5 = T5Config(
    vocab_size=97, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0, eos_token_id=2
)
BERT = BertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
WORDS = ("one", "two", "three", "four", "five", "six")
ROWS = Rows(tuple((f"say {word} again :",) for word in WORDS), tuple(f"{word} {word}" for word in WORDS))


def suite_of(folder, config, method, **recipe):
    (folder / "config.json").write_text(config.to_json_string())
    rows = [{"q": texts[0], "a": label} for texts, label in zip(ROWS.texts, ROWS.labels, strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"name": "echo", "kind": "text", "train": "rows.jsonl", "test": "rows.jsonl", "text": "q", "label": "a",
            "prompt": "{q} "}  # fmt: skip
    values = {
        "name": "echo", "question": "?", "baseline": method, "seeds": [0], "task": [task], "method": [{"name": method}],
        "backbone": {"name": str(folder / "config.json"), "weights": "random"},
        "recipe": {"steps": 60, "batch_size": 6, "max_length": 24, "learning_rate": 1e-2, "warmup": 0.0} | recipe,
    }  # fmt: skip
    return parse_suite(values, str(folder / "suite.toml"))


def cell_of(folder, config, method="full", **recipe):
    (cell,) = make_plan(suite_of(folder, config, method, **recipe), "suite.toml", "cpu").cells
    return cell


@pytest.mark.parametrize("config", [GPT2, T5], ids=["decoder", "encoder-decoder"])
def test_a_language_model_learns_what_it_is_to_write(tmp_path, config):
    record, sidecars = run_cell(cell_of(tmp_path, config, steps=200 if config.is_encoder_decoder else 60))
    assert record.status == "ok", record.reason
    assert record.score == record.metrics["exact_match"] == 1.0
    assert record.metrics["answer_nats"] < 0.2
    assert record.trainable_parameters.head == 0
    assert sidecars.predictions["tokens"] == [3] * 6  # two words and the end
    assert record.task.floor == pytest.approx(1 / 6)
    assert record.task.rows.truncated == 0


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("form", ["full", "target"])
@pytest.mark.parametrize("config", [GPT2, T5], ids=["decoder", "encoder-decoder"])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(config, form, parts):
    """Its rows have one to six targets: the mean is over these, and not over rows."""
    rows = Rows(ROWS.texts, tuple(" ".join(WORDS[:number]) for number in range(1, 7)))
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    batch = TextRows(rows, HashingTokenizer(97), 24, config=config, device="cpu").batch(range(6))
    method, losses = make("full", {})[0], []
    for number in (1, parts):
        torch.manual_seed(0)
        body = text_backbone(auto.from_config(config).double())
        set_dropout(body, 0.0)
        recipe = Recipe(steps=5, batch_size=6, max_length=24, learning_rate=1e-2, head_learning_rate=1e-2, warmup=0.0,
                        weight_decay=0.0, gradient_clip=0.0, gradient_accumulation=number)  # fmt: skip
        losses.append(train(TaskModel(body, TextHead(config, form)), method, body, itertools.repeat(batch), recipe))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("config", [GPT2, T5], ids=["decoder", "encoder-decoder"])
def test_the_loss_is_that_of_transformers_on_the_target_alone(config):
    torch.manual_seed(0)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    plain = auto.from_config(config).eval()
    batch = TextRows(ROWS, HashingTokenizer(97), 24, config=config, device="cpu").batch(range(6))
    inputs = {name: value for name, value in batch.items() if name not in {"positions", "targets", "decoder_input_ids"}}
    expected = plain(**inputs).loss
    model = TaskModel(text_backbone(plain), TextHead(config, "target"))
    torch.testing.assert_close(model.loss(batch), expected)


def test_exact_match_and_nats_are_those_of_the_logits_row_by_row():
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(GPT2).eval()
    rows = TextRows(ROWS, HashingTokenizer(97), 24, config=GPT2, device="cpu")
    nats = []
    for row in range(6):
        batch = rows.batch([row])
        logits = plain(input_ids=batch["input_ids"]).logits[0, :-1]
        told = batch["labels"][0, 1:]
        nats += [
            -torch.log_softmax(logits, -1)[place, told[place]].item() for place in range(len(told)) if told[place] >= 0
        ]
    columns, metrics = evaluate_text(TaskModel(text_backbone(plain), TextHead(GPT2, "target")), rows, batch_size=4)
    assert metrics["answer_nats"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert sum(columns["nats"]) == pytest.approx(sum(nats), rel=1e-5)


def test_a_long_prompt_of_a_decoder_loses_its_beginning_and_keeps_the_target():
    rows = Rows((("a b c d e f g h",),), ("x y",))
    long = TextRows(rows, HashingTokenizer(97), 64, config=GPT2, device="cpu").batch([0])
    cut = TextRows(rows, HashingTokenizer(97), 6, config=GPT2, device="cpu").batch([0])
    assert cut["input_ids"][0].tolist() == long["input_ids"][0, -6:].tolist()
    assert cut["targets"].tolist() == long["targets"].tolist()


def test_a_target_that_leaves_no_room_is_named_with_the_length():
    rows = Rows((("a",),), ("w " * 9,))
    with pytest.raises(
        BenchError, match=r"row 0 has a target of 10 tokens with its end, .* in max_length = 8; raise it"
    ):
        TextRows(rows, HashingTokenizer(97), 8, config=GPT2, device="cpu")


@pytest.mark.parametrize(("config", "words"), [(GPT2, 3), (T5, 4)], ids=["decoder", "encoder-decoder"])
def test_targets_longer_than_the_length_left_are_refused_at_plan(tmp_path, config, words):
    """With its end such a target takes all four tokens of a decoder's row, or more than four."""

    def planned(words):
        suite = suite_of(tmp_path, config, "full", max_length=4)
        rows = (json.dumps({"q": f"say {word}", "a": "so " * (words - 1) + word}) for word in WORDS)
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        return make_plan(suite, "suite.toml", "cpu").cells

    sentence = rf"^recipe of echo: a train row has a target of {words + 1} tokens .* in max_length = 4; raise it$"
    with pytest.raises(BenchError, match=sentence):
        planned(words)
    assert len(planned(words - 1)) == 1


def test_a_task_of_text_on_an_encoder_is_refused_at_plan(tmp_path):
    with pytest.raises(BenchError, match=r"suite\.toml: task echo: objective text trains the next token, and"):
        cell_of(tmp_path, BERT)


def test_values_of_a_head_are_refused_where_there_is_none(tmp_path):
    with pytest.raises(
        BenchError, match=r"recipe\.pooling is of a head, and task echo writes text with the backbone's own"
    ):
        cell_of(tmp_path, GPT2, pooling="mean")
    assert not {"pooling", "dense_head", "head_dropout"} & set(cell_of(tmp_path, GPT2).recipe)


def test_text_and_classes_are_not_scored_in_one_suite(tmp_path):
    suite = suite_of(tmp_path, GPT2, "full")
    both = suite.model_copy(update={"tasks": ("echo", "sst2"), "data": "synthetic"})
    with pytest.raises(BenchError, match=r"task echo writes text and sst2 does not: .* score them in two suites"):
        make_plan(both, "suite.toml", "cpu")
