"""One cell: load, adapt, train, score, hand back a record.

``python -m bench.training.cell`` reads a JSON spec from stdin.
"""

import contextlib
import functools
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import registry
from bench.errors import BenchError, given, message, said, traced
from bench.models import backbone
from bench.schema import record
from bench.schema.delta import KeptScore
from bench.schema.forms import Objective
from bench.schema.jobs import Cell
from bench.schema.record import TrialRecord
from bench.schema.task import TaskSpec
from bench.store.environment import check_devices, environment, now
from bench.store.kept import Keep, NotWritten
from bench.store.sidecars import Sidecars, directions_sha256, predictions_sha256

if TYPE_CHECKING:
    from bench.training.devices import Alone

Progress = Callable[[str], None]
Predictions = dict[str, list[Any]]
Trained = record.ScoreRecord | TrialRecord


class Readings(NamedTuple):
    """What is read of a model as it trains."""

    test: Callable[[], float]
    """Score on the test rows."""
    selection: Callable[[], float] | None
    """Score on the rows cut from train to choose; None: there are none."""
    bits: Callable[[], dict[str, float]]
    """Bits per byte by plain text."""


def run_cell(
    cell: Cell, progress: Progress = lambda line: None, keep: Keep | None = None
) -> tuple[Trained, Sidecars | None]:
    """Run ``cell``; whatever goes wrong inside becomes a record with its status and reason.

    Args:
        cell: What to train and score.
        progress: Called with short lines such as ``step 20/60 loss 0.61``.
        keep: Where to write what was trained, aside of its place; None: it is not kept.

    Returns:
        The record, and what the cell leaves beside it where it came to its end; a trial keeps nothing.

    Raises:
        NotWritten: What was trained is to be kept and cannot be written.
    """
    if cell.devices > 1:
        return _run_together(cell, progress, keep)
    from bench.training.devices import Alone

    done = _run(cell, progress, keep, contextlib.nullcontext(Alone()))
    assert done is not None, "the first device has the record"
    return done


Done = tuple[Trained, Sidecars | None]


def _run(
    cell: Cell, progress: Progress, keep: Keep | None, joining: contextlib.AbstractContextManager["Alone"]
) -> Done | None:
    """As ``run_cell`` on one of the devices that train together; None on those that leave the record to the first."""
    import torch

    from bench.training.blame import reason_of
    from bench.training.loop import NonFiniteLoss

    started, before = now(), torch.get_num_threads()
    torch.set_num_threads(cell.threads)
    try:
        with joining as team:
            found = _measure(cell, progress, keep, team)
        if found is None:
            return None
        figures, sidecars = found
        if torch.get_num_threads() != cell.threads:
            raise BenchError(
                f"the method set torch's threads to {torch.get_num_threads()} where the plan has {cell.threads}: it "
                "trained under other conditions than the others; leave torch.set_num_threads out of it"
            )
    except NotWritten:
        raise
    except NonFiniteLoss as error:
        return failure(cell, "nan", said(error), started), None
    except BenchError as error:
        return failure(cell, "failed", reason_of(error), started, traced(error)), None
    except Exception as error:  # the outermost frame: any fault of a method becomes a record, the run goes on
        status = "oom" if _out_of_memory(error) else "failed"
        return failure(cell, status, reason_of(error), started, traced(error)), None
    finally:
        torch.set_num_threads(before)
    identity = _identity(cell)
    identity["flags"] += figures.pop("flags")
    scored = _kind(cell)(status="ok", ended=now(), started=started, **identity, **figures)
    return scored, None if cell.trial else sidecars


def _run_together(cell: Cell, progress: Progress, keep: Keep | None) -> Done:
    """As ``run_cell``, in a process for each of its devices; the first of them scores what all have trained."""
    from bench.training import ranks

    started = now()
    try:
        check_devices(cell.devices, cell.device)
        with tempfile.TemporaryDirectory() as folder:
            work = functools.partial(_take_part, cell.model_dump_json(), keep, Path(folder) / "meeting")
            with contextlib.closing(ranks.side_by_side(work, cell.devices)) as heard:
                for _, (kind, *said_by_it) in heard:
                    if kind == "progress":
                        progress(*said_by_it)
                    elif kind == "unwritten":
                        raise NotWritten(*said_by_it)
                    else:
                        text, sidecars = said_by_it
                        return _kind(cell).model_validate_json(text), sidecars
        return failure(cell, "crashed", "its processes ended without a record", started), None
    except ranks.Lost as lost:
        return failure(cell, "crashed", str(lost), started), None
    except NotWritten:
        raise
    except BenchError as error:
        return failure(cell, "failed", said(error), started), None


