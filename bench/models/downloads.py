"""Shared by downloads of models and data: a limit on silent connections, and one-sentence errors."""

import os
from typing import Any

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


def reason(error: BaseException) -> str:
    """The first line of the error that started it: libraries wrap what the hub answered in hints of their own."""
    while origin := _origin(error):
        error = origin
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {line.rstrip('.')}"


def _origin(error: BaseException) -> BaseException | None:
    # ``datasets`` hides what the hub answered behind a FileNotFoundError raised "from None".
    hidden = error.__context__ if type(error) is FileNotFoundError else None
    return error.__cause__ or hidden
