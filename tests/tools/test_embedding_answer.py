"""The page on learned prompt vectors says what its records hold, whichever way they turn out."""

import re
from pathlib import Path

import pytest

from bench.plan.load import load_suite
from bench.plan.planner import label
from bench.schema.record import InputVector, InputVectors, Neighbour
from bench.store.store import Run
from tests.factories.records import common, score
from tests.factories.records import suite as resolved
from tools.answers import embedding
from tools.answers.words import chinese, english, page

SUITE = load_suite("embedding")
LABELS = [label(method) for method in SUITE.method]
SEEDS, LENGTH = range(5), 10
LESS = {embedding.RANDOM: 0.70, embedding.SAMPLED: 0.76, embedding.NAMES: 0.76, embedding.PLAIN: 0.72}
"""Scores of the invented records; of the others 0.75."""


def near(token, cosine):
    return (Neighbour(token=token, cosine=cosine),) * 3


def vectors(name, cosine):
    starts = {embedding.NAMES: ("negative", "positive"), embedding.RANDOM: ("#1", "#2")}.get(name, ("film", "plot"))
    first = 0.2 if name == embedding.RANDOM else 1.0
    return InputVectors(
        vectors=tuple(
            InputVector(start_norm=1.25, norm=5.5, moved=4.75, start_nearest=near(starts[at % 2], first),
                        nearest=near("negative" if at == 0 else f"of|{at}", cosine))
            for at in range(LENGTH)
        ),
        words=30_522, word_norms=(0.85, 1.0, 1.15, 1.3, 1.45), word_distance=1.55, word_nearest=0.65,
        random_nearest=0.25,
    )  # fmt: skip


def record(name, seed, cosine):
    method = common(name)["method"] | {"config": {"length": LENGTH}}
    return score(
        name, "movie-polarity", seed, source="index", method=method, score=LESS.get(name, 0.75) + 0.002 * seed,
        trainable_parameters={"method": 384 * LENGTH, "head": 770},
        input_vectors=None if name == "head" else vectors(name, cosine),
    )  # fmt: skip


@pytest.fixture
def written(monkeypatch):
    def write(cosine):
        asked = resolved(
            name="embedding", baseline="head", tasks=["movie-polarity"], methods=LABELS, seeds=list(SEEDS), cost=[],
            data={"kind": "index"}, claims=[claim.model_dump(mode="json", exclude_none=True) for claim in SUITE.claim],
        )  # fmt: skip
        records = tuple(record(name, seed, cosine) for name in LABELS for seed in SEEDS)
        monkeypatch.setattr(embedding, "published", lambda name: Run(Path(name), asked, records))
        return [page(say, embedding.answer(say), embedding.NAME) for say in (english, chinese)]

    return write


def test_every_arm_of_the_page_is_one_of_the_suite():
    assert {*embedding.STARTS, embedding.ENCODED, embedding.MLP, embedding.PLAIN, "head"} == set(LABELS)


def test_neighbours_that_are_farther_than_words_from_words_are_called_none(written):
    text, _ = written(0.3)
    assert "no word: it lies farther from every word than words lie from each other" in text
    assert "its norm is 5.5, where nine in ten words have 0.85 - 1.45" in text
    assert (
        "its cosine to the nearest word is 0.30, where a word has 0.65 to another word and a random direction 0.25"
        in text
    )
    assert "Of 100 vectors that started as words, 5 keep that word" in text
    assert "of 30,522" in text and "row of 384 numbers" in text


def test_neighbours_that_are_as_near_as_words_are_to_words_are_called_so(written):
    text, other = written(0.9)
    assert "as near to some word as words are to each other" in text
    assert "no word" not in text and "不是词" not in other


def test_scores_stand_with_their_interval_and_with_whether_they_are_decided(written):
    text, _ = written(0.3)
    assert "70.4 points from random vectors, 76.4 from sampled words (+6.0 [+6.0, +6.0], decided: it does)" in text
    assert re.search(r"76\.4 from the names of the classes \([^)]*not decided\); the head alone 75\.4", text)
    assert "| 5 / 50 |" in text.split("## Nearest words")[1], "one vector of each seed is nearest to a class name"


def test_both_languages_have_the_same_figures_and_tables_stay_whole(written):
    found = written(0.3)
    one, other = (sorted(re.findall(r"\d+\.\d+", text)) for text in found)
    assert one == other
    for text in found:
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        assert all("of\\|1" in line for line in rows if "of" in line and " · " in line)
