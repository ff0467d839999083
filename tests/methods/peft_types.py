"""A suited configuration of each of peft's types on three tiny backbones, and what comes of it."""

import dataclasses
import functools

import torch

from bench.errors import BenchError
from bench.registry import make, resolved
from methods.peft_notes import difference
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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a type on a family."""

    says: str
    """``works``, or the sentence of the refusal."""
    start: float = 0.0
    """Difference of hidden states from the base model's before training, as a share of their largest; 0: rounding."""
    merge: float | None = None
    """The same of the merged against the unmerged module, away from the start; None: it does not merge."""

    @property
    def works(self) -> bool:
        """It runs on the family."""
        return self.says.startswith("works")


@functools.cache
def outcome(kind: str, family: str) -> Outcome:
    """What comes of the suited configuration of ``kind`` on ``family``."""
    return tried(family, suited(kind, family))


def tried(family: str, values: dict[str, object]) -> Outcome:
    """What comes of a configuration: it works where three steps run, the output stays aligned, the configuration
    survives a round trip, and the delta reloads exactly on a fresh backbone."""
    try:
        method, config = make("peft", values)
        torch.manual_seed(1)
        module = method.apply(tiny(family), config)
    except BenchError as refusal:
        return Outcome(str(refusal).removeprefix("peft: "))
    assert type(config).parse(resolved(config)) == config
    with torch.no_grad():
        start = difference(states(module.eval()), states(tiny(family))) or 0.0
    silent = _train(method, module)
    randomise(module.eval(), 0.02)
    with torch.no_grad():
        delta, expected = method.delta(module), states(module)
        torch.manual_seed(99)
        reloaded = states(method.load_delta(tiny(family), config, delta).eval())
        near = 1e-6 if values["peft_type"] == "CPT" else 0.0  # CPT projects anew in every forward, to rounding
        torch.testing.assert_close(reloaded, expected, atol=near, rtol=0)
        merged = method.merge(module)
        torch.testing.assert_close(states(module), expected, atol=near, rtol=0)
        apart = None if merged is None else difference(states(merged.eval()), expected) or 0.0
    return Outcome("works" + (f"; {silent} tensors unused" if silent else ""), start, apart)


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
