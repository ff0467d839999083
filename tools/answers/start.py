"""Why LoRA starts with B zero, from the first gradients and scores of every start."""

from collections import defaultdict
from statistics import fmean

import pandas as pd

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.sections import overview as facts
from bench.schema.record import ScoreRecord
from bench.store.store import Run
from tools.answers.words import Answer, Say, claims, figure, published, scores_tag, table

NAME = "lora-init"
STEPS = (1, 2, 5, 20)
"""Optimizer steps whose gradients the page shows."""


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published run."""
    run = published(NAME)
    found = _records(run)
    usual, zero, moved = (_start(found, init) for init in ("kaiming", "zero", "random"))
    a, b = (_norm(found[usual], part, 1) for part in "AB")
    return Answer(
        question=say("Why does LoRA start with B zero?", "LoRA 为什么把 B 初始化为零？"),
        sentence=say(
            f"So that the first forward is the backbone's own and yet something moves: with A random and B zero the "
            f"first loss is {_loss(found[usual])}, the gradient of A is {_exact(a)} and that of B {_number(b)}, so B "
            f"moves first and A from step 2 on ({_number(_norm(found[usual], 'A', 2))}). With both zero the "
            f"gradients of both are {_exact(_largest(found[zero]))} for ever and the score the head's "
            f"({_mean(run, zero)}); with both random the start is another model, which ends at {_mean(run, moved)} "
            f"points{_unlearned(say, found[moved])}, where the default start ends at {_mean(run, usual)}.",
            f"这样第一次前向就是主干自己，同时又有东西在动：A 随机、B 为零时，首步损失 {_loss(found[usual])}，A 的梯度为 {_exact(a)}，"
            f"B 的为 {_number(b)}，所以 B 先动，A 从第 2 步开始动（{_number(_norm(found[usual], 'A', 2))}）。两者都为零，"
            f"则两者的梯度永远为 {_exact(_largest(found[zero]))}，得分就是只训练头的得分（{_mean(run, zero)}）；两者都随机，起点就是另一个模型，最后得 {_mean(run, moved)} 分{_unlearned(say, found[moved])}，默认初始化得 {_mean(run, usual)} 分。",
        ),
        tag=say("zeros: exact; ", "零：精确；") + scores_tag(say, run),
        run=NAME,
        command=f"python -m bench run --suite {NAME} --data DIR",
        parts=(
            (
                say("Why", "为什么"),
                say(
                    "`y = x W^T + s (x A^T) B^T`. With G the gradient of y: `dB = s G^T (x A^T)` and `dA = s (G B)^T x`."
                    " B zero makes the update zero and dA zero, but not dB. A zero makes the update zero and dB zero, "
                    "but not dA: it works as well, mirrored. Both zero make both gradients zero: a saddle that gradient "
                    "descent never leaves. Both random: both gradients, but the model no longer starts as pretrained. "
                    "PiSSA starts both from the SVD of W and takes that part out of W, orthogonal starts have B A = 0 "
                    "with neither zero: they keep the first forward and move both at once.",
                    "`y = x W^T + s (x A^T) B^T`。设 y 的梯度为 G：`dB = s G^T (x A^T)`，`dA = s (G B)^T x`。B 为零时更新为零、"
                    "dA 为零，而 dB 不为零。A 为零时更新为零、dB 为零，而 dA 不为零：同样可行，只是镜像。两者都为零，两个梯度都是零："
                    "梯度下降永远离不开的鞍点。两者都随机：两个梯度都有，但模型不再从预训练的状态出发。PiSSA 用 W 的 SVD 初始化两者并把这一部分"
                    "从 W 中减去；正交初始化使 B A = 0 而两者都不为零：第一次前向不变，且两者同时开始动。",
                ),
            ),
            (
                say("Measured", "测量"),
                _measured(say, run, found) + f"\n\n{fmt.plain(facts.data(Results(run)))}",
            ),
            (say("Verdicts", "各项结论"), claims(say, run)),
            (
                say("Gradients of the first steps", "前几步的梯度"),
                figure(
                    NAME,
                    "gradient-norms",
                    say("Gradient norms of A and B over the first steps", "前几步 A、B 的梯度范数"),
                ),
            ),
        ),
        not_concluded=(
            say(
                "Both random is one strength of noise: with A and B of standard deviation 1 / r each weight moves by "
                "alpha r^-2.5, here about as much as the weights themselves; less noise moves the start less. The "
                "first loss does not show the move: the head starts near zero and hides what lies below it.",
                "“两者都随机”只是一种噪声强度：A、B 的标准差为 1 / r 时，每个权重移动 alpha r^-2.5，在这里与权重本身差不多大；噪声越小，"
                "起点移动越少。首步损失看不出移动：头从接近零开始，遮住了它下面的一切。",
            ),
            say(
                "The starts are compared at one pair of rates, that of the default start: another start may want "
                "another rate, which no score here shows.",
                "各种初始化用同一对学习率（默认初始化的那一对）：别的初始化可能需要别的学习率，这里的得分看不出来。",
            ),
            say(
                "Scores within their intervals are no order of starts.",
                "落在区间之内的得分不能给初始化排序。",
            ),
        ),
    )


def _records(run: Run) -> dict[str, list[ScoreRecord]]:
    by_label: dict[str, list[ScoreRecord]] = defaultdict(list)
    for record in Results(run).score_records:
        if record.status == "ok":
            by_label[record.method.label].append(record)
    return {label: by_label[label] for label in run.suite.methods if label in by_label}


def _start(found: dict[str, list[ScoreRecord]], init: str) -> str:
    """Label of LoRA with this start."""
    return next(
        label for label, records in found.items()
        if records[0].method.name == "lora" and records[0].method.config["init"] == init
    )  # fmt: skip


def _norm(records: list[ScoreRecord], part: str, step: int) -> float:
    """Mean over seeds of the norm of one part's gradient at an optimizer step, counted from 1; NaN without one."""
    held = [r.gradient_norms[part][step - 1] for r in records if len(r.gradient_norms.get(part, ())) >= step]
    return fmean(held) if held else float("nan")


