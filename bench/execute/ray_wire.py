"""Speaks with a Ray cluster, one of this machine or a given one: joins it, starts jobs, hears them, ends with it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bench.errors import BenchError, said
from bench.execute.fork_server import folder_for_sockets
from bench.execute.ray_cluster import Cluster, Node, Request, Surveyed
from bench.execute.ray_host import Message, Order, Setting, carry, survey, variables
from bench.plan.select import family
from bench.schema.suite import Suite
from bench.store.environment import cores, versions
from bench.store.parcels import Parcel

PART_BYTES = 2**27
"""Files travel in parts of at most so many bytes."""
CONNECT_SECONDS = 5.0
"""Longest wait for the head node to answer."""
ASK_SECONDS = 60.0
"""Longest wait for the head node to say whether it asks for a token."""
GONE_SECONDS = 30.0
"""A head node that nobody answers at for so long is gone. Ray itself ends this process, wordless, after 60 s."""
SURVEY_SECONDS = 600.0
"""Longest wait for a node to import torch and say what it is; one that takes longer times no probe."""
_INSTALL = "python -m pip install -c constraints.txt -e '.[ray]', in the checkout"


@contextlib.contextmanager
def connected(suite: Suite, address: str | None) -> Iterator[Cluster]:
    """A Ray cluster for the jobs of ``suite``: its nodes import what these need while the caller plans.

    Args:
        suite: From ``selected``.
        address: ``auto`` or ``HOST:PORT`` of one that runs; else ``RAY_ADDRESS``, else one of this machine is started.

    Raises:
        BenchError: Ray is not installed, or the cluster cannot be reached or joined.
    """
    option = "RAY_ADDRESS" if address is None else "--address"
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _check_address(address, option)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BenchError(f"--executor ray needs the extra ray: {_INSTALL}") from error
    setting = Setting(family(suite), bool(suite.tasks), variables(os.environ), str(Path.cwd()), versions())
    signals = Signals()
    with signals.heard():
        try:
            with signals:
                _join(ray, address)
            signals.again()
            wire = RayWire(ray, setting, signals)
            wire.look()
            yield Cluster(wire, setting)
        finally:
            with signals:
                ray.shutdown()


def _check_address(address: str, option: str) -> None:
    """Refuse an address that Ray would try in vain for minutes.

    Raises:
        BenchError: It is none, or nobody answers there.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise BenchError(
            f"{option} {address}: must be auto or HOST:PORT of the head node; start this command on a node of the "
            "cluster, with ray job submit for example"
        )
    if (reason := _unanswered(address)) is not None:
        raise BenchError(
            f"{option} {address}: nobody answers there ({reason}); give the address that ray start has printed"
        )


