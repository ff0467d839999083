"""A pretrained backbone is loaded whole or not at all; what has no place in it is counted; no code comes with it."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import tokenizers
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bench.errors import BenchError
from bench.models import backbone
from bench.models.tokenizer import load_tokenizer
from bench.plan.load import load_suite
from bench.plan.planner import make_plan
from bench.plan.select import Selection, select
from bench.schema.jobs import BackboneSpec

ROOT = Path(__file__).resolve().parents[2]
TINY = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 32}  # fmt: skip
T5 = {"vocab_size": 60, "d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 1, "num_heads": 2}
GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
DISTIL = {"vocab_size": 60, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32}
OPT = {"vocab_size": 60, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
       "word_embed_proj_dim": 16, "max_position_embeddings": 32}  # fmt: skip


def save(folder, family, values, auto):
    """Files of a random model with a head; its tensors by name."""
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(family, **values))
    model.save_pretrained(folder)
    return safetensors.torch.load_file(folder / "model.safetensors")


def spec_of(folder):
    return BackboneSpec(name="some/backbone", weights="pretrained", revision="main", folder=str(folder))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    return folder, save(folder, "bert", TINY, AutoModelForMaskedLM)


@pytest.fixture
def changed(bert, tmp_path):
    """Writes the files of a BERT whose tensors were changed, and gives the backbone that they are."""
    whole, tensors = bert
    shutil.copy(whole / "config.json", tmp_path)

    def write(change):
        values = dict(tensors)
        change(values)
        safetensors.torch.save_file(values, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return spec_of(tmp_path)

    return write


READERS = {"described": backbone.describe, "loaded": backbone.load}
QUERY = "bert.encoder.layer.1.attention.self.query.weight"

HOLES = {
    "a weight": (lambda t: t.pop(QUERY), "lacks encoder.layer.1.attention.self.query.weight, which"),
    "a bias": (lambda t: t.pop(QUERY.replace("weight", "bias")), "lacks encoder.layer.1.attention.self.query.bias, "),
    "a norm": (lambda t: t.pop("bert.embeddings.LayerNorm.weight"), "lacks embeddings.LayerNorm.weight, which"),
    "the words": (lambda t: t.pop("bert.embeddings.word_embeddings.weight"), "lacks embeddings.word_embeddings.weight"),
    "positions": (lambda t: t.pop("bert.embeddings.position_embeddings.weight"), "lacks embeddings.position_embedd"),
    "a layer": (lambda t: [t.pop(k) for k in list(t) if ".layer.1." in k], r"lacks encoder.layer.1.\S+, .* and 13 m"),
    "all": (lambda t: [t.pop(k) for k in list(t) if k.startswith("bert.")], r"lacks \S+, \S+, \S+ and 34 more, which"),
    "a name": (lambda t: t.__setitem__("bert.strange", t.pop(QUERY)), "lacks encoder.layer.1.attention.self.query"),
    "wider": (lambda t: t.__setitem__(QUERY, torch.zeros(16, 17)), r"query.weight is 16 x 17 but 16 x 16 by config"),
    "a number": (lambda t: t.__setitem__(QUERY, torch.zeros(())), "query.weight is a single number but 16 x 16 by"),
    "more words": (
        lambda t: t.__setitem__("bert.embeddings.word_embeddings.weight", torch.zeros(61, 16)),
        r"word_embeddings.weight is 61 x 16 but 60 x 16 by config.json; the two files do not belong together",
    ),
    "two sizes": (
        lambda t: t.update({QUERY: torch.zeros(8, 16), QUERY.replace("query", "key"): torch.zeros(8, 16)}),
        "by config.json, and 1 more differ; ",
    ),
    "a quantised weight": (
        lambda t: t.__setitem__(QUERY, torch.zeros(128, 1, dtype=torch.uint8)), "query.weight is 128 x 1 but 16 x 16"
    ),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("hole", HOLES)
def test_what_would_be_drawn_at_random_is_refused_by_name_before_a_run_and_in_it(changed, hole, reader):
    change, sentence = HOLES[hole]
    with pytest.raises(BenchError, match=rf"model\.safetensors: .*{sentence}") as raised:
        READERS[reader](changed(change))
    assert "\n" not in str(raised.value)


OTHER_TYPES = {
    "int8": torch.int8, "uint8": torch.uint8, "int64": torch.int64, "bool": torch.bool,
    "float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "complex64": torch.complex64,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stored", OTHER_TYPES)
def test_weights_of_a_type_that_needs_a_scale_are_refused_by_name(changed, stored, reader):
    spec = changed(lambda t: t.__setitem__(QUERY, t[QUERY].to(OTHER_TYPES[stored])))
    with pytest.raises(BenchError, match=rf"model\.safetensors: {QUERY} is stored as {stored}, and the scale of such"):
        READERS[reader](spec)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_type_that_is_whole_are_loaded(changed, bert, stored):
    loaded = backbone.load(changed(lambda t: t.__setitem__(QUERY, t[QUERY].to(stored))))
    weight = loaded.get_parameter(QUERY.removeprefix("bert."))
    assert weight.dtype == torch.float32
    assert weight.equal(bert[1][QUERY].to(stored).float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_named_when_it_is_loaded(changed, value):
    spec = changed(lambda t: t.__setitem__(QUERY, t[QUERY].index_fill(0, torch.tensor([3]), value)))
    with pytest.raises(BenchError, match=rf"safetensors: {QUERY[5:]} holds NaN or infinity as float32; fetch"):
        backbone.load(spec)


NORM = "bert.embeddings.LayerNorm.weight"
TWINS = {
    "with the prefix and without": (NORM, NORM.removeprefix("bert.")),
    "an old spelling and a new one": (NORM, NORM.replace("weight", "gamma")),
    "the words": ("bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
    "a block": (QUERY, QUERY.removeprefix("bert.")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("twins", TWINS)
def test_two_tensors_for_one_place_are_refused_where_they_differ(changed, twins, reader):
    one, other = TWINS[twins]
    with pytest.raises(BenchError, match=r"both stand for \S+ and differ; keep") as raised:
        READERS[reader](changed(lambda t: t.__setitem__(other, t[one] + 1)))
    assert {one, other} < set(str(raised.value).split())
    READERS[reader](changed(lambda t: t.__setitem__(other, t[one].clone())))


def test_what_a_family_drops_is_no_second_tensor(changed):
    """Old files hold the numbers of the positions, one of the size of a parameter or not."""
    held = {"bert.embeddings.position_ids": torch.arange(32)[None]}
    assert backbone.describe(changed(lambda t: t.update(held))).notes == ()
    backbone.describe.cache_clear()
    assert backbone.describe(changed(lambda t: t.update({next(iter(held)): torch.ones(16)}))).notes == ()


@pytest.mark.parametrize(("layers", "said"), [(1, r"holds 1 block .* \(bert.encoder.layer.1\)"), (2, None)])
def test_blocks_that_the_configuration_leaves_out_are_noted(bert, tmp_path, layers, said):
    shutil.copytree(bert[0], tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"num_hidden_layers": layers}))
    notes = backbone.describe(spec_of(tmp_path)).notes
    assert len(notes) == bool(said)
    assert all(re.search(said, note) for note in notes)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 8 + b"{}"])
def test_a_damaged_file_is_one_sentence(bert, tmp_path, reader, content):
    shutil.copy(bert[0] / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BenchError, match=r"model\.safetensors: cannot be loaded \(.*\); fetch it again") as raised:
        READERS[reader](spec_of(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_file_of_quantised_weights_is_refused(bert, tmp_path):
    shutil.copytree(bert[0], tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / "config.json").read_text())
    stored = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(values | stored))
    for reader in READERS.values():
        with pytest.raises(BenchError, match=r"weights are stored quantised \(bitsandbytes, 4 bits\)"):
            reader(spec_of(tmp_path))


def test_an_adapter_that_lies_beside_the_weights_is_not_put_on(bert, tmp_path):
    shutil.copytree(bert[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "other/model"}')
    for reader in READERS.values():
        with pytest.raises(BenchError, match=r"adapter_config\.json lies beside the weights"):
            reader(spec_of(tmp_path))


# what has no place is counted

MASKED, CLASSIFIER = AutoModelForMaskedLM, AutoModelForSequenceClassification
UNUSED = [
    ("bert", TINY, MASKED, {"cls.predictions": 5}, ()),
    ("bert", TINY, CLASSIFIER, {"bert.pooler": 2, "classifier": 2}, ("classifier",)),
    ("roberta", TINY, MASKED, {"lm_head": 1, "lm_head.dense": 2, "lm_head.layer_norm": 2}, ()),
    ("roberta", TINY, CLASSIFIER, {"classifier.dense": 2, "classifier.out_proj": 2}, ("classifier.dense",)),
    ("electra", TINY, CLASSIFIER, {"classifier.dense": 2, "classifier.out_proj": 2}, ("classifier.dense",)),
    ("distilbert", DISTIL, CLASSIFIER, {"classifier": 2, "pre_classifier": 2}, ("classifier, pre_classifier",)),
    ("modernbert", {**TINY, "pad_token_id": 0}, MASKED, {"decoder": 1, "head.dense": 1, "head.norm": 1}, ()),
    ("gpt2", GPT2, CLASSIFIER, {"score": 1}, ("score",)),
    ("llama", TINY, CLASSIFIER, {"score": 1}, ("score",)),
    ("qwen3", {**TINY, "head_dim": 8, "num_key_value_heads": 2}, CLASSIFIER, {"score": 1}, ("score",)),
    ("opt", OPT, CLASSIFIER, {"score": 1}, ("score",)),
    ("t5", T5, CLASSIFIER, {"classification_head.dense": 2, "classification_head.out_proj": 2,
                            "transformer.decoder": 15}, ("classification_head.dense",)),
]  # fmt: skip


@pytest.mark.parametrize(("family", "values", "auto", "unused", "head"), UNUSED)
def test_tensors_without_a_place_are_counted_and_a_head_of_a_task_is_noted(
    tmp_path, family, values, auto, unused, head
):
    tensors = save(tmp_path, family, values, auto)
    described = backbone.describe(spec_of(tmp_path))
    assert described.unused_tensors == unused
    notes = [note for note in described.notes if not note.startswith("the encoder alone stands here")]
    assert (len(notes) < len(described.notes)) == (family == "t5")
    assert all(f"{name}" in note for name, note in zip(head, notes, strict=True))
    loaded = backbone.load(spec_of(tmp_path)).state_dict()
    held = [value for name, value in tensors.items() if not any(name.startswith(f"{one}.") for one in unused)]
    assert len(tensors) - len(held) == sum(unused.values())
    assert {tuple(value.flatten().tolist()) for value in held} <= {tuple(v.flatten().tolist()) for v in loaded.values()}


@pytest.mark.parametrize("name", ["shared.weight", "encoder.embed_tokens.weight"])
def test_a_tied_weight_may_stand_under_either_of_its_names(tmp_path, name):
    tensors = save(tmp_path, "t5", T5, AutoModelForSeq2SeqLM)
    words = tensors.pop("shared.weight")
    safetensors.torch.save_file({**tensors, name: words}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    backbone.describe(spec_of(tmp_path))
    loaded = backbone.load(spec_of(tmp_path))
    assert loaded.get_input_embeddings().weight.equal(words)


# the tokenizer beside the weights


def words(folder, count, *, added=(), special=("pad_token",)):
    """Files of a tokenizer of ``count`` words, with tokens that were added to them."""
    known = {"[PAD]": 0, "[UNK]": 1} | {f"word{number}": number for number in range(2, count)}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(tokenizer_object=plain, **dict.fromkeys(special, "[PAD]"))
    whole.add_tokens(list(added))
    whole.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("count", "added", "said"),
    [
        (60, (), None),
        (50, ("more",), None),
        (61, (), "gives 'word60' the id 60, but vocab_size of config.json is 60"),
        (1000, (), "gives 'word999' the id 999"),
        (60, ("more",), "gives 'more' the id 60"),
    ],
)
def test_a_tokenizer_of_more_words_than_the_backbone_has_is_refused(tmp_path, count, added, said):
    folder = words(tmp_path, count, added=added)
    if said is None:
        assert load_tokenizer(folder, 60)(["word2 word3"], truncation=True, max_length=8)["input_ids"] == [[2, 3]]
        return
    with pytest.raises(BenchError, match=said):
        load_tokenizer(folder, 60)


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path):
    with pytest.raises(BenchError, match="has neither pad_token nor eos_token"):
        load_tokenizer(words(tmp_path, 60, special=()), 60)
    assert load_tokenizer(words(tmp_path, 60, special=("eos_token",)), 60).pad_token_id == 0


@pytest.mark.parametrize("count", [60, 61])
def test_a_plan_refuses_a_tokenizer_that_is_not_the_backbone_s(bert, tmp_path, monkeypatch, count):
    shutil.copytree(bert[0], tmp_path, dirs_exist_ok=True)
    words(tmp_path, count)
    monkeypatch.setattr(backbone, "resolve", lambda *_: spec_of(tmp_path))
    suite = select(load_suite("smoke"), Selection(methods=("head",), seeds=(0,), data="synthetic"))
    asked = suite.model_copy(update={"cost": (), "sweep": ()})
    if count == 60:
        assert make_plan(asked, "smoke", "cpu").cells
        return
    with pytest.raises(BenchError, match=r"its tokenizer gives 'word60' the id 60"):
        make_plan(asked, "smoke", "cpu")


@pytest.mark.parametrize("differ", [False, True])
def test_a_tied_weight_may_stand_under_both_of_its_names_where_they_agree(tmp_path, differ):
    tensors = save(tmp_path, "t5", T5, AutoModelForSeq2SeqLM)
    words = tensors["shared.weight"]
    both = tensors | {"encoder.embed_tokens.weight": words + 1 if differ else words.clone()}
    safetensors.torch.save_file(both, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if differ:
        with pytest.raises(BenchError, match=r"shared\.weight and encoder\S+ both|encoder\S+ and shared\.weight both"):
            backbone.describe(spec_of(tmp_path))
        return
    assert backbone.load(spec_of(tmp_path)).get_input_embeddings().weight.equal(words)


# no code of a backbone's own, no network


def loads(path):
    """Calls in a file that read or build a part of a transformers model, with their keywords."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in {"from_pretrained", "from_config"}:
                yield f"{path.name}:{node.lineno}", {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_every_load_refuses_code_of_its_own():
    files = [file for folder in ("bench", "methods", "tools") for file in (ROOT / folder).rglob("*.py")]
    found = [call for file in files for call in loads(file)]
    assert len(found) >= 4
    assert [place for place, words in found if words.get("trust_remote_code") != "False"] == []


def test_what_is_on_this_machine_is_loaded_without_a_question(no_network):
    spec = backbone.resolve(backbone.MINILM, "pretrained")
    backbone.describe.cache_clear()
    backbone.describe(spec)
    backbone.load(spec)
    assert load_tokenizer(spec.folder, 30522)(["a film"], truncation=True, max_length=8)["input_ids"]


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["mine.Tokenizer", None]}, {"AutoTokenizer": "mine.Tokenizer"}])
def test_a_tokenizer_of_its_own_code_is_refused_without_a_question(no_network, tmp_path, monkeypatch, auto_map):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Mine", "auto_map": auto_map}))
    with pytest.raises(BenchError, match=r"its tokenizer cannot be loaded \(") as raised:
        load_tokenizer(str(tmp_path), 100)
    assert "\n" not in str(raised.value)
