"""What fine-tuning forgets, how much general text keeps it, and whether methods that learn less forget less."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.schema.record import ScoreRecord
from bench.stats.intervals import pareto_front
from tools.answers.words import Answer, Say, claims, figure, published, scores_tag, table

NAME = "forgetting"
ENOUGH = 0.1
"""A share is enough where at most so much is forgotten of what is forgotten without a mix."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method at one share of general text: means over the seeds that came to an end."""

    label: str
    method: str
    """As the suite spells it without a mix."""
    share: float
    hold: str
    """``total`` or ``domain``; of share 0 both."""
    score: float
    """Points of 100: rows that are written right from end to end."""
    nats: float
    """Mean cross-entropy of a token of the answer, which tells methods apart before the first row is right."""
    forgotten: dict[str, float]
    """By text, bits per byte after training less those before."""
    rows: float
    """Rows that were trained on, over those of the same method without a mix."""
    targets: float
    """Share of general text among the tokens that the loss is of."""
    backbone_kept: bool

    @property
    def mean(self) -> float:
        """What is forgotten, over the texts."""
        return sum(self.forgotten.values()) / len(self.forgotten)


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published run."""
    return page_of(say, Results(published(NAME).folder))


def page_of(say: Say, results: Results) -> Answer:
    """The page of a run of the suite."""
    arms, run = found(results), results.run
    return Answer(
        question=say(
            "What does fine-tuning forget, how much general text keeps it, and does LoRA learn less and forget less?",
            "微调会忘掉什么？混入多少通用文本就够？LoRA 是否学得少、忘得也少？",
        ),
        sentence=" ".join((_learns(say, arms), _enough(say, arms), _others(say, arms))).strip(),
        tag=scores_tag(say, run),
        run=NAME,
        command=f"python -m bench run --suite {NAME}",
        parts=(
            (say("Score against what is kept", "得分与保留"), _front(say, arms)),
            (say("What a share of general text keeps", "一份通用文本保住多少"),
             figure(NAME, "retention-share", say("Bits forgotten and score over the share of general text",
                                                 "随通用文本占比变化的遗忘比特与得分"))),
            (say("Rows held in all: general text takes the place of the task's", "总行数固定：通用文本占去任务的行"),
             _table(say, arms, "total")),
            (say("Rows of the task held: general text is added", "任务行数固定：通用文本另加"), _table(say, arms, "domain")),
            (say("Switched off", "关闭增量之后"), _off(say, arms)),
            (say("Verdicts", "各项结论"), claims(say, run)),
        ),
        not_concluded=_doubts(say, results, arms),
    )  # fmt: skip


def found(results: Results) -> list[Arm]:
    """Every arm with a score, in the suite's order."""
    held: dict[str, list[ScoreRecord]] = {}
    for record in results.score_records:
        if record.status == "ok" and record.retention:
            held.setdefault(record.method.label, []).append(record)
    return [_arm(label, held[label], results) for label in results.labels if label in held]


def _arm(label: str, records: list[ScoreRecord], results: Results) -> Arm:
    first, kept = records[0], results.retention_table.loc[label]
    mix = first.recipe.get("mix")
    mixed = [record.mixed for record in records if record.mixed is not None]
    general = sum(one.general_targets for one in mixed)
    # with the rows of the task held, these are all that the method trains on without a mix; else as many in all
    domain = mix["domain_rows"] if mix and mix["hold"] == "domain" else None
    return Arm(
        label=label, method=_without_mix(label), share=mix["share"] if mix else 0.0, hold=mix["hold"] if mix else "",
        score=float(results.score_table.loc[label, "mean"]),
        nats=sum(record.metrics["answer_nats"] for record in records) / len(records),
        forgotten={str(text): float(value) for text, value in kept.groupby(level="text")["forgotten"].mean().items()},
        rows=1.0 if domain is None else (domain + mix["general_rows"]) / domain,
        targets=general / (general + sum(one.domain_targets for one in mixed)) if mixed else 0.0,
        backbone_kept=all(record.backbone_kept for record in records),
    )  # fmt: skip


def _without_mix(label: str) -> str:
    """``lora(rank=8, mix=0.1)`` as ``lora(rank=8)``: the values of a mix are the last that a label has."""
    name, bracket, inner = label.partition("(")
    values = [value for value in inner.removesuffix(")").split(", ") if value.partition("=")[0] not in ("mix", "hold")]
    return f"{name}({', '.join(values)})" if bracket and values else name


def _of(arms: Iterable[Arm], method: str, hold: str) -> list[Arm]:
    """The arms of a method under one way to hold rows, rising in their share, the one without a mix first."""
    return sorted((a for a in arms if a.method == method and a.hold in ("", hold)), key=lambda arm: arm.share)


def _learns(say: Say, arms: list[Arm]) -> str:
    """Score and forgetting of full and LoRA without a mix."""
    full, lora = (next(arm for arm in arms if arm.label == label) for label in ("full", "lora"))
    scores, bits = (fmt.points(full.score), fmt.points(lora.score)), (_bits(full.mean), _bits(lora.mean))
    return say(
        f"Without general text full fine-tuning reaches {scores[0]} points and forgets {bits[0]} bits per byte, LoRA "
        f"{scores[1]} and {bits[1]}.",
        f"不混入通用文本时，全量微调得 {scores[0]} 分、每字节忘掉 {bits[0]} 比特；LoRA 得 {scores[1]} 分、忘掉 {bits[1]} 比特。",
    )


