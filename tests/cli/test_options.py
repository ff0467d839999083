"""What the text of an option means: a size needs its unit, and a number's unit is in its name or its help."""

import re
from typing import get_args, get_type_hints

import pytest
from typer.main import get_command_from_info
from typer.testing import CliRunner

from bench.cli.app import app
from bench.cli.ci import ci
from bench.cli.options import parse_reserve, parse_size, split_specs
from bench.cli.predict import counting
from bench.cli.tune import search
from bench.errors import BenchError


def test_specs_split_at_commas_outside_parentheses():
    assert split_specs("full,lora(rank=4, alpha=8), ia3") == ["full", "lora(rank=4, alpha=8)", "ia3"]
    assert split_specs("lora(targets=['query', 'value'])") == ["lora(targets=['query', 'value'])"]


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * 2**30), ("80GB", 80 * 10**9), ("1.5 GB", 1_500_000_000)])
def test_a_size_is_read_with_its_unit(text, size):
    assert parse_size("--device-memory", text) == size


@pytest.mark.parametrize(("text", "meant"), [("24", "24GiB"), (" 1.5 ", "1.5GiB"), ("25769803776", "25769803776B")])
def test_a_size_without_a_unit_is_refused_with_a_suggestion(text, meant):
    with pytest.raises(BenchError, match=rf"^--device-memory {text.strip()} has no unit; did you mean {meant}\?$"):
        parse_size("--device-memory", text)
    assert parse_size("--device-memory", meant) > 0


@pytest.mark.parametrize("text", ["0", "0GiB", "-1GiB", "-24", "much", "", "24 GiG", "nan", "inf", "1e3GB"])
def test_what_is_not_a_size_is_one_sentence(text):
    with pytest.raises(BenchError, match="must be a size above 0 with its unit, such as 24GiB"):
        parse_size("--device-memory", text)


@pytest.mark.parametrize(
    ("text", "size"), [("5%", 50), (" 12.5 % ", 125), ("0%", 0), ("0", 0), ("800B", 800), ("0.5kB", 500)]
)
def test_a_reserve_is_a_share_of_the_memory_or_a_size(text, size):
    assert parse_reserve("--reserve", text, 1000) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [("5", "5 has no unit; did you mean 5% or 5GiB"), ("much", "must be a size above 0 with its unit"),
     ("-5%", "must be a size above 0"), ("100%", r"100% leaves nothing of 2 GiB; lower it"),
     ("2GiB", "leaves nothing of 2 GiB")],
)  # fmt: skip
def test_what_is_no_reserve_or_leaves_nothing_is_one_sentence(text, says):
    with pytest.raises(BenchError, match=rf"^--reserve .*{says}"):
        parse_reserve("--reserve", text, 2**31)


def test_a_reserve_of_no_memory_is_refused():
    done = CliRunner().invoke(app, ["predict", "--backbone", "tiny", "--reserve", "5%"])
    assert "--reserve is a part of --device-memory; give that too" in str(done.exception)


UNITS = {
    "workers": "workers", "seconds": "seconds", "batch": "rows", "seq": "tokens", "dropout": "probability",
    "target_tokens": "tokens", "devices": "devices",
    ("ab", "margin"): "relative", ("gate", "margin"): "points",
}  # fmt: skip


def test_the_help_of_every_number_names_its_unit():
    numbers = {}
    for command in (one for part in (app, counting, search, ci) for one in part.registered_commands):
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            kind, *option = get_args(hint) or (hint,)
            if {int, float} & {kind, *get_args(kind)}:
                numbers[command.callback.__name__, name] = option[0].help
    assert {name for _, name in numbers} == {name if isinstance(name, str) else name[1] for name in UNITS}
    for (command, name), text in numbers.items():
        assert UNITS.get((command, name), UNITS.get(name)) in text.lower()


VALUED = [
    (command.name or command.callback.__name__, option)
    for part in (app, counting, search, ci)
    for command in part.registered_commands
    for option in get_command_from_info(command, pretty_exceptions_short=True, rich_markup_mode=None).params
    if option.param_type_name == "option" and not option.is_flag
]


@pytest.mark.parametrize(("command", "option"), VALUED, ids=lambda value: getattr(value, "name", value))
def test_an_option_that_is_given_twice_takes_both_values_or_is_refused(command, option):
    """The parser alone would keep the last without a word."""
    for name in option.opts:
        done = CliRunner().invoke(app, [command, name, "1", f"{option.opts[0]}=1"])
        refused = isinstance(done.exception, BenchError) and f"{option.opts[-1]} is given twice" in str(done.exception)
        assert refused != option.multiple


def test_methods_of_a_prediction_add_up(monkeypatch):
    asked = []
    monkeypatch.setattr("bench.count.predict.predictions", lambda name, specs, *rest, **more: asked.append(specs) or [])
    for words in (["--method", "lora", "--method", "full,ia3"], ["--method", "lora,full,ia3"]):
        CliRunner().invoke(app, ["predict", "--backbone", "tiny", *words])
    assert asked == [["lora", "full", "ia3"]] * 2


def test_version_names_the_program_its_version_and_the_commit_of_a_checkout():
    shown = CliRunner().invoke(app, ["--version"]).stdout
    assert re.fullmatch(r"peft-ledger \d+\.\d+\.\d+ \(commit [0-9a-f]{12}(, modified)?\)\n", shown)
