"""Every named shape has the parameters that are published of the model, built without values from its configuration."""

import pytest
import torch

from bench.errors import BenchError
from bench.models import backbone

WHOLE, BARE, PAIR = "AutoModelForCausalLM", "AutoModel", "AutoModelForSeq2SeqLM"
"""What a published count is of: with the LM head (once, where it is tied), without one, or encoder and decoder."""
PUBLISHED = {
    "bert-base": (BARE, 109_482_240, "BERT paper, table 1: 110 M; the hub's bert-base-uncased without its MLM head"),
    "bert-large": (
        BARE,
        335_141_888,
        "BERT paper, section 3: 340 M; the hub's bert-large-uncased without its MLM head",
    ),
    "roberta-base": (BARE, 124_645_632, "RoBERTa's model list: 125 M"),
    "roberta-large": (BARE, 355_359_744, "RoBERTa's model list: 355 M"),
    "xlm-roberta-base": (BARE, 278_043_648, "hub, safetensors of encoders that are XLM-R base: 278,043,648"),
    "distilbert": (BARE, 66_362_880, "DistilBERT paper, table 3: 66 M"),
    "modernbert-base": (BARE, 149_014_272, "ModernBERT's model card: 149 M"),
    "deberta-v3-base": (
        BARE,
        183_831_552,
        "KerasHub's preset deberta_v3_base_en; model card: 86 M and 98 M embeddings",
    ),
    "t5-base": (PAIR, 222_903_552, "T5 paper, section 3.4: about 220 M"),
    "bart-base": (PAIR, 139_420_416, "hub, safetensors of bart-base: 139,420,416; model card: 139 M"),
    "t5-large": (PAIR, 737_668_096, "T5 paper, section 3.4: about 770 M with heads apart; the hub's t5-large"),
    "t5-3b": (PAIR, 2_851_598_336, "T5 paper, section 3.4: 2.8 B"),
    "flan-t5-base": (PAIR, 247_577_856, "FusionBench's print of flan-t5-base: 247,577,856"),
    "flan-t5-xl": (PAIR, 2_849_757_184, "a table of T5 v1.1 sizes counted from the checkpoints: 2,849,757,184"),
    "gpt2": (WHOLE, 124_439_808, "hub, safetensors of gpt2: 124 M"),
    "gpt2-medium": (WHOLE, 354_823_168, "hub, safetensors of gpt2-medium: 355 M"),
    "llama-2-7b": (WHOLE, 6_738_415_616, "hub, safetensors of Llama-2-7b-hf: 6.74 B"),
    "llama-3.1-8b": (WHOLE, 8_030_261_248, "hub, safetensors of Llama-3.1-8B: 8,030,261,248"),
    "llama-3.1-70b": (WHOLE, 70_553_706_496, "hub, safetensors of Llama-3.1-70B: 70,553,706,496"),
    "llama-3.2-1b": (WHOLE, 1_235_814_400, "Llama 3.2's model card: 1.23 B"),
    "llama-3.2-3b": (WHOLE, 3_212_749_824, "Llama 3.2's model card: 3.21 B"),
    "tinyllama-1.1b": (WHOLE, 1_100_048_384, "hub, safetensors of TinyLlama-1.1B: 1,100,048,384"),
    "smollm2-135m": (WHOLE, 134_515_008, "hub, safetensors of SmolLM2-135M: 134,515,008"),
    "mistral-7b": (WHOLE, 7_241_732_096, "general.parameter_count of Mistral-7B v0.1 in GGUF: 7,241,732,096"),
    "qwen2.5-0.5b": (WHOLE, 494_032_768, "hub, safetensors of Qwen2.5-0.5B: 494,032,768; model card: 0.49 B"),
    "qwen2.5-7b": (WHOLE, 7_615_616_512, "hub, safetensors of Qwen2.5-7B: 7,615,616,512; model card: 7.61 B"),
    "qwen3-0.6b": (WHOLE, 596_049_920, "model card: 0.6 B; a sum over its parameters, with the head stored once"),
    "qwen3-4b": (WHOLE, 4_022_468_096, "hub, safetensors of Qwen3-4B: 4,022,468,096; model card: 4.0 B"),
    "qwen3-8b": (WHOLE, 8_190_735_360, "hub, safetensors of Qwen3-8B: 8,190,735,360; model card: 8.2 B"),
    "qwen3-32b": (WHOLE, 32_762_123_264, "hub, safetensors of Qwen3-32B: 32,762,123,264; KerasHub's preset"),
    "gemma-2b": (WHOLE, 2_506_172_416, "hub, safetensors of gemma-2b: 2,506,172,416"),
    "gemma-2-2b": (WHOLE, 2_614_341_888, "hub, safetensors of gemma-2-2b: 2,614,341,888"),
    "gemma-3-1b": (WHOLE, 999_885_952, "hub, safetensors of gemma-3-1b-pt: 999,885,952; KerasHub's preset"),
    "gemma-3-4b": (WHOLE, 3_880_263_168, "the text part of gemma-3-4b in GGUF: 3,880,263,168"),
    "phi-3-mini": (
        WHOLE,
        3_821_079_552,
        "KerasHub's preset phi3_mini_4k_instruct_en: 3,821,079,552; model card: 3.8 B",
    ),
}
"""Shape -> what is counted, how much it is, and who says so."""
OURS = {"tiny", "minilm-l6", "t5-base-encoder", "t5-large-encoder", "t5-3b-encoder"}
"""Shapes of no published whole: the project's own, one whose count stands in test_backbone.py, and halves of T5."""


