"""Prompt tuning and P-tuning put learned vectors in front of the tokens, at every family's own positions."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.errors import BenchError
from bench.registry import make
from tests.methods.adapted import adapt, bert_base, count, loss, states, trained
from tests.methods.families import FAMILIES, batch, tiny

LEARNED = ("bert", "distilbert", "electra", "gpt2", "opt", "roberta")
METHODS = ("prompt_tuning", "p_tuning")
VARIANTS = [
    ("prompt_tuning", {}), ("prompt_tuning", {"init": "labels"}), ("p_tuning", {}), ("p_tuning", {"encoder": "mlp"}),
    ("p_tuning", {"encoder": "none"}),
]  # fmt: skip


def stored(method, module):
    return sum(tensor.numel() for tensor in method.delta(module).values())


@pytest.mark.parametrize(
    ("name", "config", "trains", "stores"),
    [
        ("prompt_tuning", {}, 15_360, 15_360),
        ("prompt_tuning", {"length": 100, "init": "uniform"}, 76_800, 76_800),
        ("p_tuning", {"length": 9}, 8_278_272, 6_912),
        ("p_tuning", {"length": 9, "hidden": 768}, 23_617_536 + 1_771_008 + 6_912, 6_912),
        ("p_tuning", {"encoder": "mlp"}, 1_196_544, 15_360),
        ("p_tuning", {"encoder": "none"}, 15_360, 15_360),
    ],
)
def test_counts_on_bert_base(name, config, trains, stores):
    method, module = adapt(name, bert_base(), **config)
    assert (count(module), stored(method, module), count(method.finalize(module))) == (trains, stores, stores)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_belong_to_the_callers_tokens_and_padding_changes_nothing(family, name):
    torch.manual_seed(0)
    _, module = adapt(name, family, length=4)
    module.eval()
    alone = states(module, **batch())
    assert alone.shape == (3, 10, 32)
    torch.testing.assert_close(states(module, **batch(pad=5))[:, :10], alone, atol=3e-6, rtol=0)
    torch.testing.assert_close(states(module, input_ids=batch()["input_ids"]), alone, atol=3e-6, rtol=0)


@pytest.mark.parametrize("family", LEARNED)
def test_without_position_shift_padding_changes_nothing_either(family):
    _, module = adapt("prompt_tuning", family, length=4, position_shift=False)
    torch.testing.assert_close(states(module, **batch(pad=5))[:, :10], states(module, **batch()), atol=3e-6, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_causal_tokens_see_the_prompt_and_no_later_token(family):
    _, module = adapt("prompt_tuning", family, length=4)
    inputs = batch()
    before = states(module, **inputs)
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][:, 6] += 1
    torch.testing.assert_close(states(module, **inputs)[:, :6], before[:, :6])
    assert not states(module, **inputs)[:, 9].allclose(before[:, 9])
    assert not before.allclose(states(tiny(family), **batch()))


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "t5", "llama"])
def test_a_prompt_of_real_words_equals_typing_them(family):
    """P = rows of the vocabulary: the prompted sentence is the sentence with those words in front of it."""
    _, module = adapt("prompt_tuning", family, length=4)
    table = module.backbone.get_input_embeddings().weight
    words = [int(row.eq(table).all(1).nonzero()) for row in module.prompt.table]
    ids = batch()["input_ids"]
    typed = torch.cat([torch.tensor(words).expand(3, -1), ids], dim=1)
    whole = tiny(family)(input_ids=typed, attention_mask=torch.ones_like(typed)).last_hidden_state
    torch.testing.assert_close(states(module, **batch()), whole[:, 4:], atol=3e-6, rtol=0)


def test_without_position_shift_tokens_keep_their_positions():
    _, module = adapt("prompt_tuning", "bert", length=4, position_shift=False)
    seen = []
    module.backbone.embeddings.position_embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    states(module, **batch())
    assert seen[0][0].tolist() == [0] * 4 + list(range(10))


def test_roberta_and_opt_count_positions_as_they_do_without_a_prompt():
    inputs = batch(length=3, pad=2)
    inputs["input_ids"][:, 3:] = 1  # RoBERTa's padding id
    rows = {"roberta": [2, 3, 4, 5, 6, 1, 1], "opt": [2, 3, 4, 5, 6, 1, 1]}
    for family, expected in rows.items():
        _, module = adapt("prompt_tuning", family, length=2)
        table = next(m for n, m in module.named_modules() if n.endswith(("position_embeddings", "embed_positions")))
        taken = []
        handle = torch.nn.functional.embedding

        def spy(ids, weight, *args, table=table, taken=taken, handle=handle, **kwargs):
            taken.extend([ids] if weight is table.weight else [])
            return handle(ids, weight, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "embedding", spy)
            states(module, **inputs)
        assert taken[0][0].tolist() == expected


def test_token_types_are_those_of_the_tokens():
    _, module = adapt("prompt_tuning", "bert", length=4)
    zeros = torch.zeros(3, 10, dtype=torch.long)
    plain = states(module, **batch())
    assert states(module, **batch(), token_type_ids=zeros).equal(plain)
    assert not states(module, **batch(), token_type_ids=zeros + 1).allclose(plain)


def test_hidden_states_are_stripped_too():
    _, module = adapt("prompt_tuning", "bert", length=4)
    output = module(**batch(), output_hidden_states=True)
    assert [layer.shape for layer in output.hidden_states] == [(3, 10, 32)] * 3
    assert output.hidden_states[-1].equal(output.last_hidden_state)


@pytest.mark.parametrize(("name", "config"), VARIANTS)
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_gradients_reach_the_prompt_alone(family, name, config):
    _, module = adapt(name, family, length=4, **config)
    loss(module).backward()
    for parameter_name, parameter in module.named_parameters():
        reached = parameter.grad is not None and parameter.grad.any().item()
        assert reached == parameter_name.startswith("prompt."), parameter_name


@pytest.mark.parametrize(("name", "config"), VARIANTS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_finalized_output_is_exactly_that_of_training_form(name, config, mode):
    method, module = adapt(name, "bert", length=4, **config)
    module.eval()
    with mode():
        final = method.finalize(module)
        assert states(final).equal(states(module))
    assert list(trained(final)) == ["prompt.table"]


def test_finalize_leaves_its_input_untouched_and_shares_the_frozen_weights():
    method, module = adapt("p_tuning", "bert", length=4)
    before, names = copy.deepcopy(module.state_dict()), list(trained(module))
    final = method.finalize(module)
    final.train()
    with torch.no_grad():
        final.prompt.table.zero_()
    assert list(trained(module)) == names
    assert all(module.state_dict()[name].equal(tensor) for name, tensor in before.items())
    assert not module.backbone.training
    frozen = {p.data_ptr() for p in module.backbone.parameters()}
    assert {p.data_ptr() for p in final.backbone.parameters()} == frozen


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_delta_restores_the_output_on_a_fresh_backbone(name, config):
    method, module = adapt(name, "roberta", length=4, **config)
    restored = method.load_delta(tiny("roberta"), make(name, {"length": 4, **config})[1], method.delta(module))
    assert states(restored.eval()).equal(states(module.eval()))


def test_initial_prompts_are_different_words_or_uniform():
    _, module = adapt("prompt_tuning", "bert", length=40)
    table = module.backbone.get_input_embeddings().weight
    rows = [int(row.eq(table).all(1).nonzero()[0]) for row in module.prompt.table]
    assert len(set(rows)) == 40
    _, module = adapt("prompt_tuning", "bert", length=40, init="uniform")
    assert module.prompt.table.abs().max() <= 0.5
    assert module.prompt.table.std().item() == pytest.approx(12**-0.5, rel=0.05)


def test_words_are_sampled_from_the_first_5000_rows():
    _, module = adapt("prompt_tuning", tiny("bert", vocab_size=6000), length=60)
    table = module.backbone.get_input_embeddings().weight
    assert max(int(row.eq(table).all(1).nonzero()[0]) for row in module.prompt.table) < 5000


def test_class_names_are_repeated_until_the_prompt_is_full():
    method, module = adapt("prompt_tuning", "bert", length=5, init="labels")
    table = module.backbone.get_input_embeddings().weight
    method.name_classes(module, [[7, 8], [9]])
    assert module.prompt.table.equal(table[[7, 8, 9, 7, 8]])
    method.name_classes(module, [[n] for n in range(3, 20)])
    assert module.prompt.table.equal(table[[3, 4, 5, 6, 7]])
    with pytest.raises(BenchError, match="init = 'labels' needs a task whose classes have names; take init = 'voc"):
        method.name_classes(module, [])


@pytest.mark.parametrize("init", ["vocabulary", "uniform"])
def test_other_starts_do_not_hear_the_class_names(init):
    method, module = adapt("prompt_tuning", "bert", length=5, init=init)
    before = module.prompt.table.detach().clone()
    method.name_classes(module, [[7, 8], [9]])
    assert module.prompt.table.equal(before)


@pytest.mark.filterwarnings("ignore::FutureWarning:peft")
@pytest.mark.parametrize("names", [[[7, 8], [9]], [[3], [4], [5], [6], [7], [8]]])
def test_a_start_from_class_names_is_that_of_peft_s_text(names, monkeypatch):
    from peft import PromptTuningConfig
    from peft.tuners.prompt_tuning import PromptEmbedding

    method, module = adapt("prompt_tuning", "bert", length=5, init="labels")
    method.name_classes(module, names)
    tokens = [token for name in names for token in name]
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained", lambda *args, **options: lambda text: {"input_ids": tokens}
    )
    config = PromptTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=5, token_dim=32, num_transformer_submodules=1,
        prompt_tuning_init="TEXT", prompt_tuning_init_text="the class names", tokenizer_name_or_path="any",
    )  # fmt: skip
    theirs = PromptEmbedding(config, module.backbone.get_input_embeddings())
    assert module.prompt.table.equal(theirs.embedding.weight)


def test_without_its_encoder_p_tuning_starts_where_the_encoder_would():
    starts = []
    for encoder in ("lstm", "none"):
        torch.manual_seed(3)
        method, module = adapt("p_tuning", "bert", length=4, encoder=encoder)
        starts.append(method.input_vectors(module))
    assert starts[0].equal(starts[1])
    assert list(trained(module)) == ["prompt.table"]


@pytest.mark.parametrize(("name", "config"), VARIANTS)
def test_input_vectors_are_those_that_are_stored(name, config):
    method, module = adapt(name, "bert", length=4, **config)
    assert method.input_vectors(module).equal(method.delta(method.finalize(module))["prompt.table"])
    assert not method.input_vectors(module).requires_grad


def test_no_weight_decay_falls_on_any_trained_parameter():
    for name in METHODS:
        method, module = adapt(name, "bert", length=4)
        groups = method.param_groups(module, lr=0.3)
        assert {group["weight_decay"] for group in groups} == {0.0}
        assert sum(p.numel() for group in groups for p in group["params"]) == count(module)


def test_prompt_follows_width_and_dtype_of_the_word_embeddings():
    _, module = adapt("p_tuning", tiny("electra", embedding_size=16).bfloat16(), length=4)
    assert {p.dtype for p in trained(module).values()} == {torch.bfloat16}
    assert module.prompt().shape == (4, 16)
    assert states(module).shape == (3, 13, 32)


@pytest.mark.parametrize(("name", "config"), VARIANTS)
@pytest.mark.parametrize("family", ["opt", "t5"])
def test_runs_and_finalizes_on_fake_tensors(family, name, config):
    with FakeTensorMode():
        method, module = adapt(name, family, length=4, **config)
        states(module).sum().backward()
        assert states(method.finalize(module)).shape == (3, 13, 32)


def test_reserved_positions_are_those_that_the_prompt_takes():
    for name, config, expected in [
        ("prompt_tuning", {}, 20),
        ("prompt_tuning", {"position_shift": False}, 0),
        ("p_tuning", {"length": 9}, 9),
    ]:
        method, parsed = make(name, config)
        assert method.reserved_positions(parsed) == expected


@pytest.mark.parametrize(
    ("name", "family", "config", "sentence"),
    [
        ("prompt_tuning", "bert", {"length": 0}, "length = 0 is too small; it takes at least 1"),
        ("p_tuning", "bert", {"length": 0}, "length = 0 is too small; it takes at least 1"),
        ("p_tuning", "bert", {"hidden": 0}, "hidden = 0 is too small"),
        (
            "p_tuning",
            "bert",
            {"encoder": "gru"},
            "encoder = 'gru' has the wrong type; it takes 'lstm' or 'mlp' or 'none'",
        ),
        ("prompt_tuning", "bert", {"length": 64}, "leaves no position for a token: this bert has 64"),
        ("p_tuning", "roberta", {"length": 64}, "leaves no position for a token: this roberta has 64"),
        ("prompt_tuning", "llama", {"length": 97}, "has 96 rows for length = 97; take init = 'uniform'"),
        ("prompt_tuning", "t5", {"position_shift": False}, "needs learned positions, which family 't5' lacks"),
    ],
)
def test_what_cannot_be_is_refused(name, family, config, sentence):
    with pytest.raises(BenchError, match=sentence):
        adapt(name, family, **config)


@pytest.mark.filterwarnings("ignore::FutureWarning:peft")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert", "gpt2", "opt", "llama", "t5"])
def test_equals_peft_on_the_same_prompt(family):
    from peft import PromptTuningConfig, get_peft_model

    _, module = adapt("prompt_tuning", family, length=4)
    sizes = {"num_layers": 2, "num_attention_heads": 4, "token_dim": 32}
    config = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4, **sizes)
    theirs = get_peft_model(tiny(family), config).eval()
    weight = theirs.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(module.prompt.table)
    weights = torch.randn(3, 10, 32, generator=torch.Generator().manual_seed(5))
    ours, reference = states(module, **batch(pad=3))[:, :10], states(theirs, **batch(pad=3))[:, 4:14]
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)
    for output in (ours, reference):
        (output * weights).mean().backward()
    torch.testing.assert_close(module.prompt.table.grad, weight.grad, atol=1e-6, rtol=0)
    assert weight.grad.abs().max() > 1e-5
