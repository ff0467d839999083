"""How well each method does: scores by task and test row, Pareto fronts, what scores cost, and how training went."""

from collections.abc import Sequence

import pandas as pd

from bench.analysis.curves import NEAR
from bench.analysis.ranking import Fronts
from bench.analysis.results import Results
from bench.report import format as fmt
from bench.report.document import Block, Cell, Column, Fact, Section, Text
from bench.report.sections import NOTHING, difference_cell, figure, number, plain_table, table, word
from bench.report.sections import overview as facts
from bench.report.sections.caveats import FLAG_MARKS
from bench.stats.resampling import FEWEST_SEEDS, RESAMPLES

PARAMETERS, MEMORY = "trainable_method", "peak_step_bytes"
"""Columns of `bench.analysis.costs.cost_table` that a score is held against."""
SHOWN = 0.05
"""The terminal leaves out methods that are less likely on the Pareto front."""
WHY = "no verdict because"


def mark(results: Results) -> str:
    """What every heading about scores on synthetic data ends with."""
    return " (SYNTHETIC data)" if results.is_synthetic else ""


def section(results: Results) -> Section | None:
    """Scores over all tasks, then by task; of one task both in one table. None without scores."""
    if not results.score_records:
        return None
    said = [f"learning rates: {facts.rates(results)}", *facts.chosen_ranks(results), *facts.contamination(results)]
    one = len(results.task_table.index.unique("task")) == 1
    over = f"- {fmt.plain(results.baseline)}, 95 %"
    names = ("method", "mean score ± 95 %", "cells ok", "failed", over, "pairs", "left out", "bag-of-words baseline",
             "marks", WHY)  # fmt: skip
    head = [Column(name, words=name in ("marks", WHY)) for name in names]
    rows = [_whole(results, str(label), row, one) for label, row in results.score_table.iterrows()]
    blocks: list[Block | None] = [Text(tuple(said), "list")]
    if one:
        (task,) = results.task_table.index.unique("task")
        blocks.append(table(f"Scores on {fmt.plain(task)}{mark(results)}", head, rows))
    else:
        blocks += [table(f"Scores over all tasks{mark(results)}", head, rows), _per_task(results, over)]
    return Section("scores", f"Scores{mark(results)}", tuple(block for block in blocks if block is not None))


def _whole(results: Results, label: str, row: "pd.Series", one: bool) -> list[Cell]:
    is_baseline = label == results.baseline
    mean = Cell(fmt.points_interval(row["mean"], row["mean_low"], row["mean_high"]), number(row["mean"]))
    told = (row["n"] or label not in results.scored) and not is_baseline
    why = "; ".join(facts.needed(row["why"])) if told else ""
    floor = next(iter(results.floors.values()), None) if one and row["n"] else None
    flags = ", ".join(flag.replace("_", " ") for flag in row["flags"]) if one else ""
    return [
        word(label), mean, Cell(str(row["n"]), row["n"]), Cell(str(row["failed"]), row["failed"]),
        Cell("baseline", 0.0) if is_baseline else difference_cell(row),
        NOTHING if is_baseline else Cell(str(row["n_pairs"]), row["n_pairs"]),
        Cell(str(row["dropped"]), row["dropped"]), figure(fmt.points, floor), word(flags), word(why),
    ]  # fmt: skip


def _per_task(results: Results, over: str) -> Block | None:
    names = ("method", "task", "score ± 95 %", "seeds", over, "bag-of-words baseline", "marks")
    head = [Column(name, words=name in ("task", "marks")) for name in names]
    rows = [
        (word(label), word(task), Cell(fmt.points_interval(r["mean"], r["low"], r["high"]), number(r["mean"])),
         Cell(f"{r['n']:.0f}", r["n"]), difference_cell(r, "difference", "difference_"), figure(fmt.points, r["floor"]),
         word(", ".join(flag.replace("_", " ") for flag in r["flags"])))
        for (label, task), r in results.task_table.iterrows()
    ]  # fmt: skip
    return table(f"Scores by task{mark(results)}", head, rows)


