"""Every field of peft's configurations acts, is refused with a sentence, or is named as harmless with the reason."""

import functools

import pytest
import torch

from bench.errors import BenchError
from bench.registry import make
from methods import peft_fields
from methods.peft_config import _configs, _defaults
from tests.methods.adapted import loss, randomise, states
from tests.methods.families import tiny
from tests.methods.peft_types import suited

KINDS = ("LORA", "ADALORA", "IA3", "OFT", "PROMPT_TUNING", "PREFIX_TUNING")
OTHER = {
    "alpha_pattern": {"query": 3}, "alora_invocation_tokens": [5, 6], "arrow_config": {}, "beta1": 0.01, "beta2": 0.01,
    "bias": "all", "corda_config": {}, "deltaT": 3, "encoder_hidden_size": 16, "eps": 1e-2, "eva_config": {},
    "exclude_modules": ["layer.0.attention.self.query"], "feedforward_modules": ["value"], "init_ia3_weights": False,
    "init_lora_weights": "gaussian", "init_weights": {"OFT": False, "PREFIX_TUNING": "zero"}, "kasa_config": {},
    "layer_replication": [[0, 2], [0, 1]], "layers_pattern": "layer", "layers_to_transform": [0],
    "loftq_config": {"loftq_bits": 4}, "lora_ga_config": {}, "loraplus_lr_ratio": 4, "megatron_config": {"x": 1},
    "megatron_core": "x", "modules_to_save": ["LayerNorm"], "monteclora_config": {}, "oft_block_size": 8,
    "optimizer_type": "lora-fa", "prompt_tuning_init": "SAMPLE_VOCAB", "prompt_tuning_init_text": "so",
    "r": {"LORA": 2, "ADALORA": 2, "OFT": 2}, "rank_pattern": {"query": 3}, "riemannian_reg": 0.1,
    "target_modules": ["key"], "target_parameters": ["output.dense.weight"], "target_r": 1, "tokenizer_kwargs": {},
    "tokenizer_name_or_path": "x", "total_step": 50, "trainable_token_indices": [5, 6], "use_bdlora": {},
    "velora_config": {}, "tinit": 1, "tfinal": 1,
}  # fmt: skip
"""A value other than peft's default, where adding to a number or turning a switch gives none."""
FIELDS = [(kind, name) for kind in KINDS for name in _defaults(kind)]


def other(kind: str, name: str, value: object) -> object:
    """A value of field ``name`` other than ``value``."""
    if name in OTHER:
        chosen = OTHER[name]
        return chosen[kind] if isinstance(chosen, dict) and kind in chosen else chosen
    if isinstance(value, bool):
        return not value
    assert isinstance(value, int | float) or value is None, f"say another value of {name}"
    return 0.25 if value == 0.0 and isinstance(value, float) else (value or 0) + 2


def built(values: dict[str, object]):
    """The method, its configuration and the module on a tiny BERT, with one seed."""
    method, config = make("peft", values)
    torch.manual_seed(1)
    return method, config, method.apply(tiny("bert"), config)


