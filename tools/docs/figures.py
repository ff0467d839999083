"""Figures of README and of the pages under ``docs/``, read from committed runs, in either language."""

import functools
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

import bench
from bench.analysis.results import Results
from bench.report import format as fmt
from bench.schema.record import CostRecord, MethodUsed, Timing
from bench.store.store import Run
from tools.answers import words
from tools.answers.words import Say, published, table

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
RUN = "glue-small"
ROWS = (
    "full", "lora(rank=8)", "houlsby_adapter", "pfeiffer_adapter", "prefix_tuning", "prompt_tuning(length=10)",
    "bitfit", "ia3", "lst(reduction=8)", "head",
)  # fmt: skip
"""Methods of the README's table; P-Tuning v2 has the counted figures of Prefix-Tuning."""
TRAINED = "movie-reviews"
"""The run whose methods were trained to the end."""
LANGUAGE = "lm-small"
"""The run on a small language model."""
SCORE = ("score_mean_points", "score_low_points", "score_high_points")
DIFFERENCE = ("score_difference_points", "score_difference_low_points", "score_difference_high_points")
DESCRIBED = {
    "full": ("full",),
    "head": ("head",),
    "BitFit": ("bitfit",),
    "the Houlsby adapter": ("houlsby_adapter",),
    "the Pfeiffer adapter": ("pfeiffer_adapter",),
    "the parallel adapter": ("parallel_adapter",),
    "Prefix-Tuning and P-Tuning v2": ("prefix_tuning", "p_tuning_v2"),
    "Prompt Tuning": ("prompt_tuning(length=10)",),
    "P-Tuning": ("p_tuning(length=10)",),
    "LoRA": ("lora(rank=8)",),
    "IA3": ("ia3",),
    "LST": ("lst(reduction=8)",),
}
"""What the page on choosing a method says of each: name of the part -> methods of the run, which cost the same."""


@functools.cache
def run() -> Run:
    """The committed run that the tables quote."""
    return published(RUN)


@functools.cache
def records() -> dict[str, CostRecord]:
    """Its cost records by label."""
    return words.costs(run())


def backward_ratios() -> dict[str, float]:
    """Counted backward FLOPs of every method, full fine-tuning's being 1."""
    full = words.counts(records()["full"]).backward
    return {label: words.counts(record).backward / full for label, record in records().items()}


def costs(say: Say) -> str:
    """The README's table: what ten methods cost, and what came of their scores."""
    head = [
        say("method", "方法"), say("trainable params (excl. head)", "可训练参数（不含任务头）"), say("stored per task", "每任务存储"),
        say("backward / full, counted", "反向 / full（计数）"), say("step / full, timed", "训练步 / full（计时）"),
        say("peak memory, counted", "峰值内存（计数）"), say("latency / base (merged where possible)", "推理延迟 / 骨干（可合并者合并后）"),
        say("score − full, points, 95 %", "得分 − full，分，95 %"),
    ]  # fmt: skip
    scores = bench.load_results(run()).scores.set_index("method")
    lines = []
    for label in ROWS:
        record = records()[label]
        counted = record.trainable_parameters
        assert counted and record.step_seconds and record.peak_memory_bytes and record.delta_bytes is not None
        both = say(" (same counts for `p_tuning_v2`)", "（`p_tuning_v2` 计数相同）") if label == "prefix_tuning" else ""
        lines.append([
            f"`{label}`{both}", fmt.count(counted.method), fmt.size(record.delta_bytes),
            fmt.ratio(backward_ratios()[label]), _interval(record.step_seconds, label == "full"),
            fmt.size(record.peak_memory_bytes.step), latency(say, record),
            _score(say, label, scores),
        ])  # fmt: skip
    return table(head, lines)


def trained_to_the_end(say: Say) -> str:
    """Scores of movie-reviews, the best first, with what each method costs there."""
    run = published(TRAINED)
    told, scores = words.costs(run), bench.load_results(run).scores.set_index("method")
    full = told["full"]
    assert full.peak_memory_bytes
    head = [
        say("method", "方法"), say("score, 95 %", "得分，95 %"), say("score − full, points, 95 %", "得分 − full，分，95 %"),
        say("trainable params (excl. head)", "可训练参数（不含任务头）"), say("stored per task", "每任务存储"),
        say("backward / full, counted", "反向 / full（计数）"), say("peak memory / full, counted", "峰值内存 / full（计数）"),
    ]  # fmt: skip
    lines = []
    for label, row in scores.sort_values("score_mean_points", ascending=False).iterrows():
        each = [record for record in run.records if record.kind == "score" and record.method.label == label]
        counted, stored = each[0].trainable_parameters, each[0].delta_bytes
        assert counted and stored is not None
        ratios = [fmt.MISSING] * 2  # of one whose cost could not be counted
        if (record := told.get(str(label))) is not None and record.peak_memory_bytes:
            backward = words.counts(record).backward / words.counts(full).backward
            ratios = [fmt.ratio(backward), fmt.ratio(record.peak_memory_bytes.step / full.peak_memory_bytes.step)]
        lines.append([
            _named(each[0].method), fmt.points_interval(*(row[name] for name in SCORE)),
            "-" if label == "full" else fmt.difference(*(row[name] for name in DIFFERENCE)),
            fmt.count(counted.method), fmt.size(stored), *ratios,
        ])  # fmt: skip
    return table(head, lines)


