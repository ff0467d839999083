"""What to change so that a step fits: every change is counted, the cheapest that fits comes first, no other is made."""

import io
import shlex

import pytest
from rich.console import Console

from bench import registry
from bench.count import fitting
from bench.count.fitting import WORTH, Step, options
from bench.count.memory import measure_step
from bench.count.predict import predictions
from bench.count.step import Accumulated
from bench.registry import make
from bench.report.render import terminal
from bench.report.sections.sweeps import prediction
from bench.schema.record import Change
from bench.schema.shape import Setting
from tests.factories.cost_steps import counted_once, real_step, tiny_shape
from tests.factories.methods import sized

TEXT = Setting(batch=4, length=16, objective="text", loss="target", dtype="bfloat16")
WIDE = TEXT.model_copy(update={"adapter_dtype": "float32"})
COUNTS = {name: counted_once(getattr(fitting, name)) for name in ("count", "peak_of", "ledger_of")}
ledger_of, peak_of = COUNTS["ledger_of"], COUNTS["peak_of"]
NAMES = {
    "--loss": "loss", "--dtype": "dtype", "--optimizer": "optimizer", "--weights": "weights", "--batch": "batch",
    "--adapter-dtype": "adapter_dtype",
}  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return {family: tiny_shape(family, tmp_path_factory.mktemp(family)) for family in ("llama", "gemma2", "bert")}


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """Count each setting once for all tests."""
    for name, known in COUNTS.items():
        monkeypatch.setattr(fitting, name, known)


def whole(spec, name, setting):
    found = ledger_of(spec, *make(name, sized(name)), setting).flops
    return found.forward + found.backward


def changes(spec, name, setting, usable):
    method, config = make(name, sized(name))
    peak = peak_of(spec, method, config, setting).step
    assert peak > usable
    return Step(spec, method, config, setting, peak, whole(spec, name, setting), usable).changes()


def fields_of(change):
    """Fields of a setting that the options of a change ask for."""
    words = shlex.split(change.options.replace("--checkpointing", "--checkpointing True"))
    return {
        NAMES.get(name, name.removeprefix("--")): int(value) if value.isdigit() else value
        for name, value in zip(words[::2], words[1::2], strict=True)
    }


def changed(setting, change):
    return Setting.model_validate(setting.model_dump() | fields_of(change))


def test_each_figure_of_a_change_is_that_of_a_count_with_its_options(shapes):
    name = "lora"
    found = changes(shapes["llama"], name, TEXT, 1)
    assert any(" " in change.options for change in found)
    before = whole(shapes["llama"], name, TEXT)
    for change in found:
        setting, accumulating = changed(TEXT, change), change.batches > 1
        assert change.batches * setting.batch == TEXT.batch
        peak = peak_of(shapes["llama"], *make(name, sized(name)), setting, accumulating=accumulating).step
        assert change.predicted_peak_memory_bytes == peak
        assert change.flops_ratio == whole(shapes["llama"], name, setting) * change.batches / before
        assert change.fits is False


def test_the_cheapest_comes_first_and_of_equally_cheap_ones_those_with_the_same_gradients(shapes):
    found = changes(shapes["llama"], "lora", TEXT, 1)
    order = [(round(change.flops_ratio, 2), not change.same_gradients) for change in found]
    assert order == sorted(order)
    rounded = {name for change in found if not change.same_gradients for name in fields_of(change)}
    assert "weights" in rounded
    assert not any({"dtype", "optimizer", "weights"} & fields_of(c).keys() for c in found if c.same_gradients)


def test_changes_are_put_together_only_where_none_fits_alone_and_no_further_than_they_must(shapes):
    spec = shapes["llama"]
    alone = [c for c in changes(spec, "lora", TEXT, 1) if len(fields_of(c)) == 1]
    least = min(change.predicted_peak_memory_bytes for change in alone)
    assert all(len(fields_of(c)) == 1 for c in changes(spec, "lora", TEXT, least))
    beyond = changes(spec, "lora", TEXT, least - 1)
    together = [change for change in beyond if len(fields_of(change)) > 1]
    assert [change.fits for change in together].count(True) == 1
    peaks = [c.predicted_peak_memory_bytes for c in sorted(together, key=lambda change: len(fields_of(change)))]
    assert peaks == sorted(peaks, reverse=True)


def test_the_smaller_batch_is_the_largest_part_that_fits(shapes):
    spec, (method, config) = shapes["llama"], make("lora", sized("lora"))
    peaks = {rows: peak_of(spec, method, config, TEXT.model_copy(update={"batch": rows}), accumulating=True).step
             for rows in (1, 2)}  # fmt: skip
    for rows, peak in peaks.items():
        (smaller,) = [c for c in changes(spec, "lora", TEXT, peak) if fields_of(c).keys() == {"batch"}]
        assert (fields_of(smaller)["batch"], smaller.fits) == (rows, True)


def test_adapters_in_float32_may_take_the_models_type(shapes):
    (narrower,) = [c for c in changes(shapes["llama"], "lora", WIDE, 1) if fields_of(c) == {"adapter_dtype": "model"}]
    asked = changed(WIDE, narrower)
    assert narrower.predicted_peak_memory_bytes == peak_of(shapes["llama"], *make("lora", sized("lora")), asked).step
    assert not narrower.same_gradients


