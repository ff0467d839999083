"""Bits per byte in closed form, before and after training; what cannot be read is a sentence at plan."""

import hashlib
import json
import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast, T5Config

from bench.errors import BenchError
from bench.execute import runner
from bench.models.text import bits_per_byte, windows
from bench.models.tokenizer import HashingTokenizer
from bench.plan.load import parse_suite
from bench.plan.planner import identity, make_plan
from bench.report.sections import claims, scores
from bench.schema.jobs import PlainText
from bench.schema.record import Retention
from bench.tasks import index, plain
from bench.training.cell import run_cell
from bench.verdicts.claims import JudgedResults
from tests.factories.records import results, score

WORDS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
GPT2 = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=256,
                  eos_token_id=256)  # fmt: skip
LORA = "lora(rank=8)"
TEXT = "the café is open, and so is the bar: 10 til late"


def tokenizer_of_bytes():
    """Each byte is one token."""
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(WORDS)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=WORDS[-1], pad_token=WORDS[-1])


# in closed form


@pytest.mark.parametrize("context", [2, 5, 7, 10, 512])
def test_uniform_logits_need_the_logarithm_of_the_vocabulary_for_each_token(context):
    cut = windows(tokenizer_of_bytes(), "plain text", context)
    whole = [min(context, 10 - start) for start in range(0, 10, context)]
    assert [len(window.ids) for window in cut] == [length for length in whole if length > 1]
    assert [window.written for window in cut] == [length - 1 for length in whole if length > 1]
    assert bits_per_byte(lambda ids: torch.zeros(1, ids.shape[1], 257), cut) == pytest.approx(math.log2(257))


def test_a_bigram_table_gives_the_bits_of_its_pairs_within_windows_alone():
    tokenizer = tokenizer_of_bytes()
    a, b = tokenizer("ab", add_special_tokens=False)["input_ids"]
    table = torch.full((257, 257), -math.inf)
    table[a, a], table[a, b], table[b, a] = math.log(0.25), math.log(0.75), math.log(1.0)
    bits = bits_per_byte(lambda ids: table[ids], windows(tokenizer, "aababaab", 5))
    # aa ab ba ab, and of the second window aa ab: the pair of the two windows is not asked for
    assert bits == pytest.approx((2 * -math.log2(0.25) + 3 * -math.log2(0.75)) / 6)


def test_longer_tokens_count_their_bytes_and_those_of_a_window_s_first_do_not():
    made = Tokenizer(models.BPE({**{word: n for n, word in enumerate(WORDS)}, "th": 257, "the": 258},
                                [("t", "h"), ("th", "e")]))  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    cut = windows(tokenizer, "the the théthe", 3)
    assert [[tokenizer.convert_ids_to_tokens(one) for one in window.ids] for window in cut] == [
        ["the", "Ġ", "the"], ["Ġ", "th", "Ã"], ["©", "the"]
    ]  # fmt: skip
    assert [window.written for window in cut] == [4, 4, 3]  # of é, which a window cuts, both bytes count once


def test_a_text_without_two_tokens_and_a_tokenizer_without_places_are_refused():
    with pytest.raises(BenchError, match="a text of 1 token has nothing to count; give a longer one"):
        windows(tokenizer_of_bytes(), "x", 8)
    with pytest.raises(BenchError, match="bits per byte need a tokenizer that says where in the text each token lies"):
        windows(HashingTokenizer(97), TEXT, 8)


# in a cell


