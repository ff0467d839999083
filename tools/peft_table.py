"""Write which of peft's types run under this harness, found by running each on tiny backbones.

python -m tools.peft_table docs/peft.md
"""

import sys
from pathlib import Path

from tests.methods.peft_types import FAMILIES, outcome

HEAD = """# peft under this harness

<!-- Generated: python -m tools.peft_table docs/peft.md -->

`peft(peft_type="OFT", ...)`, or `peft(adapter_config="adapter_config.json")`, runs whatever peft {version} has. Each
type was built with a suited configuration on a tiny backbone of each family. *works*: three steps train everything
that peft marks, the output stays aligned with the tokens, and the delta reloads exactly on a fresh backbone (CPT, which
projects its weights anew in every forward, to rounding).
*merges*: peft folds it into the backbone's own structure, with the same output. *unused*: tensors that
peft marks and no gradient reaches. Else: the reason of the refusal.

Left out of a type that works: SHADOW's auxiliary loss and CPT's loss weights need a head of peft's own; beside a
prompt, token types are those of a single text.

LoRA also takes peft's three optimizers for it beside the fields of its configuration: `optimizer_type = "lora+"` with
`loraplus_lr_ratio = 16`; `optimizer_type = "lora-fa"`, which takes pairs of A and B alone (no DoRA, biases of B or
embeddings); and `optimizer_type = "riemannian"`, whose damping `riemannian_reg` is peft's own where it is left out.

| type | bert | gpt2 | llama |
| --- | --- | --- | --- |
"""


def kinds() -> list[str]:
    """peft's types in its own order."""
    from peft import PeftType

    return [kind.value for kind in PeftType]


def cell(text: str) -> str:
    """One cell of the table, its bars escaped."""
    return text.replace("|", "\\|")


def text() -> str:
    """The whole page."""
    import peft

    rows = [[kind, *(cell(outcome(kind, family)) for family in FAMILIES)] for kind in kinds()]
    counts = [sum(row[column].startswith("works") for row in rows) for column in range(1, 1 + len(FAMILIES))]
    found = ", ".join(f"{count} on {family}" for count, family in zip(counts, FAMILIES, strict=True))
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return HEAD.format(version=peft.__version__) + table + f"\nOf {len(rows)} types, {found} work.\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