def test_the_type_of_the_model_leaves_adapters_in_float32_as_the_command_does(shapes):
    asked = WIDE.model_copy(update={"dtype": "float32", "adapter_dtype": None})
    (half,) = [c for c in changes(shapes["llama"], "lora", asked, 1) if fields_of(c) == {"dtype": "bfloat16"}]
    assert half.predicted_peak_memory_bytes == peak_of(shapes["llama"], *make("lora", sized("lora")), WIDE).step


LEFT_OUT = {
    "a loss on a head of classes": ("bert", "lora", {"objective": "classes"}, {"loss"}),
    "a chunked loss under a soft cap": ("gemma2", "lora", {"loss": "target", "attention": "eager"}, {"loss"}),
    "4 bits where no matrix is frozen": ("llama", "full", {"loss": "chunked"}, {"weights"}),
    "what is asked already": ("llama", "lora", {"loss": "chunked", "checkpointing": True, "dtype": "bfloat16",
                                                "optimizer": "adamw_8bit", "batch": 1, "weights": "nf4"},
                              {"loss", "checkpointing", "dtype", "optimizer", "batch", "weights"}),
    "8-bit AdamW for another optimizer": ("llama", "full", {"optimizer": "sgd", "loss": "chunked"}, {"optimizer"}),
}  # fmt: skip


@pytest.mark.parametrize(("family", "name", "fields", "without"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_does_nothing_or_is_refused_is_left_out(family, name, fields, without, shapes):
    done = {"batch": 1, "length": 16, "objective": "text", "checkpointing": True, "dtype": "bfloat16"}
    setting = Setting.model_validate(done | fields)
    found = changes(shapes[family], name, setting, 1)
    assert not {field for change in found for field in fields_of(change)} & without
    peak = peak_of(shapes[family], *make(name, sized(name)), setting).step
    assert all(change.predicted_peak_memory_bytes <= peak * (1 - WORTH) for change in found)


def test_every_option_is_one_of_the_command():
    from typer.main import get_command

    from bench.cli.app import app

    known = {name for param in get_command(app).commands["predict"].params for name in param.opts}
    said = [option.says.split()[0] for option in options(WIDE) if option.says]
    assert said
    assert {*said, "--batch"} <= known


@pytest.mark.parametrize("name", ["full", "lora"])
def test_batches_that_add_up_hold_their_gradients_beside_the_next_one(name, shapes):
    setting = Setting(batch=1, length=16, optimizer="adamw_loop")
    method, config = make(name, sized(name))
    spec = shapes["bert"]
    real = measure_step(Accumulated(real_step(spec, name, setting, **sized(name))))[1]
    assert peak_of(spec, method, config, setting, accumulating=True) == real
    single = peak_of(spec, method, config, setting)
    gradients = measure_step(real_step(spec, name, setting, **sized(name)))[0].gradients
    assert real.backward - single.backward >= gradients / 2


# In a prediction


def rows(specs, memory, reserve=0):
    return predictions("tiny", specs, Setting(batch=4, length=32), memory, reserve=reserve)


def shown(found):
    console = Console(file=io.StringIO())
    terminal.render(prediction(found), console)
    return console.file.getvalue()


def test_nothing_is_said_of_a_step_that_fits():
    (row,) = rows(["lora"], 10**9)
    assert (row.fits, row.changes) == (True, None)
    assert "--checkpointing" not in shown([row])
    assert rows(["lora"], None)[0].changes is None


def test_a_step_that_does_not_fit_ends_with_what_to_change_and_the_first_that_fits_is_marked():
    peak = peak_of(*_of("lora"), Setting(batch=4, length=32)).step
    (row,) = rows(["lora"], peak, reserve=1)
    assert row.changes
    first = next(change for change in row.changes if change.fits)
    text = shown([row])
    assert text.count("YES") == 2  # the row, and the note that says what it means
    (line,) = [line for line in text.splitlines() if " YES " in line]
    assert first.options in line
    assert row.plain()["changes"][0] == Change.model_validate(row.changes[0].model_dump()).model_dump()


def test_where_nothing_fits_the_least_peak_is_said():
    (row,) = rows(["lora"], 1000)
    least = min(change.predicted_peak_memory_bytes for change in row.changes)
    assert "nothing below fits; the least peak is" in shown([row])
    assert not any(change.fits for change in row.changes)
    assert least < row.predicted_peak_memory_bytes.step


def test_where_nothing_lowers_the_peak_that_is_said():
    (row,) = rows(["lora"], 1000)
    assert "no change of the step lowers its peak" in shown([row.model_copy(update={"changes": ()})])


def test_changes_are_counted_for_methods_that_are_named(monkeypatch):
    asked = []
    monkeypatch.setattr(registry, "BUILTIN", {name: registry.BUILTIN[name] for name in ("full", "head", "lora")})
    monkeypatch.setattr(Step, "changes", lambda step, say: asked.append(type(step.method).__name__) or ())
    found = rows(["lora", "all"], 1000)
    assert asked == ["LoRA"]
    assert "counted for methods that are named with --method" in " ".join(shown(found).split())


def _of(name):
    from bench.models import backbone

    return backbone.shape_of("tiny"), *make(name, {})