def of_build(module) -> list[object]:
    """Names, sizes, values and roles of all tensors."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [(name, t.shape, t.requires_grad, t.detach().double().sum().item()) for name, t in tensors]


def names_and_sizes(module) -> list[object]:
    """Names, sizes and roles of all parameters."""
    return sorted((name, p.shape, p.requires_grad) for name, p in module.named_parameters())


def without_values(values: dict[str, object]) -> list[object] | None:
    """The same of the module on a backbone without values; None where it starts from them."""
    method, config = make("peft", values)
    with torch.device("meta"):
        backbone = tiny("bert")
    try:
        return names_and_sizes(method.apply(backbone, config))
    except NotImplementedError:
        return None


def of_steps(method, module) -> list[object]:
    """Output, losses and delta over two steps away from the start."""
    randomise(module, 0.3)
    seen = [states(module.eval())]
    groups = method.param_groups(module, 0.1)
    optimizer = method.optimizer(module, groups, 0.0) or torch.optim.SGD(groups)
    for step in (1, 2, 3):
        torch.manual_seed(5)
        plain, extra = loss(module.train()), method.regularizer(module)
        seen.append(plain if extra is None else plain + extra)
        seen[-1].backward()
        optimizer.step()
        method.after_step(module, step, 4)
        optimizer.zero_grad()
    if allocator := getattr(module.peft.base_model, "rankallocator", None):  # AdaLoRA's running means decide its masks
        seen += [*allocator.exp_avg_ipt.values(), *allocator.exp_avg_unc.values()]
    sums = [tensor.double().sum().item() for tensor in (*seen, *method.delta(module).values())]
    return [*sums, *method.delta(module)]


@functools.cache
def usual(kind: str):
    """What comes of the suited configuration."""
    method, _, module = built(suited(kind, "bert"))
    return of_build(module), of_steps(method, module)


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: value)
def test_a_changed_field_changes_something_is_refused_or_is_named_as_harmless(kind, name):
    base = suited(kind, "bert")
    values = base | {name: other(kind, name, base.get(name, _defaults(kind)[name]))}
    assert values != base
    try:
        method, _, module = built(values)
    except BenchError as refusal:
        assert name in str(refusal) or kind in str(refusal)
        assert "\n" not in str(refusal)
        return
    whole, steps = usual(kind)
    assert without_values(values) in (None, names_and_sizes(module)), "predict counts another module than run trains"
    acts = of_build(module) != whole or of_steps(method, module) != steps
    harmless = peft_fields.HARMLESS.get(kind, {}) | peft_fields.HARMLESS[""]
    assert acts != (name in harmless), "harmless fields do nothing, and no others do"


def test_what_is_harmless_or_needs_another_field_is_a_field_of_this_peft():
    """So that neither list outlives what it is about."""
    for table in (peft_fields.NEEDS, peft_fields.HARMLESS):
        assert {name for kind in _configs() for name in _defaults(kind)} >= table[""].keys()
        for kind in table.keys() - {""}:
            assert _defaults(kind).keys() >= table[kind].keys(), kind


REFUSED = {
    "of another's data": ({"init_lora_weights": "eva"}, "'eva' starts from a pass over data"),
    "corda": ({"init_lora_weights": "corda"}, "'corda' starts from a pass over data"),
    "lora-ga": ({"init_lora_weights": "lora_ga"}, "'lora_ga' starts from a pass over data"),
    "for packed weights": ({"use_qalora": True, "qalora_group_size": 8}, "use_qalora = True does nothing here"),
    "scaled to nothing": ({"lora_alpha": 0}, "lora_alpha = 0 leaves nothing that trains"),
    "in one place": ({"alpha_pattern": {"query": 0}}, "alpha_pattern: 'query' = 0 leaves nothing that trains there"),
    "all dropped": ({"lora_dropout": 1.0}, r"lora_dropout = 1.0; it takes a share of at least 0 and below 1"),
    "of Megatron": ({"megatron_config": {"a": 1}}, "megatron_config .* is for layers of Megatron"),
    "no bias": ({"bias": None}, "bias = None; leave it out, which gives 'none'"),
    "a bias of another spelling": ({"bias": "lora-only"}, "bias = 'lora-only'; it takes 'none', 'all' or"),
    "no rank": ({"r": None}, "r = None; leave it out, which gives 8"),
    "a word for a number": ({"r": "8"}, "r = '8'; it takes a whole number"),
    "a number for a switch": ({"use_dora": 1}, "use_dora = 1; it takes true or false"),
    "half a start": (
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "needs loftq_config = .* both keys",
    ),
    "a dropout that is not called": ({"peft_type": "OFT", "module_dropout": 0.1}, "module_dropout = 0.1 does nothing"),
    "a start that is not set": ({"loftq_config": {"loftq_bits": 4}}, "loftq_config .* without init_lora_weights"),
    "a list of layers alone": ({"layers_pattern": "layer"}, "layers_pattern = 'layer' does nothing without layers_to"),
    "tied to nothing": ({"ensure_weight_tying": True}, "ensure_weight_tying = True does nothing here"),
    "ranks above the first": ({"peft_type": "ADALORA", "init_r": 4, "target_r": 8}, "target_r = 8 is above init_r = 4"),
    "a period of no steps": ({"peft_type": "ADALORA", "target_r": 4, "deltaT": 0}, "deltaT = 0; it takes at least 1"),
    "a mean beyond one": ({"peft_type": "ADALORA", "target_r": 4, "beta1": 1.5}, "beta1 = 1.5; it takes a share"),
    "a rank that is not used": ({"peft_type": "ADALORA", "r": 4}, "r = 4 does nothing in AdaLoRA; give init_r"),
    "a start of LoRA's": ({"peft_type": "ADALORA", "init_lora_weights": "pissa"}, "does nothing in AdaLoRA"),
    "an unused bound": ({"peft_type": "OFT", "eps": 1e-3}, "eps = 0.001 does nothing without coft"),
    "words without a start": (
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "prompt_tuning_init_text": "so"},
        "prompt_tuning_init_text = 'so' does nothing without prompt_tuning_init = 'TEXT'",
    ),
    "layers of an encoder that has two": (
        {"peft_type": "P_TUNING", "num_virtual_tokens": 3, "encoder_num_layers": 3}, "encoder_num_layers = 3 does noth",
    ),
    "no positions": ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 0}, "num_virtual_tokens = 0 leaves nothing"),
    "a pattern that is not read": ({"peft_type": "HIRA", "rank_pattern": {"query": 3}}, "rank_pattern .* does nothing"),
    "a rank of another type": ({"r": 8.0}, "r = 8.0; it takes a whole number"),
    "a switch that equals its default": ({"use_dora": 0}, "use_dora = 0; it takes true or false"),
    "a rank without end": ({"lora_dropout": float("nan")}, "lora_dropout = nan; it takes no number that is infinite"),
    "a scale without end": ({"peft_type": "FOURIERFT", "scaling": float("inf")}, "scaling = inf; it takes no number"),
    "a name that is none": ({"target_modules": ["query", 5]}, r"target_modules = .*; it takes .*, each of a word"),
    "half a token": ({"trainable_token_indices": [1.5, 2]}, "trainable_token_indices = .*; it takes a list"),
    "no token": ({"trainable_token_indices": []}, "trainable_token_indices is empty and trains nothing"),
    "no token of no embedding": ({"trainable_token_indices": {}}, "trainable_token_indices is empty"),
    "no token at all": ({"peft_type": "TRAINABLE_TOKENS", "token_indices": []}, "token_indices is empty"),
    "a rank in words": ({"rank_pattern": {"query": "4"}}, "rank_pattern: 'query' = '4'; it takes a whole number"),
    "a rank that is a switch": ({"rank_pattern": {"query": True}}, "rank_pattern: 'query' = True; it takes a whole"),
    "a rank of none": ({"rank_pattern": {"query": 0}}, "rank_pattern: 'query' = 0; it takes a whole number of at"),
    "ranks without names": ({"rank_pattern": ["query"]}, "rank_pattern = .*; it takes a table"),
    "a scale in one place without end": ({"alpha_pattern": {"query": float("nan")}}, "alpha_pattern = .* infinite"),
    "a scale in words": ({"alpha_pattern": {"query": "16"}}, "alpha_pattern: 'query' = '16'; it takes a number"),
    "a start that is not known": (
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, "prompt_tuning_init": "WORDS"},
        "prompt_tuning_init = 'WORDS'; it takes 'TEXT' or 'SAMPLE_VOCAB' or 'RANDOM'",
    ),
    "an encoder that is not known": (
        {"peft_type": "P_TUNING", "num_virtual_tokens": 3, "encoder_reparameterization_type": "CNN"}, "it takes 'MLP'",
    ),
    "a mask of one's own": ({"peft_type": "SHIRA", "mask_type": "magnitude"}, "mask_type = .*; it takes 'random'"),
    "a prompt of no size": ({"peft_type": "PROMPT_TUNING"}, "num_virtual_tokens = None; it takes a whole number of"),
    "a prompt below nothing": ({"peft_type": "P_TUNING", "num_virtual_tokens": -3}, "num_virtual_tokens = -3; it t"),
    "layers of no number": ({"peft_type": "ADAPTION_PROMPT", "adapter_len": 4}, "adapter_layers = None; it takes"),
    "two zeros": ({"peft_type": "VERA", "d_initial": 0.0}, "d_initial = 0 leaves nothing that trains"),
    "a prompt that is not there": (
        {"peft_type": "MULTITASK_PROMPT_TUNING", "num_virtual_tokens": 3, "prompt_tuning_init": "EXACT_SOURCE_TASK",
         "prompt_tuning_init_state_dict_path": "none.bin"}, "prompt_tuning_init_state_dict_path = .* is no file",
    ),
    "a start of no name": ({"init_lora_weights": "banana"}, "'banana'; it takes true, false, 'gaussian', .* 'pissa_n"),
    "a start in capitals": ({"init_lora_weights": "EVA"}, "init_lora_weights = 'EVA'; it takes true"),
    "a start of no number": ({"init_lora_weights": "pissa_niter_x"}, "init_lora_weights = 'pissa_niter_x'; it takes"),
    "a start that is a number": ({"init_lora_weights": 1}, "init_lora_weights = 1; it takes true"),
    "a start of three bits": (
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 3, "loftq_iter": 1}}, "bits = 3; it takes 2, 4",
    ),
    "a key of a table": ({"velora_config": {"groups": 3}}, "velora_config: unknown key 'groups'; known: init_type"),
    "a key of another table": ({"use_bdlora": {"nblock": 3}}, "use_bdlora: unknown key 'nblock'.* mean 'nblocks'"),
    "a table that is a switch": ({"use_bdlora": True}, "use_bdlora = True; it takes a table of fields"),
    "a table that is a list": ({"monteclora_config": []}, "monteclora_config = .*; it takes a table of fields"),
    "a number in a table": ({"velora_config": {"num_groups": 0}}, "velora_config.num_groups = 0; it takes at least 1"),
    "half a number in a table": ({"use_bdlora": {"nblocks": 1.5}}, "use_bdlora.nblocks = 1.5; it takes a whole number"),
    "a scale in a table": ({"velora_config": {"scale": 0.0}}, "velora_config.scale = 0.0; it takes a number above 0"),
    "a word in a table": ({"velora_config": {"init_type": "x"}}, "velora_config.init_type = 'x'; it takes 'batch_aver"),
    "a weight below nothing": ({"kasa_config": {"beta": -1.0}}, "kasa_config.beta = -1.0; it takes at least 0"),
    "a name in two lists": (
        {"use_bdlora": {"target_modules_bd_a": ["query"], "target_modules_bd_b": ["query"]}}, "names 'query' in",
    ),
    "a rank below nothing": ({"r": -1}, "r = -1; it takes a number above 0"),
    "a scale below nothing": ({"lora_alpha": -8}, "lora_alpha = -8; it takes a number above 0"),
    "targets of no name": ({"target_modules": [""]}, "target_modules = .* holds an empty name"),
    "an empty word": ({"target_modules": ""}, "target_modules = '' holds an empty name"),
    "no targets": ({"target_modules": []}, "target_modules = .* names nothing to adapt"),
    "a saved module of no name": ({"modules_to_save": [""]}, "modules_to_save = .* holds an empty name"),
    "ranks by null": ({"rank_pattern": None}, "rank_pattern = None; leave it out, which gives {}"),
    "layers beside an expression": (
        {"target_modules": ".*query", "layers_to_transform": [0]}, "layers_to_transform does not go with one",
    ),
    "a bias beside DoRA": ({"lora_bias": True, "use_dora": True}, "lora_bias and use_dora exclude each other"),
    "a bias beside a start": ({"lora_bias": True, "init_lora_weights": "pissa"}, "'pissa' does not go with lora_bias"),
    "a start of C3A": ({"peft_type": "C3A", "init_weights": "yes"}, "init_weights = 'yes'; it takes true or false"),
    "a variant of RoAd": ({"peft_type": "ROAD", "variant": "road_3"}, "variant = 'road_3'; it takes 'road_1' or"),
    "no strength": ({"peft_type": "DELORA", "delora_lambda": 0}, "delora_lambda = 0 leaves nothing that trains"),
    "no token of CPT": ({"peft_type": "CPT", "cpt_token_ids": []}, "cpt_token_ids is empty and trains nothing"),
    "a seed below nothing": ({"peft_type": "FROD", "projection_prng_key": -1}, "projection_prng_key = -1; it takes at"),
    "a share of more than all": ({"peft_type": "SUPERTUNING", "sparsity": 1.0}, "sparsity = 1.0; it takes a share"),
    "two sizes of blocks": (
        {"peft_type": "BOFT", "boft_block_size": 4, "boft_block_num": 8}, "block_num = 8: one of them is 0 and the oth",
    ),
    "no size of blocks": ({"peft_type": "OFT", "r": 0, "oft_block_size": 0}, "r = 0 and oft_block_size = 0: one of th"),
    "a rank that is not shared": ({"peft_type": "GRALORA", "r": 3}, "r = 3 is no multiple of gralora_k = 2"),
    "a part that is no target": (
        {"peft_type": "IA3", "target_modules": ["query"], "feedforward_modules": ["value"]}, "'value' is not among tar",
    ),
    "a mask of another length": (
        {"peft_type": "CPT", "cpt_token_ids": [1, 2], "cpt_mask": [1]}, "cpt_mask has 1 numbers for 2 of cpt_token_ids",
    ),
    "all tokens frozen": (
        {"peft_type": "CARTRIDGE", "num_virtual_tokens": 3, "num_frozen_tokens": 3}, "num_frozen_tokens = 3 leaves non",
    ),
    "half a pair": ({"peft_type": "ROAD", "group_size": 3}, "group_size = 3 is odd"),
    "more choices than vectors": ({"peft_type": "VBLORA", "num_vectors": 2, "topk": 5}, "topk = 5 is above num_vector"),
    "a factor of nothing": ({"peft_type": "LOKR", "decompose_factor": 0}, "decompose_factor = 0; it takes at least 1"),
    "equal pairs made orthogonal": ({"peft_type": "HRA", "apply_GS": True}, "apply_GS = true divides zero by zero"),
    "no direction kept": ({"peft_type": "OSF", "effective_rank": 0}, "effective_rank = 0; it takes a number above 0"),
    "a seed by null": ({"peft_type": "FOURIERFT", "random_loc_seed": None}, "random_loc_seed = None; leave it out"),
    "a wavelet of no name": (
        {"peft_type": "WAVEFT", "wavelet_family": "x"}, "family x not .* are: 'db1', 'db2', 'db3' and others$",
    ),
    "an activation of no name": ({"peft_type": "PEANUT", "act_fn": "x"}, "`act_fn`: x.* and others$"),
    "a bound of nothing": ({"peft_type": "UNILORA", "init_theta_d_bound": 0}, "bound = 0; it takes a number above 0"),
    "of subspaces that stay": ({"peft_type": "ADAMSS", "init_warmup": 3}, "init_warmup = 3 does nothing witho"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_nothing_or_makes_no_sense_is_refused_before_anything_is_built(case):
    values, words = REFUSED[case]
    with pytest.raises(BenchError, match=words) as refusal:
        make("peft", {"peft_type": "LORA", **values})
    assert "\n" not in str(refusal.value)


ACTS = {
    "OFT": [({"coft": True}, {"eps": 1e-2}), ({}, {"num_cayley_neumann_terms": 3})],
    "P_TUNING": [({"encoder_reparameterization_type": "LSTM"}, {"encoder_num_layers": 1})],
    "PREFIX_TUNING": [({"prefix_projection": True}, {"encoder_hidden_size": 8})],
    "LOKR": [({"rank_dropout": 0.5}, {"rank_dropout_scale": True})],
    "SUPERTUNING": [({"r": 2}, {"lora_alpha": 9.0}), ({"r": 2}, {"lora_dropout": 0.5})],
    "TINYLORA": [({"init_weights": "uniform"}, {"init_v_bound": 0.5})],
    "MISS": [({"init_weights": "mini", "mini_r": 8}, {"mini_r": 16})],
    "DEFT": [({"init_weights": False}, {"init_scale": 0.5})],
}
"""peft_type -> pairs of the choice that a field needs and the field, which is then taken and acts."""


@pytest.mark.parametrize(
    ("kind", "choice", "field"), [(kind, *pair) for kind, pairs in ACTS.items() for pair in pairs], ids=str
)
def test_a_field_acts_beside_what_it_needs(kind, choice, field):
    found = []
    for more in ({}, field):
        method, _, module = built(suited(kind, "bert") | choice | more)
        found.append((of_build(module), of_steps(method, module)))
    assert found[0] != found[1]
