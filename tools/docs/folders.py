"""The table of folders in CONTRIBUTING: what each holds, from its docstring, and what it may import."""

from pathlib import Path

from tests.test_architecture import MAY_IMPORT
from tools.method_pages import table

BENCH = Path(__file__).resolve().parents[2] / "bench"


def folders() -> str:
    """A row for each folder of ``bench/``, in the order of the flow."""
    rows = []
    for name, allowed in MAY_IMPORT.items():
        if (BENCH / name).is_dir():
            rows.append([f"`{name}/`", holds(name), ", ".join(f"`{other}`" for other in sorted(allowed)) or "-"])
    return table(["folder", "holds", "may import, beside `errors`"], rows, 3)


def holds(name: str) -> str:
    """First sentence of the folder's docstring."""
    import ast

    said = ast.get_docstring(ast.parse((BENCH / name / "__init__.py").read_text(encoding="utf-8"))) or ""
    return " ".join(said.partition("\n\n")[0].split()).replace("``", "`")
