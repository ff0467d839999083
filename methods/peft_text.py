"""The words that a bridged prompt starts from: a tokenizer of this machine, or the hub's, asked for 3 s at most."""

import functools
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bench.errors import BenchError

ANSWER_SECONDS = 3.0
"""Longest wait for the hub's first answer."""
FILES_SECONDS = 60.0
"""Longest wait for the few small files of a tokenizer from a hub that answers."""


def check(fields: Mapping[str, Any]) -> None:
    """What a configuration may ask of models and tokenizers beside the backbone.

    Args:
        fields: A configuration of peft, every field by name.

    Raises:
        ValueError: It asks for another model, for code of a tokenizer's own, or starts from no text.
    """
    if (shadow := fields.get("shadow_model", "mirror")) != "mirror":
        raise ValueError(
            f"shadow_model = {shadow!r} brings the weights of another model, which no record would name; leave it out"
        )
    if "trust_remote_code" in (fields.get("tokenizer_kwargs") or {}):
        raise ValueError(
            "tokenizer_kwargs.trust_remote_code is set by the harness: no code of a tokenizer's own is run"
        )
    if _from_text(fields.get("prompt_tuning_init")):
        text = fields.get("prompt_tuning_init_text")
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt_tuning_init = 'TEXT' needs words in prompt_tuning_init_text, got {text!r}")


def _from_text(start: Any) -> bool:
    return str(getattr(start, "value", start)).upper() == "TEXT"


def settle(options: Any, backbone: nn.Module) -> None:
    """Let ``options``, peft's own object, start from words without a question to the network.

    A backbone without values gets a start without them: the figures are those of any start, and no tokenizer is read.

    Raises:
        BenchError: The tokenizer is not on this machine and the hub does not give it in time, it needs code of its
            own, or it knows tokens that the backbone does not.
    """
    start = getattr(options, "prompt_tuning_init", None)
    if not _from_text(start) or options.inference_mode:
        return
    if next(backbone.parameters()).is_meta:
        options.prompt_tuning_init = getattr(type(start), "RANDOM", "RANDOM")
        return
    name, given = str(options.tokenizer_name_or_path), dict(options.tokenizer_kwargs or {})
    tokens = _tokenizer(name, given)(options.prompt_tuning_init_text)["input_ids"]
    known = backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if not tokens or max(tokens) >= known:
        last = f"gives token {max(tokens)}, the backbone has {known}" if tokens else "gives no token"
        raise BenchError(f"peft: the tokenizer {name!r} {last}; name the tokenizer of the backbone")
    options.tokenizer_kwargs = given | {"local_files_only": True}


def _tokenizer(name: str, given: Mapping[str, Any]) -> Any:
    """The tokenizer of a folder, or of a hub id: what is on this machine first."""
    from transformers import AutoTokenizer

    local = Path(name).is_dir()
    try:
        return AutoTokenizer.from_pretrained(name, **{**given, "local_files_only": True}, trust_remote_code=False)
    except Exception as error:  # each kind of tokenizer fails on odd or missing files in its own way
        if local or not isinstance(error, OSError):
            raise BenchError(f"peft: the tokenizer {name!r} cannot be loaded ({_line(error)})") from error
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise BenchError(f"peft: tokenizer_name_or_path = {name!r} is neither a folder nor a hub id, owner/model")
    why = _silence(name)
    if why is None:
        fetched = _within(
            FILES_SECONDS,
            lambda: AutoTokenizer.from_pretrained(name, **given, trust_remote_code=False),
        )
        if not isinstance(fetched, BaseException):
            return fetched
        why = "it fell silent" if isinstance(fetched, TimeoutError) else _line(fetched)
    raise BenchError(
        f"peft: the tokenizer {name!r} is not on this machine and cannot be fetched from the hub ({why}); connect to "
        "the hub once, or give the folder of its files as tokenizer_name_or_path"
    )


@functools.cache
def _silence(name: str) -> str | None:
    """Why nothing can be fetched, asked once in a process; None where the hub answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    found = _within(ANSWER_SECONDS, lambda: _asked(f"{constants.ENDPOINT}/api/models/{name}"))
    return "hub not reached" if isinstance(found, BaseException) else None


def _asked(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _within(seconds: float, act: Callable[[], Any]) -> Any:
    """What ``act`` gives in time, or its error; a resolver may hang longer than any socket's limit."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(error)

    acting = threading.Thread(target=run, daemon=True)
    acting.start()
    acting.join(seconds)
    return found[0] if found else TimeoutError(f"nothing within {seconds:g} s")


def _line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
