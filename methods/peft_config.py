"""Reads a configuration of the ``peft`` library and checks it by peft's own dataclasses."""

import copy
import dataclasses
import functools
import importlib.metadata
import json
import re
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import methods.peft_fields as peft_fields
import methods.peft_optimizer as peft_optimizer
import methods.peft_text as peft_text
from bench.errors import BenchError, unknown
from bench.method import MethodConfig

DIMENSIONS = ("token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules")
"""Of the backbone that a saved prompt was trained on: peft takes those of the backbone here where they are left out."""
OURS = ("auto_mapping", "base_model_name_or_path", "inference_mode", "revision", "runtime_config")
"""Fields of peft's configurations that say how peft is called, not what trains: the harness sets them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeftConfig(MethodConfig):
    """What an ``adapter_config.json`` holds, by peft's own names: ``peft_type`` and the fields of that type."""

    peft_type: str
    """Which of peft's methods, such as ``"OFT"``; ``adapter_config`` names a file that says it in its place."""
    peft_version: str
    """Installed version of peft, part of what decides a result; filled in, never to be given."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Check ``values``; peft's defaults fill what is left out.

        Args:
            values: Fields by name, or ``adapter_config``, the path of such a file or of its folder, whose fields those
                beside it replace. A ``training_params.json`` in that folder, as in the experiments of peft's method
                comparison, says LoRA's optimizer; rates, steps and all else of a recipe are the suite's.
            where: Prefix of error messages.

        Returns:
            A configuration with every field of the ``peft_type``, as plain JSON values; for LORA also the choice of an
            optimizer (``methods.peft_optimizer.FIELDS``).

        Raises:
            BenchError: peft is missing, the file cannot be read, a key or type is unknown, or peft refuses a value.
        """
        at = f"{where}: " if where else ""
        given = dict(values)
        path = given.pop("adapter_config", None)
        if ours := [key for key in OURS if key in given]:
            raise BenchError(f"{at}{ours[0]} is set by the harness; leave it out")
        if given.get("peft_version", version()) != version():
            raise BenchError(f"{at}peft_version = {given['peft_version']!r} is not the installed one; leave it out")
        given = given if path is None else _read(path, given, at) | given
        _check_keys(given, where)
        kind = given["peft_type"]
        if "adapters" in _defaults(kind):
            raise BenchError(
                f"{at}{kind} mixes adapters that were trained before and lie in files; a configuration does not hold "
                "them, so take a peft_type that starts from the backbone"
            )
        found = {**_defaults(kind), **given, "peft_version": version()}
        try:
            peft_optimizer.check(peft_optimizer.FIELDS | found)
            peft_text.check(found)
            peft_fields.check(kind, found, _defaults(kind), _configs()[kind])
        except ValueError as error:
            raise BenchError(f"{at}{error}") from error
        try:
            parsed = _class(kind)(**json.loads(json.dumps(found)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is built says it again, for the record
                to_library(parsed)
        except (TypeError, ValueError, AttributeError, KeyError, AssertionError, ImportError) as error:
            reason = re.sub(r"\[('[^']*', '[^']*', '[^']*'),.*", r"\1 and others", first_line(error))
            raise BenchError(f"{at}peft refuses this {kind} configuration: {reason}") from error
        return parsed  # type: ignore[no-any-return]


def library() -> types.ModuleType:
    """The package ``peft``, imported where it is first asked for: it takes seconds.

    Raises:
        BenchError: It is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise BenchError(
            "needs the extra peft: python -m pip install -c constraints.txt -e '.[peft]', in the checkout"
        ) from error
    return peft


def version() -> str:
    """Version of the installed peft.

    Raises:
        BenchError: It is not installed.
    """
    library()
    return importlib.metadata.version("peft")


def to_library(config: PeftConfig, *, deployed: bool = False) -> Any:
    """Object of peft's own for ``config``; ``deployed`` asks for the form that only infers.

    AdaLoRA must be told its number of steps before the harness knows it: the smallest that its schedule admits stands
    in until the first step.
    """
    values = {f.name: copy.deepcopy(getattr(config, f.name)) for f in dataclasses.fields(config)}
    for key in ("peft_type", "peft_version", "task_type", *peft_optimizer.FIELDS, *DIMENSIONS):
        values.pop(key, None)
    if config.peft_type == "ADALORA":
        values["rank_pattern"] = None  # an earlier training's
    if fills_total(config):
        values["total_step"] = shortest(config)
    cls = _configs()[config.peft_type]
    values |= {"inference_mode": deployed, "task_type": "FEATURE_EXTRACTION"}
    try:
        made = cls(**values)
    except ValueError as error:
        if "task_type" not in str(error):
            raise
        # CPT takes language models alone; what it adds to the input needs none
        made = cls(**values | {"task_type": "CAUSAL_LM"})
        made.task_type = "FEATURE_EXTRACTION"
    return made


def fills_total(config: PeftConfig) -> bool:
    """Whether the configuration has a number of training steps and leaves it open."""
    return getattr(config, "total_step", 0) is None


def shortest(config: Any) -> int:
    """The least number of steps that a schedule with a start and an end of its own admits."""
    return int(config.tinit + config.tfinal + 1)


def first_line(error: BaseException) -> str:
    """What ``error`` says, as part of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _configs() -> dict[str, type]:
    """The library's configuration class of every type that it has."""
    library()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _read(path: Any, given: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Fields of a saved configuration, and the optimizer that an experiment of peft's comparison names beside it.

    An ``optimizer_type`` of ``given`` stands alone, without the numbers of the one that it replaces. A field that the
    installed peft lacks is left out where it is null, false or empty: it asks for nothing.
    """
    file = Path(str(path))
    file = file / "adapter_config.json" if file.is_dir() else file
    found = {key: value for key, value in _table(file, at).items() if key not in (*OURS, "peft_version")}
    kind = given.get("peft_type", found.get("peft_type"))
    known = _defaults(kind) if isinstance(kind, str) and kind in _configs() else found
    found = {key: value for key, value in found.items() if not _empty(value) or key in known}
    beside = file.with_name("training_params.json")
    if kind != peft_optimizer.KIND or "optimizer_type" in given or not beside.exists():
        return found
    try:
        return found | peft_optimizer.of_experiment(_table(beside, at), found)
    except ValueError as error:
        raise BenchError(f"{at}adapter_config: {beside}: {error}") from error


def _empty(value: Any) -> bool:
    """Null, false or empty; zero is a number and may ask for something."""
    return value is None or value is False or value in ("", [], {})


def _table(file: Path, at: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{at}adapter_config: {file} is no readable JSON file ({error})") from error
    if not isinstance(found, dict):
        raise BenchError(f"{at}adapter_config: {file} holds no table of fields; give a file that peft saved")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"the key {twice[0]!r} is listed twice")
    return dict(pairs)


def _check_keys(given: Mapping[str, Any], where: str) -> None:
    kind, configs = given.get("peft_type"), _configs()
    if kind is None:
        every = {field.name for cls in configs.values() for field in dataclasses.fields(cls)}
        if strange := [key for key in given if key not in every]:
            raise unknown("key", strange[0], ("adapter_config", "peft_type"), where)
        at = f"{where}: " if where else ""
        raise BenchError(f"{at}peft_type is missing; give it with its fields, or adapter_config = the path of a file")
    if not isinstance(kind, str) or kind not in configs:
        raise unknown("peft_type", str(kind), configs, where)
    for key in given.keys() - {"peft_type", "peft_version"}:
        if key not in _defaults(kind):
            raise unknown("key", key, ("adapter_config", "peft_type", *_defaults(kind)), where)
    task = given.get("task_type")
    if task is not None and task not in (known := [kind.value for kind in library().TaskType]):
        raise unknown("task_type", str(task), known, where)


@functools.cache
def _defaults(kind: str) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(_configs()[kind]):
        if field.init and field.name not in (*OURS, "peft_type", "peft_version"):
            made = field.default_factory() if callable(field.default_factory) else field.default
            found[field.name] = json.loads(json.dumps(made))
    found["task_type"] = None
    return found | (peft_optimizer.FIELDS if kind == peft_optimizer.KIND else {})


@functools.cache
def _class(kind: str) -> Any:
    """Our configuration with the fields of one of peft's types."""
    fields: list[Any] = [(name, Any) for name in _defaults(kind)]
    return dataclasses.make_dataclass(f"Peft{kind}", fields, bases=(PeftConfig,), frozen=True, kw_only=True)
