"""The decoder halves of two answers: what a training step of text spares, and what each written token takes."""

from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.sections.claims import tell
from bench.schema.record import CacheSize, CostRecord, GenerationTimes, Inference, Latency, PeakMemory, Timing
from bench.store.store import Run
from bench.verdicts.claims import JudgedResults
from tools.answers.words import PUBLISHED, Say, claims, costs, counts, figure, most, published, span, table

STEP, TOKEN = "where-is-the-efficiency-decoder", "why-latency-decoder"
"""Suites and published runs: of one training step, and of one written token."""
ALL, TARGETS = "full", "target"
"""Forms of the loss: the logits of every position, and of those with a target alone."""
NOT_THROUGH = ("full", "lst", "head")
"""Methods whose backward does not go through a frozen backbone."""
SERIAL = ("houlsby_adapter", "pfeiffer_adapter")
MERGED = "decode_seconds.merged.context_32.batch_1"


def _link(say: Say, name: str) -> str:
    again = f"`python -m bench run --suite {name}`"
    link = f"[{name}]({PUBLISHED}/{name})"
    return say(f"From {link}; the same on your machine: {again}.", f"数据来自 {link}；在你的机器上重做：{again}。")


# one training step


def step_sentence(say: Say) -> str:
    """What the vocabulary does to the answer, in a sentence."""
    run = published(STEP)
    every, targets = (_lst_share(costs(run, loss=loss)) for loss in (ALL, TARGETS))
    return say(
        f" On a decoder the input gradient of the vocabulary's matrix is LST's floor: {every} of full's backward with the "
        f"logits of every position, {targets} with those of targets alone.",
        f"在解码器上，词表矩阵的输入梯度是 LST 的下限：对所有位置算 logits 时为全量微调反向的 {every}，只在目标位置算时为 {targets}。",
    )


def _lst_share(found: dict[str, CostRecord]) -> str:
    return fmt.ratio(counts(_named(found, "lst")).backward / counts(found["full"]).backward, 3)


def _named(found: dict[str, CostRecord], name: str) -> CostRecord:
    return next(record for record in found.values() if record.method.name == name)


def step_part(say: Say) -> tuple[str, str]:
    """Heading and text of the half about a training step."""
    run = published(STEP)
    every, targets = costs(run, loss=ALL), costs(run, loss=TARGETS)
    full, lora, lst = every["full"], _named(every, "lora"), _named(every, "lst")
    through = [counts(record) for record in every.values() if record.method.name not in NOT_THROUGH]
    whole = counts(full)
    backward = span(flops.backward / whole.backward for flops in through)
    weights = most(flops.backward_weight_gradient / whole.backward_weight_gradient for flops in through)
    inputs = span(
        flops.backbone.backward_input_gradient / whole.backbone.backward_input_gradient for flops in through
    )  # fmt: skip
    vocabulary = fmt.count(counts(lst).head.backward_input_gradient)
    peak = fmt.ratio(_peak(lora).step / _peak(full).step)
    shape = full.shape
    text = say(
        f"The same on a decoder: in its layers adapters, prompts, LoRA and (IA)³ keep {inputs} of the input gradients, of all "
        f"weight gradients at most {weights} remain, and backward is {backward} of full's. What is new is the LM head, a "
        f"matrix of {_vocabulary(full)} rows. It is frozen, so no method but full and head computes its weight gradient; "
        f"its input gradient ({vocabulary} FLOPs) is where every backward begins. LST enters no layer, and pays it like "
        f"all others: it is {_share(lst)} of LST's backward. A loss that computes the logits of targets alone lowers it for "
        f"all: to {_share(_named(targets, 'lst'))} of LST's backward where {shape.target_tokens} of {shape.length} tokens "
        f"have a target. A step of LoRA peaks at {peak} of full's ({fmt.size(_peak(lora).step)} of "
        f"{fmt.size(_peak(full).step)}), mostly for want of gradients and optimizer state.",
        f"解码器上同样如此：在各层中，Adapter、prompt、LoRA 与 (IA)³ 保留 {inputs} 的输入梯度，全部权重梯度最多剩 {weights}，反向为全量微调的 "
        f"{backward}。不同的是语言模型头，一个 {_vocabulary(full)} 行的矩阵。它被冻结，除 full 与 head 外没有方法计算它的权重梯度；"
        f"但每次反向都从它的输入梯度（{vocabulary} FLOPs）开始。LST 不进入任何一层，却同样要付这一项：占 LST 反向的 {_share(lst)}。"
        f"只在目标位置算 logits 的损失使它对所有方法都变小：每行 {shape.length} 个 token 中有 {shape.target_tokens} 个目标时，占 LST 反向的 "
        f"{_share(_named(targets, 'lst'))}。LoRA 一步的峰值是全量微调的 {peak}（{fmt.size(_peak(lora).step)}，后者 "
        f"{fmt.size(_peak(full).step)}），主要因为没有那些梯度和优化器状态。",
    )
    heading = say("On a decoder: what the vocabulary takes", "在解码器上：词表占多少")
    return heading, "\n\n".join(
        (text, _step_table(say, every, targets), _where(every), claims(say, run), _link(say, STEP))
    )


