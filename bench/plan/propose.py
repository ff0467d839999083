"""Looks at a file of rows and proposes a suite for it: kind, columns, split, lengths, recipe, methods and rates."""

import dataclasses
import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError, unknown
from bench.models.tokenizer import Tokenizer
from bench.plan.load import parse_suite
from bench.schema.suite import Suite
from bench.schema.task import ENDINGS, Kind
from bench.tasks.catalogue import shipped
from bench.tasks.files import (
    check_parted,
    class_name,
    column_names,
    has_decimal_comma,
    is_empty,
    is_nested,
    number_of,
    open_rows,
    require,
)
from bench.tasks.rows import check_labels
from bench.tasks.sources import load_task, locate

LABELS = (
    "label", "labels", "class", "category", "target", "gold_label", "sentiment", "intent", "topic", "queue", "type",
    "tag", "is_duplicate", "polarity", "emotion", "answer", "output", "completion", "response", "score", "rating",
    "similarity", "stars", "y",
)  # fmt: skip
"""Names that columns of labels have, the likeliest first."""
RATINGS = ("score", "rating", "similarity", "stars")
"""Names among those whose whole numbers are not the ids of classes where there are many."""
PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text_a", "text_b"),
    ("text1", "text2"), ("question", "sentence"), ("question", "passage"), ("question", "context"),
    ("word", "sentence"),
)  # fmt: skip
"""Names that two columns of texts have together."""
PARTNERS = (("1", "2"), ("a", "b"), ("one", "two"), ("first", "second"), ("left", "right"))
"""What names of two texts that stand together end with, or are, behind the same beginning."""
ALIKE = 2.0
"""Two columns whose texts are longer in the one than in the other by no more than this factor may be a pair."""
NAME_WORDS = 3
"""Words from which on the name of a column may be a text that stands where names should."""
TESTS = ("test", "dev", "validation", "valid", "val", "eval")
"""Stems of the file to score on that lies beside ``train``."""
FEW_CLASSES, MOST_CLASSES = 20, 200
"""Distinct whole numbers that are taken for classes at most; distinct names that are."""
SKEWED = 0.7
"""Share of the largest class from which on accuracy hides the others."""
MOSTLY = 0.9
"""Share of numbers in a column of labels from which on anything else is taken for a mistake."""
LONGEST = 256
"""Tokens of a row that are proposed at most."""
LOOKED_AT = 5000
"""Rows whose tokens are counted."""
TEXT_BACKBONE_NEEDED = (
    "column {!r} holds texts to write: kind text needs a language model; give its folder or hub id, or smollm2-135m, "
    "with --backbone, or name another column with --label"
)
USUAL = "sentence-transformers/all-MiniLM-L6-v2"
"""The backbone of a task of classes or scores where none is given; it comes from the package index or the hub."""