def _take_part(spec: str, keep: Keep | None, meeting: Path, rank: int, send: Callable[[Any], None]) -> None:
    """In the process of one device: train with the others, and send what comes of it."""
    from bench.training.devices import joined

    cell = Cell.model_validate_json(spec)
    recipe = cell.recipe
    joining = joined(
        rank, cell.devices, device=cell.device, shard=recipe.get("shard", False), meeting=meeting,
        seconds=cell.timeout_seconds,
    )  # fmt: skip
    try:
        done = _run(cell, lambda line: send(("progress", line)), keep, joining)
    except NotWritten as error:
        send(("unwritten", str(error)))
        return
    if done is not None:
        send(("record", done[0].model_dump_json(by_alias=True), done[1]))


def _kind(cell: Cell) -> type[Trained]:
    return TrialRecord if cell.trial else record.ScoreRecord


def failure(cell: Cell, status: str, reason: str, started: str, trace: str | None = None) -> Trained:
    """Record of a cell that came to no score; it needs no torch, so that the parent can write it for a dead worker."""
    identity = _identity(cell)
    return _kind(cell).model_validate(
        {**identity, "status": status, "reason": reason, "traceback": trace, "started": started, "ended": now()}
    )


def _identity(cell: Cell) -> dict[str, Any]:
    flags: tuple[str, ...] = ("random_weights",) if cell.backbone.weights == "random" else ()
    flags += ("synthetic",) if cell.source.kind == "synthetic" else ()
    return {
        "id": cell.id, "suite": cell.suite, "backbone": backbone.describe(cell.backbone, _objective(cell)),
        "method": registry.method_used(cell.method.label, cell.method.name, cell.method.config),
        "environment": environment(cell.threads), "task": cell.task, "task_name": cell.task.name, "recipe": cell.recipe,
        "seed": cell.seed, "flags": flags, "tuning": cell.tuning,
    }  # fmt: skip


def _out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in message(error)


def _measure(
    cell: Cell, progress: Progress, keep: Keep | None, team: "Alone"
) -> tuple[dict[str, Any], Sidecars] | None:  # fmt: skip
    """Fields of the record, and what stands beside it; None of a device that has only trained."""
    from bench.models.head import check_positions, trainable, trained_dtypes
    from bench.models.tokenizer import load_tokenizer
    from bench.tasks.sources import rows_of
    from bench.training.contract import finalize, merge, notes_of, ranks_of, stored_bytes, vectors_of
    from bench.training.diagnostics import Found, directions, weights
    from bench.training.evaluate import constant_score, flags, label_scale
    from bench.training.keep import keep_cell
    from bench.training.mix import MixedBatches
    from bench.training.retention import PlainReader

    recipe = cell.recipe
    data = rows_of(cell)
    method, config = registry.make(cell.method.name, cell.method.config)
    bare: Any = backbone.load(cell.backbone, device=cell.device, seed=cell.seed, objective=_objective(cell))
    team.meet(bare)
    start = weights(bare) if recipe.get("directions") else {}
    reserved = method.reserved_positions(config)
    length = check_positions(bare, recipe["max_length"], reserved)
    scale = label_scale(data.train) if data.spec.regression else None
    tokenizer = load_tokenizer(cell.backbone.folder, bare.config.vocab_size)
    encoded = _encoder(cell, bare.config, tokenizer, length, scale)
    rows, test = encoded(data.train), encoded(data.test)
    mixed = None if cell.general is None else MixedBatches(cell, rows, tokenizer)
    silent = cell.model_copy(update={"retention": None})
    reader = PlainReader(silent if team.rank else cell, bare, tokenizer, reserved)
    contract = _contract(cell, method, config, bare.config.vocab_size)
    contract.bare(bare)
    model = _adapt(cell, bare, method, config, data).to(cell.device)
    contract.adapted(model.body)
    method.name_classes(model.body, _class_names(data.spec, tokenizer))
    prepare_seconds = _prepare(cell, method, model, rows)
    start_vectors = vectors_of(method, model.body) if recipe.get("nearest_words") else None
    notes = [*notes_of(method, model.body)]
    counts = record.Trainable(method=trainable(model.body), head=trainable(model.head))

    def predicted(which: Any) -> tuple[Predictions, dict[str, float]]:
        return _scored(model, data.spec, which, recipe.get("dtype", "float32"))

    def reading(which: Any) -> Callable[[], float]:
        return lambda: predicted(which)[1][data.spec.main_metric]

    selection = reading(encoded(data.selection)) if data.selection else None
    read = Readings(reading(test), selection, lambda: reader.on_the_way(model.body))
    losses, way, norms = _fit(cell, model, method, rows, mixed, read, progress, contract, notes, team)
    if team.rank:
        return None
    dtypes = trained_dtypes(model)
    contract.trained(model.body)
    model.body = finalize(method, model.body)
    stored = stored_bytes(method, model.body, counts.method)
    contract.finalized(model.body)
    predictions, metrics = predicted(test)
    score = metrics[data.spec.main_metric]
    retention, backbone_kept = reader.kept(model.body), reader.backbone_kept(model.body)
    kept = None
    if keep is not None:
        chosen = _kept_score(data.spec.main_metric, score, selection)
        kept = keep_cell(keep, cell, data.spec, model, method, length, reserved, scale, chosen)
    merged = merge(method, model.body) if start or contract.merges else None
    contract.merged(model.body, merged)
    added = directions(start, weights(merged), recipe["directions"]) if start and merged is not None else Found({}, {})
    nearest = None
    if start_vectors is not None:
        nearest = _nearest(cell, bare, tokenizer, start_vectors, vectors_of(method, model.body))
    doubts = flags(
        losses, score, constant=constant_score(data.spec, predictions["label"]), bag_of_words=cell.task.floor,
        best_step=way.best_step,
    )  # fmt: skip
    return {
        "score": score, "metrics": metrics, "trainable_parameters": counts, "losses": tuple(losses),
        "label_scale": scale,
        "delta_bytes": stored, "retention": retention,
        "backbone_kept": backbone_kept, "mixed": None if mixed is None else mixed.used(),
        "curve": tuple(way.curve), "gradient_norms": norms, "best_step": way.best_step, "train_seconds": way.spent,
        "prepare_seconds": prepare_seconds, "flags": tuple(doubts),
        "predictions_sha256": None if cell.trial else predictions_sha256(predictions["prediction"]),
        "trained_dtypes": dtypes, "notes": tuple(notes), "ranks": ranks_of(method, model.body),
        "directions": added.figures, "kept_sha256": kept,
        "input_vectors": nearest,
        "directions_sha256": directions_sha256(added.left) if added.left else None,
    }, Sidecars(predictions, added.left)  # fmt: skip


