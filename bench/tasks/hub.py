"""GLUE from the hub: what is cached, whether the hub answers, and loading; asks the network only when called."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.tasks.folder import parse_label
from bench.tasks.glue import HUB_ID, HUB_REVISION, TaskSpec
from bench.tasks.rows import Rows

PROBE_SECONDS = 3.0
"""Longest wait for the hub's answer; ``datasets`` itself retries for about 20 s."""

OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that forbid asking the hub."""


def offline() -> str | None:
    """Name of the environment variable that forbids asking the hub, or None."""
    set_to = ((name, os.environ.get(name, "").strip().upper()) for name in OFFLINE_VARIABLES)
    return next((name for name, value in set_to if value in {"1", "ON", "YES", "TRUE"}), None)


def cache_folder(spec: TaskSpec) -> Path:
    """Where ``datasets`` keeps the prepared task of the pinned revision."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    root = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    return root / HUB_ID.replace("/", "___") / spec.name / "0.0.0" / HUB_REVISION


def _arrow_files(spec: TaskSpec, split: str) -> list[Path]:
    folder, stem = cache_folder(spec), HUB_ID.rpartition("/")[2]
    return sorted([*folder.glob(f"{stem}-{split}.arrow"), *folder.glob(f"{stem}-{split}-*-of-*.arrow")])


def cached(specs: Sequence[TaskSpec]) -> bool:
    """Whether all tasks lie prepared in the cache of ``datasets``."""
    return all(_arrow_files(spec, split) for spec in specs for split in (spec.train_split, spec.test_split))


def answers() -> bool:
    """Whether the hub shows the pinned revision within ``PROBE_SECONDS``, name resolution included."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/api/datasets/{HUB_ID}/revision/{HUB_REVISION}"
    good = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as response:
                if response.status == 200:
                    good.set()
        except (OSError, ValueError):  # unreachable, refused, or an endpoint that is no address: no answer
            return

    asking = threading.Thread(target=ask, daemon=True)  # a resolver may hang longer than any socket timeout
    asking.start()
    asking.join(PROBE_SECONDS)
    return good.is_set()


def read_hub(spec: TaskSpec) -> tuple[Rows, Rows]:
    """Load the training and the test split of task ``spec``, from the cache where it is prepared, else from the hub.

    Raises:
        BenchError: It is neither cached nor to be had.
    """
    import datasets

    splits = (spec.train_split, spec.test_split)
    if cached([spec]):
        tables = [
            datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in _arrow_files(spec, split)])
            for split in splits
        ]
    else:
        try:
            loaded = datasets.load_dataset(HUB_ID, spec.name, revision=HUB_REVISION)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise BenchError(
                f"{HUB_ID}: {spec.name} cannot be loaded ({error}); use --data DIR or --data synthetic"
            ) from error
        tables = [loaded[split] for split in splits]
    return _rows(spec, tables[0]), _rows(spec, tables[1])


def _rows(spec: TaskSpec, table: "datasets.Dataset") -> Rows:  # type: ignore[name-defined] # noqa: F821
    columns = [list(table[column]) for column in spec.text]
    labels = [parse_label(spec, value, f"{HUB_ID}: {spec.name}") for value in table["label"]]
    return Rows(tuple(zip(*columns, strict=True)), tuple(labels))
