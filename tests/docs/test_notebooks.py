"""Every notebook runs to its end, so that what its cells assert holds, and shows what it prints now."""

import base64
import contextlib
import re
import shlex
from pathlib import Path

import nbformat
import pytest

from tests.factories.command import module
from tests.factories.kernels import forked_kernels
from tools.notebooks import executed

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STATEMENTS_OF_FACT = re.compile(r"^assert ", flags=re.MULTILINE)


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    """Text of each code cell's outputs; figures are drawn from records that other tests hold."""
    return [[output.text for output in cell.outputs if output.output_type == "stream"] for cell in code(notebook)]


def pictures(notebook):
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


def files():
    """What a notebook could write into: its own folder, the results that it reads, and the repository's root."""
    found = [*(ROOT / "notebooks").rglob("*"), *(ROOT / "results" / "published").rglob("*")]
    return {path: path.stat().st_mtime_ns for path in found}, {path.name for path in ROOT.iterdir()}


def test_the_three_questions_have_their_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["01_which_method", "02_backward_anatomy", "03_lora_no_latency"]


@pytest.mark.parametrize(
    ("path", "folder"),
    list(zip(NOTEBOOKS, (".", "notebooks", "."), strict=True)),
    ids=[path.stem for path in NOTEBOOKS],
)
def test_a_notebook_runs_writes_nothing_and_prints_what_is_committed(path, folder, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    committed, before = read(path), files()
    imports = any(re.search(r"^import torch$", cell.source, flags=re.MULTILINE) for cell in code(committed))
    with forked_kernels() if imports else contextlib.nullcontext():  # the first asserts that readers need no torch
        notebook = executed(path, ROOT / folder)
    assert files() == before
    assert printed(notebook) == printed(committed), "execute it again: the command stands in notebooks/README.md"
    assert len(pictures(notebook)) == len(pictures(committed))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_was_run_once_from_top_to_bottom(path):
    cells = code(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(len(STATEMENTS_OF_FACT.findall(cell.source)) for cell in cells) >= 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_small_and_holds_no_path_of_the_machine_that_ran_it(path):
    assert not re.search(r"/(home|root|work|tmp|Users|usr)/", path.read_text())
    assert all(len(picture) < 200_000 for picture in pictures(read(path)))
    assert path.stat().st_size < 300_000


def test_the_documented_command_brings_a_stale_notebook_up_to_date(tmp_path, monkeypatch):
    guide = (ROOT / "notebooks/README.md").read_text()
    (line,) = re.findall(r"^python -m tools.notebooks .*$", guide, flags=re.MULTILINE)
    stale = tmp_path / "stale.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")]), stale)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    module(*shlex.split(line.replace("notebooks/*.ipynb", shlex.quote(str(stale)))))
    assert printed(read(stale)) == [["42\n"]]
    assert all("execution" not in cell.metadata for cell in read(stale).cells)