def _section(
    name: str, title: str, caption: str, sentences: Sequence[str], head: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (), words: Sequence[int] = (-1,),
) -> Section:  # fmt: skip
    """A section of one paragraph and a table of text; ``words`` are its columns of words."""
    said = Text(tuple(map(fmt.plain, sentences)))
    return Section(name, title, (said, plain_table(caption, head, rows, words)) if rows else (said,))


# Before and after.


def retention(results: Results) -> Section | None:
    """What each method has forgotten of plain texts; None where no record has read any."""
    kept = results.retention_table
    if kept.empty:
        return None
    read = {
        f"{fmt.plain(name)} ({fmt.exact(bits.bytes)} bytes in windows of {fmt.exact(bits.context)} tokens)": None
        for record in results.score_records
        for name, bits in record.retention.items()
    }
    sentences = [
        "Bits that the language model needs for a byte of a plain text that nothing was trained on: of the backbone "
        "before, of the trained model after. Lower is better; a rise is what was forgotten.",
        f"Read: {', '.join(read)}.",
        *_mixed_in(results),
        "Delta off: whether every weight of the backbone has the bits that it had before training.",
    ]
    head = ["method", "task", "text", "seeds", "before", "after", "after - before, 95 %", "delta off"]
    rows = [
        [str(label), str(task), str(text), f"{row['n']:.0f}", f"{row['before']:.3f}", f"{row['after']:.3f}",
         _forgotten(row), _off(row["backbone_kept"])]
        for (label, task, text), row in kept.iterrows()
    ]  # fmt: skip
    return _section("retention", "What was forgotten", "Bits per byte before and after training", sentences, head,
                    rows, (1, 2, -1))  # fmt: skip


def _mixed_in(results: Results) -> list[str]:
    """What was mixed in, in a sentence; nothing where all rows were the task's."""
    names = {fmt.plain(record.mixed.text): None for record in results.score_records if record.mixed is not None}
    if not names:
        return []
    return [
        f"mix: share of {', '.join(names)} among the rows that were trained on, in place of rows of the task or, where "
        "domain is held, beside them in more steps. No paragraph of it shares a run of 8 words with what is read here."
    ]


def _off(kept: bool | None) -> str:
    """What is left when the delta is switched off."""
    return fmt.MISSING if kept is None else "backbone, bit for bit" if kept else "other weights"


def _forgotten(row: "pd.Series") -> str:
    """``+0.120 [+0.080, +0.160]``; of one seed without an interval."""
    change = f"{row['forgotten']:+.3f}"
    return change if fmt.missing(row["low"]) else f"{change} [{row['low']:+.3f}, {row['high']:+.3f}]"


# Over test rows.


def over_rows(results: Results) -> Section | None:
    """How methods compare with the baseline on the same test rows; None without scores."""
    if not results.score_records:
        return None
    paired, baseline = results.paired_rows, fmt.plain(results.baseline)
    missing = [f"Not {fmt.plain(task)}: {fmt.plain(reason)}." for task, reason in paired.left_out.items()]
    title, caption = f"Over test rows{mark(results)}", "Against the baseline on the same test rows"
    if paired.table.empty:
        return _section("rows", title, caption, missing) if missing else None
    sentences = [
        f"The same trained models on the same rows, method minus {baseline}: other test rows could have moved the "
        f"difference within the interval (rows drawn {RESAMPLES:,} times), other seeds may move it further.",
        f"McNemar's exact test counts the rows that only one of the two gets right: one test a seed, p is twice their "
        f"median, after Holm's correction over {fmt.plural(int(paired.table['p'].notna().sum()), 'row')}; it is shown "
        "where the row may carry a verdict.",
        *missing,
    ]
    head = ["method", "task", "test rows", "seeds", f"- {baseline}, 95 % over rows", f"only {baseline} right",
            "only it right", "McNemar p", WHY]  # fmt: skip
    rows = [_paired(str(label), str(task), row) for (label, task), row in paired.table.iterrows()]
    return _section("rows", title, caption, sentences, head, rows, (1, -1))


def _paired(label: str, task: str, row: "pd.Series") -> list[str]:
    lone = [fmt.MISSING if fmt.missing(row[name]) else f"{row[name]:.1f}" for name in ("only_baseline", "only_method")]
    difference = fmt.difference(row["difference"], row["low"], row["high"])
    p = fmt.MISSING if row["why"] else p_value(row["p"])
    return [label, task, fmt.exact(row["rows"]), fmt.exact(row["seeds"]), difference, *lone, p, _why(row)]


