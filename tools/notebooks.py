"""Execute notebooks and keep what they show, without times of day: what is committed changes where results change.

python -m tools.notebooks notebooks/*.ipynb
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook at ``path`` with the outputs of a run in ``folder``; nothing is written."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=where, record_timing=False, coalesce_streams=True
    ).execute()
    # the interpreter's version would change the file on every other machine
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        nbformat.write(executed(Path(name), Path(name).resolve().parent), name)
        print(name)
