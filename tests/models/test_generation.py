"""Greedy decoding with a KV cache writes, token for token, what a whole forward for each token would."""

import copy
import functools
import itertools

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from bench.anatomy import causal
from bench.errors import BenchError
from bench.models.generation import cache_bytes, check_writes, decode, greedy, prefill
from bench.models.head import TaskModel
from bench.models.text import TextHead, text_backbone
from bench.models.tokenizer import HashingTokenizer
from bench.registry import make
from bench.tasks.rows import Rows
from bench.training.text import TextRows, evaluate_text
from methods import BUILTIN
from tests.factories.methods import METHODS, sized
from tests.methods.adapted import randomise
from tests.methods.families import CONFIGS, EVERY, tiny
from tests.methods.peft_types import OWN, PLAIN, suited

FAMILIES = ("llama", "gpt2", "gemma3_text", "opt")
"""Grouped keys and rotary positions; learned ones by column; a sliding window of 8; learned ones by mask."""
EVERY_CACHE = ("full", "lora", "prefix_tuning", "prompt_tuning", "lst", "houlsby_adapter")
OTHERS = [family for family in EVERY if causal(CONFIGS[family][0]) and family not in FAMILIES]
OF_PEFT = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE", "MULTITASK_PROMPT_TUNING", "CPT", "SHADOW")
PAIRS = [
    (family, name)
    for family in FAMILIES
    for name in BUILTIN
    if family not in METHODS[name].refused and (name in EVERY_CACHE or family in ("llama", "gpt2"))
]
NEW = 12
"""With the prompt more than gemma's window."""


def language_model(family: str) -> PreTrainedModel:
    model_type, values = CONFIGS[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **values, use_cache=False)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=tiny(family).config._attn_implementation)
    with torch.no_grad():
        for parameter in model.parameters():  # at their small start every token would be answered by one and the same
            parameter.mul_(4) if parameter.ndim > 1 else None
    return model.eval()


@functools.cache
def pristine(family: str) -> torch.nn.Module:
    return text_backbone(language_model(family)).requires_grad_(False)


def under_head(body: torch.nn.Module, family: str) -> TaskModel:
    return TaskModel(body, TextHead(pristine(family).config, "target")).eval()


def adapted(family: str, name: str, config: dict | None = None, noise: float = 0.1):
    method, parsed = make(name, sized(name) if config is None else config)
    torch.manual_seed(1)
    return method, randomise(method.apply(copy.deepcopy(pristine(family)), parsed), noise).eval()


def prompts(rows: int = 3, length: int = 5) -> torch.Tensor:
    return torch.randint(5, 96, (rows, length), generator=torch.Generator().manual_seed(2))


