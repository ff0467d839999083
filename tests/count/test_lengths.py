"""Rows of one's own: the longest decides, a batch of random ones is as long as counting says, bad files are refused."""

import io
import itertools
import statistics

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench.cli.app import app
from bench.count.count import count
from bench.count.lengths import Lengths, read_lengths
from bench.count.predict import predictions
from bench.errors import BenchError
from bench.models import backbone
from bench.registry import make
from bench.report.render import terminal
from bench.report.sections.sweeps import prediction
from bench.schema.shape import Setting

ROWS = (3, 5, 5, 8, 13, 40)


def written(folder, text):
    path = folder / "rows.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("text", ["5\n3\n40\n", "5\n3\n40", "\ufeff5\r\n 3 \r\n40\r\n"])
def test_a_file_holds_the_tokens_of_a_row_on_each_line(text, tmp_path):
    path = written(tmp_path, text)
    assert read_lengths("--lengths", path) == Lengths((3, 5, 40), f"--lengths {path}", 3)


BAD = {
    "nothing": ("", "holds no row"),
    "zero": ("5\n0\n", "line 2: 0 tokens are no row"),
    "negative": ("-4\n", "line 1: -4 tokens are no row"),
    "a word": ("5\n6\nlength\n", "line 3: 'length' is no whole number of tokens"),
    "a fraction": ("5.0\n", "line 1: '5.0' is no whole number"),
    "an empty line": ("5\n\n6\n", "line 2: '' is no whole number"),
    "two numbers": ("5 6\n", "line 1: '5 6' is no whole number"),
    "other digits": ("\u0665\n", "line 1: '\u0665' is no whole number"),
    "thousands of digits": ("9" * 5000, "line 1: '9+[.]{3}' is no whole number"),
    "no text": (b"\xff\xfe5", "cannot be read .it is no text."),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_sentence_with_its_line(text, says, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(BenchError, match=rf"^--lengths {path}(, |: ){says}") as caught:
        read_lengths("--lengths", path)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_file_is_refused_also_a_task(tmp_path):
    with pytest.raises(BenchError, match=r"^--lengths .*sst2: no such file; .*a task's name is no file"):
        read_lengths("--lengths", tmp_path / "sst2")
    with pytest.raises(BenchError, match=r"cannot be read \(Is a directory\)"):
        read_lengths("--lengths", tmp_path)


@pytest.mark.parametrize("batch", range(1, len(ROWS) + 1))
def test_a_batch_of_random_rows_is_as_long_as_all_batches_are_in_the_mean(batch):
    every = [max(rows) for rows in itertools.combinations(ROWS, batch)]
    held = Lengths(ROWS, "rows", 6).of_batches(batch)
    assert held.mean_longest == pytest.approx(statistics.mean(every))
    tokens = sum(sum(rows) for rows in itertools.combinations(ROWS, batch))
    assert held.padding_share == pytest.approx(1 - tokens / (batch * sum(every)))
    assert (held.rows, held.shortest, held.longest, held.mean) == (6, 3, 40, statistics.mean(ROWS))


def test_rows_of_one_length_have_no_padding_and_few_rows_make_no_batch():
    assert Lengths((7,) * 1000, "rows", 1).of_batches(32).padding_share == pytest.approx(0, abs=1e-12)
    with pytest.raises(BenchError, match=r"^rows: 6 rows make no batch of 7; lower --batch$"):
        Lengths(ROWS, "rows", 6).of_batches(7)
    with pytest.raises(BenchError, match=r"^rows: 6 rows make no batch of 8; lower --batch$"):
        Lengths(ROWS, "rows", 6).of_batches(2, devices=4)


SETTING = Setting(batch=2, length=40)


def test_each_of_several_devices_pads_its_own_rows_and_says_so():
    (one,), (two,) = (
        predictions("tiny", ["head"], SETTING.model_copy(update={"devices": n}), lengths=Lengths(ROWS, "rows", 6))
        for n in (1, 2)
    )
    assert one.lengths == two.lengths
    assert [note for note in two.notes if "pads its own rows" in note]
    assert not [note for note in one.notes if "pads its own rows" in note]


def test_the_longest_row_decides_and_the_mean_batch_stands_beside_it():
    (row,) = predictions("tiny", ["head"], SETTING, lengths=Lengths(ROWS, "rows", 6))
    held, of = Lengths(ROWS, "rows", 6).of_batches(2), (backbone.shape_of("tiny"), *make("head", {}))
    mean = count(*of, SETTING.model_copy(update={"length": round(held.mean_longest)}))
    assert row.lengths == held
    assert row.predicted_peak_memory_bytes == count(*of, SETTING).peak
    assert row.mean_batch.predicted_peak_memory_bytes == mean.peak.step
    assert row.mean_batch.flops == mean.flops.forward + mean.flops.backward
    assert row.mean_batch.length == round(held.mean_longest) < row.shape.length
    console = Console(file=io.StringIO())
    terminal.render(prediction([row]), console)
    text = " ".join(console.file.getvalue().split())
    assert "6 rows of 3 to 40 tokens, mean 12.3; the step above is as long as the longest" in text
    assert "worst batch, 40 tokens" in text
    assert f"mean batch, {row.mean_batch.length} tokens" in text
    assert max(map(len, console.file.getvalue().splitlines())) <= 118


def test_a_row_above_the_backbones_positions_is_named_with_its_line(tmp_path):
    path = written(tmp_path, "5\n129\n6\n")
    done = CliRunner().invoke(app, ["predict", "--backbone", "tiny", "--batch", "2", "--lengths", str(path)])
    assert str(done.exception) == (
        f"--lengths {path}, line 2: 129 tokens need 129 positions, the backbone has 128; a row of 128 is the longest"
    )


def test_a_mean_batch_that_is_shorter_than_its_targets_is_refused():
    setting = Setting(batch=1, length=40, objective="text", target_tokens=20)
    with pytest.raises(BenchError, match=r"^the mean batch, 12 tokens long: target_tokens = 20 is above 11"):
        predictions("smollm2-135m", ["head"], setting, lengths=Lengths(ROWS, "rows", 6))


def test_a_length_beside_a_file_of_lengths_is_refused(tmp_path):
    path = written(tmp_path, "5\n")
    words = ["predict", "--backbone", "tiny", "--seq", "8", "--lengths", str(path)]
    assert "--lengths takes the place of --seq" in str(CliRunner().invoke(app, words).exception)
