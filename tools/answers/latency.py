"""Why merged LoRA adds no latency and adapters, prompts and LST do: counted structure first, times second."""

from bench.report import format as fmt
from bench.report.sections.claims import tell
from bench.schema.record import CostRecord, Inference, Latency, Timing
from bench.store.store import Run
from bench.verdicts.claims import JudgedResults
from tools.answers import decoder
from tools.answers.words import PUBLISHED, Answer, Say, claims, costs, figure, lengths, published, span, table

NAME = "why-latency"
SERIAL = ("houlsby_adapter", "pfeiffer_adapter")
QUIETER = "cost-minilm"
"""Published run that times three methods on one thread."""
PROMPTS = ("prompt_tuning", "p_tuning")
BATCHES = (1, 8, 32)
MERGED = "latency_seconds.merged.batch_1"


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published run."""
    run = published(NAME)
    spans = lengths(run)
    by_length = {length: {r.method.name: r for r in costs(run, length).values()} for length in spans}
    by_name = {r.method.name: r for r in costs(run).values()}  # on the shape that the figure of counts is drawn for
    prompted = [length for length in spans if PROMPTS[0] in by_length[length]]
    lora, lst = _as_is(by_name["lora"]), _as_is(by_name["lst"])
    base, merged = _base(by_name["lora"]), _merged(by_name["lora"])
    assert merged is not None
    measured = [length for length in spans if any(r.latency_seconds for r in by_length[length].values())]
    serial = span(_as_is(by_name[name]).depth / base.depth for name in SERIAL)
    beside = fmt.ratio(_as_is(by_name["parallel_adapter"]).depth / base.depth)
    prompts = " / ".join(fmt.ratio(_flops(by_length[length][PROMPTS[0]])) for length in prompted)
    at = " / ".join(map(str, prompted))
    return Answer(
        question=say(
            "Why does merged LoRA add no latency, while adapters, prompts and LST do?",
            "为什么 LoRA 合并后没有推理延迟，而 Adapter、prompt 和 LST 有？",
        ),
        sentence=say(
            f"Merged, LoRA is the base model again: the same {merged.operations} operations, the same critical path of "
            f"{merged.depth}, {fmt.ratio(merged.flops / base.flops, 3)} of its FLOPs{_took(say, run)}. Serial "
            f"adapters lengthen the critical path ({serial} x), prompts the sequence ({prompts} x the FLOPs at {at} "
            f"tokens), LST runs a side network beside the backbone ({fmt.ratio(lst.depth / base.depth)} x the path)"
            f"{_paid(say, run)}: none of these can be folded into a weight.",
            f"LoRA 合并后就是原模型：同样的 {merged.operations} 个算子，同样的关键路径 {merged.depth}，FLOPs 是其 "
            f"{fmt.ratio(merged.flops / base.flops, 3)}{_took(say, run)}。串行 Adapter 加长关键路径（{serial} 倍），"
            f"prompt 加长序列（{at} 个 token 时 FLOPs 为 {prompts} 倍），LST 在主干之外还要跑旁路网络（路径 "
            f"{fmt.ratio(lst.depth / base.depth)} 倍）{_paid(say, run)}：它们都无法折叠进一个权重。",
        )
        + decoder.token_sentence(say),
        tag=say("structure: exact, any machine", "结构：精确，任何机器相同")
        + (say("; time: this machine", "；时间：这台机器") if measured else ""),
        run=NAME,
        command=f"python -m bench run --suite {NAME}" + ("" if measured else " --counts"),
        parts=(
            (
                say("Why", "为什么"),
                say(
                    "LoRA is linear and parallel to a linear map: `x W^T + s (x A^T) B^T = x (W + s B A)^T`, one weight "
                    "of the same shape, the same kernel. A serial adapter is `h + W2 f(W1 h)`: the non-linearity `f` "
                    "keeps it from being a matrix, and its two products wait for `h` and make the next layer wait. A "
                    f"parallel one waits no longer than unmerged LoRA ({beside} x the path), but `f` keeps it, too, from "
                    "being folded. A prompt adds rows to the sequence: every linear map does `(T + p) / T` of its work, attention its "
                    "square; a prefix adds keys and values in every layer. LST adds a whole narrow network that reads "
                    "the backbone's states. Unmerged, LoRA pays too: "
                    f"{lora.operations - base.operations} more operations, a path of {lora.depth}.",
                    "LoRA 是线性的，且与一个线性映射并联：`x W^T + s (x A^T) B^T = x (W + s B A)^T`，仍是同样形状的一个权重、同一个算子。"
                    "串行 Adapter 是 `h + W2 f(W1 h)`：非线性 `f` 使它不是矩阵，它的两个矩阵乘要等 `h`，下一层又要等它。"
                    f"并联 Adapter 不比未合并的 LoRA 等得更久（路径 {beside} 倍），但 `f` 同样使它无法折叠。"
                    "prompt 加长序列：每个线性映射的计算量变为 `(T + p) / T` 倍，注意力为其平方；prefix 在每层增加键和值。"
                    "LST 另加一个读取主干状态的窄网络。不合并的 LoRA 同样要付出："
                    f"多 {lora.operations - base.operations} 个算子，路径 {lora.depth}。",
                ),
            ),
            (
                say("Counted: one inference", "计数：一次推理"),
                _counted(say, run)
                + "\n\n"
                + figure(NAME, "inference", say("Operations, critical path and FLOPs", "算子、关键路径与 FLOPs")),
            ),
            *([_map(say)] if measured else []),
            *((_title(say, run, length), _times(say, costs(run, length))) for length in measured),
            (say("Verdicts", "各项结论"), claims(say, run) + "\n\n" + _decided(say)),
            decoder.token_part(say),
        ),
        beside=decoder.TOKEN,
        not_concluded=(
            say(
                "Counts are no times, and times belong to one processor: on a GPU at batch 1 launches dominate, and the "
                "counts of operations and path weigh more than the FLOPs.",
                "计数不是时间，时间属于某一台处理器；GPU 在批大小 1 时以启动开销为主，算子数和关键路径比 FLOPs 更要紧。",
            ),
            *(
                (
                    say(
                        "An interval that includes 1 does not show that there is no difference; equivalence within a "
                        "stated margin is a claim of its own, among the verdicts. Nor does one that leaves 1 show a "
                        "difference on two threads: merged methods, the base operation by operation, leave it there "
                        "too. Verdicts rest on the shape with one thread alone.",
                        "区间包含 1 并不说明没有差别；在给定界限内等价是上面另一条论断。双线程时区间不含 1 也不说明有差别："
                        "合并后与原模型逐算子相同的方法有时也如此。结论只依据单线程的那一组。",
                    ),
                )
                if measured
                else ()
            ),
            say(
                "The longest rows were timed in two blocks each, so intervals there are as wide as the noise: there the "
                "counts carry. At 512 tokens there is one method of each form of inference: what is missing infers, "
                "operation by operation, as lora, prefix_tuning or the base; a prompt leaves 492 of the 512 positions.",
                "最长的几行各只计了两个区组，区间与噪声同宽：那里应看计数。512 个 token 处每种推理形式只列一个方法：没有列出的与 lora、"
                "prefix_tuning 或原模型逐算子相同；prompt 在 512 个位置中只留下 492 个。",
            ),
            say(
                "Times of a token are those of one small decoder at batch 1 on one thread, where reading the weights takes "
                "most of it; a larger model or batch weighs the additions otherwise.",
                "每个 token 的时间来自一个小解码器、批大小 1、单线程，那里大部分时间用于读取权重；更大的模型或批次中，各项附加的比重不同。",
            ),
            say(
                "One merged model serves one task: where many tasks share a served backbone, unmerged figures count.",
                "合并后的模型只服务一个任务；多任务共用一个主干时，应看不合并的数字。",
            ),
        ),
    )


def _decided(say: Say) -> str:
    """What the run on one thread, where fewer things disturb a clock, says of merged LoRA's latency."""
    told = next(t for t in tell(JudgedResults(published(QUIETER))) if t.metric == MERGED)
    link = f"[{QUIETER}]({PUBLISHED}/{QUIETER})"
    return say(
        f"On one thread {link} has of merged LoRA's latency: {told.figures}, {told.verdict}.",
        f"单线程的 {link} 对合并后 LoRA 延迟的结果：{told.figures}，{told.verdict}。",
    )