def _unlearned(say: Say, records: list[ScoreRecord]) -> str:
    """How many of a start's runs ended below the task's floor."""
    flagged = sum("did_not_learn" in record.flags for record in records)
    return (
        say(
            f" (flagged in {flagged} of {len(records)} seeds: did not learn)",
            f"（{len(records)} 个种子中 {flagged} 个标记为没有学会）",
        )
        if flagged
        else ""
    )


def _largest(records: list[ScoreRecord]) -> float:
    return max(norm for r in records for part in "AB" for norm in r.gradient_norms[part])


def _mean(run: Run, label: str) -> str:
    """Mean score of a start, in points."""
    scores = Results(run).score_table
    return fmt.points(scores.loc[label, "mean"])


def _loss(records: list[ScoreRecord]) -> str:
    return f"{fmean(r.losses[0] for r in records):.3f}"


def _exact(value: float) -> str:
    return "0" if value == 0 else _number(value)


def _number(value: float) -> str:
    return fmt.MISSING if fmt.missing(value) else "0" if value == 0 else f"{value:.2g}"


def _measured(say: Say, run: Run, found: dict[str, list[ScoreRecord]]) -> str:
    scores = Results(run).score_table
    head = [say("start", "初始化"), say("first loss", "首步损失")]
    head += [f"‖d{part}‖ {say('step', '第')} {step}{say('', ' 步')}" for part in "AB" for step in STEPS]
    head += [say("score", "得分"), say(f"- {run.suite.baseline}, 95 %", f"- {run.suite.baseline}，95 %")]
    rows = []
    for label, records in found.items():
        norms = [_number(_norm(records, part, step)) for part in "AB" for step in STEPS]
        rows.append([f"`{label}`", _loss(records), *norms, *_score(scores.loc[label])])
    return table(head, rows)


def _score(row: "pd.Series") -> list[str]:
    return [fmt.points(row["mean"]), fmt.difference(row["difference"], row["low"], row["high"])]
