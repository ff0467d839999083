"""What theory says of every method on the tiny backbones: one row a method, from which the method tests are made.

A new built-in method needs a row here and no other change to a test.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAPS = ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")
"""Linear maps of a BERT layer, in the order of the forward pass."""


class Needs(NamedTuple):
    """What of one frozen BERT layer the way back still computes."""

    maps: tuple[str, ...]
    """Linear maps whose input needs a gradient, among ``MAPS``."""
    attention: bool
    """Whether the attention products run back."""


ALL, NOTHING = Needs(MAPS, True), Needs((), False)
PAST_QUERY_KEY_VALUE = Needs(MAPS[3:], True)
FFN_ALONE = Needs(MAPS[4:], False)


@dataclass(frozen=True)
class Reach:
    """How far down backward goes through a BERT of two layers."""

    lower: Needs
    """Of layer 1."""
    upper: Needs
    """Of layer 2."""
    more_rows: bool = False
    """Whether every map and every query also sees the prompt's tokens."""
    more_keys: bool = False
    """Whether attention also sees the prompt's keys."""


FROM_EMBEDDINGS = Reach(ALL, ALL)
FROM_PROMPT = Reach(ALL, ALL, more_rows=True, more_keys=True)
FROM_PREFIX = Reach(PAST_QUERY_KEY_VALUE, ALL, more_keys=True)
FROM_QUERY_KEY_VALUE = Reach(PAST_QUERY_KEY_VALUE, ALL)
"""The lowest trainable tensor stands in or behind layer 1's query, key or value map."""
FROM_ATTENTION_OUT = Reach(FFN_ALONE, ALL)
"""It stands behind layer 1's attention."""
FROM_FFN = Reach(NOTHING, ALL)
"""It stands beside or behind layer 1's FFN."""
NOWHERE = Reach(NOTHING, NOTHING)
"""Backward never enters the backbone."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method."""

    reach: Reach
    """How far down backward goes."""
    config: dict[str, Any] = field(default_factory=dict)
    """Values that differ from the defaults, sized for backbones 32 wide."""
    merges: bool = False
    """Whether it folds into the backbone's own structure."""
    unmerges: bool = False
    """Whether its delta can be taken out of the merged backbone again."""
    trains_backbone: bool = False
    """Whether the backbone's own weights train."""
    refused: dict[str, str] = field(default_factory=dict)
    """Families that cannot carry it -> words of the refusal."""
    wrong: dict[str, Any] = field(default_factory=dict)
    """A configuration that names a place which is not there."""
    relative: bool = False
    """Whether it stands in the same places as lora, houlsby_adapter, prefix_tuning or prompt_tuning, which try every
    family in each run of the tests; this one tries the rest in the slow tests."""
    untracked: int = 0
    """Bytes of a step that the allocator sees and no operation returns: a Python number by which a tensor is divided
    is kept for backward as a tensor of its own (the ladder's gates over their temperature)."""


def _low_rank(*, relative: bool = True, unmerges: bool = True, **config: Any) -> Row:
    wrong = {"targets": ["querry"]}
    return Row(reach=FROM_QUERY_KEY_VALUE, config=config, merges=True, unmerges=unmerges, wrong=wrong,
               relative=relative)  # fmt: skip


_WITHOUT_BIASES = dict.fromkeys(
    (
        *("cohere", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "mixtral", "modernbert", "olmo2"),
        *("phi3", "qwen3", "qwen3_moe", "smollm3", "t5", "t5_gated", "t5_gated_whole", "t5_whole"),
    ),
    "has no bias vectors to train",
)
_NO_KEYWORDS = dict.fromkeys(
    ("bloom", "deberta-v2", "deberta-v3", "falcon", "falcon_grouped", "falcon_rw", "mpnet", "stablelm"),
    "hands its attention nothing beyond its own arguments",
)
_MIXTURES = dict.fromkeys(("mixtral", "qwen3_moe"), "is a mixture of experts")
METHODS: dict[str, Row] = {
    "full": Row(reach=FROM_EMBEDDINGS, merges=True, trains_backbone=True),
    "head": Row(reach=NOWHERE, merges=True),
    "bitfit": Row(  # the lowest bias is that of the embeddings' norm
        reach=FROM_EMBEDDINGS, merges=True, refused=_WITHOUT_BIASES,
        wrong={"biases": "keys"},
    ),
    "houlsby_adapter": Row(reach=FROM_ATTENTION_OUT, config={"bottleneck": 5}),
    "pfeiffer_adapter": Row(reach=FROM_FFN, config={"bottleneck": 5}, relative=True),
    "parallel_adapter": Row(reach=FROM_FFN, config={"bottleneck": 5}, relative=True),
    "prefix_tuning": Row(
        reach=FROM_PREFIX, config={"length": 3, "reparametrise": True, "hidden": 7}, refused=_NO_KEYWORDS
    ),
    "p_tuning_v2": Row(reach=FROM_PREFIX, config={"length": 3}, relative=True, refused=_NO_KEYWORDS),
    "prompt_tuning": Row(reach=FROM_PROMPT, config={"length": 3}),
    "p_tuning": Row(reach=FROM_PROMPT, config={"length": 3}, relative=True),
    "lora": _low_rank(rank=2, relative=False),
    "rslora": _low_rank(rank=2),
    "lora_plus": _low_rank(rank=2, ratio=4),
    "lora_fa": _low_rank(rank=2),
    "dora": _low_rank(rank=2, unmerges=False),
    "pissa": _low_rank(rank=2, niter=4),
    "adalora": _low_rank(initial_rank=3, target_rank=2),
    "vera": _low_rank(rank=5),
    "ia3": Row(reach=FROM_QUERY_KEY_VALUE, merges=True, refused=_MIXTURES),
    "lst": Row(reach=NOWHERE, config={"reduction": 4}, wrong={"layers": [7]}, untracked=8,
               refused=_MIXTURES | {"deberta-v3": "one table of relative positions"}),
    "peft": Row(reach=FROM_QUERY_KEY_VALUE, config={"peft_type": "LORA", "r": 2, "target_modules": "all-linear"},
                merges=True, relative=True),
}  # fmt: skip
"""By name, in the order of ``methods/__init__.py``."""


def sized(name: str) -> dict[str, Any]:
    """The configuration of method ``name`` for backbones 32 wide."""
    return METHODS[name].config