def _map(say: Say) -> tuple[str, str]:
    title = say("Timed: every length and batch", "计时：各长度与批大小")
    return title, figure(NAME, "latency-map", say("Latency against the base model", "相对原模型的延迟"))


def _quietest(run: Run) -> int:
    """Tokens of the shape that the claims on times are judged on."""
    lengths_: list[int] = [claim["length"] for claim in run.suite.claims if claim["metric"] == MERGED]
    return lengths_[0]


def _took(say: Say, run: Run) -> str:
    """What the run's claim on merged LoRA's time shows, as a clause; empty where nothing was timed."""
    told = next((t for t in tell(JudgedResults(run)) if t.metric == MERGED and t.figures), None)
    if told is None:
        return ""
    length, figures = _quietest(run), told.figures.replace(" x", "")
    return say(
        f"; measured at batch 1 on {length} tokens and one thread: {figures} of its time",
        f"；批大小 1、{length} 个 token、单线程实测为其时间的 {figures}",
    )


def _paid(say: Say, run: Run) -> str:
    """What the methods that cannot merge take there, as a clause; empty where nothing was timed."""
    found = {r.method.name: r for r in costs(run, _quietest(run)).values()}

    def took(*names: str) -> list[float]:
        timings = [_timing(_latencies(found[name], merged=False), 1) for name in names if name in found]
        return [timing.ratio_to_baseline for timing in timings if timing is not None]

    adapters, prompts, lst = took(*SERIAL), took(*PROMPTS), took("lst")
    if not (adapters and prompts and lst):
        return ""
    return say(
        f"; measured there they take {span(adapters)}, {span(prompts)} and {span(lst)} x the base's time",
        f"；同样条件下三者实测为原模型的 {span(adapters)}、{span(prompts)}、{span(lst)} 倍",
    )