def _vocabulary(record: CostRecord) -> str:
    """Rows of the LM head's matrix: what its input gradient is made of, 2 x tokens x rows x width."""
    head = next(saved for saved in record.largest_saved if saved.owner == "head")
    return fmt.exact(float(head.shape[-1]))


def _share(record: CostRecord) -> str:
    """Of a method's backward, the LM head's input gradient."""
    flops = counts(record)
    return fmt.ratio(flops.head.backward_input_gradient / flops.backward)


def _peak(record: CostRecord) -> PeakMemory:
    assert record.predicted_peak_memory_bytes is not None
    return record.predicted_peak_memory_bytes


def _where(found: dict[str, CostRecord]) -> str:
    record = found["full"]
    assert record.backbone is not None
    shape = record.shape
    return (
        f"{record.backbone.name}, {shape.batch} x {shape.length}, {shape.dtype}, {shape.attention}, {shape.optimizer}."
    )


def _step_table(say: Say, every: dict[str, CostRecord], targets: dict[str, CostRecord]) -> str:
    logits = (say("all logits", "全部 logits"), say("targets' logits", "目标 logits"))
    head = [
        say("method", "方法"), say("forward / full", "前向 / full"), say("weight gradients", "权重梯度"),
        say("input gradients of layers", "各层输入梯度"), say("optimizer state", "优化器状态"),
        say("stored per task", "每任务存储"),
        *(say(f"{en}, {of}", f"{zh}，{of}") for of in logits
          for en, zh in (("backward / full", "反向 / full"), ("LM head's share", "语言模型头占比"),
                         ("peak / full", "峰值 / full"))),
    ]  # fmt: skip
    full, rows = counts(every["full"]), []
    for label, record in every.items():
        flops = counts(record)
        assert record.bytes is not None
        cells = [
            f"`{label}`", fmt.ratio(flops.forward / full.forward, 3),
            fmt.ratio(flops.backward_weight_gradient / full.backward_weight_gradient, 3),
            fmt.ratio(flops.backbone.backward_input_gradient / full.backbone.backward_input_gradient, 3),
            fmt.size(record.bytes.optimizer_state), fmt.size(record.delta_bytes),
        ]  # fmt: skip
        for found in (every, targets):
            one, whole = found[label], found["full"]
            cells += [
                fmt.ratio(counts(one).backward / counts(whole).backward, 3),
                fmt.ratio(counts(one).head.backward / counts(one).backward),
                fmt.ratio(_peak(one).step / _peak(whole).step),
            ]  # fmt: skip
        rows.append(cells)
    return table(head, rows)


# one written token


def _written(run: Run) -> dict[str, CostRecord]:
    """Records of writing by label, in the suite's order; one that was timed before one that was counted alone."""
    held = [r for r in Results(run).cost_records if r.status == "ok" and r.decode is not None]
    found = {r.method.label: r for r in sorted(held, key=lambda r: r.decode_seconds is not None)}
    return {label: found[label] for label in run.suite.methods if label in found}


def _contexts(found: dict[str, CostRecord]) -> list[str]:
    return [*_counted(next(iter(found.values())), "base", "decode")]


def _counted(record: CostRecord, mode: str, phase: str) -> dict[str, Inference]:
    found: dict[str, Inference] | None = getattr(getattr(record, phase), mode)
    return found or {}


def _cache(record: CostRecord, mode: str) -> dict[str, CacheSize]:
    found: dict[str, CacheSize] | None = getattr(record.kv_cache, mode)
    return found or {}


