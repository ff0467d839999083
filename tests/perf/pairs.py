"""The same adapted backbone built twice, by this project and by ``peft``, with equal weights."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.count.step import random_batch, set_dropout
from tests.methods.adapted import adapt, randomise, trained
from tests.methods.families import tiny

ROWS, LENGTH, PADDING, WIDTH, LAYERS, HEADS, PROMPT = 8, 64, 8, 256, 4, 4, 10
SHAPE = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH,
    "max_position_embeddings": 128,
}  # fmt: skip
LINEAR = ("query", "key", "value", "output", "ffn_in", "ffn_out")


def bert() -> nn.Module:
    """A frozen BERT, 256 wide and 4 layers deep; every call gives the same weights."""
    return tiny("bert", **SHAPE)


def padded_batch() -> dict[str, Tensor]:
    """Token ids ``[8, 64]`` whose last row ends in padding, as batches of a real task do."""
    batch = random_batch(ROWS, LENGTH, vocabulary=96, outputs=2)
    del batch["labels"]
    batch["attention_mask"][-1, -PADDING:] = 0
    return batch


def as_they_are(ours: Tensor, theirs: Tensor) -> Tensor:
    """Our parameter in the shape of peft's, which differs by a dimension of size one at most."""
    return ours.view(theirs.shape)


def as_cache_rows(ours: Tensor, theirs: Tensor) -> Tensor:
    """Our keys and values ``[L, 2, heads, p, d_h]`` as peft's ``[p, L 2 heads d_h]``."""
    return ours.permute(3, 0, 1, 2, 4).reshape(theirs.shape)


@dataclass(frozen=True)
class Pair:
    """A method of ours and what peft calls the same."""

    method: str
    config: dict[str, object]
    peft: str
    """Name of peft's configuration class."""
    peft_config: dict[str, object]
    convert: Callable[[Tensor, Tensor], Tensor] = field(default=as_they_are)
    prompt: int = 0
    """Positions in front of the tokens' in peft's hidden states; this project leaves them out itself."""
    adds: bool = False
    """Whether peft trains what it adds to a tensor of the backbone, where this project trains the tensor."""


_PROMPT_SHAPE = {"task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": PROMPT}
_TOKENS = {**_PROMPT_SHAPE, "num_layers": LAYERS, "num_attention_heads": HEADS, "token_dim": WIDTH}
_LSTM = {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": WIDTH // 2, "encoder_num_layers": 2}
_FFN_OUT = r".*layer\.\d+\.output\.dense"
_CACHED = {"length": PROMPT, "position_shift": True}  # peft's cache moves the tokens by p positions
_LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}

PAIRS = {
    "lora": Pair("lora", {"rank": 8}, "LoraConfig", _LORA),
    "lora_all_linear": Pair(
        "lora", {"rank": 8, "targets": LINEAR}, "LoraConfig",
        {"r": 8, "lora_alpha": 16, "target_modules": ["query", "key", "value", "dense"]},
    ),
    "rslora": Pair("rslora", {}, "LoraConfig", _LORA | {"use_rslora": True}),
    "dora": Pair("dora", {}, "LoraConfig", _LORA | {"use_dora": True}),
    "pissa": Pair("pissa", {"niter": 0}, "LoraConfig", _LORA | {"init_lora_weights": "pissa"}),
    "adalora": Pair(
        "adalora", {"initial_rank": 12, "target_rank": 8}, "AdaLoraConfig",
        {"init_r": 12, "target_r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], "total_step": 100},
    ),
    "vera": Pair("vera", {"rank": 256}, "VeraConfig", {"r": 256, "target_modules": ["query", "value"]}),
    "ia3": Pair(
        "ia3", {}, "IA3Config",
        {"target_modules": rf"(.*\.(key|value))|({_FFN_OUT})", "feedforward_modules": _FFN_OUT},
    ),
    "bitfit": Pair(
        "bitfit", {"biases": "query+ffn"}, "BeftConfig", {"target_modules": ["query", "intermediate.dense"]},
        adds=True,
    ),
    "prefix_tuning": Pair("prefix_tuning", _CACHED, "PrefixTuningConfig", _PROMPT_SHAPE, as_cache_rows),
    "p_tuning_v2": Pair("p_tuning_v2", _CACHED, "PrefixTuningConfig", _PROMPT_SHAPE, as_cache_rows),
    "prompt_tuning": Pair("prompt_tuning", {"length": PROMPT}, "PromptTuningConfig", _TOKENS, prompt=PROMPT),
    "p_tuning": Pair("p_tuning", {"length": PROMPT}, "PromptEncoderConfig", {**_TOKENS, **_LSTM}, prompt=PROMPT),
}  # fmt: skip
"""Every method that peft has in the same form; it has neither our adapters nor Ladder Side-Tuning."""


@dataclass(frozen=True)
class Side:
    """One of the two, ready to train without dropout."""

    module: nn.Module
    prompt: int = 0

    def states(self, batch: dict[str, Tensor]) -> Tensor:
        """Last hidden states of the tokens ``[B, T, d]``."""
        return self.module(**batch).last_hidden_state[:, self.prompt :]


def build(pair: Pair) -> tuple[Side, Side]:
    """Ours and peft's, with the same random values in everything that trains."""
    import peft

    _, ours = adapt(pair.method, bert(), **pair.config)
    theirs = peft.get_peft_model(bert(), getattr(peft, pair.peft)(**pair.peft_config))
    start = [p.detach().clone() for p in trained(ours).values()]
    randomise(ours, sigma=0.02)
    with torch.no_grad():
        for mine, before, other in zip(trained(ours).values(), start, trained(theirs).values(), strict=True):
            other.copy_(pair.convert(mine - before if pair.adds else mine, other))
    for module in (ours, theirs):
        set_dropout(module.train(), 0.0)
    return Side(ours), Side(theirs, pair.prompt)
