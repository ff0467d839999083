"""Make the published form of a run: what cannot be derived, in as few files as it takes.

    python -m tools.publish results/runs/glue-small-7f3a9c results/published/glue-small

Records and suite are copied as they are, but that the traceback of a failure names files from their package on, not
where they lay on this machine; the predictions and directions of all cells become one file each. Nothing is lost:
reports, plots and tables are made again from it by ``python -m bench report``. Runs and searches for learning rates
alike.
"""

import argparse
import re
import shutil
from pathlib import Path

from bench.errors import BenchError
from bench.store.sidecars import pack
from bench.store.store import read_records, read_suite

_LYING = re.compile(rb'(File \\")/[^"\\]*?/((?:site-packages|bench|methods)/)')
"""Where a file of a traceback lies on this machine, up to its package, as JSON holds it."""


def publish(folder: Path, out: Path) -> str:
    """Write the published form of ``folder`` into ``out``.

    Args:
        folder: A run folder, or a search's, published or not.
        out: Must not exist; it is complete or not there.

    Returns:
        What was written, as a line for the screen.

    Raises:
        BenchError: ``folder`` is no run folder or damaged, or ``out`` exists.
    """
    read_suite(folder)
    records = read_records(folder / "records.jsonl")
    if not records:
        raise BenchError(f"{folder}: holds no records; finish the run first")
    if out.exists():
        raise BenchError(f"{out}: exists; remove it first, so that nothing of another run is left in it")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(folder / "suite.toml", partial / "suite.toml")
    lines = (folder / "records.jsonl").read_bytes()
    whole = lines[: lines.rfind(b"\n") + 1]  # a torn last line is no record
    (partial / "records.jsonl").write_bytes(_LYING.sub(rb"\1\2", whole))
    packed = pack(folder, [record.id for record in records], partial)
    partial.rename(out)
    size = sum(path.stat().st_size for path in out.iterdir())
    cells = "".join(f", {name} of {count} cells" for name, count in packed.items())
    return f"{out}: {len(records)} records{cells}; {len(list(out.iterdir()))} files, {size / 1e6:.1f} MB"


def main() -> None:
    """Publish one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("out", type=Path, help="folder to make, below results/published")
    given = parser.parse_args()
    try:
        print(publish(given.run, given.out))
    except BenchError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