def _title(say: Say, run: Run, length: int) -> str:
    threads = next(iter(costs(run, length).values())).shape.threads
    return say(
        f"Timed: {length} tokens, {fmt.plural(threads, 'thread')}, time / base",
        f"计时：{length} 个 token，{threads} 线程，相对原模型",
    )


def _as_is(record: CostRecord) -> Inference:
    assert record.inference is not None
    return record.inference.unmerged


def _base(record: CostRecord) -> Inference:
    assert record.inference is not None
    return record.inference.base


def _merged(record: CostRecord) -> Inference | None:
    assert record.inference is not None
    return record.inference.merged


def _latencies(record: CostRecord, merged: bool) -> Latency | None:
    if record.latency_seconds is None:
        return None
    return record.latency_seconds.merged if merged else record.latency_seconds.unmerged


def _timing(latency: Latency | None, batch: int) -> Timing | None:
    return None if latency is None else latency.by_batch.get(batch)


def _ratio(timing: Timing | None) -> str:
    if timing is None:
        return fmt.MISSING
    return fmt.ratio_interval(timing.ratio_to_baseline, *timing.ratio_interval)


def _flops(record: CostRecord) -> float:
    """FLOPs as trained / the base's."""
    return _as_is(record).flops / _base(record).flops


def _counted(say: Say, run: Run) -> str:
    spans, main = lengths(run), costs(run)
    at = {length: costs(run, length) for length in spans}
    head = [
        say("method", "方法"), say("operations, unmerged", "算子：不合并"), say("merged", "合并"),
        say("critical path, unmerged", "关键路径：不合并"), say("merged", "合并"),
        *(say(f"FLOPs / base, {length} tokens", f"FLOPs / 原模型，{length} 个 token") for length in spans),
        say("merged", "合并"),
    ]  # fmt: skip
    base = _base(next(iter(main.values())))
    rows = [
        [say("the base model", "原模型"), str(base.operations), "", str(base.depth), "", *["1.000"] * len(spans), ""]
    ]
    for label, record in main.items():
        ours, merged = _as_is(record), _merged(record)
        rows.append([
            f"`{label}`", str(ours.operations), str(merged.operations) if merged else fmt.MISSING,
            str(ours.depth), str(merged.depth) if merged else fmt.MISSING,
            *(fmt.ratio(_flops(found[label]), 3) if label in found else fmt.MISSING for found in at.values()),
            fmt.ratio(merged.flops / base.flops, 3) if merged else fmt.MISSING,
        ])  # fmt: skip
    return table(head, rows)


def _times(say: Say, found: dict[str, CostRecord]) -> str:
    head = [say("method", "方法")]
    head += [f"{say('unmerged', '不合并')}, {say('batch', '批')} {batch}" for batch in BATCHES]
    head += [f"{say('merged', '合并')}, {say('batch', '批')} {batch}" for batch in BATCHES]
    rows = [
        [
            f"`{label}`",
            *(_ratio(_timing(_latencies(record, merged), batch)) for merged in (False, True) for batch in BATCHES),
        ]
        for label, record in found.items()
    ]
    return table(head, rows)
