"""One backbone and many tasks: what deltas take beside copies, and how a batch of several tasks is answered fastest."""

from bench.report import format as fmt
from bench.schema.figures import SERVED
from bench.schema.record import CostRecord, ServedBytes, ServingTimes, Timing
from tools.answers.words import Answer, Say, claims, costs, published, span, table

NAME = "serving"
PLAIN = "full"
"""Trains all: its delta is a copy of the backbone."""


def answer(say: Say) -> Answer:
    """The page; its figures are those of the published run."""
    run = published(NAME)
    found = {label: record for label, record in costs(run).items() if record.serving_seconds}
    small = {label: record for label, record in found.items() if record.method.name != PLAIN}
    lora = next(record for record in found.values() if record.method.name == "lora")
    numbers = [*_bytes(lora)]
    most = numbers[-1]
    tasks, held = int(most.removeprefix("tasks_")), _bytes(lora)[most]
    rows = lora.serving_rows
    mixed, turns = (span(_ratio(r, way, most) for r in small.values()) for way in ("mixed", "in_turns"))
    merged = span(_ratio(r, "merged_in_turns", most) for r in small.values() if _times(r).merged_in_turns)
    return Answer(
        question=say(
            "One backbone, a hundred tasks: what do they take, and how is a batch of several tasks answered?",
            "一个主干、一百个任务：占多少空间？一批不同任务的请求怎样回答最快？",
        ),
        sentence=say(
            f"{tasks} tasks of LoRA take {fmt.size(held.deltas)} beside one backbone, {tasks} copies of it "
            f"{fmt.size(held.copies)}. A batch of {rows} rows of {rows} tasks takes {mixed} x the base model's time in one "
            f"forward with a delta for each row, {turns} x task after task, and {merged} x where each is merged first. "
            "Merging is for one task that stays; where tasks mix, leave them unmerged.",
            f"LoRA 的 {tasks} 个任务在一个主干之外占 {fmt.size(held.deltas)}，而 {tasks} 份主干副本占 {fmt.size(held.copies)}。"
            f"一批 {rows} 行、分属 {rows} 个任务：每行各用自己的增量、一次前向，耗时是原模型的 {mixed} 倍；逐个任务切换为 {turns} 倍；"
            f"每次先合并为 {merged} 倍。合并适合长期只跑一个任务；任务混合时不要合并。",
        ),
        tag=say("bytes: exact, any machine; time: this machine", "字节：精确，任何机器相同；时间：这台机器"),
        run=NAME,
        command=f"python -m bench run --suite {NAME}",
        parts=(
            (say("Bytes", "字节"), _stored(say, found)),
            (say(f"Time of a batch of {rows} rows / base", f"一批 {rows} 行的时间 / 原模型"), _timed(say, found)),
            (say("Why", "为什么"), _why(say)),
            (say("Verdicts", "各项结论"), claims(say, run)),
        ),
        not_concluded=(
            _noise(say, lora),
            say(
                f"A batch of {rows} rows never holds more than {rows} tasks: how many tasks there are decides the memory, "
                "how many are in a batch the time.",
                f"{rows} 行的一批最多含 {rows} 个任务：任务总数决定内存，一批中的任务数决定时间。",
            ),
            say(
                "A merge here makes a copy of the backbone; one that folds in place spares that, and still writes every "
                "adapted weight for each task.",
                "这里的合并会复制主干；原地合并可省去复制，但每个任务仍要改写所有被适配的权重。",
            ),
            say(
                "Times are those of one forward of an encoder on one thread of a CPU, heads left out. Servers have kernels "
                "of their own for many LoRAs, which gather less.",
                "时间是编码器在单个 CPU 线程上一次前向的时间，不含任务头。推理服务器另有为多个 LoRA 编写的算子，搬运更少。",
            ),
        ),
    )


def _noise(say: Say, record: CostRecord) -> str:
    control = record.aa_control["serving"]
    found = fmt.ratio_interval(control.ratio, *control.interval, 2)
    return say(
        f"The base model timed against itself in the same rounds took {found}: differences of that size are noise.",
        f"同样各轮中原模型与自身相比为 {found}：这样大小的差别是噪声。",
    )


def _why(say: Say) -> str:
    return say(
        "What is frozen is the same for every row, so its products read the whole batch at once; what a task has of its "
        "own is small, and each row reads its part of a stack of deltas (`torch.func.vmap`). Task after task every weight "
        "of the backbone is read again for a few rows each time. Full fine-tuning shares nothing: mixed, each row brings a "
        "whole model.",
        "冻结部分对每一行都相同，它的矩阵乘一次读完整批；任务自己的部分很小，每行只读增量堆叠中的一份（`torch.func.vmap`）。逐个任务切换时，"
        "每次只为几行就要重读全部主干权重。全量微调没有可共享的部分：混合时每行都要带一整个模型。",
    )


def _times(record: CostRecord) -> ServingTimes:
    assert record.serving_seconds is not None
    return record.serving_seconds


def _bytes(record: CostRecord) -> dict[str, ServedBytes]:
    assert record.serving_bytes is not None
    return record.serving_bytes


def _timing(record: CostRecord, way: str, key: str) -> Timing | None:
    return (getattr(_times(record), way) or {}).get(key)


def _ratio(record: CostRecord, way: str, key: str) -> float:
    timing = _timing(record, way, key)
    assert timing is not None
    return timing.ratio_to_baseline


def _stored(say: Say, found: dict[str, CostRecord]) -> str:
    numbers = [*_bytes(next(iter(found.values())))]
    names = [key.removeprefix("tasks_") for key in numbers]
    head = [say("method", "方法"), *(say(fmt.plural(int(name), "task"), f"{name} 个任务") for name in names)]
    rows = [[f"`{label}`", *(fmt.size(_bytes(r)[key].deltas) for key in numbers)] for label, r in found.items()]
    copies = _bytes(next(iter(found.values())))
    rows.append([say("copies of the backbone", "主干副本"), *(fmt.size(copies[key].copies) for key in numbers)])
    return table(head, rows)


def _timed(say: Say, found: dict[str, CostRecord]) -> str:
    words = {"mixed": say("mixed", "混合"), "in_turns": say("in turns", "逐个"),
             "merged_in_turns": say("merged in turns", "逐个合并")}  # fmt: skip
    numbers = [*_bytes(next(iter(found.values())))]
    head = [say("method", "方法")]
    head += [say(f"{words[way]}, {k.removeprefix('tasks_')}", f"{words[way]}，{k.removeprefix('tasks_')} 个")
             for way in SERVED for k in numbers]  # fmt: skip
    return table(head, [[f"`{label}`", *(_shown(_timing(r, way, key)) for way in SERVED for key in numbers)]
                        for label, r in found.items()])  # fmt: skip


def _shown(timing: Timing | None) -> str:
    if timing is None:
        return fmt.MISSING
    return fmt.ratio_interval(timing.ratio_to_baseline, *timing.ratio_interval, 2)