def uncached(model: TaskModel, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    length = ids.shape[1]
    with torch.inference_mode():
        for _ in range(new_tokens):
            told = model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            ids = torch.cat([ids, told.argmax(-1, keepdim=True)], dim=1)
    return ids[:, length:]


def check_logits(model: TaskModel) -> None:
    """Hold the logits of a text that nobody wrote, read token by token, against those of one whole forward."""
    text = prompts(length=5 + NEW)
    with torch.inference_mode():
        hidden = model.states({"input_ids": text, "attention_mask": torch.ones_like(text)})
        told = prefill(model, text[:, :5])
        for place in range(5, 5 + NEW):
            expected = model.head.logits(hidden[:, place - 1], model.body)
            torch.testing.assert_close(told.logits, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
            told = decode(model, text[:, place : place + 1], told.cache)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_transformers_generates(family: str) -> None:
    model, ids = language_model(family), prompts()
    model.generation_config = GenerationConfig(max_new_tokens=NEW, do_sample=False, use_cache=True, pad_token_id=0)
    generated = model.generate(ids, attention_mask=torch.ones_like(ids))[:, ids.shape[1] :]
    assert torch.equal(greedy(under_head(pristine(family), family), ids, NEW), generated)


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_cached_is_uncached_token_for_token(family: str, name: str) -> None:
    method, body = adapted(family, name)
    for module in (body, method.finalize(body)):
        model = under_head(module, family)
        assert torch.equal(greedy(model, prompts(), NEW), uncached(model, prompts(), NEW))
        check_logits(model)


@pytest.mark.parametrize(
    ("family", "name"), [(f, n) for f in OTHERS for n in EVERY_CACHE if f not in METHODS[n].refused]
)
def test_every_family_decodes_with_every_kind_of_cache(family: str, name: str) -> None:
    check_logits(under_head(adapted(family, name)[1], family))


@pytest.mark.parametrize("kind", sorted({*PLAIN, *OWN} - {"LILY"}))
def test_every_bridged_type_that_is_causal_decodes_with_a_cache(kind: str) -> None:
    check_logits(under_head(adapted("llama", "peft", suited(kind, "llama"))[1], "llama"))


@pytest.mark.parametrize("kind", OF_PEFT)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridged_prompt_stands_once_in_front_of_the_cache(family: str, kind: str) -> None:
    model = under_head(adapted(family, "peft", suited(kind, family))[1], family)
    check_logits(model)
    assert torch.equal(greedy(model, prompts(), NEW), uncached(model, prompts(), NEW))


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", ["prefix_tuning", "prompt_tuning"])
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_learned_positions_go_on_where_the_prompt_left_them(family: str, name: str, shift: bool) -> None:
    model = under_head(adapted(family, name, {"length": 3, "position_shift": shift})[1], family)
    assert torch.equal(greedy(model, prompts(), NEW), uncached(model, prompts(), NEW))


def test_a_side_network_on_some_layers_has_a_cache_of_these() -> None:
    model = under_head(adapted("gemma3_text", "lst", {"reduction": 4, "layers": [1]})[1], "gemma3_text")
    assert torch.equal(greedy(model, prompts(), NEW), uncached(model, prompts(), NEW))


@pytest.mark.parametrize(
    ("family", "name"), [(f, n) for f in ("llama", "gpt2") for n in BUILTIN if f not in METHODS[n].refused]
)
def test_answers_before_and_after_training_are_those_of_the_base_and_of_the_merged_model(family, name):
    method, config = make(name, sized(name))
    torch.manual_seed(1)
    body = method.apply(copy.deepcopy(pristine(family)), config).eval()
    if method.identity_at_init:
        base = greedy(under_head(pristine(family), family), prompts(), NEW)
        assert torch.equal(greedy(under_head(body, family), prompts(), NEW), base)
    final = method.finalize(randomise(body, 0.05)).eval()
    if (merged := method.merge(final)) is not None:
        written = greedy(under_head(final, family), prompts(), NEW)
        assert torch.equal(greedy(under_head(merged, family), prompts(), NEW), written)


def row_bytes(cache) -> int:
    return cache_bytes(cache) // 3


LAYERS, KEYS = 2, 16
CACHES = [
    ("llama", "full", {}, 0, 1.0),
    ("llama", "prefix_tuning", {"length": 3}, 3, 1.0),
    ("llama", "prompt_tuning", {"length": 3}, 3, 1.0),
    ("llama", "lst", {"reduction": 4}, 0, 1.25),
    ("llama", "peft", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}, 3, 1.0),
]


@pytest.mark.parametrize(("family", "name", "config", "front", "networks"), CACHES)
def test_a_cache_holds_keys_and_values_of_prompt_tokens_and_side_network(family, name, config, front, networks):
    model = under_head(adapted(family, name, config)[1], family)
    with torch.inference_mode():
        told = prefill(model, prompts())
        begun = row_bytes(told.cache)
        told = decode(model, told.logits.argmax(-1, keepdim=True), told.cache)
    token = int(LAYERS * 2 * KEYS * 4 * networks)
    assert begun == (5 + front) * token
    assert row_bytes(told.cache) - begun == token


def test_a_window_bounds_the_cache_and_never_slides_over_a_prefix() -> None:
    held = {}
    for name in ("full", "prefix_tuning"):
        model = under_head(adapted("gemma3_text", name, {"length": 3} if name != "full" else {})[1], "gemma3_text")
        with torch.inference_mode():
            told = prefill(model, prompts(length=20))
            before = row_bytes(told.cache)
            told = decode(model, told.logits.argmax(-1, keepdim=True), told.cache)
        held[name] = before, row_bytes(told.cache) - before
    layer = 2 * KEYS * 4
    assert held == {"full": ((7 + 20) * layer, layer), "prefix_tuning": ((3 + 7 + 3 + 20) * layer, layer)}


WORDS = [f"w{i}" for i in range(201)]
"""Two a row, of 200 rows."""


def answers(model: TaskModel, asked: list[list[int]], length: int, end: int) -> list[list[int]]:
    """What the model writes behind each prompt, those of one length together, up to its end."""
    found: dict[int, list[int]] = {}
    for size in {len(prompt) for prompt in asked}:
        places = [at for at, prompt in enumerate(asked) if len(prompt) == size]
        written = greedy(model, torch.tensor([asked[at] for at in places]), length, end=end).tolist()
        found |= dict(zip(places, written, strict=True))
    return [found[at][: found[at].index(end) + 1] if end in found[at] else found[at] for at in range(len(asked))]


@pytest.mark.parametrize("name", [name for name in BUILTIN if "llama" not in METHODS[name].refused])
def test_exact_match_by_teacher_forcing_is_that_of_what_is_written(name: str) -> None:
    model = under_head(adapted("llama", name)[1], "llama")
    tokenizer = HashingTokenizer(96)
    pairs = list(itertools.pairwise(WORDS))
    asked = tuple((f"{a} {b} {a}" if at % 2 else f"{a} {b}",) for at, (a, b) in enumerate(pairs))
    told = tuple(f"{a} {b}" for a, b in pairs)
    rows = TextRows(Rows(asked, told), tokenizer, 24, config=pristine("llama").config, device="cpu")
    end = tokenizer.eos_token_id
    own = answers(model, [prompt for prompt, _ in rows._rows], 4, end)
    for at in range(0, len(own), 2):  # half of the targets are what the model writes, so that both outcomes are there
        rows._rows[at] = (rows._rows[at][0], own[at])
    right = evaluate_text(model, rows, batch_size=16)[0]["prediction"]
    for written, (_, target), found in zip(own, rows._rows, right, strict=True):
        assert (written[: len(target)] == target) == bool(found)
    assert len(right) == 200
    assert 100 <= sum(right) < 150


def test_an_answer_ends_where_its_row_ends() -> None:
    model = under_head(pristine("llama"), "llama")
    free = greedy(model, prompts(), NEW)
    end = int(free[0, 3])
    ended = greedy(model, prompts(), NEW, end=end)
    for before, after in zip(free.tolist(), ended.tolist(), strict=True):
        stop = before.index(end) + 1 if end in before else len(after)
        assert after == (before[:stop] + [end] * NEW)[: len(after)]


def test_what_cannot_be_written_is_one_sentence() -> None:
    refused = {
        ("bert", "classes"): r"here: text is written under objective text, and .* classes; family 'bert' is an encoder",
        ("llama", "classes"): r"here: text is written under .* and this shape has classes; set objective = 'text'",
        (
            "t5_whole",
            "text",
        ): r"here: it is measured of decoders, and family 't5' has an encoder .* decoder such as gpt2",
    }
    for (family, objective), sentence in refused.items():
        with pytest.raises(BenchError, match=sentence):
            check_writes(tiny(family).config, objective, "here")
    check_writes(pristine("llama").config, "text", "here")
