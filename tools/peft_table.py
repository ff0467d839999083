"""Write which of peft's types run under this harness, found by running each on tiny backbones.

python -m tools.peft_table docs/peft.md
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.methods.peft_types import FAMILIES, Outcome, outcome, tried

HEAD = """# peft under this harness

<!-- Generated: python -m tools.peft_table docs/peft.md -->

`peft(peft_type="OFT", ...)`, or `peft(adapter_config="adapter_config.json")`, runs whatever peft {version} has. Each
type was built with a suited configuration on a tiny backbone of each family. *works*: three steps train everything
that peft marks, the output stays aligned with the tokens, and the delta reloads exactly on a fresh backbone (CPT, which
projects its weights anew in every forward, to rounding). Else: the reason of the refusal.
*Starts as the base model*: hidden states before training are the backbone's, to rounding; else their largest difference
as a share of the largest value. *Merges exactly*: peft folds it into the backbone's own structure, and away from the
start the merged module computes the same, to rounding; else the same share. *no*: it does not merge. Where families
differ, each is named. A record notes both where they are not so: [METHODOLOGY](../METHODOLOGY.md).

## What is taken of a configuration

- Every name has to match something on the backbone: targets, exclusions, saved modules, patterns of ranks and scales,
  layers, parameters, tokens. Names of a whole model (`model.layers.0.self_attn.q_proj`) are read without their
  beginning; a head that the bare backbone lacks (`lm_head`, `score`) is left out, as the task head is trained in full.
  The record says both. `layers_to_transform` needs no `layers_pattern`.
- Every field has to do something: `use_qalora` on whole weights, `lora_alpha = 0`, `eps` of OFT without `coft`,
  AdaLoRA's `r` and others are refused with the reason; so are OFT's `module_dropout` and HiRA's `rank_pattern`, which
  this peft does not use. `methods/peft_fields.py` lists them, and those that are harmless.
- Starts that read data first (`init_lora_weights` of `"eva"`, `"corda"` or `"lora_ga"`) are refused.
- A saved prompt or prefix takes the dimensions of the backbone here; the record says which of its own were replaced.
- `all-linear` on a mixture of experts also adapts the router and the fused experts, gate and up at twice the rank.
- A prefix lies in the cache: in layers with a sliding window at most the window less one of its positions are kept,
  where `prefix_tuning` of this project keeps all. Backbones that read no cache refuse it.
- Beside a prompt peft leaves `position_ids` out: a row that is padded on the left differs from the same row alone.
- Left out of a type that works: SHADOW's auxiliary loss and CPT's loss weights need a head of peft's own; beside a
  prompt, token types are those of a single text.

LoRA also takes peft's three optimizers for it beside the fields of its configuration: `optimizer_type = "lora+"` with
`loraplus_lr_ratio = 16`; `optimizer_type = "lora-fa"`, which takes pairs of A and B alone (no DoRA, biases of B or
embeddings); and `optimizer_type = "riemannian"`, whose damping `riemannian_reg` is peft's own where it is left out.

## Types

| type | bert | gpt2 | llama | starts as the base model | merges exactly |
| --- | --- | --- | --- | --- | --- |
"""
STARTS = """
## Starts of LoRA

On queries (and values of BERT), and on the output of GPT-2's attention, which is as high as wide: peft's OLoRA takes a
weight of GPT-2 as if it were not stored transposed, and on other places there it does not run.

| init_lora_weights | starts as the base model | merges exactly |
| --- | --- | --- |
"""
LORA_STARTS = (True, "gaussian", "orthogonal", "olora", "pissa", "pissa_niter_4", False)
SQUARE = {"bert": ["query", "value"], "gpt2": ["attn.c_proj"], "llama": ["q_proj"]}


def kinds() -> list[str]:
    """peft's types in its own order."""
    from peft import PeftType

    return [kind.value for kind in PeftType]


def cell(text: str) -> str:
    """One cell of the table, its bars escaped."""
    return text.replace("|", "\\|")


def measured(found: Sequence[tuple[str, float | None]]) -> str:
    """``yes``, ``no`` or a share; one for each family where they differ."""
    said = {family: "no" if share is None else f"{share:.1g}" if share else "yes" for family, share in found}
    if len(set(said.values())) == 1 and set(said.values()) <= {"yes", "no"}:
        return next(iter(said.values()))
    return ", ".join(f"{family} {word}" for family, word in said.items()) or "-"


def both(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Cells of the start and of the merge, over the families where it works."""
    running = [(family, found) for family, found in outcomes.items() if found.works]
    return [
        measured([(family, found.start) for family, found in running]),
        measured([(family, found.merge) for family, found in running]),
    ]


def text() -> str:
    """The whole page."""
    import peft

    found = {kind: {family: outcome(kind, family) for family in FAMILIES} for kind in kinds()}
    rows = [[kind, *(cell(one.says) for one in held.values()), *both(held)] for kind, held in found.items()]
    counts = [f"{sum(held[family].works for held in found.values())} on {family}" for family in FAMILIES]
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    starts = "".join(f"| {start!r} | {' | '.join(both(_started(start)))} |\n" for start in LORA_STARTS)
    whole = HEAD.format(version=peft.__version__) + table + f"\nOf {len(rows)} types, {', '.join(counts)} work.\n"
    return whole + STARTS + starts


def _started(start: object) -> dict[str, Outcome]:
    lora = {"peft_type": "LORA", "r": 4, "init_lora_weights": start}
    return {family: tried(family, lora | {"target_modules": places}) for family, places in SQUARE.items()}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