@pytest.fixture(scope="module")
def uniform(tmp_path_factory):
    """A language model whose embeddings, tied, are zero: whatever it reads, all tokens are equally likely."""
    folder = tmp_path_factory.mktemp("uniform")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2)
    torch.nn.init.zeros_(model.transformer.wte.weight)
    model.save_pretrained(folder)
    tokenizer_of_bytes().save_pretrained(folder)
    (folder / "text.txt").write_text(TEXT)
    rows = [{"q": f"say {word}:", "a": word} for word in ("one", "two", "six")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def plan_of(folder, baseline="full", retention=None, **changes):
    task = {"name": "echo", "kind": "text", "train": "rows.jsonl", "test": "rows.jsonl", "text": "q", "label": "a"}
    values = {
        "name": "kept", "question": "?", "baseline": baseline, "seeds": [0], "task": [task],
        "method": [{"name": baseline}], "backbone": {"name": str(folder)},
        "recipe": {"steps": 3, "batch_size": 3, "max_length": 16, "learning_rate": 1e-2, "warmup": 0.0},
    } | changes  # fmt: skip
    if retention is not False:
        values["retention"] = {"texts": ["text.txt"], "context": 16} | (retention or {})
    return make_plan(parse_suite(values, str(folder / "suite.toml")), "suite.toml", "cpu")


def test_before_is_the_backbone_s_and_after_is_the_trained_model_s(uniform):
    plan = plan_of(uniform)
    record, _ = run_cell(plan.cells[0])
    assert record.status == "ok", record.reason
    kept = record.retention["text.txt"]
    assert kept.before == pytest.approx(math.log2(257), rel=1e-6)
    assert kept.after != pytest.approx(kept.before, rel=1e-3)
    assert (kept.bytes, kept.context) == (len(TEXT.encode()), 16)
    assert kept.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    asked = {"texts": ["text.txt"], "context": 16, "most_bytes": 20_000, "on_the_way": False}
    assert plan.suite.plain()["retention"] == asked


def test_the_bare_backbone_is_read_once_a_run(uniform):
    first, second = plan_of(uniform, seeds=[0, 1]).cells
    (other,) = plan_of(uniform, retention={"context": 8}).cells
    read = runner.base_of(first, [run_cell(first)[0]])
    before = {"text.txt": pytest.approx(math.log2(257), rel=1e-6)}
    assert runner.with_base(second, read).retention.before == before
    assert runner.with_base(other, read) == other
    assert runner.with_base(second, {}) == second


def test_a_cell_that_is_handed_what_another_has_read_does_not_read_the_backbone(uniform):
    (cell,) = plan_of(uniform).cells
    handed = cell.model_copy(update={"retention": cell.retention.model_copy(update={"before": {"text.txt": 7.5}})})
    assert run_cell(handed)[0].retention["text.txt"].before == 7.5
    assert identity(handed) == cell.id


def test_texts_decide_the_identity_of_a_cell_and_their_place_does_not(uniform, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "other.txt").write_text(TEXT + " and later")
    (here,), (there,) = (
        plan_of(uniform, retention={"texts": [str(at / "text.txt")]}).cells for at in (uniform, tmp_path)
    )
    (other,) = plan_of(uniform, retention={"texts": [str(tmp_path / "other.txt")]}).cells
    (bare,) = plan_of(uniform, retention=False).cells
    assert here.id == there.id
    assert len({here.id, other.id, bare.id}) == 3
    (tmp_path / "text.txt").write_text("another text of the same place")
    record, _ = run_cell(there)
    assert record.reason == "the text text.txt changed since the run was planned; begin with --fresh"


# texts


def test_the_editorials_are_sentences_in_their_order_a_paragraph_each(monkeypatch):
    content = b"1_1\t0.5\tFirst &amp; foremost.\r\n1_2\t-1\tThen more.\r\n2_1\t0\tAnother one."
    monkeypatch.setattr(index, "_content", lambda name: (content, name))
    assert index.editorials() == "First & foremost. Then more.\n\nAnother one."
    (text,) = plain.found(["editorials"], 17, "suite.toml")
    assert (text.name, text.bytes, text.path) == ("editorials", 17, None)
    assert plain.read(text) == "First & foremost."


def test_a_character_is_not_cut(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("aé中")
    for most, kept in ((1, "a"), (2, "a"), (3, "aé"), (5, "aé"), (6, "aé中"), (99, "aé中")):
        (text,) = plain.found([str(path)], most, "suite.toml")
        assert plain.read(text) == kept
        assert text.bytes == len(kept.encode())


REFUSED = {
    "no file": ({"texts": ["novel.txt"]}, r"retention\.texts: .*novel\.txt cannot be read .*one of: editorials"),
    "not text": ({"texts": ["bytes.bin"]}, r"retention\.texts: .*bytes\.bin is not UTF-8 \(byte 1\)"),
    "empty": ({"texts": ["empty.txt"]}, r"retention\.texts: .*empty\.txt has no text in the bytes that are read"),
    "twice": ({"texts": ["text.txt", "./text.txt"]}, r"retention\.texts: text\.txt is listed twice"),
    "long": ({"context": 64}, r"suite\.toml: retention: 64 tokens need 64 positions, .* 32; context 32 is the longest"),
    "none": ({"texts": []}, r"retention\.texts: must be a list of 1 or more"),
    "key": ({"text": "x"}, r"unknown key 'text'"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_table_that_cannot_be_read_is_one_sentence(uniform, fault):
    (uniform / "bytes.bin").write_bytes(b"x\xff\xfe and more")
    (uniform / "empty.txt").write_text("\n")
    changes, sentence = REFUSED[fault]
    with pytest.raises(BenchError, match=sentence):
        plan_of(uniform, retention=changes)


def test_what_has_no_language_model_to_ask_is_refused(uniform, tmp_path):
    with pytest.raises(BenchError, match="has random weights, which know nothing to forget"):
        plan_of(uniform, backbone={"name": "gpt2", "weights": "random"})
    plan = plan_of(uniform)
    assert plan.cells[0].retention.texts[0] == PlainText(
        name="text.txt", sha256=hashlib.sha256(TEXT.encode()).hexdigest(), bytes=len(TEXT.encode()),
        path=str(uniform / "text.txt"),
    )  # fmt: skip
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    from transformers import AutoModelForSeq2SeqLM

    config = T5Config(vocab_size=257, eos_token_id=256, pad_token_id=256, **sizes)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    tokenizer_of_bytes().save_pretrained(tmp_path)
    for name in ("rows.jsonl", "text.txt"):
        (tmp_path / name).write_bytes((uniform / name).read_bytes())
    with pytest.raises(BenchError, match=r"retention: .* has an encoder, and a plain text alone is read by decoders"):
        plan_of(tmp_path)
    with pytest.raises(BenchError, match="retention is read before and after training, and there are no tasks"):
        plan_of(uniform, task=[], tasks=[], cost=[{"batch": 1, "length": 8}])


# in a report


def kept(label, seed, after):
    read = Retention(before=1.0, after=after, bytes=20_000, context=512, sha256="0" * 64)
    made = score(label, "dates", seed, source="generated", content="c", flags=[])
    return made.model_copy(update={"retention": {"editorials": read}})


def test_a_report_shows_what_each_method_has_forgotten():
    run = results([kept("full", 0, 1.5), kept("full", 1, 1.7), kept("lora(rank=8)", 0, 1.25)])
    table = run.retention_table.loc["full"].iloc[0]
    assert (table["n"], table["before"]) == (2, 1.0)
    assert table["forgotten"] == pytest.approx(0.6)
    assert table["low"] < 0.6 < table["high"]
    section = scores.retention(run)
    told = str(section)
    assert "editorials (20,000 bytes in windows of 512 tokens)" in told
    assert "+0.250" in told
    assert scores.retention(results([score("full", "dates", 0)])) is None


# claims

CLAIM = {"name": "c", "says": "LoRA forgets less than full", "metric": "retention.editorials", "method": LORA,
         "versus": "full", "difference": {"max": 0.0}}  # fmt: skip


def told_of(records, **changes):
    run = results(records, ["full", LORA], tasks=["dates"], claims=[CLAIM | changes])
    return claims.tell(JudgedResults(run.run))[0]


@pytest.mark.parametrize(
    ("lora", "seeds", "verdict", "figures"),
    [
        (1.1, 5, "pass", "-0.400 bits per byte [-0.400, -0.400]"),
        (1.9, 5, "fail", "+0.400 bits per byte [+0.400, +0.400]"),
        (1.1, 2, "inconclusive", "-0.400 bits per byte [-0.400, -0.400]"),
    ],
)
def test_who_forgets_less_is_decided_by_paired_seeds(lora, seeds, verdict, figures):
    records = [kept("full", seed, 1.5 + seed / 100) for seed in range(seeds)]
    told = told_of([*records, *(kept(LORA, seed, lora + seed / 100) for seed in range(seeds))])
    assert (told.verdict, told.figures) == (verdict, figures)
    assert claims.how_of(told.metric) == "bits per byte"
    assert ("2 seeds (5 needed)" in told.why) == (seeds == 2)


def test_a_doubtful_training_decides_nothing_about_what_was_forgotten():
    records = [kept("full", seed, 1.5) for seed in range(5)]
    short = [kept(LORA, seed, 1.1).model_copy(update={"flags": ("still_improving",)}) for seed in range(5)]
    assert told_of([*records, *short]).verdict == "inconclusive"
    assert told_of(records).why == f"no reading of editorials that {LORA} and full share"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric": "retention.novels"}, "claim 'c': the suite reads no text 'novels'; it reads text.txt"),
        (
            {"metric": "retention.text.txt", "difference": None, "ratio": {"max": 1.0}},
            "a score is compared by difference",
        ),
        ({"metric": "retention.text.txt", "length": 8}, "length applies to costs only"),
    ],
)
def test_a_claim_that_no_text_could_decide_is_refused(uniform, changes, sentence):
    claim = {key: value for key, value in (CLAIM | {"method": "head"} | changes).items() if value is not None}
    with pytest.raises(BenchError, match=sentence):
        plan_of(uniform, claim=[claim], method=[{"name": "full"}, {"name": "head"}])
