"""`predict` answers what a training step costs without weights, without a GPU and without running it."""

import io
import itertools
import json
import os
import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from bench import registry
from bench.cli import app as cli
from bench.count.count import count, peak_of
from bench.count.predict import largest_within, predictions
from bench.errors import BenchError
from bench.method import Method
from bench.models import backbone
from bench.report.charts import catalogue
from bench.report.charts.canvas import Words
from bench.report.charts.sheet import looks
from bench.report.charts.step import backward_by_depth
from bench.report.render import terminal
from bench.report.sections.sweeps import prediction
from bench.schema import record
from bench.schema.shape import Setting
from methods import BUILTIN
from tests.factories.command import bench
from tests.factories.figures import cells_of

SETTING = Setting(batch=4, length=32, device="cuda")


@torch.library.custom_op("tests::doubled", mutates_args=())
def doubled(states: torch.Tensor) -> torch.Tensor:
    """A third party's operation that says nothing of how it acts on tensors without data."""
    return 2 * states


class Opaque(Method):
    """Trains one bias, and has an operation that cannot be counted on its way."""

    def apply(self, backbone, config):
        backbone.embeddings.LayerNorm.bias.requires_grad_(True)
        backbone.embeddings.register_forward_hook(lambda module, given, out: doubled(out))
        return backbone


@pytest.fixture
def opaque(monkeypatch):
    monkeypatch.setitem(BUILTIN, "opaque", f"{__name__}:Opaque")


def peak(name, batch):
    method, config = registry.make(name, {}, "test")
    setting = SETTING.model_copy(update={"batch": batch})
    return peak_of(backbone.shape_of("tiny"), method, config, setting).step


def shown(rows):
    console = Console(file=io.StringIO())
    terminal.render(prediction(rows), console)
    return console.file.getvalue()


# What a row says


def test_a_row_holds_the_figures_of_the_ledger_under_the_names_of_a_record():
    method, config = registry.make("lora", {"rank": 4}, "test")
    counts = count(backbone.shape_of("tiny"), method, config, SETTING)
    (row,) = predictions("tiny", ["lora(rank=4)"], SETTING)
    assert row.method == "lora(rank=4)"
    assert row.trainable_parameters == record.Trainable(method=2 * 2 * 2 * 64 * 4, head=2 * 64 + 2)
    assert row.delta_bytes == 4 * row.trainable_parameters.method
    assert (row.flops, row.bytes, row.predicted_peak_memory_bytes) == (counts.flops, counts.bytes, counts.peak)
    assert (row.largest_saved, row.shape) == (counts.largest_saved, SETTING)


def test_as_json_a_row_has_a_key_for_what_is_known_and_none_for_what_is_not():
    common = ["method", "backbone", "backbone_parameters", "shape", "notes"]
    sizes = ["trainable_parameters", "trained_dtypes", "delta_bytes"]
    counted = [
        *sizes,
        "flops",
        "traffic_bytes",
        "all_reduce_bytes",
        "bytes",
        "predicted_peak_memory_bytes",
        "largest_saved",
    ]
    room = ["device_memory_bytes", "reserve_bytes", "fits", "largest_batch"]
    known = {"head": counted, "prompt_tuning(length=20)": ["refused"]}
    setting = SETTING.model_copy(update={"length": 120})
    for memory, more in ((None, []), (10**9, room)):
        rows = [row.plain() for row in predictions("tiny", list(known), setting, memory)]
        wanted = [[*common, *known["head"], *more], [*common, "refused"]]
        assert [list(row) for row in rows] == wanted
        assert json.loads(json.dumps(rows)) == rows


def test_a_fresh_process_with_another_hash_seed_and_other_threads_prints_the_same_bytes():
    words = "predict --backbone tiny --method full,lora,lst --batch 32 --seq 128 --json".split()
    ours = os.environ.get("PYTHONHASHSEED")  # random where it is not given
    around = os.environ | {"PYTHONHASHSEED": "77" if ours != "77" else "78", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "bench", *words]
    fresh = subprocess.run(command, capture_output=True, check=True, text=True, timeout=240, env=around).stdout
    assert bench(*words).stdout == fresh
    assert [row["method"] for row in json.loads(fresh)] == ["full", "lora", "lst"]


def test_a_prediction_for_cuda_says_what_it_leaves_out_and_that_no_gpu_has_confirmed_it():
    (on_cuda,) = predictions("tiny", ["head"], SETTING)
    (on_cpu,) = predictions("tiny", ["head"], SETTING.model_copy(update={"device": "cpu"}))
    assert "not yet calibrated on a GPU" in on_cuda.notes[0]
    assert "32 MiB on Hopper" in on_cuda.notes[0]
    assert not any("GPU" in note for note in on_cpu.notes)