def _unanswered(address: str) -> str | None:
    """Why nobody answers at ``HOST:PORT``; None where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        return said(error)
    return None


def _join(ray: Any, address: str) -> None:
    own = _own_cluster() if address == "local" else {}
    internals = ray._private
    # Ray prints to stdout, whatever log_to_driver is, that a worker or a node was lost: it would stand in the midst of
    # what --json prints. This function does nothing else where log_to_driver is off, and a loss is a line of the run.
    internals.worker.print_to_stdstream = lambda *data, **options: None
    registers = internals.utils.set_sigterm_handler
    internals.utils.set_sigterm_handler = lambda handler: None  # SIGTERM stays this command's to answer
    try:
        with contextlib.nullcontext() if address == "local" else _token_as_asked(ray, address):
            ray.init(address=address, log_to_driver=False, logging_level="CRITICAL", **own)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        if _NOBODY in str(error):
            raise BenchError(
                f"no Ray cluster runs on this machine, which {address} asks for; start one with `ray start --head`, or "
                "give HOST:PORT of the head node of another"
            ) from error
        raise BenchError(
            f"the Ray cluster {address} cannot be joined ({said(error)}); start ray of the same version and with the "
            "same ~/.ray/auth_token on every node, and this command on one of them"
        ) from error
    finally:
        internals.utils.set_sigterm_handler = registers


def _own_cluster() -> dict[str, Any]:
    """How Ray is to begin a cluster on this machine; its sockets lie in a temporary folder that the user may name."""
    begun: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False}
    return begun if "RAY_TMPDIR" in os.environ else begun | {"_temp_dir": f"{folder_for_sockets(len(_SOCKET))}/ray"}


@contextlib.contextmanager
def _token_as_asked(ray: Any, address: str) -> Iterator[None]:
    """Show the user's token to a cluster that asks for one, and to no other.

    Ray goes by whether the user has a token, and for ``auto`` alone: that fits neither all clusters nor all addresses.
    """
    before = os.environ.get(_MODE)
    asks = _refuses(address, "disabled")
    if asks and _refuses(address, "token"):
        raise BenchError(
            f"the Ray cluster {address} asks for a token that this machine lacks; copy ~/.ray/auth_token of its "
            "head node, or name a file that holds it in RAY_AUTH_TOKEN_PATH"
        )
    os.environ[_MODE] = "token" if asks else "disabled"
    ray._raylet.Config.initialize("")  # it was read before
    try:
        yield
    finally:
        os.environ.pop(_MODE)
        os.environ.update({} if before is None else {_MODE: before})


_SOCKET = "/ray/session_2026-12-01_12-55-03_270962_4194304/sockets/plasma_store.99"
"""Where Ray puts its longest socket below the temporary folder; the process that begins the cluster is in its name."""
_NOBODY = "Could not find any running Ray instance"
"""What Ray says where it is to join whatever runs here and nothing does."""
_MODE = "RAY_AUTH_MODE"
_ASK = """
import sys
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
GcsClient(address=canonicalize_bootstrap_address_or_die(sys.argv[1]))
"""


def _refuses(address: str, mode: str) -> bool:
    """Whether a cluster refuses a process of this machine for its token; one that cannot be joined at all does not say.

    Args:
        address: Of the cluster.
        mode: ``disabled``: the process shows none; ``token``: it shows the user's, and without one Ray says no more
            than that the process has failed.
    """
    command = [sys.executable, "-c", _ASK, address]
    with contextlib.suppress(subprocess.TimeoutExpired):
        around = {**os.environ, _MODE: mode}
        asked = subprocess.run(command, env=around, capture_output=True, text=True, timeout=ASK_SECONDS)
        return asked.returncode != 0 and (mode == "token" or "InvalidAuthToken" in asked.stderr)
    return False


class Signals:
    """Lets Ctrl-C and SIGTERM end a call of Ray, and be answered then as everywhere else.

    Ray's compiled code looks for signals itself and knows ``KeyboardInterrupt`` alone: where a handler raises anything
    else, the call ends with a ``SystemError``, and what the handler has raised is lost.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._calls, self._came = False, 0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Stand before the handlers that are set; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            every = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            self._handlers = {number: handler for number, handler in every.items() if callable(handler)}
        self.again()
        try:
            yield
        except KeyboardInterrupt:
            self._answer()
            raise
        finally:
            self._leave()

    def again(self) -> None:
        """Set the handlers anew: Ray's compiled code puts one for SIGTERM in their place that aborts the process."""
        for number in self._handlers:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._calls:
            self._handlers[number](number, frame)
            return
        self._came = number
        self._leave()  # a second one is not held up
        raise KeyboardInterrupt

    def _leave(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, handler)

    def __enter__(self) -> None:
        """Before calls of Ray: a signal that comes from now on ends them."""
        self._calls = True

    def __exit__(self, *ended: object) -> None:
        """After calls of Ray: the handler of the signal that has ended them is called."""
        self._calls = False
        self._answer()

    def _answer(self) -> None:
        number, self._came = self._came, 0
        if number:
            self._handlers[number](number, None)