def _why(row: "pd.Series") -> str:
    return "; ".join(facts.needed(row["why"])) or fmt.MISSING


def p_value(p: float) -> str:
    """``0.043``, ``<0.001``; a dash where nothing was tested."""
    if fmt.missing(p):
        return fmt.MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


# Pareto fronts and ranks.


def fronts(results: Results) -> Section | None:
    """How likely each method is on the Pareto front and the best, and its rank; None without scores."""
    if not results.score_records:
        return None
    drawn, title = results.fronts([PARAMETERS, MEMORY]), f"Pareto fronts and ranks{mark(results)}"
    if not drawn.seeds:
        said = f"Not enough seeds: {FEWEST_SEEDS} that a method finished on every task are needed."
        return _section("standing", title, "", [said])
    sentences = [
        "Pareto front: probability that no other method is cheaper and as good, or as cheap and better; equals share "
        "their place. The best: probability of the highest mean score.",
        how(drawn),
    ]
    asked = drawn.table.loc[results.scored]
    if (left := len(asked) - int(asked["compared"].sum())) > 0:
        sentences.append(f"{fmt.plural(left, 'method')} of {len(asked)} not compared: too few seeds finished.")
    names = {PARAMETERS: "trainable params (excl. head)", MEMORY: _memory(results)}
    costs = [cost for cost in names if drawn.table[cost].notna().any()]
    head = ["method", *(name for cost in costs for name in (names[cost], "on the Pareto front")), "the best",
            "average rank, 95 %", WHY]  # fmt: skip
    rows = [_standing(str(label), row, costs) for label, row in asked.iterrows()]
    caption = "On the Pareto front and the best, with probability, and average rank"
    return _section("standing", title, caption, sentences, head, rows)


def _standing(label: str, row: "pd.Series", costs: Sequence[str]) -> list[str]:
    shown = {PARAMETERS: fmt.exact, MEMORY: fmt.size}
    cells = [label]
    for cost in costs:
        cells += [shown[cost](row[cost]), probability(row[f"{cost}_front"])]
    rank = f"{row['rank']:.1f} [{row['rank_low']:.1f}, {row['rank_high']:.1f}]" if row["compared"] else fmt.MISSING
    return [*cells, probability(row["best"]), rank, _why(row)]


def how(drawn: Fronts) -> str:
    """What was drawn again, and what could not be."""
    again, fixed = [f"{len(drawn.seeds)} seeds"], []
    if len(drawn.tasks) > 1:
        again.insert(0, f"{len(drawn.tasks)} tasks")
    else:
        fixed.append("not tasks, there is one")
    if rows := [fmt.plain(task) for task in drawn.tasks if task not in drawn.whole_tasks]:
        again.append(f"test rows of {', '.join(rows)}")
    fixed += [f"not test rows of {fmt.plain(task)}, {reason}" for task, reason in drawn.whole_tasks.items()]
    return f"Resampled {RESAMPLES:,} times: {'; '.join([', '.join(again), *fixed])}."


def standing(results: Results) -> list[Fact]:
    """The Pareto front of score against peak memory and the best, in a line each; empty without scores."""
    if not results.score_records:
        return []
    drawn = results.fronts([PARAMETERS, MEMORY])
    lines = []
    if not results.method_cost(MEMORY).isna().all():
        lines.append(Fact("front", _front(results, drawn)))
    if drawn.seeds:
        likely = drawn.table[drawn.table["best"] >= min(SHOWN, drawn.table["best"].max())]
        rows = likely.sort_values("best", ascending=False, kind="stable")
        lines.append(Fact("best", f"highest mean score, with probability: {_likely(rows, 'best')}"))
    return lines


def _front(results: Results, drawn: Fronts) -> str:
    if not drawn.seeds:
        return f"not enough seeds to say who is on it: {FEWEST_SEEDS} of every task are needed"
    rows = drawn.table.dropna(subset=[f"{MEMORY}_front"]).sort_values(MEMORY, kind="stable")
    likely = rows[rows[f"{MEMORY}_front"] >= SHOWN]
    return f"score against {_memory(results)}, with probability: {_likely(likely, f'{MEMORY}_front')}"