@dataclass
class Column:
    """What was seen of one column."""

    filled: int = 0
    empty: int = 0
    numbers: int = 0
    whole: int = 0
    texts: int = 0
    words: int = 0
    nested: int = 0
    """Lists and objects."""
    commas: int = 0
    """Numbers with a decimal comma."""
    values: Counter[str] = field(default_factory=Counter)
    """Distinct values, as classes are spelled; no more are added beyond ``MOST_CLASSES``."""
    many: bool = False
    """Whether there are more than those."""

    def see(self, value: Any) -> None:
        """Count one value."""
        if is_empty(value):
            self.empty += 1
            return
        self.filled += 1
        number = number_of(value)
        self.numbers += number is not None
        self.whole += number is not None and number.is_integer()
        self.texts += isinstance(value, str)
        self.nested += is_nested(value)
        self.commas += has_decimal_comma(value)
        self.words += len(value.split()) if isinstance(value, str) else 1
        name = class_name(value)
        if name in self.values or len(self.values) < MOST_CLASSES:
            self.values[name] += 1
        else:
            self.many = True

    def holds(self, name: str) -> bool:
        """Whether ``name`` is one of its values: a number of its numbers, or a class that is there again."""
        if self.filled and self.numbers == self.filled:
            return number_of(name) is not None
        return self.kind == "classes" and class_name(name) in self.values

    @property
    def mean_words(self) -> float:
        """Words of a value."""
        return self.words / max(1, self.filled)

    @property
    def ids(self) -> bool:
        """Whether these are whole numbers from 0 or 1 on without a gap, each in many rows, as ids of classes are."""
        if self.many or self.whole < self.filled or 10 * len(self.values) > self.filled:
            return False
        numbers = {number_of(name) for name in self.values}
        return any(numbers == set(range(start, start + len(numbers))) for start in (0, 1))

    @property
    def kind(self) -> Kind:
        """What a column of labels asks for."""
        if self.filled and self.numbers == self.filled:
            return "score" if self.whole < self.filled or len(self.values) > FEW_CLASSES else "classes"
        return "text" if self.many or len(self.values) > max(2, self.filled // 2) else "classes"


@dataclass(frozen=True)
class Proposal:
    """What a file of rows seems to hold."""

    train: Path
    test: Path | None
    rows: int
    kind: Kind
    text: tuple[str, ...]
    label: str
    left_out: tuple[str, ...]
    """Columns that nothing reads."""
    classes: Mapping[str, int]
    """Rows of each, the commonest first."""
    incomplete: int
    """Rows with an empty text or without a label."""

    @property
    def skewed(self) -> bool:
        """Whether one class is nearly all."""
        return bool(self.classes) and max(self.classes.values()) > SKEWED * sum(self.classes.values())


def look(
    data: Path,
    *,
    label: str | None = None,
    text: tuple[str, ...] = (),
    kind: Kind | None = None,
    test: Path | None = None,
) -> Proposal:
    """Read ``data`` once and say what it seems to hold.

    Args:
        data: A file of rows, or a folder with ``train`` and, where there is one, ``test`` or ``dev``.
        label: Column of the label; found by its name, else by its values.
        text: Columns of the one or two texts; found by their names and lengths.
        kind: What is predicted; found by the values of the label.
        test: File to score on; one beside ``train`` where left out.

    Raises:
        BenchError: The file cannot be read, a column that is named is not there, or none can be told.
    """
    train, beside = _splits(data)
    names = column_names(train)
    if train.suffix.lower() in {".csv", ".tsv"}:
        check_parted(train, names)
    for column in (*text, *([label] if label else [])):
        if column not in names:
            raise unknown("column", column, names, str(train))
    if len(set(text)) < len(text):
        raise BenchError(f"--text names {text[0]!r} twice; name each column once")
    if len(text) > 2:
        raise BenchError(f"--text names {len(text)} columns: a row has one or two texts; join the others to one")
    if label in text:
        raise BenchError(f"--text and --label both name {label!r}; name one column of labels and others of texts")
    seen = {name: Column() for name in names}
    rows = 0
    for _, fields in open_rows(train, ()):
        rows += 1
        for name, counted in seen.items():
            counted.see(fields.get(name))
    if not rows:
        raise BenchError(f"{train}: the file has no rows; put rows below the line of column names")
    if train.suffix.lower() in {".csv", ".tsv"}:
        _check_named(train, seen)
    label = label or _label(train, seen, text)
    text = text or _texts(train, seen, label)
    found = kind or _kind(train, label, seen[label])
    if found == "classes" and len(seen[label].values) == 1:
        raise BenchError(
            f"{train}: column {label!r} holds one class alone, {next(iter(seen[label].values))!r}; give rows of two "
            "classes at least, or name another column with --label"
        )
    if found == "classes" and seen[label].many:
        raise BenchError(
            f"{train}: column {label!r} holds over {MOST_CLASSES} different values; name the column of the class with "
            "--label, or give --kind score or --kind text"
        )
    scored_on = _scored_on((*text, label), test, beside)
    return Proposal(
        train=train, test=scored_on, rows=rows, kind=found, text=text, label=label,
        left_out=tuple(name for name in names if name and name not in (*text, label)),
        classes=dict(seen[label].values.most_common()) if found == "classes" else {},
        incomplete=max(seen[name].empty for name in (*text, label)) + _incomplete(scored_on, (*text, label)),
    )  # fmt: skip


def _check_named(path: Path, seen: Mapping[str, Column]) -> None:
    """Refuse a file whose first row stands where the names of its columns should.

    Raises:
        BenchError: One column is called as its own values are, and another by a whole text.
    """
    value = next((name for name, column in seen.items() if name and column.holds(name)), None)
    if value is not None and any(len(name.split()) >= NAME_WORDS for name, column in seen.items() if column.texts):
        raise BenchError(
            f"{path}: line 1 looks like a row ({value!r} is what its column holds, not what it is called); put a line "
            "of column names above it"
        )


def _kind(path: Path, label: str, column: Column) -> Kind:
    """What the values of the label ask for.

    Raises:
        BenchError: They are lists or objects, or numbers that nothing reads as such.
    """
    if column.nested:
        raise BenchError(f"{path}: column {label!r} holds lists or objects; give one name, number or text in each row")
    if column.filled and column.commas + column.numbers == column.filled and column.commas:
        raise BenchError(f"{path}: column {label!r} holds numbers with a decimal comma; write them with a point")
    if MOSTLY * column.filled <= column.numbers < column.filled:
        _refuse_odd_one(path, label)
    return "classes" if column.ids and _plain(label) not in RATINGS else column.kind


def _refuse_odd_one(path: Path, label: str) -> None:
    for place, fields in open_rows(path, (label,)):
        value = fields[label]
        if not is_empty(value) and number_of(value) is None:
            raise BenchError(
                f"{path}: {place}, column {label!r}: {value!r} is no finite number, as the other rows have; fix it, "
                "remove the row, or give --kind classes"
            )


def _scored_on(columns: tuple[str, ...], given: Path | None, beside: list[Path]) -> Path | None:
    """The file to score on: the one that is given, else the first beside ``train`` that has labels.

    Raises:
        BenchError: The one that is given lacks a column.
    """
    if given is not None:
        require(given, tuple(column_names(given)), columns)
        return given
    return next((path for path in beside if {*columns} <= {*column_names(path)}), None)


def _incomplete(test: Path | None, columns: tuple[str, ...]) -> int:
    """Rows of the file to score on that lack a text or a label."""
    rows = () if test is None else open_rows(test, columns)
    return sum(any(is_empty(fields[name]) for name in columns) for _, fields in rows)


def _splits(data: Path) -> tuple[Path, list[Path]]:
    """The file to train on, and those that may be there to score on."""
    if not data.exists():
        raise BenchError(f"{data}: no such file or folder; name a file with rows ({', '.join(ENDINGS)})")
    if data.is_dir():
        found = _named(data, ("train",))
        if not found:
            raise BenchError(f"{data}: the folder holds no train.{ENDINGS[0]}; name the file with the rows")
        data = found[0]
    return data, _named(data.parent, TESTS) if data.stem.lower() == "train" else []


def _named(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    files = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
    return [files[name] for stem in stems for form in ENDINGS if (name := f"{stem}.{form}") in files]


def _label(path: Path, seen: Mapping[str, Column], text: tuple[str, ...]) -> str:
    """The column with a name that labels have, else the only one that could be a class."""
    free = {name: column for name, column in seen.items() if name not in text and column.filled}
    by_name = {_plain(name): name for name in reversed(free)}
    if named := next((by_name[name] for name in LABELS if name in by_name), None):
        return named
    pair = _pair(by_name, seen)
    likely = [
        name for name, column in free.items()
        if name and name not in pair and not column.nested
        and column.kind == "classes" and 1 < len(column.values) <= FEW_CLASSES
    ]  # fmt: skip
    if len(likely) == 1:
        return likely[0]
    raise BenchError(
        f"{path}: which column is the label cannot be told; name it with --label; columns: "
        f"{', '.join(likely or filter(None, seen))}"
    )


def _texts(path: Path, seen: Mapping[str, Column], label: str) -> tuple[str, ...]:
    """A pair of columns by their names, else two alike in length, else the one with the longest texts."""
    free = {name: column for name, column in seen.items() if name != label and column.texts}
    by_name = {_plain(name): name for name in reversed(free)}
    if pair := _pair(by_name, seen):
        return pair
    if not free:
        nested = [name for name, column in seen.items() if column.nested]
        inner = f"; take the text out of the lists or objects of {', '.join(nested)}" if nested else ""
        raise BenchError(f"{path}: no column beside {label!r} holds texts; columns: {', '.join(seen)}{inner}")
    return _alike(free) or (max(free, key=lambda name: free[name].mean_words),)


def _alike(free: Mapping[str, Column]) -> tuple[str, ...]:
    """The two columns of sentences, where there are two and their texts are about as long; else empty."""
    sentences = [name for name, column in free.items() if name and column.kind == "text"]
    if len(sentences) != 2:
        return ()
    short, long = sorted(free[name].mean_words for name in sentences)
    return tuple(sentences) if short >= NAME_WORDS and long <= ALIKE * short else ()


def _pair(by_name: Mapping[str, str], seen: Mapping[str, Column]) -> tuple[str, ...]:
    """The columns of texts that stand together by their names; empty where there are none."""
    endings = (
        (name, name.removesuffix(first) + second)
        for first, second in PARTNERS for name in by_name if name.endswith(first)
    )  # fmt: skip
    known = (pair for pair in PAIRS if pair[0] in by_name and pair[1] in by_name)
    likely = (pair for pair in endings if all(name in by_name and _wordy(seen[by_name[name]]) for name in pair))
    return next(((by_name[one], by_name[other]) for one, other in (*known, *likely)), ())


def _wordy(column: Column) -> bool:
    return column.texts > 0 and column.mean_words >= NAME_WORDS


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


@dataclass(frozen=True)
class Proposed:
    """A suite that is ready to run, and what to say of it."""

    text: str
    """Of the .toml file."""
    lines: dict[str, str]
    """What was seen, for people."""


def propose(found: Proposal, backbone: str | None, out: Path) -> Proposed:
    """Write a suite for what a file seems to hold.

    Args:
        found: What ``look`` saw.
        backbone: Hub id, folder or a shape without weights; that of the suite glue-small where None.
        out: The suite's file, which its paths are relative to.

    Raises:
        BenchError: A task of text is given no backbone, or the backbone cannot be had.
    """
    from bench.models import backbone as backbones
    from bench.models.folder import located
    from bench.models.head import positions_of
    from bench.models.tokenizer import load_tokenizer

    if backbone is None and found.kind == "text":
        raise BenchError(f"{found.train}: {TEXT_BACKBONE_NEEDED.format(found.label)}")
    spec = backbones.resolve(backbone or USUAL, backbones.usual_weights(backbone or USUAL))
    shape = dataclasses.replace(spec, weights="random")
    most = positions_of(backbones.load(shape, device="meta", objective=backbones.usual_objective(spec)))
    positions = LONGEST if most is None else min(LONGEST, most)
    tokens = _tokens(found, load_tokenizer(spec.folder, backbones.configuration(spec).vocab_size))
    stem = found.train.stem if found.train.stem != "train" else found.train.resolve().parent.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "task"
    name = f"my-{name}" if name in shipped() else name  # that one comes with this project
    text = suite_text(
        found, name=name, backbone=located(backbone or USUAL, Path(), out.parent), tokens=tokens, place=out.parent,
        positions=positions, weights=spec.weights,
    )  # fmt: skip
    _check_runs(parse_suite({"name": out.stem} | tomllib.loads(text), str(out)))
    length = length_for(tokens, positions)
    cut = sum(count > length for count in tokens) / len(tokens)
    used = (backbone or USUAL) + ", random weights" * (spec.weights == "random")
    return Proposed(text, {
        "rows": described(found), "scored on": _test_said(found), "texts": ", ".join(found.text),
        "left out": ", ".join(found.left_out) or "no column",
        "lengths": f"{length} tokens a row; {100 * cut:.1f} % of rows are cut off",
        "backbone": used, "next": f"python -m bench run --suite {out}",
    })  # fmt: skip


def _check_runs(suite: Suite) -> None:
    """Refuse here what the next command would refuse: a row or a label that does not fit, a split of one class.

    Raises:
        BenchError: The rows do not make a task.
    """
    located = locate(suite.data, suite.task)
    recipe = suite.recipe
    assert recipe is not None, "a proposed suite has a recipe"
    for spec in located.specs:
        check_labels(load_task(spec, located.sources[spec.name], recipe.train_rows, recipe.test_rows))


def _tokens(found: Proposal, tokenizer: Tokenizer) -> list[int]:
    """Tokens of the first rows, rising; of text those of the answer too."""
    columns: list[list[str]] = [[] for _ in found.text]
    answers: list[str] = []
    for _, fields in itertools.islice(open_rows(found.train, (*found.text, found.label)), LOOKED_AT):
        for column, values in zip(found.text, columns, strict=True):
            values.append("" if is_empty(fields[column]) else str(fields[column]))
        answers.append(str(fields[found.label]))
    counts = [len(ids) for ids in tokenizer(*columns, truncation=False, max_length=0)["input_ids"]]
    if found.kind == "text":
        more = [len(ids) + 1 for ids in tokenizer(answers, truncation=False, max_length=0)["input_ids"]]
        counts = [one + other for one, other in zip(counts, more, strict=True)]
    return sorted(counts)


def suite_text(
    found: Proposal, *, name: str, backbone: str, tokens: list[int], place: Path, positions: int,
    weights: Literal["pretrained", "random"] = "pretrained",
) -> str:  # fmt: skip
    """A commented suite, ready to run.

    Args:
        found: What the file seems to hold.
        name: Of the task.
        backbone: Hub id, folder or named shape.
        tokens: Of some training rows, rising.
        place: Folder of the suite, which its paths are relative to.
        positions: Tokens that the backbone has room for.
        weights: ``random`` for a shape without weights.
    """
    lines = _lines(found, name, (backbone, weights), tokens, place, positions)
    return "".join(f"{_aligned(line)}\n" for line in lines)


def _aligned(line: str) -> str:
    """Comments after values begin in one column."""
    value, mark, comment = line.partition("  # ")
    return f"{value.rstrip():<32}  # {comment}" if mark else line


def length_for(tokens: list[int], positions: int) -> int:
    """Tokens that 99 % of rows have at most, as a multiple of 8, from 16 to ``LONGEST`` and to ``positions``."""
    most = tokens[max(0, math.ceil(0.99 * len(tokens)) - 1)]
    return max(4, min(positions, max(16, 8 * math.ceil(most / 8))))


def _lines(
    found: Proposal, name: str, backbone: tuple[str, str], tokens: list[int], place: Path, positions: int
) -> Iterator[str]:
    length = length_for(tokens, positions)
    cut = sum(count > length for count in tokens) / len(tokens)
    yield _comment(f"Proposed from {found.train.name}: {described(found)}.")
    if found.left_out:
        yield _comment(f"Columns that nothing reads: {', '.join(found.left_out)}.")
    yield f'question = "Which way of fine-tuning does {name} best, and what does it cost?"'
    yield "seeds = [0, 1, 2, 3, 4]  # five give score claims a verdict; fewer are quicker"
    yield ""
    yield "[backbone]"
    yield f"name = {_quoted(backbone[0])}"
    if backbone[1] == "random":
        yield 'weights = "random"  # a shape: scores say how a method learns from nothing'
    yield ""
    yield from _task_lines(found, name, place)
    yield ""
    yield from _recipe_lines(found, length, cut, tokens)
    yield ""
    yield "[[cost]]  # costs are measured on this shape"
    yield "batch = 16"
    yield f"length = {length}"
    yield f"latency_length = {length}"
    yield from _tables(found.kind)


def described(found: Proposal) -> str:
    """``8,214 rows, 6 classes``."""
    parts = [f"{found.rows:,} rows", f"label {found.label!r} ({found.kind})"]
    if found.classes:
        parts.append(f"{len(found.classes)} classes, {min(found.classes.values()):,} to "
                     f"{max(found.classes.values()):,} rows each")  # fmt: skip
    if found.incomplete:
        parts.append(f"{found.incomplete:,} incomplete")
    return ", ".join(parts)


def _test_said(found: Proposal) -> str:
    """Which rows are scored on."""
    if found.test is not None:
        return found.test.name
    return f"{100 * _held_out(found):g} % of {found.train.name}, held out by the hash of the texts"


def _task_lines(found: Proposal, name: str, place: Path) -> Iterator[str]:
    yield "[[task]]"
    yield f"name = {_quoted(name)}"
    yield f'kind = "{found.kind}"  # classes, score or text'
    yield f"train = {_quoted(_relative(found.train, place))}"
    if found.test is not None:
        yield f"test = {_quoted(_relative(found.test, place))}"
    else:
        yield f"test_share = {_held_out(found)}  # held out by the hash of the texts"
    texts = ", ".join(_quoted(column) for column in found.text)
    yield f"text = [{texts}]"
    yield f"label = {_quoted(found.label)}"
    if found.kind == "text" and not any(re.search(r"[{}\[\]!:]", column) for column in found.text):
        # else the default, which is the same: a template cannot hold such a name
        fields = "".join(f"{{{column}}}\n" for column in found.text)
        yield f"prompt = {_quoted(fields)}  # what the model continues"
    if found.incomplete:
        yield f'incomplete = "drop"  # up to {found.incomplete:,} rows lack a text or a label'
    if found.skewed:
        yield 'main_metric = "macro_f1"  # one class is most of the rows: accuracy would hide the others'
        yield 'class_weights = "balanced"  # each class weighs alike in the loss; else a rare one may not be learned'


def _held_out(found: Proposal) -> float:
    return 0.2 if found.rows < 20_000 else 0.05


def _recipe_lines(found: Proposal, length: int, cut: float, tokens: list[int]) -> Iterator[str]:
    training = found.rows if found.test else round(found.rows * (1 - _held_out(found)))
    batch = min(16, max(1, training // 4))
    steps = max(60, min(300, 3 * math.ceil(training / batch)))
    yield "[recipe]"
    yield f"steps = {steps}  # of {batch} rows: {steps * batch / max(1, training):.1f} passes"
    yield f"batch_size = {batch}"
    longer = f"{100 * cut:.1f} % of rows are longer, the longest has {tokens[-1]:,}"
    yield f"max_length = {length}  # tokens; {longer}"
    if found.rows > 50_000:
        yield "train_rows = 20000  # drawn by content hash"
        yield "test_rows = 2000"
    yield "warmup = 0.1"
    yield "head_learning_rate = 1e-2" if found.kind != "text" else "learning_rate = 1e-3"


def _tables(kind: Kind) -> Iterator[str]:
    """Methods with their rates and, of classes and scores, claims, as ``proposed.toml`` has them."""
    text = Path(__file__).with_name("proposed.toml").read_text(encoding="utf-8")
    methods, _, claims = text.partition("[[claim]]")
    yield ""
    if kind == "text":
        methods = re.sub(r"^head_learning_rate = .*\n", "", methods, flags=re.MULTILINE)
        yield from methods.rstrip().splitlines()
    else:
        yield from f"{methods}[[claim]]{claims}".rstrip().splitlines()


def _relative(path: Path, place: Path) -> str:
    resolved, folder = path.resolve(), place.resolve()
    return resolved.relative_to(folder).as_posix() if resolved.is_relative_to(folder) else str(resolved)


def _comment(text: str) -> str:
    """A line that TOML passes over, whatever a file calls its columns."""
    return "# " + "".join(character if character.isprintable() else " " for character in text)


def _quoted(text: str) -> str:
    import tomlkit

    return tomlkit.item(text).as_string()