def _tokens(context: str) -> str:
    return context.removeprefix("context_")


def token_sentence(say: Say) -> str:
    """What holds of each written token, in a sentence."""
    run = published(TOKEN)
    found = _written(run)
    key = _contexts(found)[-1]
    lora = _named(found, "lora")
    base, merged = _counted(lora, "base", "decode")[key], _counted(lora, "merged", "decode")[key]
    lst = _counted(_named(found, "lst"), "unmerged", "decode")[key]
    serial = span(_counted(_named(found, name), "unmerged", "decode")[key].depth / base.depth for name in SERIAL)
    side = fmt.ratio(lst.operations / base.operations)
    took_en, took_zh = _took(run)
    return say(
        f" Token by token with a KV cache it is the same: merged, LoRA takes {merged.operations} operations for the "
        f"base's {base.operations}{took_en}; serial adapters lengthen each token's path ({serial} x), LST adds operations "
        f"({side} x), and a prompt costs its keys in every row's cache.",
        f"用 KV 缓存逐个写 token 时也一样：合并后的 LoRA 用 {merged.operations} 个算子，原模型为 {base.operations}{took_zh}；串行 Adapter "
        f"加长每个 token 的路径（{serial} 倍），LST 增加算子（{side} 倍），prompt 的代价是每行缓存里的键和值。",
    )


def _took(run: Run) -> tuple[str, str]:
    """What the claim on merged LoRA's time for a token shows, in both languages; empty where nothing was timed."""
    told = next((t for t in tell(JudgedResults(run)) if t.metric == MERGED and t.figures), None)
    if told is None:
        return "", ""
    figures = told.figures.replace(" x", "")
    return f" and {figures} of its time ({told.verdict})", f"，耗时为其 {figures}（{told.verdict}）"


def token_part(say: Say) -> tuple[str, str]:
    """Heading and text of the half about a written token."""
    run = published(TOKEN)
    found = _written(run)
    timed = {label: record for label, record in found.items() if record.decode_seconds is not None}
    parts = [_token_text(say, found), _token_table(say, found), _base_line(say, found)]
    if timed:
        parts += [_timed_table(say, timed), figure(TOKEN, "decode", say("Time per token", "每个 token 的时间"))]
    parts += [claims(say, run), _link(say, TOKEN)]
    return say("On a decoder: one token behind a KV cache", "在解码器上：KV 缓存之后的一个 token"), "\n\n".join(parts)


def _token_text(say: Say, found: dict[str, CostRecord]) -> str:
    key = _contexts(found)[-1]
    lora, prompt, lst = (_named(found, name) for name in ("lora", "prompt_tuning", "lst"))
    base = _counted(lora, "base", "decode")[key]
    more = _counted(lora, "unmerged", "decode")[key].operations - base.operations
    flops = fmt.ratio(_counted(prompt, "unmerged", "decode")[key].flops / base.flops, 3)
    kept = fmt.ratio(_cache(prompt, "unmerged")[key].bytes / _cache(prompt, "base")[key].bytes)
    side = fmt.ratio(_cache(lst, "unmerged")[key].bytes_per_token / _cache(lst, "base")[key].bytes_per_token)
    tokens = _tokens(key)
    return say(
        f"A decode step reads one token behind the keys and values of those before it. Merged, every method that folds is "
        f"the base again, its cache included. Unmerged, LoRA adds {more} operations to each token. A prompt is read once, "
        f"before the first token: a token then takes {flops} of the base's FLOPs behind {tokens} tokens, and each row's "
        f"cache {kept} x the bytes. LST runs its side network for every token, with keys and values of its own: {side} x "
        "the bytes a token.",
        f"解码一步只读一个 token，前面的键和值都在缓存里。能折叠的方法合并后就是原模型，缓存也相同。不合并时 LoRA 每个 token 多 {more} 个算子。"
        f"prompt 只在第一个 token 之前读一次：在 {tokens} 个 token 之后，每个 token 的 FLOPs 为原模型的 {flops}，每行缓存为 {kept} 倍。"
        f"LST 对每个 token 都要跑旁路网络，并有自己的键和值：每个 token 的缓存为 {side} 倍。",
    )