def _likely(rows: pd.DataFrame, column: str) -> str:
    return ", ".join(
        f"{fmt.plain(label)} {probability(row[column])}{_marks(row['why'])}" for label, row in rows.iterrows()
    )


def _marks(why: Sequence[str]) -> str:
    """The signs that the scores of the table above carry."""
    return "".join(sign for flag, sign in FLAG_MARKS.items() if flag.replace("_", " ") in why)


def probability(share: float) -> str:
    """``0``, ``<0.01``, ``0.32``, ``>0.99``, ``1.00``: certain only where every draw agrees."""
    return ">0.99" if 0.995 <= share < 1 else fmt.ratio(share)


def _memory(results: Results) -> str:
    return facts.memory_name(results.cost_table())


# Cost to come near the baseline's score.


def reach_title(results: Results) -> str:
    """``Cost to reach 99 % of full's score``."""
    return f"Cost to reach {NEAR:.0%} of {fmt.plain(results.baseline)}'s score".replace("%", " %")


def reach(results: Results) -> Section | None:
    """What each method spends until its score comes near the baseline's; None without scores on the way."""
    if not any(record.curve for record in results.score_records):
        return None
    reached, baseline = results.reached.table, fmt.plain(results.baseline)
    share = f"{NEAR:.0%}".replace("%", " %")
    sentences = [
        f"Target: {share} of the mean final score of {baseline} on the task. Each figure is spent up to the first "
        "reading on the way that is at the target or above; between readings nothing is known, so it is the most that "
        "was needed. Medians over seeds; one that never came there counts as longer than any other.",
        _flops(results, reached),
    ]
    head = ["method", "task", "target", "reached by", "steps", "training time", "training FLOPs", _memory(results),
            WHY]  # fmt: skip
    title = reach_title(results)
    rows = [_reached(str(label), str(task), row) for (label, task), row in reached.iterrows()]
    return _section(
        "reach", title + mark(results), "Spent up to there, medians over seeds", sentences, head, rows, (1, -1)
    )


def reached_first(results: Results) -> tuple[str, str]:
    """Who comes near the baseline's score in the fewest steps, on the first task, and why that decides nothing.

    Both are empty where no method comes there in every seed.
    """
    table = results.reached.table
    task = next(iter(table.index.unique("task")), None)
    if task is None:
        return "", ""
    rows = table.xs(task, level="task")
    rows = rows[rows["reached"] == rows["seeds"]]
    if rows.empty:
        return "", ""
    first = rows[rows["step"] == rows["step"].min()]
    spent = [f"{steps(first['step'].iloc[0])} steps"]
    if len(first) == 1:  # of several, each has its own time and FLOPs; the table holds them
        spent += [fmt.seconds(first["seconds"].iloc[0]), f"{fmt.count(first['flops'].iloc[0])} FLOPs"]
    known = ", ".join(figure for figure in spent if not figure.startswith(fmt.MISSING))
    goal = reach_title(results).removeprefix("Cost to reach ")
    verb = "reaches" if len(first) == 1 else "reach"
    return (
        f"{fmt.some(map(fmt.plain, first.index))} {verb} {goal} in the fewest steps on {fmt.plain(task)}: {known}",
        ", ".join(facts.needed(dict.fromkeys(why for reasons in rows["why"] for why in reasons))),
    )


def _flops(results: Results, reached: pd.DataFrame) -> str:
    work = results.training_flops
    labels = list(dict.fromkeys(reached.index.get_level_values("method")))
    lacking = [label for label in labels if label not in work]
    if len(lacking) == len(labels):
        return "No FLOPs: no sweep of this run counts a method at three lengths or more."
    said = "FLOPs are those of forward and backward, from counts at other lengths, padding with them."
    checked = min(work[label].checks for label in labels if label in work)
    if checked:
        said += f" The counts that they were not solved from, {checked} a method or more, agree to the last FLOP."
    return said + (f" Not counted: {', '.join(map(fmt.plain, lacking))}." if lacking else "")