# What fits


@pytest.mark.parametrize("name", ["full", "lst"])
def test_the_largest_batch_fits_and_one_row_more_does_not(name):
    memory = 20_000_000
    (row,) = predictions("tiny", [name], SETTING, memory)
    most = row.largest_batch
    assert peak(name, most) <= memory < peak(name, most + 1)
    assert row.fits is (most >= SETTING.batch)
    assert row.device_memory_bytes == memory


def test_a_reserve_is_taken_off_before_anything_fits_and_said_beside_the_memory():
    whole = peak("lora", SETTING.batch)
    (tight,) = predictions("tiny", ["lora"], SETTING, whole)
    (less,) = predictions("tiny", ["lora"], SETTING, whole, reserve=1)
    (more,) = predictions("tiny", ["lora"], SETTING, whole + 1, reserve=1)
    assert [row.fits for row in (tight, less, more)] == [True, False, True]
    assert [row.largest_batch for row in (tight, less, more)] == [4, 3, 4]
    assert (less.device_memory_bytes, less.reserve_bytes) == (whole, 1)
    assert less.predicted_peak_memory_bytes.step == whole  # never hidden in the peak


def test_the_command_leaves_five_percent_unless_told_otherwise():
    words = "predict --backbone tiny --method head --seq 16 --json --device-memory 1GB".split()
    for asked, reserve in (([], 5 * 10**7), (["--reserve", "300MB"], 3 * 10**8), (["--reserve", "0"], 0)):
        (row,) = json.loads(CliRunner().invoke(cli.app, [*words, *asked]).stdout)
        assert (row["device_memory_bytes"], row["reserve_bytes"]) == (10**9, reserve)
    text = " ".join(CliRunner().invoke(cli.app, [word for word in words if word != "--json"]).stdout.split())
    said = "1.0 GB (0.9313 GiB) less a reserve of 5 % (50.0 MB) for the allocator and the CUDA context: 950 MB"
    assert said in text


def test_where_not_even_one_row_fits_the_largest_batch_is_zero():
    (row,) = predictions("tiny", ["full"], SETTING, 9_000_000)
    assert (row.fits, row.largest_batch) == (False, 0)