def test_every_named_shape_has_its_published_count_here():
    assert set(backbone.SHAPES) == PUBLISHED.keys() | OURS


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_named_shape_has_the_published_parameters(name):
    import transformers

    kind, parameters, _ = PUBLISHED[name]
    config = backbone.configuration(backbone.resolve(name, "random"))
    with torch.device("meta"):
        model = getattr(transformers, kind).from_config(config)
    counted = sum(p.numel() for p in model.parameters())
    if config.model_type == "t5" and not config.scale_decoder_outputs:
        # transformers 5 ties the head of every T5 until a file of weights has one of its own, as Flan-T5's has
        counted += model.lm_head.weight.numel()
    assert counted == parameters


@pytest.mark.parametrize("name", ["t5-base", "t5-large", "t5-3b"])
def test_the_encoder_of_t5_has_a_name_of_its_own(name):
    half, whole = (backbone.configuration(backbone.resolve(n, "random")) for n in (f"{name}-encoder", name))
    assert half.to_dict() == whole.to_dict() | {"is_encoder_decoder": False}
    assert (
        type(backbone.load(backbone.resolve(f"{name}-encoder", "random"), device="meta")).__name__ == "T5EncoderModel"
    )


WINDOWS = {"mistral-7b": 4096, "gemma-2-2b": 4096, "gemma-3-1b": 512, "gemma-3-4b": 1024, "phi-3-mini": 2047}


@pytest.mark.parametrize("name", [name for name, (kind, *_) in PUBLISHED.items() if kind == WHOLE])
def test_a_window_stands_where_the_published_configuration_has_one(name):
    config = backbone.configuration(backbone.resolve(name, "random"))
    uses = getattr(config, "use_sliding_window", True)
    assert (getattr(config, "sliding_window", None) if uses else None) == WINDOWS.get(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("llama-3.1-7b", "'llama-3.1-8b'"),
        ("qwen2.5-1.5b", "'qwen2.5-0.5b'"),
        ("gemma-2-2", "'gemma-2-2b'"),
        ("phi3-mini", "'phi-3-mini'"),
        ("mistral", "'mistral-7b'"),
    ],
)
def test_an_unknown_name_is_answered_by_the_nearest_shapes_without_the_network(no_network, name, near):
    with pytest.raises(BenchError, match=f"unknown backbone '{name}'; did you mean") as refusal:
        backbone.shape_of(name)
    assert near in str(refusal.value)