def _reached(label: str, task: str, row: "pd.Series") -> list[str]:
    return [
        label, task, fmt.points(row["target"]), f"{row['reached']} of {fmt.plural(row['seeds'], 'seed')}",
        steps(row["step"]), fmt.seconds(row["seconds"]), fmt.count(row["flops"]), fmt.size(row["peak_bytes"]),
        _why(row),
    ]  # fmt: skip


def steps(value: float) -> str:
    """``120``; of an even number of seeds the median may lie between two readings."""
    return fmt.MISSING if fmt.missing(value) else f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


GRADIENTS = "Gradients of the first steps"
DIRECTIONS = "Directions of what training added"
VECTORS = "What prompts learned"
STEPS = (1, 2, 5)
"""Steps of the table, beside the last one noted."""


# How training began, and what it added.


def gradients(results: Results) -> Section | None:
    """Norms of each part's gradient and the loss at step 0; None where no record has norms."""
    norms = results.gradient_table
    if norms.empty:
        return None
    baseline, starts = fmt.plain(results.baseline), results.start_table
    last = int(norms.index.get_level_values("step").max())
    steps = [step for step in STEPS if step < last] + [last]
    sentences = (
        "Norm (L2) of the gradient of all parameters of a part together, before clipping; mean over n = "
        f"{fmt.plural(int(norms['n'].max()), 'seed')}. 0 is exactly 0, in every seed; the task head is left out.",
        "Loss at step 0: of the first batch, before any update and with the model's dropout; beside it the largest "
        f"distance of a seed's from that of {baseline}: 0 is the same loss bit for bit.",
        *_zeros(norms),
    )
    head = ["method", "task", "part", *(f"step {step}" for step in steps), "loss at step 0", f"apart from {baseline}"]
    rows = [row for place in starts.index for row in _norms(place, norms, starts, steps, results.baseline)]
    shown = plain_table("Norm of each part's gradient, and the loss at step 0", head, rows, (1, 2))
    return Section("gradients", GRADIENTS + mark(results), (Text(sentences), shown))


def first_gradients(results: Results) -> str:
    """Which parts get no gradient, in a sentence or two; empty where all do or nothing was noted."""
    return "" if results.gradient_table.empty else " ".join(_zeros(results.gradient_table))


def _norms(
    place: tuple[str, str], norms: pd.DataFrame, starts: pd.DataFrame, steps: list[int], baseline: str
) -> list[list[str]]:
    label, task = place
    start = starts.loc[place]
    apart = "baseline" if label == baseline else fmt.three(start["apart"])
    ends = [fmt.loss(start["loss"]), apart]
    mine = norms["mean"].xs(place, level=["method", "task"]) if place in norms.index.droplevel([2, 3]) else None
    if mine is None:
        return [[label, task, fmt.MISSING, *[fmt.MISSING] * len(steps), *ends]]
    parts = mine.index.unique("part")
    return [[label, task, part, *(fmt.three(mine.get((part, step))) for step in steps), *ends] for part in parts]


def _zeros(norms: pd.DataFrame) -> list[str]:
    """Which parts get no gradient at all, and which none at the first step alone."""
    never: dict[str, list[str]] = {}
    late: dict[str, list[str]] = {}
    for (label, part), norm in norms.groupby(["method", "part"], sort=False):
        largest = norm["high"].groupby("step").max()
        if not largest.any():
            never.setdefault(label, []).append(part)
        elif largest.iloc[0] == 0:
            late.setdefault(label, []).append(part)
    said = [f"No gradient at any step: {_named(never)}."] if never else []
    return said + ([f"None at step 1 alone: {_named(late)}."] if late else [])


def _named(parts_of: dict[str, list[str]]) -> str:
    return "; ".join(f"{' and '.join(parts)} of {fmt.plain(label)}" for label, parts in parts_of.items())


