"""Write docs/papers.md, values printed in papers beside what is counted: python -m tools.papers docs/papers.md."""

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.schema.record import CostRecord, CountRecord, Inference
from tools.answers.words import published, table

PRINTED = Path(__file__).parents[1] / "results" / "validation" / "paper_tables.csv"
T5 = 222_882_048
"""Parameters that the LST paper's shares refer to: T5-base with the 32,100 words of its tokenizer."""
PAPER_GB = 1024**2 * 1000
"""Bytes of what the LST paper prints as GB: its code divides by 1024 twice and by 1000."""
AGAIN = "python -m tools.papers docs/papers.md"


def printed(suite: str, figure: str) -> dict[str, float]:
    """Values that the paper of ``suite`` prints for ``figure``, by row."""
    with PRINTED.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["row"]: float(row["published"]) for row in rows if (row["suite"], row["figure"]) == (suite, figure)}


def same_order(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Whether what differs in theirs differs the same way in ours: ``yes`` or ``no``."""
    pairs = [(i, j) for i in range(len(theirs)) for j in range(len(theirs)) if theirs[i] < theirs[j]]
    return "yes" if all(ours[i] < ours[j] for i, j in pairs) else "no"


def counted(run: str, sweep: str, value: int) -> dict[str, CountRecord]:
    """What a published run counted at one value of a sweep, by the method's name."""
    records = Results(published(run)).count_records
    return {r.method.name: r for r in records if (r.sweep, r.value, r.status) == (sweep, value, "ok")}


def lst() -> str:
    """Table 1 of Ladder Side-Tuning."""
    found = counted("paper-lst", "batch", 100)
    shares, memory = printed("paper-lst", "trained_percent"), printed("paper-lst", "memory_gb")
    peaks = {name: _peak(record) / PAPER_GB for name, record in found.items()}
    rows = []
    for name, record in found.items():
        assert record.trainable_parameters is not None
        trained = record.trainable_parameters.method
        theirs = [f"{memory[name]:.1f}", f"{memory[name] / memory['full']:.2f}"] if name in memory else ["-", "-"]
        ours = [f"{peaks[name]:.1f}", f"{peaks[name] / peaks['full']:.2f}"]
        ratio = f"{peaks[name] / memory[name]:.2f}" if name in memory else "-"
        share = [f"{shares[name]:.2f}" if name in shares else "-", f"{100 * trained / T5:.2f}"]
        rows.append([f"`{name}`", *share, f"{trained:,}", *theirs, *ours, ratio])
    head = ["method", "trained, paper, %", "counted, %", "parameters"]
    head += ["memory, paper, GB", "/ full", "counted, GB", "/ full", "counted / paper"]
    order = same_order(list(memory.values()), [peaks[name] for name in memory])
    return f"""## Ladder Side-Tuning: T5-base, 100 rows of 128 tokens

{table(head, rows)}

Same order of memory: **{order}**. Shares are of {T5:,} parameters, as in the paper. Adapters, prompts and the \
ladder train what the authors' code trains. LoRA trains fewer: the authors add biases to T5, which has none, and train \
these 282,496 too; for the same reason there is no BitFit here (0.13 % there). A GB of the paper is 1,048,576,000 \
bytes of `max_memory_allocated`, and so it is here. Every row is counted below what was measured, LoRA and the ladder \
furthest. Not known of the paper's steps, and not modelled: how many tokens its targets have (four a row are counted), \
and what torch 1.10 and the authors' layers of 2022 held beside these tensors. The printed memory is quoted \
second-hand: the table itself was not at hand."""


def _peak(record: CountRecord) -> int:
    assert record.predicted_peak_memory_bytes is not None
    return record.predicted_peak_memory_bytes.step


def shadow() -> str:
    """peft's Shadow beside the ladder."""
    found = counted("ladder-or-shadow", "length", 256)
    inside, whole, rows = {}, {}, []
    for name, record in found.items():
        assert record.flops is not None and record.bytes is not None
        inside[name], whole[name] = record.flops.backbone.backward, record.flops.backward
        figures = [fmt.count(inside[name]), f"{whole[name] / whole['full']:.2f}"]
        rows.append(
            [f"`{name}`" if name != "peft" else "`peft` SHADOW", *figures, fmt.size(record.bytes.saved_activations)]
        )
    head = ["method", "backward FLOPs in the backbone", "backward / full", "saved activations"]
    return f"""## A ladder, or a shadow?

{table(head, rows)}

`peft`'s Shadow looks like a ladder and is none: it adds its state to the backbone's, so backward crosses the backbone \
for {fmt.count(inside["peft"])} FLOPs ({fmt.count(inside["lora"])} with LoRA), where the ladder spends \
{fmt.count(inside["lst"])}. Counted on smollm2-135m, 4 rows of 256 tokens, text."""


def costs(run: str, size: tuple[int, int]) -> dict[str, CostRecord]:
    """What a published run counted at ``size``, rows and tokens, by the method's label."""
    records = Results(published(run)).cost_records
    return {r.method.label: r for r in records if (r.shape.batch, r.shape.length) == size and r.status == "ok"}


def _step(record: CostRecord) -> tuple[int, int]:
    """FLOPs and bytes of a training step."""
    assert record.flops is not None and record.traffic_bytes is not None
    return record.flops.forward + record.flops.backward, record.traffic_bytes.step


def _inference(record: CostRecord, *, merged: bool = False) -> Inference:
    assert record.inference is not None
    found = record.inference.merged if merged else record.inference.unmerged
    assert found is not None
    return found


DROPPED = "layers=[5, 6, 7, 8, 9, 10, 11]"


def adapterdrop() -> str:
    """Table 1 of AdapterDrop."""
    rows, orders = [], []
    names = {
        "houlsby_adapter": "houlsby_adapter(bottleneck=48)",
        "pfeiffer_adapter": "pfeiffer_adapter(bottleneck=48)",
        "houlsby_adapter without 5": f"houlsby_adapter(bottleneck=48, {DROPPED})",
        "pfeiffer_adapter without 5": f"pfeiffer_adapter(bottleneck=48, {DROPPED})",
    }
    for size in ((16, 128), (32, 512)):
        found, shape = costs("paper-adapterdrop", size), "{}x{}".format(*size)
        steps = printed("paper-adapterdrop", f"training speed {shape}")
        inferences = printed("paper-adapterdrop", f"inference speed {shape}")
        full, base = _step(found["full"]), _inference(found["full"])
        ours = {}
        for name, label in names.items():
            flops, moved = (of / own for of, own in zip(full, _step(found[label]), strict=True))
            ours[name], inference = flops, _inference(found[label])
            theirs = [f"{steps[name]:.2f}" if name in steps else "-"]
            ratio = [f"{flops / steps[name]:.2f}" if name in steps else "-"]
            slower = [f"{inferences[name]:.2f}" if name in inferences else "-"]
            rows.append([
                f"{size[0]} x {size[1]}", f"`{name}`", *theirs, f"{flops:.2f}", f"{moved:.2f}", *ratio, *slower,
                f"{base.flops / inference.flops:.3f}", f"{base.depth / inference.depth:.2f}",
            ])  # fmt: skip
        orders.append(same_order(list(steps.values()), [ours[name] for name in steps]))
    head = ["rows x tokens", "method", "step, paper", "FLOPs", "bytes moved", "FLOPs / paper", "inference, paper"]
    head += ["FLOPs", "critical path"]
    return f"""## AdapterDrop: bert-base, speed against full fine-tuning

{table(head, rows)}

Speed of a method against full's: 1.5 takes two thirds as long. Counted are FLOPs and bytes of a training step, and of \
one row's inference FLOPs and the critical path, the longest chain of operations (full / method each). Same order of \
training steps at both sizes: **{" and ".join(orders)}**. The paper's headline (steps of adapters up to 60 % faster, \
inference 4 to 6 % slower) is from its authors' page; the digits of its table 1 are as notes quote them, the table \
itself was not at hand. They do not say which adapter its row without the first five layers has (it stands beside \
Pfeiffer's here), and put its inference above full's speed, which is left out. On its V100 inference loses more than \
the FLOPs say and less than the critical path, and less at 512 tokens than at 128. Nothing was timed here."""


LATENCIES = {
    (32, 512): ("pfeiffer_adapter(bottleneck=9)", "houlsby_adapter(bottleneck=5)"),
    (16, 256): ("pfeiffer_adapter(bottleneck=224)", "houlsby_adapter(bottleneck=112)"),
    (1, 128): ("pfeiffer_adapter(bottleneck=224)", "houlsby_adapter(bottleneck=112)"),
}
"""The adapters of table 1 of the LoRA paper, by rows and tokens: its Adapter-L and Adapter-H of that row's size."""


def lora_latency() -> str:
    """Table 1 of the LoRA paper."""
    rows, orders = [], []
    for size, adapters in LATENCIES.items():
        found = costs("paper-lora-latency", size)
        theirs = printed("paper-lora-latency", "milliseconds {}x{}".format(*size))
        base = _inference(found["full"])
        ours = {}
        labels = dict(zip(("lora", "pfeiffer_adapter", "houlsby_adapter"), ("lora(rank=4)", *adapters), strict=True))
        for name, label in labels.items():
            inference = _inference(found[label], merged=name == "lora")
            ours[name] = inference.depth
            rows.append([
                f"{size[0]} x {size[1]}", f"`{label}`" + (", merged" if name == "lora" else ""), f"{theirs[name]:,.1f}",
                f"{theirs[name] / theirs['lora']:.3f}", f"{inference.flops / base.flops:.4f}",
                f"{inference.operations / base.operations:.2f}", f"{inference.depth / base.depth:.2f}",
            ])  # fmt: skip
        orders.append(same_order(list(theirs.values()), [ours[name] for name in theirs]))
    head = ["rows x tokens", "method", "paper, ms", "/ LoRA", "FLOPs", "operations", "critical path"]
    return f"""## LoRA: one forward pass of GPT-2 medium

{table(head, rows)}

Printed are milliseconds of one forward pass; counted are FLOPs, operations and the critical path of one of its rows, \
each as a multiple of the bare model's. Same order of the three by the critical path, at each size: \
**{", ".join(orders)}**. Merged LoRA is the bare model, operation by operation. At 32 x 512 the paper's adapters cost \
two to three percent: a busy device hides most of a few more operations. For one row of 128 tokens, where a device \
waits for operations and not for products, they cost 21 and 30 %, between the 4 % of FLOPs and the 25 and 49 % of the \
path. The paper gives numbers of parameters and no bottlenecks: those here come to as many; its Adapter-L also has a \
LayerNorm in each layer, which `pfeiffer_adapter` lacks. Nothing was timed here."""


DEVICE = 12 * 2**30
"""Bytes of the device that the paper on ladders fits a 7B model into."""
RESERVE = 0.05
"""Share of a device that `predict` leaves to the allocator and the context."""


def ladders() -> str:
    """Ladder Up, Memory Down: a ladder beside a 4-bit decoder."""
    records = [r for r in Results(published("paper-ladder")).count_records if r.status == "ok"]
    rows, halves, fits, others = [], [], [], []
    for sweep in dict.fromkeys(r.sweep for r in records):
        peaks = {(r.method.name, r.value): _peak(r) for r in records if r.sweep == sweep}
        lora, *narrow = peaks["lora", 8], peaks["lst", 8], peaks["lst", 16]
        rows.append([sweep, fmt.size(lora), *(f"{fmt.size(peak)} ({peak / lora:.2f})" for peak in narrow)])
        room = DEVICE * (1 - RESERVE)
        halves += [sweep] if narrow[1] <= lora / 2 else []
        fits += [sweep] if narrow[1] <= room else []
        others += [sweep] if lora <= room else []
    head = ["backbone and loss", "LoRA on all maps", "LST, an eighth (/ LoRA)", "LST, a sixteenth (/ LoRA)"]
    return f"""## A ladder beside a 4-bit decoder: one row of 2,048 tokens

{table(head, rows)}

"Ladder Up, Memory Down" (arXiv 2512.14237) says of 7B decoders with a 4-bit backbone: a ladder takes half of QLoRA's \
peak; it fits 12 GB without checkpointing; QLoRA does not. Its abstract gives no widths; of a ladder of a sixteenth:

- Half of QLoRA's peak or less: {_listed(halves)}.
- Fits {DEVICE / 2**30:.0f} GiB less {100 * RESERVE:.0f} % for allocator and context: {_listed(fits)}.
- QLoRA fits as well: {_listed(others)}.

Counted on CUDA's forms: NF4 with single quantisation, bfloat16, what is added in float32, nothing checkpointed unless \
said. What the vocabulary's logits take is common to both, so that the forms of the loss decide how much of the \
ladder's saving remains."""


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) or "none"


SECTIONS: dict[str, Callable[[], str]] = {
    "paper-lst": lst, "paper-lora-latency": lora_latency, "paper-adapterdrop": adapterdrop, "paper-ladder": ladders,
    "ladder-or-shadow": shadow,
}  # fmt: skip
"""Suite -> its part of the page, in reading order."""


def page() -> str:
    """The whole page as Markdown."""
    again = "\n".join(f"python -m bench run --suite {suite} --counts" for suite in SECTIONS)
    intro = f"""# Papers' tables beside what is counted

<!-- Generated: {AGAIN} -->

What papers print, and what this harness counts of the same step on random weights; nothing here was timed or \
measured. Orders and ratios compare; absolute figures only as far as the software does. [Printed values and their \
sources](../results/validation/paper_tables.csv). To count again:

```
{again}
```"""
    return "\n\n".join([intro, *(section() for section in SECTIONS.values())]) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
