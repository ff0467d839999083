"""A suited configuration of each of peft's types on three tiny backbones, and what comes of it."""

import functools

import torch

from bench.errors import BenchError
from bench.registry import make, resolved
from tests.methods.adapted import randomise, states
from tests.methods.families import tiny

FAMILIES = ("bert", "gpt2", "llama")
QUERY = {"bert": ["query", "value"], "gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}
NORMS = {"bert": ["LayerNorm"], "gpt2": ["ln_1", "ln_2"], "llama": ["input_layernorm"]}
WORDS = {"bert": ["word_embeddings"], "gpt2": ["wte"], "llama": ["embed_tokens"]}
BLOCKS = {"bert": {"target_modules": r".*encoder\.layer\.\d+"}}  # peft finds the blocks of decoders by itself
PLAIN = ("LILY", "LOHA", "LOKR", "POLY", "VERA", "PVERA", "GLORA", "HRA", "MISS", "RANDLORA", "HIRA", "SHIRA", "DELORA")
PLAIN += ("GRALORA", "PSOFT", "PEANUT", "DEFT", "LORA")
"""Types that take a rank and targets."""
OWN = {
    "ADALORA": {"init_r": 4, "target_r": 2},
    "ADAMSS": {"r": 8, "num_subspaces": 2, "subspace_rank": 1},
    "BOFT": {"boft_block_size": 4},
    "IA3": {"feedforward_modules": []},
    "BEFT": {},
    "OFT": {"r": 0, "oft_block_size": 4},
    "FROD": {"progressbar": False},
    "FOURIERFT": {"n_frequency": 20},
    "VBLORA": {"r": 4, "vector_length": 8, "num_vectors": 16},
    "UNILORA": {"r": 4, "theta_d_length": 16},
    "ROAD": {"group_size": 8},
    "C3A": {"block_size": 8},
    "WAVEFT": {"n_frequency": 20},
    "OSF": {},
    "TINYLORA": {"u": 4},
    "SUPERTUNING": {},
}
"""Types that take targets and numbers of their own, which are sized for backbones 32 wide."""


def suited(kind: str, family: str) -> dict[str, object]:
    """A configuration of ``kind`` that fits the tiny backbone of ``family``."""
    targets = {"target_modules": QUERY[family]}
    special = {
        "PROMPT_TUNING": {"num_virtual_tokens": 3},
        "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3},
        "P_TUNING": {"num_virtual_tokens": 3, "encoder_hidden_size": 8},
        "PREFIX_TUNING": {"num_virtual_tokens": 3},
        "CARTRIDGE": {"num_virtual_tokens": 3},
        "CPT": {"cpt_token_ids": [5, 6, 7]},
        "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 2},
        "LN_TUNING": {"target_modules": NORMS[family]},
        "TRAINABLE_TOKENS": {"token_indices": [5, 6, 7, 8, 9], "target_modules": WORDS[family]},
        "SHADOW": {"r": 4, **BLOCKS.get(family, {})},
        "XLORA": {"hidden_size": 32, "adapters": {}},
    }
    values = special.get(kind) or {**targets, **({"r": 4} if kind in PLAIN else OWN[kind])}
    return {"peft_type": kind, **values}


@functools.cache
def outcome(kind: str, family: str) -> str:
    """``works``, or the sentence of the refusal, without the ends of long ones.

    Works means: three steps run, the output stays aligned, the configuration
    survives a round trip, the delta reloads exactly on a fresh backbone, and a merged module gives the same output.
    """
    try:
        method, config = make("peft", suited(kind, family))
        torch.manual_seed(1)
        module = method.apply(tiny(family), config)
    except BenchError as refusal:
        return str(refusal).removeprefix("peft: ")
    assert type(config).parse(resolved(config)) == config
    silent = _train(method, module)
    randomise(module.eval(), 0.02)
    with torch.no_grad():
        delta, expected = method.delta(module), states(module)
        torch.manual_seed(99)
        reloaded = states(method.load_delta(tiny(family), config, delta).eval())
        near = 1e-6 if kind == "CPT" else 0.0  # CPT projects its weights anew in every forward, to rounding
        torch.testing.assert_close(reloaded, expected, atol=near, rtol=0)
        merged = method.merge(module)
        torch.testing.assert_close(states(module), expected, atol=near, rtol=0)
        if merged is not None:
            torch.testing.assert_close(states(merged.eval()), expected, atol=5e-4, rtol=1e-3)
    return "works" + (", merges" if merged is not None else "") + (f"; {silent} tensors unused" if silent else "")


def _train(method, module) -> int:
    """Three steps; returns how many trainables a backward pass does not reach."""
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), 1e-2)
    for step in (1, 2, 3):
        hidden = states(module.train())
        assert hidden.shape == (3, 13, 32)
        loss = (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))).mean()
        extra = method.regularizer(module)
        (loss if extra is None else loss + extra).backward()
        silent = sum(p.grad is None for p in trained.values())
        optimizer.step()
        method.after_step(module, step, 3)
        optimizer.zero_grad()
    return silent
