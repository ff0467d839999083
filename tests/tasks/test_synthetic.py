"""Synthetic tasks are balanced, the same everywhere, and word counts alone do not solve them."""

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.schema.jobs import Source
from bench.tasks import synthetic
from bench.tasks.metrics import bag_of_words_floor
from bench.tasks.sources import load_task
from bench.tasks.synthetic import GRAMMARS
from tests.factories.tasks import GLUE

SOURCE = Source("synthetic", None, "test")
FUNCTION_WORDS = frozenset("a after at by during for in last near of on the to was".split())
tasks = pytest.mark.parametrize("name", synthetic.SYNTHETIC_TASKS)


def content_words(name, split):
    """Words that a task draws from in one split, lower case, without those that both splits share."""
    grammar = GRAMMARS[name]
    own = tomllib.loads((Path(synthetic.__file__).with_name("words.toml")).read_text())[grammar.words][split]
    phrases = [phrase for words in own.values() for phrase in ([words] if isinstance(words, str) else words)]
    return {word for phrase in phrases for word in re.findall("[a-z]+", phrase.lower())} - FUNCTION_WORDS


@tasks
def test_pools_have_the_schema_of_the_task(name):
    spec = GLUE[name]
    for split, wanted in (("train", synthetic.TRAIN_ROWS), ("test", synthetic.TEST_ROWS)):
        rows = synthetic.rows(name, split)
        assert len(rows) == len(rows.texts) == wanted
        assert {len(texts) for texts in rows.texts} == {len(spec.text)}
        allowed = {0.0, 1.0, 2.0, 3.0, 4.0, 5.0} if spec.regression else set(range(len(spec.labels)))
        assert set(rows.labels) == allowed


@tasks
def test_labels_are_balanced(name):
    for split in ("train", "test"):
        counts = Counter(synthetic.rows(name, split).labels).values()
        assert max(counts) - min(counts) <= 1


@tasks
def test_no_row_occurs_twice_within_or_across_splits(name):
    train, test = synthetic.rows(name, "train").texts, synthetic.rows(name, "test").texts
    assert len(set(train) | set(test)) == len(train) + len(test)


@tasks
def test_content_words_of_the_test_split_never_occur_in_training(name):
    held_out = content_words(name, "test")
    assert len(held_out) >= 20
    assert not held_out & content_words(name, "train")
    seen = {word for texts in synthetic.rows(name, "train").texts for text in texts for word in text.lower().split()}
    assert not held_out & seen


@tasks
def test_every_row_fits_the_length_the_suites_give_it(name):
    longest = 24 if len(GLUE[name].text) == 1 else 34
    assert max(sum(len(text.split()) for text in texts) for texts in synthetic.rows(name, "train").texts) <= longest


def test_rows_are_the_same_in_every_process():
    code = (
        "from bench.schema.jobs import Source;from bench.tasks.sources import load_task;"
        "from bench.tasks.catalogue import task;"
        "source = Source('synthetic', None, '');"
        f"print(*(load_task(task(n), source, 50, 50).content_sha256 for n in {synthetic.SYNTHETIC_TASKS}))"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}).stdout
    assert other.split() == [load_task(GLUE[n], SOURCE, 50, 50).content_sha256 for n in synthetic.SYNTHETIC_TASKS]


@pytest.mark.parametrize(
    ("name", "bound"), [("sst2", 0.58), ("cola", 0.2), ("mrpc", 0.58), ("rte", 0.58), ("stsb", 0.15)]
)
def test_counting_words_stays_near_chance(name, bound):
    assert bag_of_words_floor(load_task(GLUE[name], SOURCE, 2000, 800)) <= bound


def test_a_task_without_a_grammar_is_refused():
    with pytest.raises(BenchError, match="qnli has no synthetic stand-in"):
        synthetic.rows("qnli", "train")


def test_role_swaps_keep_every_word():
    """The hard negatives of mrpc: nothing but order tells them apart from paraphrases."""
    rows = synthetic.rows("mrpc", "test")
    grammar_words = {"was", "by", ","}
    pairs = [
        tuple(frozenset(text.lower().split()) - grammar_words for text in texts)
        for texts, label in zip(rows.texts, rows.labels, strict=True)
        if label == 0
    ]
    assert sum(first == second for first, second in pairs) >= 0.1 * len(pairs)
