"""How low LoRA's rank can be, what limits it, and what it reduces."""

from typing import Any

import pandas as pd

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.schema.record import CostRecord
from bench.store.store import Run
from tools.answers.words import Answer, Say, claims, costs, counts, figure, published, scores_tag, table

NAME = "rank-sweep"
PLAIN = ("query", "value")
"""Targets of the sweep over ranks."""
HARDLY = 64
"""Rank up to which the suite's claims hold that the work hardly grows."""


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published run."""
    run = published(NAME)
    found = costs(run)
    scores = Results(run).score_table
    ranks = _sweep(found, "lora")
    lowest, highest = min(ranks), max(ranks)
    one, some, whole, full = (*(found[ranks[rank]] for rank in (lowest, HARDLY, highest)), found["full"])
    lost, bare = (_difference(scores.loc[label]) for label in (ranks[lowest], "head"))
    below = [rank for rank in ranks if counts(found[ranks[rank]]).backward < counts(full).backward]
    return Answer(
        question=say("How low can LoRA's rank be, and what does it reduce?", "LoRA 的秩能低到多少？低秩减少了什么？"),
        sentence=say(
            f"No lower limit was found: rank {lowest}, {fmt.exact(_trained(one))} parameters and "
            f"{fmt.size(one.delta_bytes)} a task, is not significantly different from full fine-tuning here ({lost} points, no verdict; the "
            f"head alone {bare}). Rank decides parameters, storage and optimizer state. Up to rank {HARDLY} it hardly moves computation (forward "
            f"of a step {_ratio(one, full, 'forward')} - {_ratio(some, full, 'forward')} of full's, backward "
            f"{_ratio(one, full, 'backward')} - {_ratio(some, full, 'backward')}), at {highest} it does "
            f"({_ratio(whole, full, 'forward')} and {_ratio(whole, full, 'backward')}): the weight gradients of the "
            "backbone are gone at any rank, its input gradients stay.",
            f"没有测到下限：秩 {lowest}（训练 {fmt.exact(_trained(one))} 个参数，每任务存储 {fmt.size(one.delta_bytes)}）在这里与"
            f"全量微调分不出高下（比全量 {lost} 分，不下结论；只训练任务头 {bare}）。秩决定的是参数量、存储和优化器状态。"
            f"到秩 {HARDLY} 为止几乎不影响计算量（一个训练步的前向是 full 的 {_ratio(one, full, 'forward')} - {_ratio(some, full, 'forward')}，反向 "
            f"{_ratio(one, full, 'backward')} - {_ratio(some, full, 'backward')}），到 {highest} 就有影响了"
            f"（{_ratio(whole, full, 'forward')} 和 {_ratio(whole, full, 'backward')}）：主干的权重梯度在任何秩下都省去，输入梯度都还在。",
        ),
        tag=say("counts: exact, any machine; ", "计数：精确，任何机器相同；") + scores_tag(say, run),
        run=NAME,
        command=f"python -m bench run --suite {NAME} --data DIR",
        parts=(
            (say("Against the rank", "随秩的变化"), _by_rank(say, run, found, scores)),
            (
                say("Which matrices, at equal parameters?", "参数量相同时，放在哪些矩阵？"),
                _by_targets(say, found, scores),
            ),
            (
                say("What limits the rank", "秩受什么限制"),
                say(
                    "Below: 1 per matrix. Above: the smaller side of the matrix, where `B A` can be any update "
                    f"(here {highest}); backward costs less than full fine-tuning's up to rank {max(below)} of those "
                    "measured. Between them the task: the update that full fine-tuning learns on a task near the "
                    "pretraining has few directions, that of a new domain has many (Biderman et al. 2024, "
                    "arXiv:2405.09673). And the scale: with `alpha / r` the update shrinks as r grows at one and the "
                    "same alpha, with `alpha / sqrt r` (rsLoRA, arXiv:2312.03732) it does not; here alpha is the "
                    f"harness's default at every rank.",
                    f"下限：每个矩阵 1。上限：矩阵较小的一边，此时 `B A` 可以是任何更新（这里是 {highest}）；在测过的秩中，"
                    f"秩 {max(below)} 及以下反向都比全量微调便宜。两者之间由任务决定：与预训练接近的任务，全量微调学到的更新方向很少；"
                    "新领域则很多（Biderman et al. 2024, arXiv:2405.09673）。还有缩放：用 `alpha / r` 且 alpha 不变时，r 越大更新越小；"
                    "用 `alpha / sqrt r`（rsLoRA, arXiv:2312.03732）则不会；这里每个秩的 alpha 都是默认值。",
                ),
            ),
            (say("Verdicts", "各项结论"), claims(say, run)),
        ),
        not_concluded=(
            say(
                "One small backbone, one task near its pretraining and one rate for all ranks: a rank that scores less "
                "here may only want another rate.",
                "只有一个小模型、一个与预训练接近的任务，且各秩共用一个学习率：这里得分低的秩可能只是需要别的学习率。",
            ),
            say(
                "Differences within their intervals are no order of ranks.",
                "落在区间之内的差异不能给各个秩排序。",
            ),
            say(
                "Nothing about tasks far from the pretraining (code, mathematics), where published work finds that low "
                "ranks lose.",
                "与预训练相距很远的任务（代码、数学）不在此列：已发表的工作表明低秩在那里会吃亏。",
            ),
        ),
    )


def _sweep(found: dict[str, CostRecord], name: str) -> dict[int, str]:
    """Label by rank of the rows of method ``name`` on the plain targets."""
    rows = {r.method.config["rank"]: label for label, r in found.items()
            if r.method.name == name and tuple(r.method.config["targets"]) == PLAIN}  # fmt: skip
    return dict(sorted(rows.items()))


def _trained(record: CostRecord) -> int:
    assert record.trainable_parameters is not None
    return record.trainable_parameters.method


def _ratio(record: CostRecord, full: CostRecord, part: str) -> str:
    return fmt.ratio(getattr(counts(record), part) / getattr(counts(full), part))


def _difference(row: "pd.Series[Any]") -> str:
    return fmt.difference(row["difference"], row["low"], row["high"])


def _by_rank(say: Say, run: Run, found: dict[str, CostRecord], scores: pd.DataFrame) -> str:
    full = found["full"]
    head = [
        say("method", "方法"), say("trainable params (excl. head)", "可训练参数（不含任务头）"), say("stored per task", "每任务存储"),
        say("forward / full", "前向 / full"), say("backward / full", "反向 / full"),
        say("weight gradients / full", "权重梯度 / full"), say("optimizer state", "优化器状态"),
        say("peak / full", "峰值内存 / full"), say("step time / full", "步时 / full"), say("score", "得分"),
        say("- full, 95 %", "- full，95 %"),
    ]  # fmt: skip
    labels = ["full", *_sweep(found, "lora").values(), *_sweep(found, "rslora").values(), "head"]
    rows = []
    for label in labels:
        record, row = found[label], scores.loc[label]
        assert record.bytes and record.predicted_peak_memory_bytes and full.predicted_peak_memory_bytes
        step = record.step_seconds
        rows.append([
            f"`{label}`", fmt.exact(_trained(record)), fmt.size(record.delta_bytes), _ratio(record, full, "forward"),
            _ratio(record, full, "backward"),
            fmt.ratio(counts(record).backward_weight_gradient / counts(full).backward_weight_gradient, 3),
            fmt.size(record.bytes.optimizer_state),
            fmt.ratio(record.predicted_peak_memory_bytes.step / full.predicted_peak_memory_bytes.step),
            fmt.ratio_interval(step.ratio_to_baseline, *step.ratio_interval, digits=2) if step else fmt.MISSING,
            fmt.points(row["mean"]), say("baseline", "基线") if label == "full" else _difference(row),
        ])  # fmt: skip
    drawn = figure(NAME, "size", say("Score and cost against the rank", "得分与代价随秩的变化"))
    return f"{table(head, rows)}\n\n{fmt.plain(facts.data(Results(run)))}\n\n{drawn}"


def _by_targets(say: Say, found: dict[str, CostRecord], scores: pd.DataFrame) -> str:
    plain = set(_sweep(found, "lora").values())
    rows = [
        [", ".join(record.method.config["targets"]), str(record.method.config["rank"]), fmt.exact(_trained(record)),
         fmt.points(scores.loc[label, "mean"]), _difference(scores.loc[label])]
        for label, record in found.items()
        if record.method.name == "lora" and (label not in plain or _equal(record, found))
    ]  # fmt: skip
    return table([say("targets", "目标矩阵"), say("rank", "秩"), say("trainable params (excl. head)", "可训练参数（不含任务头）"), say("score", "得分"),
                  say("- full, 95 %", "- full，95 %")], rows)  # fmt: skip


def _equal(record: CostRecord, found: dict[str, CostRecord]) -> bool:
    """Whether the row trains as much as the rows on other targets."""
    others = [r for r in found.values() if r.method.name == "lora" and tuple(r.method.config["targets"]) != PLAIN]
    return bool(others) and _trained(record) == _trained(others[0])
