"""Whether LoRA's low-rank decomposition is a singular value decomposition."""

from typing import Any

import pandas as pd

from bench.analysis.results import Results
from bench.report import format as fmt
from tools.answers.words import Answer, Say, figure, published, table

NAME = "is-lora-an-svd"
RUN = "update-directions"
LORA = "lora(rank=8)"
PISSA = "pissa(rank=8)"


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published measurement."""
    run = published(RUN)
    rows = Results(run).direction_table
    means = rows.groupby("method", sort=False).mean(numeric_only=True)
    lora, pissa, full = means.loc[LORA], means.loc[PISSA], means.loc["full"]
    chance, leading, seeds = rows["by_chance"].mean(), int(rows["leading"].max()), rows["seed"].nunique()
    maps = rows["map"].nunique()
    return Answer(
        question=say("Is LoRA's low-rank decomposition an SVD?", "LoRA 的低秩分解是由 SVD 决定的吗？"),
        sentence=say(
            f"No: A and B are learned. The directions that LoRA adds share {_share(lora, 'with_weight')} of the "
            f"{leading} leading singular directions of W_0, where two random subspaces share {chance:.3f}; full "
            f"fine-tuning's own update shares {_share(full, 'with_weight')}. LoRA's directions share "
            f"{_share(lora, 'with_baseline')} with those of full fine-tuning. PiSSA alone starts from the SVD of W_0: its "
            f"update shares {_share(pissa, 'with_weight')}.",
            f"不是：A 和 B 是学出来的。LoRA 加上的方向与 W_0 的前 {leading} 个奇异方向只重合 {_share(lora, 'with_weight')}，"
            f"两个随机子空间为 {chance:.3f}；全量微调自己的更新为 {_share(full, 'with_weight')}。LoRA 的方向与全量微调的重合 "
            f"{_share(lora, 'with_baseline')}。只有 PiSSA 从 W_0 的 SVD 出发：它的更新重合 {_share(pissa, 'with_weight')}。",
        ),
        tag=say(
            f"means over {maps} weights and {seeds} seeds; one backbone, one task",
            f"{maps} 个权重、{seeds} 个种子的均值；一个主干、一个任务",
        ),
        run=RUN,
        command=f"python -m bench run --suite {RUN} --data DIR",
        parts=(
            (
                say("Why", "为什么"),
                say(
                    "LoRA states a constraint, rank(dW) <= r, and lets gradient descent find A and B under it; r is "
                    "chosen, not computed. An SVD enters in three other places: PiSSA starts A and B from the leading "
                    "part of W_0; AdaLoRA learns a product P L Q in its form; and the best rank-r approximation of an "
                    "update that is already known is its truncated SVD (Eckart, Young 1936).",
                    "LoRA 只给出约束 rank(dW) <= r，由梯度下降在约束下寻找 A 和 B；r 是选定的，不是算出来的。SVD 出现在另外三处："
                    "PiSSA 用 W_0 的主成分初始化 A、B；AdaLoRA 学习形如 P L Q 的乘积；对一个已知的更新，最好的秩 r 近似是其截断 SVD"
                    "（Eckart, Young 1936）。",
                ),
            ),
            (
                say("Measured", "测量"),
                _measured(say, means)
                + "\n\n"
                + say(
                    f"Overlap: share of the {leading} leading left singular directions of the update that lies in those "
                    "of the other matrix (mean squared cosine of the principal angles; Hu et al. 2022, section 7.2), 1 "
                    f"the same subspace, {chance:.3f} by chance. Angle: the smallest principal angle. Stable rank: "
                    "squared Frobenius norm by squared largest singular value.",
                    f"重合：更新的前 {leading} 个左奇异方向落在另一矩阵相应方向中的比例（主角余弦平方的均值；Hu et al. 2022，7.2 节），"
                    f"1 为同一子空间，随机为 {chance:.3f}。夹角：最小主角。稳定秩：Frobenius 范数平方除以最大奇异值平方。",
                ),
            ),
            (
                say("Weight by weight", "逐个权重"),
                figure(RUN, "directions", say("Overlap of directions", "方向的重合")),
            ),
        ),
        not_concluded=(
            say(
                "Not that singular directions of W_0 do not matter: only that the leading left directions of the update "
                "lie mostly outside those of W_0. No interval is given, and all directions count alike, though LoRA's "
                "update is mostly one or two of them (stable rank).",
                "不能说 W_0 的奇异方向不重要：只能说更新的前几个左奇异方向大多不在 W_0 的前几个方向之中。这里没有给出区间，"
                "且各方向同等计数，而 LoRA 的更新主要只在一两个方向上（见稳定秩）。",
            ),
            say(
                "Overlap with full fine-tuning depends on rates and steps. It pairs equal seeds, the last column different "
                "ones: LoRA agrees with full fine-tuning of its own seed more than with itself at another seed, so the "
                "last column is a yardstick and no ceiling.",
                "与全量微调的重合取决于学习率和步数。该列比较相同种子，最后一列比较不同种子：LoRA 与同一种子的全量微调比与另一种子的自己更一致，"
                "所以最后一列是参照而不是上限。",
            ),
            say(
                "PiSSA learns at a larger rate, from another start: its update is many times as large, and as the "
                "difference of two products it has up to twice the rank.",
                "PiSSA 的起点不同、学习率更大：它的更新大许多倍，且作为两个乘积之差，秩可达两倍。",
            ),
            say(
                "Query and value weights of one small encoder on one task.",
                "只是一个小编码器在一个任务上的 query、value 权重。",
            ),
        ),
    )


def _share(row: "pd.Series[Any]", column: str) -> str:
    return f"{row[column]:.3f}"


def _measured(say: Say, means: pd.DataFrame) -> str:
    head = [
        say("method", "方法"), "‖dW‖ / ‖W_0‖", say("stable rank", "稳定秩"), say("in its leading 8", "前 8 个方向占"),
        say("overlap with W_0", "与 W_0 重合"), say("angle to W_0", "与 W_0 夹角"),
        say("with full's update", "与 full 的更新重合"), say("angle to full's", "与 full 的夹角"),
        say("with another seed's", "与另一种子重合"),
    ]  # fmt: skip
    rows = [
        [f"`{label}`", fmt.ratio(row["relative_norm"], 3), f"{row['stable_rank']:.1f}",
         f"{100 * row['leading_share']:.0f} %", _share(row, "with_weight"), f"{row['angle_to_weight']:.0f}°",
         _share(row, "with_baseline"), f"{row['angle_to_baseline']:.0f}°", _share(row, "with_seed")]
        for label, row in means.iterrows()
    ]  # fmt: skip
    return table(head, rows)
