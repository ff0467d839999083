"""Settings that every test shares: offline, quiet, two threads at most."""

import functools
import gc
import os
import socket

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TERM"] = "xterm"  # a dumb one shows no live line and has 80 columns, whatever a test asks for
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a probe's threads that wait leave their core to other tests

import pytest
from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)  # a time limit per example would only measure the neighbours
settings.load_profile("shared-machine")


gc.set_threshold(100_000, 50, 50)  # garbage is collected before every test: within one, searching for it is rare


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    """What is loaded by now stays: no collection of garbage that a test asks for, as timings do, goes through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """SVG files of a published run by its name: each run is drawn once, whichever test process asks for it first."""
    from tests.factories import published

    own = tmp_path_factory.getbasetemp()
    return functools.partial(published.drawn, (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "drawn")


@pytest.fixture
def svg_alone():
    """For tests that read no PNG."""
    from tests.factories import published

    with published.svg_alone():
        yield


@pytest.fixture
def no_network(monkeypatch):
    """Whatever asks the network fails the test; nothing that catches errors, and no thread of its own, can hide it."""
    questions = []

    def asked(*arguments, **named):
        questions.append(arguments)
        pytest.fail("the network was asked")

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    monkeypatch.setattr(socket.socket, "connect", asked)
    yield
    assert questions == []
