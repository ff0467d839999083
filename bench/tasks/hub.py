"""Tasks from the hub: what is cached, whether the hub answers, and loading."""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.models.hub import hub_reason, limit_silence, silent, status_of
from bench.schema.task import TaskSpec
from bench.tasks.files import parse_label
from bench.tasks.rows import Rows


def cache_folder(spec: TaskSpec) -> Path:
    """Where ``datasets`` keeps the prepared task of the pinned revision."""
    assert spec.hub is not None and spec.revision is not None, "a task of the hub names dataset and revision"
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    root = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    return root / spec.hub.replace("/", "___") / (spec.config or "default") / "0.0.0" / spec.revision


def _arrow_files(spec: TaskSpec, split: str) -> list[Path]:
    folder, stem = cache_folder(spec), str(spec.hub).rpartition("/")[2]
    return sorted([*folder.glob(f"{stem}-{split}.arrow"), *folder.glob(f"{stem}-{split}-*-of-*.arrow")])


def cached(specs: Sequence[TaskSpec]) -> bool:
    """Whether all tasks lie prepared in the cache of ``datasets``."""
    return all(_arrow_files(spec, split) for spec in specs for split in (spec.train_split, spec.test_split))


def _address(spec: TaskSpec) -> str:
    return f"datasets/{spec.hub}/revision/{spec.revision}"


def refusal(specs: Sequence[TaskSpec]) -> str | None:
    """Why the hub gives nothing, or None where it shows the pinned revision of every dataset in time."""
    for spec in {_address(spec): spec for spec in specs}.values():
        status = status_of(_address(spec))
        if status is None:
            return "hub not reached"
        if status != 200:
            return f"the hub answered {status} at revision {str(spec.revision)[:7]}"
    return None


def read_hub(spec: TaskSpec) -> tuple[Rows, Rows]:
    """Load the training and the test split of task ``spec``, from the cache where it is prepared, else from the hub.

    Raises:
        BenchError: It is neither cached nor to be had.
    """
    return read_train(spec), _rows(spec, spec.test_split)


def read_train(spec: TaskSpec) -> Rows:
    """Load the training split alone; the file of the test split is not opened.

    Raises:
        BenchError: It is neither cached nor to be had.
    """
    if not cached([spec]):
        _prepare(spec)
    return _rows(spec, spec.train_split)


def _prepare(spec: TaskSpec) -> None:
    """Let ``datasets`` download task ``spec`` and write its cache."""
    import datasets

    if silent(_address(spec)):
        raise BenchError(f"{spec.hub}: {spec.name} is not cached (hub not reached); use --data DIR or --data synthetic")
    limit_silence()
    try:
        datasets.load_dataset(spec.hub, spec.config, revision=spec.revision)
    except Exception as error:  # the libraries below have a dozen types for what a hub or a file can do
        raise BenchError(
            f"{spec.hub}: {spec.name} cannot be loaded ({hub_reason(error)}); "
            "try again, or use --data DIR or --data synthetic"
        ) from error
    if not cached([spec]):
        raise BenchError(
            f"{spec.hub}: {spec.name} was loaded, but its splits {spec.train_split} and {spec.test_split} are not "
            f"under {cache_folder(spec)}; use --data DIR or --data synthetic"
        )


def _rows(spec: TaskSpec, split: str) -> Rows:
    import datasets

    where = f"{spec.hub}: {spec.name}"
    try:
        parts = [datasets.Dataset.from_file(str(path)) for path in _arrow_files(spec, split)]
        table = datasets.concatenate_datasets(parts)
        columns = [list(table[column]) for column in (*spec.text, spec.label)]
    except Exception as error:  # a file cut short, or of another form: each reader fails in its own way
        raise BenchError(
            f"{where}: the cached split {split} cannot be read ({hub_reason(error)}); remove {cache_folder(spec)}"
        ) from error
    labels = [parse_label(spec, value, where) for value in columns.pop()]
    return Rows(tuple(zip(*columns, strict=True)), tuple(labels))
