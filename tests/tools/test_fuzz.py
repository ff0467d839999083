"""The search for faults sees them, and what it spoils is sound before."""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.fuzz import watched
from tools.fuzz.strategies import garbled, spoilt
from tools.fuzz.targets import TARGETS, Place
from tools.fuzz.watched import bench, watch

FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def least(strategy):
    """In place of what hypothesis draws: its simplest value, which spoils nothing."""
    found = []

    @settings(max_examples=1, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def first(value):
        found.append(value)

    first()
    return found[0]


@pytest.fixture
def place(tmp_path):
    for name in ("given", "out"):
        (tmp_path / name).mkdir()
    return Place(tmp_path / "given", tmp_path / "out")


@pytest.fixture
def unlimited(monkeypatch):
    """The limit on memory is for the tool's own process, not for the tests'."""
    monkeypatch.setattr(watched.resource, "setrlimit", lambda *_: None)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "whole reports"])
def test_what_is_spoilt_is_sound_before(name, place, unlimited):
    make, _ = TARGETS[name]
    words = make(least, place)
    ended = bench(words, [place.out, place.given / "run", Path(tempfile.gettempdir())])
    assert (ended.code, ended.faults) == (3 if "gate" in words else 0, []), ended.said


@FEW
@given(data=st.data())
def test_plain_data_stays_plain_and_is_mostly_changed(data):
    value = {"a": [1, {"b": "x"}], "c": None}
    found = spoilt(data.draw, value)
    assert value == {"a": [1, {"b": "x"}], "c": None}
    assert isinstance(repr(found), str)
    assert isinstance(garbled(data.draw, b"some bytes"), bytes)


def ending(monkeypatch, act):
    """What is seen of a command that does ``act``."""
    monkeypatch.setattr(watched, "run", act)
    return bench(["x"], [Path("/nowhere")])


def leave(code, said):
    def act():
        sys.stderr.write(said)
        sys.exit(code)

    return act


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        (lambda: 1 / 0, "traceback: ZeroDivisionError: division by zero"),
        (leave(2, "error: one\nTraceback\n"), "exit code 2 without one sentence"),
        (leave(7, ""), "exit code 7"),
        (leave(0, "\x1b[2J"), "prints"),
        (leave(0, "x" * 5000), "a line on stderr that no screen holds"),
        (lambda: socket.create_connection(("127.0.0.1", 9), timeout=0.1), "socket.connect"),
        (lambda: subprocess.run([sys.executable, "-c", ""], check=True), "starts"),
    ],
)
def test_each_kind_of_fault_is_seen(act, fault, monkeypatch, unlimited):
    assert fault in "; ".join(ending(monkeypatch, act).faults)


@pytest.mark.parametrize("act", [leave(0, ""), leave(2, "error: one sentence\n"), leave(1, "something failed\n")])
def test_a_sentence_is_none(act, monkeypatch, unlimited):
    assert ending(monkeypatch, act).faults == []


def test_a_file_elsewhere_is_seen_and_one_where_it_belongs_is_not(tmp_path, monkeypatch, unlimited):
    here, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    here.mkdir()

    def writes(path):
        def act():
            path.write_text("x")
            path.unlink()

        return act

    for path, expected in ((here / "x", []), (elsewhere, [f"writes {elsewhere}", f"os.remove {elsewhere}"])):
        monkeypatch.setattr(watched, "run", writes(path))
        assert bench(["x"], [here]).faults == expected


def test_a_command_that_hangs_is_ended(monkeypatch, unlimited):
    monkeypatch.setattr(watched, "CPU_SECONDS", 0.2)

    def hangs():
        while True:
            pass

    assert ending(monkeypatch, hangs).faults == ["hang: more than 0.2 s"]


def test_a_pickle_that_is_opened_is_seen(unlimited):
    import pickle

    content = pickle.dumps(Path("x"))
    with watch().over([]) as seen:
        pickle.loads(content)
    assert seen[0].startswith("unpickles pathlib")
