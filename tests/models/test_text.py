"""The objective text: states, LM head and next-token loss against transformers' own language model."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from bench.anatomy import anatomy, causal
from bench.errors import BenchError
from bench.models import backbone
from bench.models.head import TaskModel
from bench.models.objective import settle
from bench.models.text import IGNORED, TextHead, text_backbone, with_targets
from bench.schema.shape import StepShape
from tests.methods.families import CONFIGS, ENCODER_DECODERS, EVERY, batch, beside_decoder

DECODERS = [family for family in EVERY if causal(CONFIGS[family][0])]
LANGUAGE_MODELS = [*DECODERS, *ENCODER_DECODERS, "mt5_whole"]
FORMS = ("full", "target", "chunked")


def language_model(family: str) -> torch.nn.Module:
    model_type, values = CONFIGS[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **values, use_cache=False)
    auto = AutoModelForCausalLM if family in DECODERS else AutoModelForSeq2SeqLM
    model = auto.from_config(config).eval()
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias":  # zeros would hide that BART adds it
            buffer.normal_(0, 0.1)
    return model


def answered(family: str, rows: int = 3, length: int = 10) -> dict[str, torch.Tensor]:
    """Rows whose last tokens alone carry a target, another number of them in each row.

    Beside an encoder it is the first ones, as a batch of texts that differ in length has them.
    """
    shifted = family in DECODERS
    given = batch(rows, length, pad=0 if shifted else 3)
    given |= {"labels": given["input_ids"].clone()} if shifted else beside_decoder(given, length)
    for row in range(rows):
        given["labels"][row, slice(4 + row) if shifted else slice(4 + row, None)] = IGNORED
    return with_targets(given, shifted=shifted)


READ = ("input_ids", "attention_mask", "decoder_input_ids", "labels")


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_every_form_of_the_loss_is_transformers_own_in_value_and_gradients(family: str) -> None:
    model, given = language_model(family), answered(family)
    expected = model(**{name: given[name] for name in READ if name in given}).loss
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    body = text_backbone(model)
    for form in FORMS:
        body.zero_grad()
        if form == "chunked" and getattr(model.config, "final_logit_softcapping", None):
            continue  # refused, below
        loss = TaskModel(body, TextHead(model.config, form)).loss(given)
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=0, atol=2e-6)
        for name, parameter in body.named_parameters():
            if name in gradients:
                torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-6, msg=f"{form} {name}")


@pytest.mark.parametrize("family", ["llama", "gemma", "cohere", "granite", "gemma2"])
@pytest.mark.parametrize("field", ["logit_scale", "logits_scaling", "final_logit_softcapping"])
def test_a_field_of_another_family_changes_no_logits(family: str, field: str) -> None:
    model_type, values = CONFIGS[family]
    config = AutoConfig.for_model(model_type, **values, use_cache=False, **{field: 2.5})
    model, given = AutoModelForCausalLM.from_config(config).eval(), batch(2, 7)
    expected = model(**given).logits
    body = text_backbone(model)
    found = TextHead(config, "full").logits(body(**given).last_hidden_state, body)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", DECODERS)
def test_the_answer_is_the_logits_of_the_next_token(family: str) -> None:
    model = language_model(family)
    given = batch(2, 7, pad=2)
    last = model(**given).logits[:, 6]
    answer = TaskModel(text_backbone(model), TextHead(model.config, "full"))(given)
    torch.testing.assert_close(answer, last, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_the_answer_beside_an_encoder_is_the_logits_at_the_last_token_that_the_decoder_reads(family: str) -> None:
    model, given = language_model(family), beside_decoder(batch(2, 7, pad=2), 5)
    last = model(**{name: given[name] for name in READ[:3]}).logits[:, 4]
    answer = TaskModel(text_backbone(model), TextHead(model.config, "full"))(given)
    torch.testing.assert_close(answer, last, rtol=1e-5, atol=1e-6)


def test_names_are_those_of_the_whole_model() -> None:
    model = text_backbone(language_model("llama"))
    parts = anatomy(model)
    assert parts.layers_path == "model.layers" and parts.lm_head == "lm_head"
    assert parts.word_embeddings == "model.embed_tokens"
    assert model(**batch(1, 5)).last_hidden_state.shape == (1, 5, 32)


def test_a_soft_cap_is_applied_and_refuses_the_chunked_form() -> None:
    config = AutoConfig.for_model("gemma3_text", **CONFIGS["gemma3_text"][1], final_logit_softcapping=0.1)
    torch.manual_seed(0)
    model, given = AutoModelForCausalLM.from_config(config).eval(), batch(2, 6)
    expected = model(**given).logits[:, -1]
    assert expected.abs().max() <= 0.1
    answer = TaskModel(text_backbone(model), TextHead(config, "full"))(given)
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-6)
    with pytest.raises(BenchError, match=r"loss chunked knows no soft cap, which gemma3_text .* full or target"):
        TextHead(config, "chunked")


def test_targets_are_the_labels_that_a_state_tells() -> None:
    labels = torch.tensor([[7, IGNORED, 8, 9], [IGNORED, 5, IGNORED, IGNORED]])
    shifted = with_targets({"labels": labels}, shifted=True)
    assert shifted["positions"].tolist() == [1, 2, 4] and shifted["targets"].tolist() == [8, 9, 5]
    as_they_are = with_targets({"labels": labels}, shifted=False)
    assert as_they_are["positions"].tolist() == [0, 2, 3, 5]


USUAL = [
    ("bert-base", "classes", None),
    ("gpt2", "text", "full"),
    ("t5-base", "text", "full"),
    ("t5-base-encoder", "classes", None),
    ("llama-3.2-3b", "text", "full"),
]


@pytest.mark.parametrize(("name", "objective", "loss"), USUAL)
def test_an_objective_that_is_left_out_is_the_backbones_own(name: str, objective: str, loss: str | None) -> None:
    settled = settle(backbone.shape_of(name), StepShape(batch=1, length=8), length=8)
    assert (settled["objective"], settled["loss"]) == (objective, loss)


IMPOSSIBLE = [
    ("bert-base", {"objective": "text"}, "objective text trains the next token, and backbone 'bert-base' .*encoder"),
    ("t5-base", {"objective": "classes"}, "objective classes stands on an encoder, .* take t5-base-encoder, or obj"),
    ("flan-t5-base", {"objective": "score"}, "take an encoder such as t5-base-encoder, or objective text"),
    ("bart-base", {"objective": "classes"}, "take an encoder such as t5-base-encoder, or objective text"),
    ("t5-base-encoder", {"objective": "text"}, r"'t5-base-encoder' \(t5\) is an encoder; .* or t5-base, which has its"),
    ("bert-base", {"loss": "target"}, "loss = target is of objective text, and this one is classes; omit it"),
    ("gpt2", {"objective": "score", "target_tokens": 3}, "target_tokens = 3 is of objective text, .* score"),
    ("gpt2", {"target_tokens": 8}, "target_tokens = 8 is above 7, the tokens of a row of 8 that follow another"),
]


@pytest.mark.parametrize(("name", "asked", "sentence"), IMPOSSIBLE)
def test_what_a_backbone_or_an_objective_cannot_have_is_refused(name: str, asked: dict, sentence: str) -> None:
    with pytest.raises(BenchError, match=sentence):
        settle(backbone.shape_of(name), StepShape(batch=1, length=8, **asked), length=8)


def test_one_token_has_no_next_one() -> None:
    with pytest.raises(BenchError, match="length 1 has no token that follows another"):
        settle(backbone.shape_of("gpt2"), StepShape(batch=1, length=1), length=1)