def _enough(say: Say, arms: list[Arm]) -> str:
    """For full and LoRA, the share that is enough and what it costs."""
    said = []
    for method in ("full", "lora"):
        bare, *mixed = _of(arms, method, "total")
        enough = next((arm for arm in mixed if arm.mean <= ENOUGH * bare.mean), None)
        if bare.mean <= 0:
            said.append(say(f"`{method}` forgets nothing to begin with.", f"`{method}` 本来就没有忘掉什么。"))
        elif enough is None:
            most = _percent(mixed[-1].share)
            said.append(say(
                f"For `{method}` no share up to {most} leaves a tenth of that or less.",
                f"对 `{method}`，直到 {most} 都不足以把遗忘降到十分之一。",
            ))  # fmt: skip
        else:
            lost = f"{enough.score - bare.score:+.1f}"
            said.append(say(
                f"For `{method}` {_percent(enough.share)} of the rows is enough to forget a tenth of that or less; the "
                f"score changes by {lost} points.",
                f"对 `{method}`，{_percent(enough.share)} 的行就足以把遗忘降到十分之一以内，得分变化 {lost} 分。",
            ))  # fmt: skip
    return " ".join(said)


def _others(say: Say, arms: list[Arm]) -> str:
    bare = [arm for arm in arms if not arm.share and arm.method not in ("full", "lora")]
    if not bare:
        return ""
    told = ", ".join(f"`{arm.method}` {fmt.points(arm.score)} / {_bits(arm.mean)}" for arm in bare)
    return say(f"Points and bits of the others: {told}.", f"其余方法的得分与比特：{told}。")


def _front(say: Say, arms: list[Arm]) -> str:
    """The figure, and who is on the front."""
    on = pareto_front(np.array([(arm.mean, arm.score) for arm in arms]))
    names = ", ".join(f"`{arm.label}`" for arm, is_on in zip(arms, on, strict=True) if is_on)
    shown = figure(NAME, "score-retention", say("Score against bits per byte", "得分与每字节比特"))
    return f"{shown}\n\n" + say(
        f"On the front, with nobody who forgets less and scores better: {names}.",
        f"在前沿上（没有谁忘得更少且得分更高）：{names}。",
    )


def _table(say: Say, arms: list[Arm], hold: str) -> str:
    texts = [*arms[0].forgotten]
    head = [say("method", "方法"), say("general text, rows", "通用文本占行数"), say("of targets", "占目标词元"),
            say("rows trained on", "训练行数"), say("score", "得分"), say("answer, nats a token", "答案每词元 nats"),
            *(say(f"{text}: bits per byte forgotten", f"{text}：每字节忘掉的比特") for text in texts)]  # fmt: skip
    rows = [
        [f"`{arm.method}`", _percent(arm.share), _percent(arm.targets), f"x {fmt.ratio(arm.rows, 2)}",
         fmt.points(arm.score), f"{arm.nats:.2f}", *(_bits(arm.forgotten[text]) for text in texts)]
        for method in dict.fromkeys(arm.method for arm in arms if arm.hold == hold)
        for arm in _of(arms, method, hold)
    ]  # fmt: skip
    return table(head, rows)


def _off(say: Say, arms: list[Arm]) -> str:
    """Whose delta leaves the backbone."""
    bare = [arm for arm in arms if not arm.share]
    kept, changed = (
        ", ".join(f"`{arm.method}`" for arm in bare if arm.backbone_kept is is_kept) for is_kept in (True, False)
    )
    text = say(
        f"After training every weight of the backbone has the bits that it had before under {kept}: switched off, "
        "nothing is forgotten, whatever the table says of the delta that is on.",
        f"{kept} 训练之后，主干每个权重都与训练前逐位相同：关闭增量就什么也没有忘，表中是增量开启时的遗忘。",
    )
    return text if not changed else text + say(
        f" Not so under {changed}, where the weights themselves train.", f"{changed} 不是这样：训练的正是这些权重。"
    )  # fmt: skip


def _doubts(say: Say, results: Results, arms: list[Arm]) -> tuple[str, ...]:
    steps = next(arm for arm in results.score_records if not arm.recipe.get("mix")).recipe["steps"]
    share = max(arms, key=lambda arm: arm.share)
    return (
        say(
            f"{steps} steps of one task on one small model: a longer training learns more and forgets more. Rates were not "
            "searched for, and a lower rate forgets less.",
            f"只有一个小模型、一个任务、{steps} 步：训练更久学得更多，忘得也更多。学习率没有搜索过，较小的学习率忘得更少。",
        ),
        say(
            "The loss is the mean over target tokens, and a row of general text has more of those than a row of the task: "
            f"{_percent(share.share)} of the rows are {_percent(share.targets)} of the targets.",
            f"损失是对目标词元取平均，而一行通用文本的目标词元多于一行任务：占行数 {_percent(share.share)} 时占目标词元 "
            f"{_percent(share.targets)}。",
        ),
        say(
            "Bits per byte are read on the first bytes of two texts. Editorials stand on both sides, in other paragraphs; "
            "of product reviews nothing is trained on. What else is kept or forgotten they do not say.",
            "每字节比特只在两种文本的开头部分读取。社论在训练和读取两边都有，但段落不同；商品评论完全没有参与训练。其他方面保留或忘掉了什么，这里没有说。",
        ),
    )


def _bits(value: float) -> str:
    return f"{value:+.3f}"


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"