GROWTH = {
    "a line": lambda base, slope: lambda n: base + slope * n,
    "two phases": lambda base, slope: lambda n: max(base + slope * n, 3 * slope * n),
    "rounded": lambda base, slope: lambda n: base + (slope * n // 512 + 1) * 512,
    "squares": lambda base, slope: lambda n: base + slope * n * n,
    "constant": lambda base, slope: lambda n: base,
}


@pytest.mark.parametrize("growth", GROWTH)
@given(st.integers(0, 10**9), st.integers(1, 10**7), st.integers(0, 10**11), st.integers(1, 100))
def test_the_search_ends_at_the_last_size_that_fits_whatever_the_growth(growth, base, slope, limit, start):
    size, asked = GROWTH[growth](base, slope), []
    found = largest_within(lambda n: asked.append(n) or size(n), limit, start, most=4096)
    assert found == 0 or size(found) <= limit
    assert found == 4096 or size(found + 1) > limit
    assert len(asked) == len(set(asked)) <= 32
    assert all(1 <= n <= 4096 for n in asked)


def test_on_a_line_four_sizes_are_enough():
    asked = []
    assert largest_within(lambda n: asked.append(n) or 10**9 + 3 * 10**8 * n, 24 * 10**9, start=8) == 76
    assert len(asked) == 4


# What cannot be counted


def test_a_method_that_the_family_cannot_carry_keeps_its_row_with_the_reason(tmp_path):
    config = json.dumps({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 128, "vocab_size": 100})  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(config)
    rows = predictions(str(path), ["bitfit", "head"], SETTING)
    assert "no bias vectors" in rows[0].refused
    assert rows[1].flops
    assert "bitfit refused: family 'llama' has no bias vectors" in shown(rows)
    with pytest.raises(BenchError, match="no bias vectors"):
        predictions(str(path), ["bitfit"], SETTING)


def test_a_prompt_that_leaves_no_position_is_refused_and_the_others_stand():
    rows = predictions("tiny", ["prompt_tuning(length=20)", "head"], SETTING.model_copy(update={"length": 120}))
    assert "a prompt of 20 and 120 tokens need 140 positions, the backbone has 128; --seq 108" in rows[0].refused
    assert rows[1].flops


def test_more_tokens_than_positions_are_refused_at_once():
    with pytest.raises(BenchError, match="129 tokens need 129 positions, the backbone has 128; --seq 128 is the long"):
        predictions("tiny", None, SETTING.model_copy(update={"length": 129}))


def test_an_operation_without_a_fake_form_leaves_what_needs_no_step_and_says_why(opaque):
    rows = predictions("tiny", ["opaque", "head"], SETTING, 10**9)
    assert rows[0].trainable_parameters == record.Trainable(method=64, head=130)
    assert rows[0].delta_bytes == 4 * 64
    assert rows[0].not_counted.startswith("the operation tests::doubled has no form for tensors without data; give it")
    assert rows[0].flops is None
    assert "opaque not counted: " in shown(rows)


@pytest.mark.parametrize(("methods", "code"), [("opaque,head", 0), ("opaque", 1)])
def test_the_exit_code_says_whether_anything_was_counted(opaque, methods, code):
    done = CliRunner().invoke(cli.app, ["predict", "--backbone", "tiny", "--method", methods, "--seq", "16", "--json"])
    assert done.exit_code == code
    assert len(json.loads(done.stdout)) == len(methods.split(","))


# How it is shown


def test_the_table_stands_at_118_columns_with_all_methods_and_a_memory(monkeypatch):
    room = {
        "device_memory_bytes": 6 * 2**30,
        "reserve_bytes": 2**28,
        "fits": True,
        "largest_batch": 54_321,
    }  # the search is tested above
    known = [count(backbone.shape_of("tiny"), *registry.make(name, {}), SETTING) for name in ("full", "lora")]
    given_out = itertools.cycle(known)  # figures of any method are as wide as these
    monkeypatch.setattr("bench.count.count.count", lambda *asked: next(given_out))
    text = shown([row.model_copy(update=room) for row in predictions("tiny", None, SETTING)])
    assert max(map(len, text.splitlines())) <= 118
    assert "4 x 32 tokens, classes, float32, sdpa, adamw_fused, dropout 0, cuda" in text
    (heads,) = [line for line in text.splitlines() if line.startswith("method")]
    for word in ("head", "task", "/full", "state", "activ.", "largest"):
        assert word in heads
    assert all(any(line.startswith(name) for line in text.splitlines()) for name in BUILTIN)
    assert "not yet calibrated on a GPU" in " ".join(text.split())


def test_without_the_baseline_there_is_no_ratio():
    assert "/full" not in shown(predictions("tiny", ["lora"], SETTING))


def test_the_map_is_empty_below_the_head_where_backward_never_enters_the_backbone():
    rows = predictions("tiny", ["full", "lora", "lst", "head"], SETTING)
    flops = {row.method: row.flops for row in rows}
    figure = backward_by_depth(flops, "full", Words("tiny", ""), looks(list(flops), "full"))
    full, lora, lst, head = cells_of(figure.axes[0])
    assert full == [-1, 1, 1, 1]  # embeddings multiply no matrices, layers 1 and 2, head
    assert all(0 < share < 1 for share in lora[1:3])
    assert lst[1:3] == head[1:3] == [0, 0]
    own, whole = cells_of(figure.axes[1])[2]  # of lst: in its own modules, and in all
    assert own == flops["lst"].method.backward / flops["full"].backward
    assert whole == flops["lst"].backward / flops["full"].backward


def test_both_figures_are_drawn_as_png_and_svg(tmp_path):
    rows = predictions("tiny", ["full", "lora"], SETTING, 20_000_000)
    paths = catalogue.draw_predictions(rows, tmp_path / "plots")
    assert [path.name for path in paths] == ["memory.png", "memory.svg", "backward-depth.png", "backward-depth.svg"]
    text = (tmp_path / "plots" / "memory.svg").read_text()
    for word in ("weights", "gradients", "optimizer state", "saved activations", "predicted peak", "device, 20.0 MB"):
        assert word in text
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot be written"):
        catalogue.draw_predictions(rows, tmp_path / "file")


# What it costs


@pytest.mark.slow
def test_all_methods_on_a_7b_shape_take_a_minute_and_little_memory():
    command = "predict --backbone llama-2-7b --batch 1 --seq 512 --dtype bfloat16 --json".split()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "bench", *command], capture_output=True, check=True, timeout=280)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert {row["method"] for row in json.loads(done.stdout)} == set(BUILTIN)
    # of the processor: neighbours lengthen the wall clock's
    assert used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime <= 60
    assert used.ru_maxrss * 1024 < 4 * 2**30


def test_all_stands_for_the_methods_that_are_not_named_beside_it():
    rows = predictions("tiny", ["lora", "all", "lora(rank=2)"], Setting(batch=1, length=8))
    assert [row.method for row in rows] == ["lora", *(name for name in BUILTIN if name != "lora"), "lora(rank=2)"]
    for twice in (["head", "ia3", "head"], ["all", "all"]):
        with pytest.raises(BenchError, match=r"^--method: \w+ is listed twice; name each once$"):
            predictions("tiny", twice, Setting(batch=1, length=8))
