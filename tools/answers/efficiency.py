"""Where exactly Adapter and P-Tuning are efficient, from counted costs."""

from collections.abc import Iterable

from bench.report import format as fmt
from bench.schema.record import CostRecord, Flops
from tools.answers import decoder
from tools.answers.words import Answer, Say, claims, costs, counts, figure, most, published, span, table

NAME = "where-is-the-efficiency"
KEEPING = ("adapter", "prompt_tuning", "p_tuning", "prefix_tuning", "lora")
"""Names of methods whose backward goes through the backbone, whole or in part of the name."""


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published run."""
    run = published(NAME)
    found = costs(run)
    flops = {label: counts(record) for label, record in found.items()}
    full, lst = flops["full"], next(f for label, f in flops.items() if label.startswith("lst"))
    through = {label: f for label, f in flops.items() if any(name in label for name in KEEPING)}
    backward = span(f.backward / full.backward for f in through.values())
    weights = most(f.backward_weight_gradient / full.backward_weight_gradient for f in through.values())
    inputs = span(f.backward_input_gradient / full.backward_input_gradient for f in through.values())
    spared = fmt.ratio(lst.backward / full.backward, 3)
    whole = _bytes(found["full"], "optimizer_state")
    state = most(_bytes(found[label], "optimizer_state") / whole for label in through)
    entered = sorted({_entered(f) for f in through.values()})
    layers = _range(entered)
    chains = _range(_chain(found[label]) for label in through)
    own_chain = next(_chain(record) for label, record in found.items() if label.startswith("lst"))
    return Answer(
        question=say("What exactly is efficient in Adapter and P-Tuning?", "Adapter、P-Tuning 到底高效在哪里？"),
        sentence=say(
            f"They spare the weight gradients (at most {weights} of full fine-tuning's remain), the optimizer's state "
            f"(at most {state}) and storage; the input gradients stay ({inputs}), so backward is halved ({backward}), "
            f"not spared. Of what adapts more than the head, LST alone never enters the backbone on the way back "
            f"({spared}).",
            f"省下的是权重梯度（最多剩全量微调的 {weights}）、优化器状态（最多 {state}）和存储；输入梯度几乎都还在（{inputs}），"
            f"所以反向传播是减半（{backward}），而不是免除。除只训练头之外，只有 LST 的反向完全不进入主干（{spared}）。",
        )
        + decoder.step_sentence(say),
        tag=say("exact, any machine", "精确，任何机器相同"),
        run=NAME,
        command=f"python -m bench run --suite {NAME}",
        parts=(
            (
                say("Why", "为什么"),
                say(
                    "For a linear map `y = x W^T` with incoming gradient `g`, backward computes two products of the "
                    "same size: the weight gradient `g^T x`, needed where W trains, and the input gradient `g W`, "
                    "needed as long as anything trains below. A frozen W spares the first and keeps the second: half "
                    "of the work. Adapters, prompts and LoRA train something near the input, so the chain of input "
                    "gradients runs through every layer above it. LST's side network reads the backbone's states and "
                    "gives nothing back into it: no input gradient of the backbone is needed at all.",
                    "对线性映射 `y = x W^T`，设传来的梯度为 `g`，反向要算两个同样大小的矩阵乘：权重梯度 `g^T x`（W 要训练时才需要）"
                    "和输入梯度 `g W`（只要更低处还有参数要训练就需要）。冻结 W 省下前者、保留后者：恰好一半。Adapter、prompt 和 "
                    "LoRA 都在靠近输入处有可训练参数，输入梯度的链条必须穿过其上的每一层。LST 的旁路网络只读取主干的状态、"
                    "从不写回主干，因此主干的输入梯度一概不需要。",
                ),
            ),
            (
                say("Is the complexity of backward reduced?", "反向的复杂度降低了吗？"),
                say(
                    f"Often it is said that it is not. The count: backward still works in {layers} of "
                    f"{_entered(full)} layers (the same depth, or all but the layer below the lowest trained part), "
                    f"with {backward} of the FLOPs, and its longest chain of operations that each need the one before "
                    f"is {chains} for full's {_chain(found['full'])}. So the depth in layers stays, the "
                    "chain stays or grows, and about half of the work goes; suite `scaling` shows how each grows with the length of the rows. LST works in "
                    f"{_entered(lst)} of those layers: its chain, {own_chain}, lies in "
                    "the narrow side network alone.",
                    f"常有人说没有。数一数：反向仍要经过 {_entered(full)} 层中的 {layers} 层（深度不变，最多少去最低可训练处以下的一层），"
                    f"FLOPs 是 {backward}；前后相依的最长算子链是 {chains}（full 为 {_chain(found['full'])}）。所以层数"
                    f"不变，算子链不变或更长，工作量约剩一半；随行长如何增长见 suite `scaling`。LST 经过其中 {_entered(lst)} 层：它的链长 {own_chain}，全在窄的旁路网络里。",
                ),
            ),
            (
                say("Counted: one training step", "计数：一个训练步"),
                _counted(say, found) + "\n\n" + say(_shape(found), _shape(found)),
            ),
            (
                say("Where backward works", "反向在哪里工作"),
                figure(NAME, "backward-depth", say("Backward FLOPs, methods x depth", "反向 FLOPs：方法 x 深度"))
                + "\n\n"
                + figure(NAME, "backward-anatomy", say("Backward FLOPs by kind", "反向 FLOPs 的构成")),
            ),
            (say("LST's price, and the verdicts", "LST 的代价与各项结论"), claims(say, run)),
            decoder.step_part(say),
        ),
        not_concluded=(
            say(
                "FLOPs are not seconds: small products use a processor worse than large ones; the report has the times "
                "of one machine, with their control.",
                "FLOPs 不是秒：小矩阵乘对处理器的利用率更低；某台机器上的时间见报告，并附 A/A 对照。",
            ),
            say(
                "The shares hold for this shape; with longer rows attention, which adapters, prompts and LoRA hardly "
                "spare, takes a larger part (suite `scaling`).",
                "这些比例属于这个形状；行越长，Adapter、prompt 和 LoRA 几乎都省不掉的注意力部分占比越大（见 suite `scaling`）。",
            ),
            say(
                "How much of a step the LM head takes is a matter of size: it shrinks with more and wider layers behind "
                "the same vocabulary.",
                "语言模型头占一步的多少取决于规模：词表不变时，层越多、越宽，它占得越少。",
            ),
            say("Nothing about scores: cheaper is not as good.", "与得分无关：便宜不等于一样好。"),
        ),
    )


def _bytes(record: CostRecord, part: str) -> int:
    assert record.bytes is not None
    return int(getattr(record.bytes, part))


def _entered(flops: Flops) -> int:
    """Layers of the backbone in which backward computes anything."""
    return sum(part.backward > 0 for layer, part in flops.backbone_by_layer.items() if layer.startswith("layer_"))


def _chain(record: CostRecord) -> int:
    """Longest chain of operations of backward that each need the one before."""
    assert record.backward_path is not None
    return record.backward_path.depth


def _range(values: Iterable[int]) -> str:
    ends = sorted(values)
    return " - ".join(map(str, dict.fromkeys((ends[0], ends[-1]))))


def _counted(say: Say, found: dict[str, CostRecord]) -> str:
    full = found["full"]
    head = [
        say("method", "方法"), say("backward / full", "反向 / full"), say("weight gradients", "权重梯度"),
        say("input gradients", "输入梯度"), say("layers entered", "经过的层"), say("longest chain", "最长算子链"), say("optimizer state", "优化器状态"),
        say("saved activations", "保存的激活"), say("peak / full", "峰值内存 / full"), say("stored per task", "每任务存储"),
    ]  # fmt: skip
    rows = []
    for label, record in found.items():
        flops, whole = counts(record), counts(full)
        assert record.predicted_peak_memory_bytes and full.predicted_peak_memory_bytes
        rows.append([
            f"`{label}`", fmt.ratio(flops.backward / whole.backward, 3),
            fmt.ratio(flops.backward_weight_gradient / whole.backward_weight_gradient, 3),
            fmt.ratio(flops.backward_input_gradient / whole.backward_input_gradient, 3), str(_entered(flops)), str(_chain(record)),
            fmt.size(_bytes(record, "optimizer_state")), fmt.size(_bytes(record, "saved_activations")),
            fmt.ratio(record.predicted_peak_memory_bytes.step / full.predicted_peak_memory_bytes.step, 3),
            fmt.size(record.delta_bytes),
        ])  # fmt: skip
    return table(head, rows)


def _shape(found: dict[str, CostRecord]) -> str:
    record = found["full"]
    assert record.backbone is not None
    shape = record.shape
    name = record.backbone.name.rpartition("/")[2]
    return f"{name}, {shape.batch} x {shape.length}, {shape.dtype}, {shape.attention}, {shape.optimizer}."