def language_model(say: Say) -> str:
    """What ten methods on SmolLM2-135M write right, forget and cost, the best first."""
    run = published(LANGUAGE)
    results = Results(run)
    told, scores, kept = words.costs(run), results.score_table, results.retention_table
    head = [
        say("method", "方法"), say("written right, points", "完全写对，分"), say("forgets, bits per byte", "遗忘，每字节比特"),
        say("trainable params", "可训练参数"), say("backward / full, counted", "反向 / full（计数）"),
        say("peak memory / full, counted", "峰值内存 / full（计数）"),
        say("operations of a token / base (merged where possible)", "每个 token 的算子 / 原模型（可合并者合并后）"),
    ]  # fmt: skip
    lines = []
    for label in scores.sort_values("mean", ascending=False).index:
        record = told[label]
        assert record.trainable_parameters and record.peak_memory_bytes and told["full"].peak_memory_bytes
        trained = record.trainable_parameters.method + record.trainable_parameters.head
        lines.append([
            _named(record.method), fmt.points(scores.loc[label, "mean"]), f"{kept.loc[label]['forgotten'].mean():+.3f}",
            fmt.count(trained), fmt.ratio(words.counts(record).backward / words.counts(told["full"]).backward),
            fmt.ratio(record.peak_memory_bytes.step / told["full"].peak_memory_bytes.step), _token(record),
        ])  # fmt: skip
    return table(head, lines)


def _token(record: CostRecord) -> str:
    """Operations of a decode step over the base's, as the method is deployed."""
    if record.decode is None:
        return fmt.MISSING
    (context,) = record.decode.base
    ours = (record.decode.merged or record.decode.unmerged)[context]
    return fmt.ratio(ours.operations / record.decode.base[context].operations)


def _named(method: MethodUsed) -> str:
    """A method of this project by its label, one of peft by its type."""
    return f"`{method.config['peft_type']}` (`peft`)" if method.name == "peft" else f"`{method.label}`"


def _score(say: Say, label: str, scores: pd.DataFrame) -> str:
    if label not in scores.index:
        return say("not scored", "未评分")
    return "-" if label == "full" else fmt.difference(*scores.loc[label, list(DIFFERENCE)])


def _interval(timing: Timing, is_baseline: bool) -> str:
    if is_baseline:
        return "1"
    return fmt.ratio_plus_minus(timing.ratio_to_baseline, *timing.ratio_interval)


def latency(say: Say, record: CostRecord) -> str:
    """Latency at batch 1 against the bare backbone, with its interval; where the merged model is the backbone again there is none."""
    if record.merged_equals_base and record.merged_equals_base.all:
        return say("same operations", "算子相同")
    assert record.latency_seconds
    return _interval(record.latency_seconds.unmerged.by_batch[1], False)


def sentence(say: Say, name: str) -> str:
    """One line on what a method costs, from counts; methods that share it must have the same ones."""
    (line,) = {_cost(say, records()[label]) for label in DESCRIBED[name]}
    return line


def _cost(say: Say, record: CostRecord) -> str:
    full = records()["full"]
    assert record.trainable_parameters and record.delta_bytes is not None
    assert record.peak_memory_bytes and full.peak_memory_bytes
    trained, stored = fmt.count(record.trainable_parameters.method), fmt.size(record.delta_bytes)
    backward = fmt.ratio(words.counts(record).backward / words.counts(full).backward)
    peak = fmt.ratio(record.peak_memory_bytes.step / full.peak_memory_bytes.step)
    return say(
        f"Trains {trained} parameters below the head, stores {stored} a task; backward FLOPs {backward} and peak memory "
        f"{peak} of full's. Inference: {_inference(say, record)}.",
        f"任务头以下训练 {trained} 个参数，每个任务存储 {stored}；反向 FLOPs 是 full 的 {backward}，峰值内存是 full 的 {peak}。"
        f"推理：{_inference(say, record)}。",
    )


def _inference(say: Say, record: CostRecord) -> str:
    assert record.inference is not None
    base, own = record.inference.base, record.inference.unmerged
    if record.merged_equals_base and record.merged_equals_base.all:
        if own == base:
            return say("the base model's own operations", "与骨干模型的算子完全相同")
        return say(
            f"once merged the base model's own operations; unmerged {own.operations - base.operations} more",
            f"合并后与骨干模型的算子完全相同；不合并时多 {own.operations - base.operations} 个算子",
        )
    return say(
        f"{own.operations - base.operations} operations more than the base model's {base.operations}, its FLOPs "
        f"{own.flops / base.flops:.2f} x, the longest chain {own.depth / base.depth:.2f} x",
        f"比骨干模型的 {base.operations} 个算子多 {own.operations - base.operations} 个，FLOPs 为其 {own.flops / base.flops:.2f} 倍，"
        f"最长依赖链为其 {own.depth / base.depth:.2f} 倍",
    )


def runs(say: Say) -> str:
    """Every committed run: its question and what it measured."""
    head = [say("run", "运行"), say("question", "问题"), say("backbone", "骨干"), say("records", "记录")]
    lines = []
    for folder in sorted(path.parent.name for path in PUBLISHED.glob("*/records.jsonl")):
        if not (PUBLISHED / folder / "suite.toml").exists():
            continue
        each = published(folder)
        question = " ".join(each.suite.question.split())
        lines.append([f"[{folder}](../results/published/{folder})", question, _backbone(each), _kinds(each)])
    return table(head, lines, len(head))


def _backbone(each: Run) -> str:
    names = dict.fromkeys(r.backbone.name.rpartition("/")[2].partition(",")[0] for r in each.records if r.backbone)
    return ", ".join(names)


def _kinds(each: Run) -> str:
    kinds = [record.kind for record in each.records]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def span(values: Iterable[float]) -> str:
    """``0.50`` or ``0.50 - 0.52``; what rounds to nothing reads as less than a hundredth."""
    return " - ".join(dict.fromkeys(fmt.ratio(value) for value in sorted(values)))
