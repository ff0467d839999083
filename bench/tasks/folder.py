"""Reads a task from a folder of official TSV files, JSONL or parquet, as ``--data DIR`` gives it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.errors import BenchError
from bench.schema.task import TaskSpec
from bench.tasks.files import Row, each_once, numbered_lines, parse_label, read_jsonl, read_parquet, require, text_of
from bench.tasks.rows import Rows

FEW = 3
"""Lines cut short that a file of any size may have, where the official one has some."""
SHARE = 0.001
"""Their share of the rows of a large file."""
_FORMATS = ("tsv", "jsonl", "parquet")


def task_folder(root: Path, spec: TaskSpec) -> Path | None:
    """The folder of task ``spec`` under ``root``: its official name or the task's own, in any case.

    Raises:
        BenchError: Two folders fit.
    """
    names = {spec.folder.name.casefold() if spec.folder else "", spec.name.casefold()}
    found = sorted(path for path in root.iterdir() if path.is_dir() and path.name.casefold() in names)
    if len(found) > 1:
        raise BenchError(f"{root}: {found[0].name} and {found[1].name} both hold {spec.name}; keep one of them")
    return found[0] if found else None


def tasks_in(root: Path, specs: Iterable[TaskSpec]) -> list[str]:
    """Names of those of ``specs`` that have a folder under ``root``."""
    return [spec.name for spec in specs if task_folder(root, spec) is not None]


def read_folder(root: Path, spec: TaskSpec) -> tuple[Rows, Rows]:
    """Read the training and the test split of task ``spec`` from ``root``.

    Raises:
        BenchError: A file is missing, doubled, empty, not UTF-8, or a row of it does not fit the task.
    """
    official = (spec.folder.test,) if spec.folder else ()
    test_stems = dict.fromkeys((*official, spec.test_split, "dev", "validation"))
    return read_train(root, spec), _read_split(_present(root, spec), spec, tuple(test_stems))


def read_train(root: Path, spec: TaskSpec) -> Rows:
    """Read the training split alone; the test split is not opened.

    Raises:
        BenchError: As ``read_folder``.
    """
    return _read_split(_present(root, spec), spec, ("train",))


def _present(root: Path, spec: TaskSpec) -> Path:
    folder = task_folder(root, spec)
    if folder is None:
        names = " or ".join(dict.fromkeys([*([spec.folder.name] if spec.folder else []), spec.name]))
        raise BenchError(f"{root}: no folder {names}; name the folder that holds it")
    return folder


def _files(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """Files of one split, all of the same name and format; several only as shards of one parquet split."""
    whole = [folder / f"{stem}.{suffix}" for stem in stems for suffix in _FORMATS]
    groups = [[path] for path in whole if path.is_file()]
    groups += [shards for stem in stems if (shards := sorted(folder.glob(f"{stem}-*-of-*.parquet")))]
    if not groups:
        raise BenchError(f"{folder}: no {stems[0]}.tsv; write one of {', '.join(path.name for path in whole)}")
    if len(groups) > 1:
        raise BenchError(f"{folder}: {groups[0][0].name} and {groups[1][0].name} hold the same split; keep one of them")
    return groups[0]


def _read_split(folder: Path, spec: TaskSpec, stems: tuple[str, ...]) -> Rows:
    texts: list[tuple[str, ...]] = []
    labels: list[int | float] = []
    notes: list[str] = []
    files = _files(folder, stems)
    for path in files:
        cut: list[int] = []
        before = len(texts)
        rows, text_columns, label_column = _open(path, spec, cut)
        for place, fields in rows:
            texts.append(tuple(text_of(path, place, fields, column) for column in text_columns))
            labels.append(parse_label(spec, fields.get(label_column), f"{path}: {place}, column {label_column!r}"))
        if empty := sum(not all(map(str.strip, row)) for row in texts[before:]):
            notes.append(f"{path.name}: {empty:,} {'row' if empty == 1 else 'rows'} with an empty text")
        if cut:
            _check_cut(path, cut, len(labels))
            notes.append(f"{path.name}: {len(cut)} {'line' if len(cut) == 1 else 'lines'} cut short, left out")
    if not labels:
        raise BenchError(f"{files[0]}: the file has no rows; put the rows of {spec.name} into it")
    return Rows(tuple(texts), tuple(labels), tuple(notes))


def _check_cut(path: Path, cut: list[int], rows: int) -> None:
    if len(cut) > max(FEW, SHARE * rows):
        raise BenchError(
            f"{path}: {len(cut)} of {len(cut) + rows} lines are cut short, the first is line {cut[0]}; the official "
            "file has a few: fetch it again"
        )


def _open(path: Path, spec: TaskSpec, cut: list[int]) -> tuple[Iterator[Row], tuple[str, ...], str]:
    """Rows of one file, and the columns that hold its texts and its label; ``cut`` takes the lines left out."""
    if path.suffix == ".tsv":
        layout = spec.folder
        columns = (layout.text, layout.label) if layout else (spec.text, spec.label)
        return _tsv(path, spec, cut), *columns
    wanted = (*spec.text, spec.label)
    return (read_jsonl(path, wanted) if path.suffix == ".jsonl" else read_parquet(path, wanted)), spec.text, spec.label


def _tsv(path: Path, spec: TaskSpec, cut: list[int]) -> Iterator[Row]:
    """Rows of an official file: tabs part the fields, quotes mean nothing."""
    lines = numbered_lines(path)
    header = spec.folder.header if spec.folder else ()
    if not header:
        _, first = next(lines, (1, ""))
        header = tuple(first.split("\t"))
        if not first:
            raise BenchError(f"{path}: the file is empty; put the rows of {spec.name} into it")
        each_once(path, header, "line 1, ")
        wanted = (*spec.folder.text, spec.folder.label) if spec.folder else (*spec.text, spec.label)
        require(path, header, wanted)
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) == len(header):
            yield f"line {number}", dict(zip(header, fields, strict=True))
        elif spec.folder and spec.folder.skip_broken:
            cut.append(number)
        else:
            raise BenchError(
                f"{path}: line {number} has {len(fields)} tab-separated fields, expected {len(header)} "
                f"({', '.join(header)}); fix or remove the line"
            )
