"""Feed the command line thousands of spoilt inputs: each is refused with a sentence, or works.

    python -m tools.fuzz results/robustness/fuzz.json

Suites, tables of tasks, data files, methods as people spell them, records, references, configurations of backbones
and results of others are made of sound ones by replacing, removing and repeating parts, or bytes. A command runs on
each, in this process. It must end with one of the exit codes that the usage page names, and where that is 2 with one
sentence; no traceback, no hang, no file written elsewhere than where it was told to, no connection, no pickle opened.

Of each kind the first fault ends the search, and its smallest example is printed. The file is written after each kind;
the same command goes on with those that it lacks.
"""

import argparse
import collections
import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from tools.fuzz.targets import TARGETS, Place
from tools.fuzz.watched import bench

EXAMPLES = 10_000
CACHES = ("XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR")
"""Environment variables of folders in which libraries may keep what they like."""
AROUND = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


class Fault(AssertionError):
    """A command did what it must not."""


def quiet(home: Path) -> None:
    """Have libraries keep to ``home`` and off the network; before they are imported."""
    os.environ |= dict.fromkeys(AROUND, "1")
    for name in (*CACHES, "HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        (home / name).mkdir()
        os.environ[name] = str(home / name)
    tempfile.tempdir = None
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def search(name: str, examples: int, number: int, home: Path) -> dict[str, Any]:
    """Run examples of one kind.

    Returns:
        How many ran, how many ended with each exit code, and the fault that was found, with its smallest example.
    """
    make, _ = TARGETS[name]
    codes: collections.Counter[str] = collections.Counter()
    found: dict[str, Any] = {}
    place = Place(home / "given", home / "out")

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink), print_blob=False)  # fmt: skip
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        for folder in place:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        words = make(data.draw, place)
        before = _held(place.given)
        ended = bench(words, [place.out, place.given / "run", home / "TMPDIR", *(home / name for name in CACHES)])
        faults = ended.faults + [
            f"changes {path}" for path, held in before.items() if _held(place.given).get(path) != held
        ]
        faults += [f"leaves {path.name} in TMPDIR" for path in (home / "TMPDIR").iterdir()]
        codes[str(ended.code)] += 1
        if faults:
            found["fault"], found["command"] = "; ".join(faults), " ".join(map(str, words)).replace(f"{home}/", "")
            found["files"] = {path: held.decode("utf-8", "replace")[:4000] for path, held in before.items()}
            raise Fault(found["fault"])

    with contextlib.suppress(Fault, Flaky):  # the second: it did not come again, and is a fault all the same
        one()
    return {"examples": sum(codes.values()), "codes": dict(sorted(codes.items()))} | ({"found": found} if found else {})


def _held(folder: Path) -> dict[str, bytes]:
    """What is given; a report is written beside the records."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name in _GIVEN)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


_GIVEN = ("suite.toml", "records.jsonl", "reference.json", "config.json", "theirs.json",
          *(f"rows.{ending}" for ending in ("csv", "tsv", "jsonl", "json")))  # fmt: skip


def main() -> None:
    """Run the kinds that are missing, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file of the results, .json")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides every example (default: %(default)s)")
    parser.add_argument("--only", choices=TARGETS, help="this kind alone")
    given_words = parser.parse_args()
    asked = {"seed": given_words.seed, "asked": given_words.examples}
    try:
        done = json.loads(given_words.out.read_text()) if given_words.out.exists() else asked | {"kinds": {}}
    except ValueError as error:
        parser.exit(2, f"{given_words.out}: damaged ({error}); remove it, or give another file\n")
    if not isinstance(done, dict) or {name: done.get(name) for name in asked} != asked:
        parser.exit(2, f"{given_words.out}: holds another search {done}; give another file, or remove it\n")
    with tempfile.TemporaryDirectory() as folder:
        quiet(Path(folder))
        for name, (_, share) in TARGETS.items():
            sound = "found" not in done["kinds"].get(name, {"found": None})
            if sound or given_words.only not in (None, name):
                continue
            done["kinds"][name] = search(
                name, max(1, round(share * given_words.examples)), given_words.seed, Path(folder)
            )
            given_words.out.parent.mkdir(parents=True, exist_ok=True)
            given_words.out.write_text(json.dumps(done, indent=1) + "\n")
            print(name, json.dumps(done["kinds"][name], indent=1), flush=True)
    parser.exit(1 if any("found" in kind for kind in done["kinds"].values()) else 0)


if __name__ == "__main__":
    main()