def directions(results: Results) -> Section | None:
    """How updates lie to the weights, to the baseline's and to another seed's; None where no record has directions."""
    angles = results.direction_table
    if angles.empty:
        return None
    baseline = fmt.plain(results.baseline)
    leading, chance = int(angles["leading"].max()), fmt.ratio(angles["by_chance"].mean(), 3)
    sentences = (
        f"Of the update dW of each query and value weight, its {leading} leading left singular directions: overlap is "
        "the share of them that lies in those of the other matrix, the mean squared cosine of the principal angles; 1 "
        f"is the same subspace, {chance} what two random ones share. Means over {angles['map'].nunique()} weights and "
        f"{fmt.plural(angles['seed'].nunique(), 'seed')}; angles are the smallest principal ones.",
        "Stable rank: squared Frobenius norm / squared largest singular value.",
    )
    head = ["method", "task", "|dW| / |W_0|", "stable rank", f"in its leading {leading}", "overlap with W_0", "angle",
            f"with {baseline}'s update", "angle", "with another seed's"]  # fmt: skip
    means = angles.groupby(["method", "task"], sort=False).mean(numeric_only=True)
    rows = [[label, task, *_angles(row)] for (label, task), row in means.iterrows()]
    return Section(
        "directions",
        DIRECTIONS + mark(results),
        (Text(sentences), plain_table("Overlaps and angles, means", head, rows, (1,))),
    )


def shared(results: Results) -> str:
    """How much of each update lies where the baseline's and the weight's do; empty where it was not measured."""
    angles = results.direction_table
    if angles.empty:
        return ""
    means = angles.groupby("method", sort=False)[["with_baseline", "with_weight"]].mean()
    told = [
        f"{fmt.plain(label)} {row['with_baseline']:.2f} and {row['with_weight']:.2f}"
        for label, row in means.drop(index=results.baseline, errors="ignore").iterrows()
        if not row.isna().any()
    ]
    whose = f"{fmt.plain(results.baseline)}'s update and with the weight"
    chance = fmt.ratio(angles["by_chance"].mean(), 2)
    said = f"Share of an update's leading directions in common with {whose}: {', '.join(told)}; by chance {chance}."
    return said if told else ""


def _angles(row: "pd.Series[float]") -> list[str]:
    forms = {
        "relative_norm": "{:.3f}", "stable_rank": "{:.1f}", "leading_share": "{:.1%}", "with_weight": "{:.3f}",
        "angle_to_weight": "{:.0f}°", "with_baseline": "{:.3f}", "angle_to_baseline": "{:.0f}°", "with_seed": "{:.3f}",
    }  # fmt: skip
    return [fmt.MISSING if pd.isna(row[name]) else form.format(row[name]) for name, form in forms.items()]


def vectors(results: Results) -> Section | None:
    """Norms, distances and nearest words of learned vectors; None where no record has them."""
    held = results.vector_table
    if held.empty:
        return None
    same = held.iloc[0]
    sentences = (
        f"Each vector that a prompt learned, against the {same['of_words']:,} word embeddings of the backbone: these "
        f"have norms of {fmt.three(same['word_low'])} to {fmt.three(same['word_high'])} (0.05 and 0.95 quantiles; "
        f"median {fmt.three(same['word_norm'])}) and lie {fmt.three(same['word_distance'])} apart on average. A word "
        f"has a cosine of {fmt.ratio(same['word_nearest'])} to the nearest other word, a vector of random direction "
        f"{fmt.ratio(same['random_nearest'])} to the nearest word.",
        f"Means over vectors and {fmt.plural(held['seed'].nunique(), 'seed')}.",
    )
    head = ["method", "task", "norm at the start", "norm", "moved", "nearest word at the start, cosine",
            "nearest word, cosine", "same nearest word", f"nearest words, seed {held['seed'].min()}"]  # fmt: skip
    rows = [
        [label, task, *_vector_figures(mine), _named_words(mine[mine["seed"] == held["seed"].min()])]
        for (label, task), mine in held.groupby(["method", "task"], sort=False)
    ]
    table = plain_table("Learned vectors, means", head, rows, (1, -1))
    return Section("vectors", VECTORS + mark(results), (Text(sentences), table))


def _vector_figures(mine: pd.DataFrame) -> list[str]:
    norms = [fmt.three(mine[column].mean()) for column in ("start_norm", "norm", "moved")]
    cosines = [fmt.ratio(mine[column].mean()) for column in ("start_nearest", "nearest")]
    return [*norms, *cosines, f"{mine['kept'].sum()} of {len(mine)}"]


def _named_words(mine: pd.DataFrame) -> str:
    return ", ".join(mine.sort_values("place")["word"])
