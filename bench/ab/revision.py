"""Finds one version of ``methods/``, a git revision or a folder, and lays it out on disk; it measures nothing."""

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError


@dataclass(frozen=True)
class Tree:
    """A folder that holds one version of the package ``methods``."""

    name: str
    """As the user gave it, with the commit where it is a revision: ``main (1a2b3c4)``."""
    path: Path


def unpack(wanted: str, into: Path) -> Tree:
    """Lay out ``methods/`` of git revision ``wanted`` in folder ``into``, or find it in the folder of that name.

    Args:
        wanted: A revision of the repository around the working directory, such as ``main`` or ``HEAD~1``; else a folder
            that has ``methods/``, such as ``.`` for the files as they stand.
        into: Folder for the files of a revision; made where it is missing.

    Raises:
        BenchError: It is neither, or the revision has no ``methods/``.
    """
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{wanted}^{{commit}}")
    if commit is None:
        if (Path(wanted) / "methods" / "__init__.py").is_file():
            return Tree(wanted, Path(wanted).resolve())
        raise BenchError(f"{wanted!r} is no git revision here and no folder with methods/; give one of the two")
    root = (_git("rev-parse", "--show-toplevel") or b"").decode().strip()
    short = commit.decode()[:7]
    files = _git("-C", root, "archive", "--format=tar", commit.decode().strip(), "methods")
    if files is None:
        raise BenchError(f"{wanted} ({short}) has no methods/; give a revision that has it")
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(into, filter="data")
    return Tree(wanted if commit.startswith(wanted.encode()) else f"{wanted} ({short})", into)


def uncommitted() -> bool:
    """Whether ``methods/`` of the repository around the working directory differs from its last commit."""
    root = (_git("rev-parse", "--show-toplevel") or b"").decode().strip()
    return bool(root) and bool(_git("-C", root, "status", "--porcelain", "--", "methods"))


def _git(*arguments: str) -> bytes | None:
    """Output of a git command; None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
