"""Kill runs at random moments, resume them until they are done, and look for what was lost.

    python -m tools.crash results/robustness/crash.jsonl

A trial is a run of light jobs (`tools.crash.light`) through the command ``run`` itself: store, workers, fork server,
signals and exit codes are the real ones. It is disturbed up to three times, the resumed run again: by ``kill -9`` of
the driver, a worker, the fork server or all of them, by SIGTERM, by Ctrl-C, or by a disk that is full (a file system of
its own in memory, which takes root). Runs of real jobs on a Ray cluster lose Ray workers, what runs below them, or the
driver (`tools.crash.ray_trial`, which takes the extra ray). Then it is resumed until it is done, and looked at: no
record lost, doubled or corrupt, no file damaged or left behind, no process orphaned, no semaphore leaked, no traceback.

Each trial is a line of the file, stored at once; the same command goes on where it was stopped. Exit code 1: something
was wrong.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.errors import BenchError
from tools.crash.ray_trial import cluster, has_ray, ray_trial
from tools.crash.trial import KILLED, SIGNALLED, Command, Kind, Outcome, small_disk, temporary_folder, trial

KILLS, OTHERS, ON_RAY = 200, 20, 12
"""Runs of light jobs killed with -9, in equal shares of who is killed; runs of each other kind; runs on Ray, each of
which takes a minute or two and loses some processes."""
Trials = list[tuple[Kind, int]]
"""Kinds and numbers."""


def owed(kills: int, others: int, on_ray: int, outcomes: Sequence[Outcome]) -> Trials:
    """Trials to do, the kinds in turn: kind and number."""
    done = {(outcome.kind, outcome.number) for outcome in outcomes}
    due: dict[Kind, int] = {
        kind: (kills + last) // len(KILLED) for kind, last in zip(KILLED, (3, 2, 1, 0), strict=True)
    }
    due |= dict.fromkeys((*SIGNALLED, "full disk"), others) | {"Ray worker": on_ray}
    rounds = max(due.values(), default=0)
    return [
        (kind, number)
        for number in range(rounds)
        for kind, most in due.items()
        if number < most and (kind, number) not in done
    ]


def startup_seconds(place: Path) -> float:
    """How long a run takes here until its first record is there."""
    with temporary_folder() as temporary:
        started = time.monotonic()
        command = Command(place / "run", temporary, place / "stderr.txt", token="startup")
        command.until((place / "run" / "records.jsonl").exists)
        seconds = time.monotonic() - started
        code, faults = command.ended()
    if code or faults:
        raise BenchError(f"a run that nobody disturbs ends with exit code {code} {faults}; nothing can be tried")
    return seconds


def mountable() -> bool:
    """Whether a disk that can run full can be had."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk"):
                return True
        except BenchError as error:
            print(f"without trials of a full disk: {error}")
            return False


def read(path: Path) -> list[Outcome]:
    """The trials that are done.

    Raises:
        BenchError: The file holds something else.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return [Outcome(**json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise BenchError(f"{path}: holds no trials ({error}); remove it, or give another file") from error


def possible(todo: Trials) -> Trials:
    """What of it can be done here; says what cannot."""
    if any(kind == "full disk" for kind, _ in todo) and not mountable():
        todo = [one for one in todo if one[0] != "full disk"]
    if any(kind == "Ray worker" for kind, _ in todo) and not has_ray():
        todo = [one for one in todo if one[0] != "Ray worker"]
    return todo


def carried_out(todo: Trials, seed: int) -> Iterator[Outcome]:
    """Carry out trials, those on Ray after all others."""
    light = [one for one in todo if one[0] != "Ray worker"]
    if light:
        with tempfile.TemporaryDirectory() as folder:
            startup = startup_seconds(Path(folder))
        for kind, number in light:
            with tempfile.TemporaryDirectory() as folder:
                yield trial(kind, number, seed, Path(folder), startup)
    if on_ray := [one for one in todo if one[0] == "Ray worker"]:
        with tempfile.TemporaryDirectory() as place, cluster(Path(place)) as there:
            for _, number in on_ray:
                with tempfile.TemporaryDirectory() as folder:
                    yield ray_trial(number, seed, Path(folder), there)


def main() -> None:
    """Run what is missing, and say what was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.crash", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file of the trials, .jsonl")
    parser.add_argument("--kills", type=int, default=KILLS, help="runs killed with -9 (default: %(default)s)")
    parser.add_argument("--others", type=int, default=OTHERS, help="runs of each other kind (default: %(default)s)")
    parser.add_argument("--on-ray", type=int, default=ON_RAY, help="runs on Ray (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides every random choice (default: %(default)s)")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        outcomes = read(given.out)
    except BenchError as error:
        parser.exit(2, f"error: {error}\n")
    todo = possible(owed(given.kills, given.others, given.on_ray, outcomes))
    with given.out.open("a") as stream:
        for place, outcome in enumerate(carried_out(todo, given.seed), start=1):
            outcomes.append(outcome)
            stream.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
            stream.flush()
            print(
                f"{place}/{len(todo)} {outcome.kind}: {outcome.codes} {'; '.join(outcome.faults) or 'sound'}",
                flush=True,
            )
    faulty = [outcome for outcome in outcomes if outcome.faults]
    hits = sum(outcome.kills for outcome in outcomes)
    print(f"{len(outcomes)} runs, disturbed {hits} times: {len(faulty)} with something wrong")
    parser.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
