"""Rated sentences from the package index: the ground truth of Hutto and Gilbert (2014), where no hub answers.

The source distribution of ``vaderSentiment`` 3.3.2 (MIT) holds an archive with the sentences of their paper, each with
the mean rating of about 20 people from -4 (most negative) to +4. Of that distribution four text files are read, by
name; nothing of it is installed, imported or run, and no path in it is used on this machine's disk.

The files are UTF-8, one row a line: number, rating and text between tabs, with quotes that mean nothing. What is done
to them: ``&amp;``, ``&lt;`` and ``&gt;``, left from web pages, become the characters that they stand for; texts are
else verbatim, with their spaces. The same text may come with several ratings, and rows of one text are kept all.
"""

import hashlib
import io
import itertools
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from bench.errors import BenchError
from bench.models import package_index
from bench.models.package_index import Release
from bench.tasks.rows import Rows

RELEASE = Release(
    project="vadersentiment", file="vaderSentiment-3.3.2.tar.gz", size=2_466_783,
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)  # fmt: skip


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    sha256: str


ARCHIVE = Member(
    "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
)
"""The paper's data, within the distribution."""
_MOVIES = Member(
    "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
)
_TWEETS = Member(
    "hutto_ICWSM_2014/tweets_GroundTruth.txt",
    "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
)
_PRODUCTS = Member(
    "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
)
_EDITORIALS = Member(
    "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
    "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
)
FILES = {
    "movie-polarity": _MOVIES, "movie-rating": _MOVIES, "tweet-rating": _TWEETS, "product-rating": _PRODUCTS,
    "editorial-rating": _EDITORIALS,
}  # fmt: skip
"""The file of each task; what the tasks are is in ``icwsm.toml``."""
POLAR = {"movie-polarity": 0.5}
"""Tasks of classes, and the least size of a rating whose sign is a class: 0 negative, 1 positive."""
PARTS = 10
"""One part in so many is the test split."""
_MOST_BYTES = 2**23
"""Size of the largest file that is read from an archive."""
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}


def cached() -> bool:
    """Whether the distribution lies whole in the user's cache; its hash is checked."""
    return package_index.held(RELEASE)


def refusal() -> str | None:
    """Why the package index gives nothing, or None where it does; what is not cached yet is fetched to find out."""
    return package_index.refusal(RELEASE)


def read(name: str) -> tuple[Rows, Rows]:
    """The training and the test split of task ``name``, from the cache, else from the package index.

    `in_test` says which row is in which.

    Raises:
        BenchError: The distribution is neither cached nor to be had.
        KeyError: No such task.
    """
    every = _rated(name)
    return _labelled(name, every, test=False), _labelled(name, every, test=True)


def read_train(name: str) -> Rows:
    """The training split alone, which is all that choosing rates or states may see.

    Raises:
        BenchError: The distribution is neither cached nor to be had.
        KeyError: No such task.
    """
    return _labelled(name, _rated(name), test=False)


def editorials() -> str:
    """The newspaper editorials as plain text: sentences in their order, a paragraph for each editorial.

    Raises:
        BenchError: The distribution is neither cached nor to be had.
    """
    return _paragraphs("editorial-rating")


def product_reviews() -> str:
    """The reviews of products as plain text: sentences in their order, a paragraph for each review.

    Raises:
        BenchError: The distribution is neither cached nor to be had.
    """
    return _paragraphs("product-rating")


def _paragraphs(name: str) -> str:
    content, where = _content(name)
    numbers = [line.partition(b"_")[0] for line in content.split(b"\n")]
    told = zip(numbers, parse(content, where), strict=True)
    paragraphs = itertools.groupby(told, key=lambda one: one[0])
    return "\n\n".join(" ".join(text for _, (text, _) in sentences) for _, sentences in paragraphs)


def in_test(text: str) -> bool:
    """Whether rows of ``text`` are of the test split: by content, whatever the order of rows and the task.

    The SHA-256 of its words, in lower case and with one space between them, is a number that ``PARTS`` divides. Texts
    that differ in case, spaces and punctuation alone are on one side, and so is one text with two ratings.
    """
    words = " ".join(re.findall(r"\w+", text.lower()))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()) % PARTS == 0


def parse(content: bytes, where: str) -> list[tuple[str, float]]:
    """Texts and mean ratings of one file, in its order.

    Args:
        content: The file: lines of number, rating from -4 to 4 and text between tabs, in UTF-8.
        where: Its name, for error messages.

    Raises:
        BenchError: A line is none of those; the sentence names it.
    """
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            fields = line.removesuffix(b"\r").decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            raise BenchError(f"{where}: line {number} is not UTF-8; fetch the file again") from error
        if len(fields) != 3 or not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", fields[1]) or abs(float(fields[1])) > 4:
            raise BenchError(
                f"{where}: line {number} is not a number, a rating from -4 to 4 and a text between tabs; fetch the "
                "file again"
            )
        rows.append((_plain(fields[2]), float(fields[1])))
    return rows


def _plain(text: str) -> str:
    """``text`` without the entities of web pages; a few were escaped twice."""
    while (plainer := re.sub("&(amp|lt|gt);", lambda entity: _ENTITIES[entity[0]], text)) != text:
        text = plainer
    return text


def _rated(name: str) -> list[tuple[str, float]]:
    return parse(*_content(name))


def _content(name: str) -> tuple[bytes, str]:
    """The file of a task, and its name for error messages."""
    member = FILES[name]
    path = package_index.fetch(RELEASE)
    return _member(_member(path.read_bytes(), ARCHIVE, path), member, path), f"{path}: {member.name}"


def _labelled(name: str, every: list[tuple[str, float]], *, test: bool) -> Rows:
    least = POLAR.get(name)
    rows = [(text, rating) for text, rating in every if in_test(text) == test and abs(rating) >= (least or 0)]
    labels = tuple(rating if least is None else int(rating > 0) for _, rating in rows)
    return Rows(tuple((text,) for text, _ in rows), labels)


def _member(archive: bytes, member: Member, path: Path) -> bytes:
    """Content of one file of a gzipped tar archive, found by its exact name; nothing is unpacked onto the disk.

    Raises:
        BenchError: It is not there, is no plain file, is too large or has another hash.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            entry = next((one for one in opened if one.name == member.name), None)
            file = opened.extractfile(entry) if entry and entry.isreg() and entry.size <= _MOST_BYTES else None
            content = file.read() if file else None
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise BenchError(f"{path}: {member.name} cannot be read ({error}); remove the file") from error
    if content is None:
        raise BenchError(
            f"{path}: holds no file {member.name} of at most {_MOST_BYTES:,} bytes; remove it, and it is fetched again"
        )
    if (found := hashlib.sha256(content).hexdigest()) != member.sha256:
        raise BenchError(f"{path}: sha256 of {member.name} is {found}, expected {member.sha256}; remove the file")
    return content