class RayWire:
    """The wire to a cluster that this process has joined.

    Args:
        ray: The module.
        setting: What all jobs share.
        signals: End calls of Ray.
    """

    def __init__(self, ray: Any, setting: Setting, signals: Signals) -> None:
        self._ray, self._setting, self._signals = ray, setting, signals
        self._head: str = ray.get_runtime_context().gcs_address
        self._carry = ray.remote(num_returns="streaming", max_retries=0)(carry)
        # a CPU, so that the first job of a node waits for it and has its server, and does not start one beside it
        self._survey = ray.remote(num_cpus=1, max_retries=0)(survey)
        self._asked: dict[Node, Any] = {}
        self._told: dict[Node, Surveyed | None] = {}
        gone = ray.exceptions
        self._losses: dict[type[Exception], tuple[str, str]] = {
            gone.OutOfMemoryError: ("oom", "Ray killed its worker, as the memory of the node was full"),
            gone.WorkerCrashedError: ("crashed", "its Ray worker was killed"),
            gone.NodeDiedError: ("crashed", "its node was lost"),
            gone.LocalRayletDiedError: ("crashed", "its node was lost"),
            gone.TaskUnschedulableError: ("crashed", "its node was lost"),
            gone.ObjectLostError: ("crashed", "its node was lost with what it had to say"),
            gone.TaskCancelledError: ("crashed", "it was cancelled"),
        }

    def nodes(self) -> list[Node]:
        """See `Wire`."""
        self._wait_for_head()
        with self._signals:
            every_node = self._ray.nodes()
        alive = [(one["NodeID"], one["Resources"]) for one in every_node if one["Alive"]]
        every = [Node(name, int(has.get("CPU", 0)), int(has.get("GPU", 0))) for name, has in alive]
        return sorted(node for node in every if node.cpus)

    def _wait_for_head(self) -> None:
        """One may be started anew in the place of one that is lost; without any, Ray would answer nothing for a minute.

        Raises:
            BenchError: The cluster is gone.
        """
        given_up = time.monotonic() + GONE_SECONDS
        while (reason := _unanswered(self._head)) is not None:
            if time.monotonic() > given_up:
                raise BenchError(
                    f"the Ray cluster is gone: nobody answers at {self._head} any more ({reason}); start it again, "
                    "then run the same command again"
                )
            time.sleep(1.0)

    def look(self) -> None:
        """Ask nodes that were not asked yet what they are."""
        for node in self.nodes():
            if node not in self._asked:
                self._asked[node] = self._survey.options(scheduling_strategy=self._on(node)).remote(self._setting)

    def surveyed(self, *, wait: bool) -> list[Surveyed]:
        """See `Wire`."""
        self.look()
        alive = self.nodes()
        for node, reference in self._asked.items():
            if node in self._told or node not in alive:
                continue
            if wait or self._ready([reference], 0.0):
                self._told[node] = self._answer(node, reference)
        return [told for node, told in self._told.items() if told is not None and node in alive]

    def _answer(self, node: Node, reference: Any) -> Surveyed | None:
        try:
            with self._signals:
                return Surveyed(node, self._ray.get(reference, timeout=SURVEY_SECONDS))
        except self._ray.exceptions.RayError as error:
            if isinstance(error, (*self._losses, self._ray.exceptions.GetTimeoutError)):
                return None
            raise self._unfit(error) from error

    def put(self, parcel: Parcel) -> dict[str, list[Any]]:
        """See `Wire`."""
        try:
            with self._signals:
                paths = {file.name: Path(parcel.root) / file.name for file in parcel.files}
                return {name: [*map(self._ray.put, _parts(path))] for name, path in paths.items()}
        except (OSError, self._ray.exceptions.RayError) as error:
            raise BenchError(
                f"{parcel.root}: cannot be sent to a node that lacks it ({said(error)}); leave files as they are while "
                "jobs run, and free memory and space for Ray's object store"
            ) from error

    def start(self, order: Order, parts: Mapping[str, Any], request: Request, node: Node | None) -> Any:
        """See `Wire`."""
        place = "SPREAD" if node is None else self._on(node)
        task = self._carry.options(num_cpus=request.cpus, num_gpus=request.gpus, scheduling_strategy=place)
        with self._signals:
            return task.remote(order, dict(parts))

    def _on(self, node: Node) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node.id, soft=False)

    def heard(self, handles: Sequence[Any], seconds: float) -> list[tuple[Any, Message]]:
        """See `Wire`."""
        return [(handle, self._message(handle)) for handle in self._ready(handles, seconds)]

    def _ready(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        with self._signals:
            ready, _ = self._ray.wait(list(handles), num_returns=1, timeout=seconds, fetch_local=False)
        return [*ready]

    def has_spoken(self, handle: Any) -> bool:
        """See `Wire`."""
        return bool(self._ready([handle], 0.0))

    def _message(self, handle: Any) -> Message:
        try:
            with self._signals:
                message: Message = self._ray.get(next(handle))
        except StopIteration:
            return "ended", None
        except self._ray.exceptions.RayError as error:
            for kind, loss in self._losses.items():
                if isinstance(error, kind):
                    return "lost", loss
            raise self._unfit(error) from error
        return message

    def _unfit(self, error: BaseException) -> BenchError:
        """The sentence for a node on which this program itself fails."""
        cause = getattr(error, "cause", None) or error
        return BenchError(
            f"a node of the cluster cannot run this program ({type(cause).__name__}: {said(cause)}); install the same "
            "commit and the same versions on every node"
        )

    def stop(self, handle: Any) -> None:
        """See `Wire`."""
        with contextlib.suppress(Exception):  # it may have ended, and so may the cluster
            if self._ray.is_initialized():  # else Ray starts a cluster of this machine, to cancel nothing on it
                self._ray.cancel(handle, force=True)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part