def _class_names(spec: TaskSpec, tokenizer: Any) -> list[list[int]]:
    """Token ids of each class's name; none where a task has no classes."""
    if spec.kind != "classes" or not spec.labels:
        return []
    longest = max(map(len, spec.labels))
    named = tokenizer(list(spec.labels), truncation=True, max_length=longest, add_special_tokens=False)["input_ids"]
    return [list(ids) for ids in named]


def _nearest(cell: Cell, bare: Any, tokenizer: Any, start: Any, end: Any) -> record.InputVectors:
    """Learned vectors among the word embeddings, before and after training, held against the words."""
    from bench.anatomy import anatomy
    from bench.training.diagnostics import Words, input_vectors

    embedding = bare.get_submodule(anatomy(bare).word_embeddings)
    words = Words(embedding, tokenizer.convert_ids_to_tokens)
    return input_vectors(words, start, end, cell.recipe["nearest_words"])


def _kept_score(metric: str, test: float, selection: Callable[[], float] | None) -> KeptScore:
    """What tells seeds apart: the score on the rows cut from train to choose, where there are any."""
    if selection is None:
        return KeptScore(metric=metric, value=test, rows="test", test=test)
    return KeptScore(metric=metric, value=selection(), rows="selection", test=test)


def _fit(
    cell: Cell, model: Any, method: Any, rows: Any, mixed: Any, read: Readings, progress: Progress, contract: Any,
    notes: list[str], team: "Alone",
) -> tuple[list[float], Any, dict[str, tuple[float, ...]]]:  # fmt: skip
    """Train, with readings on the way and norms of the first gradients; leaves the chosen state in ``model``."""
    import torch

    from bench.training.checkpoints import Milestones, Reading, Work, epoch_ends, equal_shares
    from bench.training.diagnostics import GradientNorms
    from bench.training.loop import Recipe, to_autocast, train

    recipe = Recipe(**{field: cell.recipe[field] for field in Recipe.__dataclass_fields__ if field in cell.recipe})
    curve, choice = Reading(), Reading()
    if (points := cell.recipe.get("curve_points")) and not team.rank:
        curve = Reading(equal_shares(recipe.steps, points), read.test, read.bits)
    if cell.recipe.get("best_epoch") and not team.rank:
        assert read.selection is not None, "a recipe with best_epoch has selection_rows"
        choice = Reading(epoch_ends(recipe.steps, max(1, len(rows) // recipe.batch_size)), read.selection)
    if recipe.dtype == "bfloat16_autocast":
        to_autocast(model)
    contract.starts(model.body)
    torch.manual_seed(_stream(cell.seed, f"dropout of device {team.rank}" if team.rank else "dropout"))
    work = Work()
    way = Milestones(model, work, curve, choice)

    def done(step: int, loss: float) -> None:
        way.after(step, loss)
        if not team.rank:
            progress(f"step {step}/{recipe.steps} loss {loss:.3f}")

    noted = cell.recipe.get("gradient_norms")
    norms = GradientNorms(method.parts(model.body), model.body, noted) if noted else None
    batches = work.over(rows.shuffled(recipe.batch_size, cell.seed) if mixed is None else mixed)
    noting = norms.after if norms else lambda step: None
    losses = train(model, method, model.body, batches, recipe, done, noting, notes, team)
    contract.ends()
    way.end()
    return losses, way, norms.read() if norms else {}


def _objective(cell: Cell) -> Objective:
    return "text" if cell.spec.kind == "text" else "classes"


def _encoder(cell: Cell, config: Any, tokenizer: Any, length: int, scale: Any) -> Callable[[Any], Any]:
    """What turns rows of the cell's task into batches."""
    from bench.training.evaluate import Encoded
    from bench.training.text import TextRows

    if cell.spec.kind == "text":
        return lambda rows: TextRows(rows, tokenizer, length, config=config, device=cell.device)
    return lambda rows: Encoded(rows, tokenizer, length, scale=scale, device=cell.device)


def _scored(model: Any, spec: TaskSpec, rows: Any, dtype: str) -> tuple[Predictions, dict[str, float]]:
    """Columns of the predictions sidecar, and every metric of the task."""
    from bench.tasks.metrics import compute
    from bench.training.evaluate import evaluate
    from bench.training.text import evaluate_text

    if spec.kind == "text":
        return evaluate_text(model, rows, dtype=dtype)
    found = evaluate(model, spec, rows, dtype=dtype)
    return found, compute(spec, found["prediction"], found["label"])


def _stream(seed: int, purpose: str) -> int:
    from bench.models.head import generator

    return generator(seed, purpose).initial_seed()


def _adapt(cell: Cell, bare: Any, method: Any, config: Any, data: Any) -> Any:
    import torch

    from bench.models.head import TaskModel, make_head
    from bench.models.text import TextHead
    from bench.training.contract import MODULE
    from bench.training.evaluate import balanced_weights

    recipe = cell.recipe
    head: Any
    if data.spec.kind == "text":
        head = TextHead(bare.config, "target")
    else:
        head = make_head(
            bare, data.spec.outputs, pooling=recipe["pooling"], dropout=recipe["head_dropout"],
            dense=recipe["dense_head"], seed=cell.seed,
        )  # fmt: skip
    if data.spec.class_weights == "balanced":
        head.class_weights = balanced_weights(data.train, data.spec.outputs).to(next(head.parameters()))
    torch.manual_seed(_stream(cell.seed, "method"))
    return TaskModel(given("apply", method.apply(bare, config), torch.nn.Module, MODULE), head)


def _contract(cell: Cell, method: Any, config: Any, vocabulary: int) -> Any:
    """What the method must keep of what it trains, held under the types that it trains in."""
    import torch

    from bench.training.contract import Contract
    from bench.training.loop import autocast, to_autocast

    dtype = cell.recipe.get("dtype", "float32")
    fresh = functools.partial(
        backbone.load, cell.backbone, device=cell.device, seed=cell.seed, objective=_objective(cell)
    )
    context = functools.partial(autocast, torch.device(cell.device), dtype)
    form = to_autocast if dtype == "bfloat16_autocast" else lambda module: None
    return Contract(method, config, vocabulary, fresh, context, form)


def _prepare(cell: Cell, method: Any, model: Any, rows: Any) -> float:
    """Data-dependent start on single rows; only as many are drawn as the method asks for."""
    started = time.perf_counter()
    method.prepare(model.body, model.loss, itertools.islice(rows.shuffled(1, cell.seed, "prepare"), len(rows)))
    return time.perf_counter() - started


def main() -> int:
    """Read a cell from stdin, write its record to stdout: the way for any engine that carries commands."""
    cell = Cell.model_validate_json(sys.stdin.read())
    with contextlib.redirect_stdout(sys.stderr):
        result, _ = run_cell(cell)
    sys.stdout.write(result.model_dump_json(by_alias=True) + "\n")
    return 0 if result.status == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
