"""Folders of the ``peft`` library: ``adapter_config.json`` and ``adapter_model.safetensors`` for a bare backbone."""

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.errors import BenchError
from methods.peft_config import first_line, library

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


class Aligned(nn.Module):
    """A model of peft's under the bare backbone's call contract: states of the caller's tokens alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.peft: Any = model
        self.config = model.config
        self._prompted = bool(model.active_peft_config.is_prompt_learning)  # type: ignore[union-attr]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Map tokens ``[B, T]`` to an output whose ``last_hidden_state`` is ``[B, T, d]``."""
        if self._prompted:
            kwargs.pop("token_type_ids", None)  # peft has no place for them beside a prompt
        output = self.peft(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        output.last_hidden_state = output.last_hidden_state[:, -input_ids.shape[1] :]
        return output


def save(model: Any, folder: Path, base: str, revision: str | None) -> tuple[str, ...]:
    """Write a model of peft's as a folder that ``PeftModel.from_pretrained`` loads.

    Args:
        model: What ``Method.to_peft`` gave.
        folder: An existing folder.
        base: Name of the backbone, for ``base_model_name_or_path``.
        revision: Its revision on the hub.

    Returns:
        Names of the files.

    Raises:
        BenchError: peft cannot save it.
    """
    try:
        for config in model.peft_config.values():
            config.base_model_name_or_path, config.revision = base, revision
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise BenchError(f"peft cannot save it: {first_line(error)}") from error
    (folder / "README.md").unlink(missing_ok=True)  # peft's, which says nothing of what it is
    return CONFIG, WEIGHTS


def load(backbone: nn.Module, folder: Path) -> Aligned:
    """Put what lies in a folder of peft's onto a fresh backbone; nothing but safetensors is opened.

    Raises:
        BenchError: There is no file of safetensors, or peft cannot load it onto this backbone.
    """
    if not (folder / WEIGHTS).is_file():
        raise BenchError(f"{folder / WEIGHTS}: missing; weights in another format are not opened")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = library().PeftModel.from_pretrained(
                backbone, str(folder), autocast_adapter_dtype=False, trust_remote_code=False
            )
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RuntimeError) as error:
        raise BenchError(f"{folder}: peft cannot load it onto this backbone: {first_line(error)}") from error
    return Aligned(model.eval())
