"""Smallest build backend (PEP 517): packs ``peft_ledger_scale`` into a wheel; builds no sdist and compiles nothing."""

import base64
import hashlib
import tomllib
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "peft_ledger_scale"


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Write the wheel into ``wheel_directory`` and return its file name; pip runs this in the project's folder."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    files = {path.as_posix(): path.read_bytes() for path in sorted(Path(PACKAGE).glob("*.*"))}
    files |= {f"{stem}.dist-info/{name}": text.encode() for name, text in _metadata(project).items()}
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{stem}.dist-info/RECORD"] = f"{record}{stem}.dist-info/RECORD,,\n".encode()
    wheel = f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory, wheel), "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel


def _metadata(project: dict[str, Any]) -> dict[str, str]:
    points = ""
    for group, entries in project["entry-points"].items():
        points += f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: wheel_writer\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": points,
    }


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
