"""Asks the model hub, as seldom and as briefly as can be: whether it answers, and the bound of every wait for it."""

import http.client
import os
import threading
import urllib.error
import urllib.request
from typing import Any

PROBE_SECONDS = 3.0
"""Longest wait for the hub's first answer; its libraries try for 20 s to minutes."""
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Environment variables that forbid asking the hub."""


def offline() -> str | None:
    """Name of the environment variable that forbids asking the hub, or None."""
    set_to = ((name, os.environ.get(name, "").strip().upper()) for name in OFFLINE_VARIABLES)
    return next((name for name, value in set_to if value in {"1", "ON", "YES", "TRUE"}), None)


def status_of(path: str) -> int | None:
    """HTTP status with which the hub answers ``path`` of its API; None where it does not within ``PROBE_SECONDS``."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    heard = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{endpoint}/api/{path}", timeout=PROBE_SECONDS) as response:
                heard.append(response.status)
        except urllib.error.HTTPError as error:
            heard.append(error.code)
        except (OSError, ValueError, http.client.HTTPException):  # unreachable, no address, no HTTP: no answer
            return

    asking = threading.Thread(target=ask, daemon=True)  # a resolver may hang longer than any socket timeout
    asking.start()
    asking.join(PROBE_SECONDS)
    return heard[0] if heard else None


def silent(path: str) -> bool:
    """Whether asking would be in vain: it is not forbidden, and the hub does not answer ``path`` of its API in time."""
    return offline() is None and status_of(path) is None


SILENCE_SECONDS = 5.0
"""Longest wait for a connection or for the next byte, unless ``HF_HUB_DOWNLOAD_TIMEOUT`` asks for another."""


def limit_silence() -> None:
    """Bound every wait of ``huggingface_hub``, also of the requests that it would let wait for ever.

    It lists a folder with no limit (huggingface_hub 2.4.0, ``utils/_pagination.py``). It tries six times and pauses
    between the tries: a hub that falls silent costs about a minute.
    """
    import huggingface_hub

    client = huggingface_hub.get_session()
    hooks = client.event_hooks
    if _limited in hooks["request"]:
        return
    # A factory, since the library makes a new client after a connection has failed.
    hooks = hooks | {"request": [*hooks["request"], _limited]}
    huggingface_hub.set_client_factory(lambda: type(client)(event_hooks=hooks, follow_redirects=True, timeout=None))


def _limited(request: Any) -> None:
    longest = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or SILENCE_SECONDS)
    waits = request.extensions.get("timeout", {})
    limits = {kind: min(waits.get(kind) or longest, longest) for kind in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = limits


def hub_reason(error: BaseException) -> str:
    """The first line of the error that started it: libraries wrap what the hub answered in hints of their own."""
    while origin := _origin(error):
        error = origin
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line.rstrip('.')}"


def _origin(error: BaseException) -> BaseException | None:
    # ``datasets`` hides what the hub answered behind a FileNotFoundError raised "from None".
    hidden = error.__context__ if type(error) is FileNotFoundError else None
    return error.__cause__ or hidden
