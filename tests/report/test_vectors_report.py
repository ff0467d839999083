"""What prompts learned: the table of vectors, its section and its figure tell the same of the same records."""

from dataclasses import replace

import pytest

from bench.analysis.results import Results
from bench.report.charts.canvas import styled
from bench.report.charts.scores import nearest_words
from bench.report.charts.sheet import Sheet
from bench.report.sections import scores as told
from bench.schema.record import InputVector, InputVectors, Neighbour
from tests.factories import reports
from tests.factories.figures import texts
from tests.factories.records import glue_small, score

LABELS = ("prompt_tuning(init='uniform')", "prompt_tuning")


def near(*words):
    return tuple(Neighbour(token=token, cosine=cosine) for token, cosine in words)


def vectors(label):
    """Two vectors; those that start as a word stay at the first one and leave the second."""
    starts = (("good", 1.0), ("bad", 1.0)) if label == "prompt_tuning" else (("a", 0.2), ("b", 0.2))
    ends = (("good", 0.5), ("##x", 0.3))
    return InputVectors(
        vectors=tuple(
            InputVector(
                start_norm=1.0, norm=3.0 + at, moved=2.0, start_nearest=near(start), nearest=near(end, ("of", 0.1)),
            )
            for at, (start, end) in enumerate(zip(starts, ends, strict=True))
        ),
        words=30_522, word_norms=(0.8, 1.0, 1.2, 1.3, 1.4), word_distance=1.5, word_nearest=0.6, random_nearest=0.25,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    records = [score("full", "sst2", seed) for seed in (0, 1)]
    records += [score(label, "sst2", seed, input_vectors=vectors(label)) for label in LABELS for seed in (0, 1)]
    return replace(glue_small(tmp_path, labels=["full", *LABELS]), records=tuple(records))


def test_every_vector_of_every_seed_is_a_row(run):
    table = Results(run).vector_table
    assert len(table) == 2 * 2 * 2
    assert list(dict.fromkeys(table["method"])) == list(LABELS)
    mine = table[(table["method"] == "prompt_tuning") & (table["seed"] == 0)]
    assert mine["norm"].tolist() == [3.0, 4.0]
    assert mine["kept"].tolist() == [True, False]
    assert mine["word"].tolist() == ["good", "##x"]
    assert mine["words"].tolist() == [("good", "of"), ("##x", "of")]
    assert (mine["word_low"].iloc[0], mine["word_norm"].iloc[0], mine["word_high"].iloc[0]) == (0.8, 1.2, 1.4)


def test_the_section_sets_means_beside_what_words_have(run):
    sentences, _, rows = reports.parts(told.vectors(Results(run)))
    assert "against the 30,522 word embeddings" in sentences[0]
    assert "0.60 to the nearest other word, a vector of random direction 0.25" in sentences[0]
    (random, words) = rows
    assert [row[0] for row in rows] == [*LABELS]
    assert words[-2:] == ["2 of 4", "good, ##x"]
    assert random[-2] == "0 of 4"
    assert "3.5" in words[3] and words[5:7] == ["1.00", "0.40"]
    assert told.VECTORS in reports.markdown(run)
    assert told.VECTORS in reports.page(run)


def test_the_figure_says_what_its_marks_and_lines_are(run):
    with styled():
        figure = nearest_words(Sheet(Results(run)))
    assert [axes.get_title("left") for axes in figure.axes] == ["norm of the vectors", "to a word"]
    assert "n = 8 trained vectors of 2 seeds" in " ".join(texts(figure)).replace("\n", " ")
    dashed, dotted = (
        next(line.get_xdata()[0] for line in figure.axes[1].lines if line.get_linestyle() == style)
        for style in ("--", ":")
    )
    assert (dashed, dotted) == (0.6, 0.25)


def test_a_run_that_asked_for_none_shows_none(tmp_path):
    run = glue_small(tmp_path)
    assert reports.parts(told.vectors(Results(run))) == ([], [], [])
    with styled():
        assert nearest_words(Sheet(Results(run))) is None
