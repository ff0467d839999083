"""Processes of one job, one a device: started together, heard one after another, and ended together."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

Send = Callable[[Any], None]
"""Hands something that can be pickled to the process that started all."""


class Lost(Exception):
    """One of the processes ended of itself, by something that it could not say."""


def side_by_side(work: Callable[[int, Send], None], number: int) -> Generator[tuple[int, Any], None, None]:
    """Run ``work(rank, send)`` in ``number`` new processes, and give what they send as it comes.

    They begin anew, as fresh interpreters (start method ``spawn``), so that one that holds CUDA or threads can start
    them. All are ended once the last has ended, once one is lost, or once nobody listens any more.

    Args:
        work: Can be pickled; an exception of it ends its process.
        number: Of processes.

    Yields:
        The rank of who speaks, and what it says.

    Raises:
        Lost: One ended with an exit code other than 0; the sentence says which and how.
    """
    context = multiprocessing.get_context("spawn")
    ears: dict[Connection, int] = {}
    processes: list[BaseProcess] = []
    try:
        for rank in range(number):
            ear, mouth = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(work, rank, mouth))
            process.start()
            mouth.close()
            processes.append(process)
            ears[ear] = rank
        while ears:
            # those that have ended first: the others may only have noticed that one is gone
            spoken = wait([*ears])
            for ear in sorted((ear for ear in ears if ear in spoken), key=lambda ear: processes[ears[ear]].is_alive()):
                try:
                    said = ear.recv()
                except (EOFError, OSError):  # it has ended
                    rank = ears.pop(ear)
                    processes[rank].join()
                    _check(rank, processes[rank])
                    continue
                yield ears[ear], said
    finally:
        for one in processes:
            one.kill()
            one.join()
        for ear in ears:
            ear.close()


def _check(rank: int, process: BaseProcess) -> None:
    if code := process.exitcode:
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise Lost(f"the process of device {rank} ended without a record ({cause})")


def _work(work: Callable[[int, Send], None], rank: int, mouth: Connection) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        work(rank, mouth.send)
    mouth.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of gloo and of autograd that outlive the work end a process at times as Python ends