def _base_line(say: Say, found: dict[str, CostRecord]) -> str:
    record = next(iter(found.values()))
    assert record.backbone is not None
    told = []
    for key in _contexts(found):
        one, cache = _counted(record, "base", "decode")[key], _cache(record, "base")[key]
        told.append(
            say(
                f"behind {_tokens(key)} tokens {one.operations} operations, critical path {one.depth}, "
                f"{fmt.count(one.flops)} FLOPs a token, cache {fmt.size(cache.bytes)}",
                f"{_tokens(key)} 个 token 之后，每个 token {one.operations} 个算子，关键路径 {one.depth}，{fmt.count(one.flops)} FLOPs，"
                f"缓存 {fmt.size(cache.bytes)}",
            )
        )
    name = record.backbone.name
    return say(f"The base model, {name}: {'; '.join(told)}.", f"原模型 {name}：{'；'.join(told)}。")


def _token_table(say: Say, found: dict[str, CostRecord]) -> str:
    keys = _contexts(found)
    last = keys[-1]
    head = [
        say("method", "方法"), say("operations, unmerged", "算子：不合并"), say("merged", "合并"),
        say("critical path, unmerged", "关键路径：不合并"), say("merged", "合并"),
        *(say(f"FLOPs / base behind {_tokens(key)}", f"FLOPs / 原模型，{_tokens(key)} 之后") for key in keys),
        say("merged", "合并"),
        say(f"prefill of {_tokens(last)}, FLOPs / base", f"读 {_tokens(last)} 个 token，FLOPs / 原模型"),
        say(f"KV cache behind {_tokens(last)}", f"{_tokens(last)} 之后的 KV 缓存"), say("more a token", "每个 token 增加"),
    ]  # fmt: skip
    rows = []
    for label, record in found.items():
        base, ours = _counted(record, "base", "decode"), _counted(record, "unmerged", "decode")
        merged = _counted(record, "merged", "decode").get(last)
        reading = _counted(record, "unmerged", "prefill")[last].flops / _counted(record, "base", "prefill")[last].flops
        cache = _cache(record, "unmerged")[last]
        rows.append([
            f"`{label}`", str(ours[last].operations), str(merged.operations) if merged else fmt.MISSING,
            str(ours[last].depth), str(merged.depth) if merged else fmt.MISSING,
            *(fmt.ratio(ours[key].flops / base[key].flops, 3) for key in keys),
            fmt.ratio(merged.flops / base[last].flops, 3) if merged else fmt.MISSING,
            fmt.ratio(reading, 3), fmt.size(cache.bytes), fmt.size(cache.bytes_per_token),
        ])  # fmt: skip
    return table(head, rows)


def _timed_table(say: Say, timed: dict[str, CostRecord]) -> str:
    record = next(iter(timed.values()))
    on = [key for key in _contexts(timed) if _timing(record.decode_seconds, "base", key)]
    modes = {"unmerged": say("unmerged", "不合并"), "merged": say("merged", "合并")}
    head = [say("method, time / base", "方法，时间 / 原模型")]
    bare = [say("the base model", "原模型")]
    for key in on:
        tokens = _tokens(key)
        head += [say(f"a token behind {tokens}, {mode}", f"{tokens} 之后每个 token，{mode}") for mode in modes.values()]
        head.append(say(f"reading {tokens}", f"读 {tokens} 个"))
        token, reading = (_timing(times, "base", key) for times in (record.decode_seconds, record.prefill_seconds))
        bare += [_seconds(token), "", _seconds(reading)]
    rows = [bare]
    for label, one in timed.items():
        cells = [f"`{label}`"]
        for key in on:
            cells += [_ratio(_timing(one.decode_seconds, mode, key)) for mode in modes]
            cells.append(_ratio(_timing(one.prefill_seconds, "unmerged", key)))
        rows.append(cells)
    return table(head, rows)


def _timing(times: GenerationTimes | None, mode: str, context: str) -> Timing | None:
    """Of one row."""
    held: dict[str, Latency] = getattr(times, mode, None) or {}
    return held[context].by_batch.get(1) if context in held else None


def _seconds(timing: Timing | None) -> str:
    return fmt.MISSING if timing is None else fmt.seconds(timing.median)


def _ratio(timing: Timing | None) -> str:
    return fmt.MISSING if timing is None else fmt.ratio_interval(timing.ratio_to_baseline, *timing.ratio_interval)
