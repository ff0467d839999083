"""Fits the names in a configuration of peft's to a bare backbone, and refuses those that match nothing there."""

import copy
import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from bench.errors import BenchError

HEADS = (
    "lm_head", "embed_out", "score", "classifier", "cls", "qa_outputs", "pooler", "pre_classifier", "vocab_projector",
    "vocab_transform", "output_projection", "classification_head", "head", "summary",
)  # fmt: skip
"""What models carry on top of the part that is adapted here, by the names that transformers gives it."""
WHOLE = ("base_model.model.", "model.", "language_model.")
"""Beginnings that a whole model, or peft around it, puts before the names of its backbone."""
NAMED = ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules")
"""Fields that hold names of modules, as a list or, all but the third, as one regular expression."""
PATTERNS = (
    "rank_pattern", "alpha_pattern", "lambda_pattern", "n_frequency_pattern", "block_size_pattern",
)  # fmt: skip
"""Fields that hold values by a regular expression on names of adapted modules."""
ALL_LINEAR = "all-linear"
LINEAR = ("Linear", "Conv1D")
"""Classes of linear maps; the second is GPT-2's."""


class Fitted:
    """The names of one configuration on one backbone: rewritten before peft builds, checked after.

    Args:
        options: peft's configuration, changed in place.
        backbone: The bare backbone, before peft changes it.

    Raises:
        BenchError: A name or an expression matches nothing on the backbone.
    """

    def __init__(self, options: Any, backbone: nn.Module) -> None:
        self.options = options
        self.notes: list[str] = []
        self.classes = {name: type(m).__name__ for name, m in backbone.named_modules(remove_duplicate=False) if name}
        """Name of every module -> its class, before peft changes it."""
        self.modules = list(self.classes)
        weights = {name.removesuffix(".weight"): p.shape for name, p in backbone.named_parameters() if p.ndim == 2}
        self._sides = {name: shape for name, shape in weights.items() if name in self.classes}
        self._depth = int(backbone.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        self.parameters = [name for name, _ in backbone.named_parameters()]
        own = getattr(backbone, "base_model_prefix", "")
        self._prefixes = _beginnings([*WHOLE, *([f"{own}."] if own else [])])
        self._stripped: dict[str, None] = {}
        self._heads: dict[str, dict[str, None]] = {}
        self._backbone = backbone
        for field in NAMED:
            self._fit_modules(field)
        self._fit_parameters()
        self._fit_tokens(backbone)
        self.asked = {field: _listed(getattr(options, field, None)) for field in NAMED}
        self.patterns = {field: self._fit_pattern(field) for field in PATTERNS}
        self._check_indices()
        self._check_start()
        self._find_layers()
        self._say()

    @functools.cached_property
    def _converted(self) -> set[str]:
        """Names of an older transformers that peft turns into those of the installed one: experts of a mixture."""
        options = self.options
        if options.peft_type != "LORA" or not isinstance(options.target_modules, set | list):
            return set()
        from peft.utils.transformers_weight_conversion import (
            convert_peft_config_for_transformers,
            get_model_conversion_mapping,
        )

        turned, found = copy.deepcopy(options), get_model_conversion_mapping(self._backbone)
        convert_peft_config_for_transformers(turned, model=self._backbone, conversions=found)
        return set(options.target_modules) - set(turned.target_modules or ())

    def check(self, targeted: Collection[str], parameters: Collection[str]) -> None:
        """Refuse what was asked for and is nowhere in what peft adapted; a block of BD-LoRA is noted.

        Args:
            targeted: Names of the adapted modules.
            parameters: Names of the adapted parameters of other modules.

        Raises:
            BenchError: A target, a pattern, an exclusion or a layer matches nothing.
        """
        options = self.options
        for field in ("target_modules", "feedforward_modules"):
            for name in self.asked[field]:
                if not _among(name, targeted) and name not in self._converted:
                    raise BenchError(
                        f"peft: {field}: {name!r} is adapted nowhere: exclude_modules, modules_to_save or "
                        "layers_to_transform leave it out; leave it out of the targets as well"
                    )
        for field, pattern in self.patterns.items():
            self._check_pattern(field, pattern, [*targeted, *parameters])
        layers = getattr(options, "layers_to_transform", None)
        if layers is not None:
            self._check_layers([layers] if isinstance(layers, int) else list(layers), targeted)
        self._check_exclusions()
        self._check_sides(targeted)
        if blocks := getattr(options, "use_bdlora", None):
            for side in ("target_modules_bd_a", "target_modules_bd_b"):
                for name in getattr(blocks, side) or ():
                    if not any(name in one for one in targeted):
                        self.notes.append(f"use_bdlora.{side}: {name!r} is adapted nowhere, so that it says nothing")

    @property
    def blocks(self) -> str:
        """An expression that matches every block."""
        lists = [name for name, kind in self.classes.items() if kind == "ModuleList"]
        return ".*" + (re.escape(lists[0]) if lists else "layers") + r"\.\d+"

    def targets(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that the targets match."""
        from peft.tuners.tuners_utils import check_target_module_exists

        return [name for name in names if check_target_module_exists(self.options, name)]

    def linear(self, within: Iterable[str], other: str) -> list[str]:
        """Names of linear maps below the modules ``within``, an empty name for all, of no class ``other``."""
        return [
            name
            for name, kind in self.classes.items()
            if kind in LINEAR and kind != other and any(name.startswith(f"{one}." if one else "") for one in within)
        ]

    def _check_sides(self, targeted: Iterable[str]) -> None:
        """Refuse what peft would build smaller than it is asked for, beyond its layer, or fails on in its forward."""
        kind, rank = str(self.options.peft_type.value), getattr(self.options, "r", None)
        for name in targeted:
            parent = name.rpartition(".")[0]
            if kind == "SHADOW" and not (
                self.classes.get(parent) == "ModuleList" and name.rpartition(".")[2].isdigit()
            ):
                raise BenchError(
                    f"peft: target_modules: {name!r} is no block, and SHADOW carries its state from block to block; "
                    f"name all of them, as by the expression {self.blocks!r}"
                )
            if name not in self._sides:
                continue
            rows, columns = self._sides[name]
            if kind in ("DEFT", "ADAMSS", "TINYLORA") and rank > min(rows, columns):
                raise BenchError(
                    f"peft: r = {rank} is above {min(rows, columns)}, the smaller side of {name!r}, and {kind} would "
                    "take no more without a word; lower r"
                )
            if beyond := [token for token in getattr(self.options, "token_indices", None) or () if token >= rows]:
                raise BenchError(f"peft: token_indices names token {beyond[0]}, and {name!r} has {rows} rows; lower it")
            splits = getattr(self.options, "n_splits", 1)
            if rows % splits or columns % splits:
                raise BenchError(
                    f"peft: n_splits = {splits} does not divide {rows} and {columns}, the sides of {name!r}"
                )

    def _check_start(self) -> None:
        """Refuse also without values what would fail with them."""
        if getattr(self.options, "init_lora_weights", None) != "olora":
            return
        chosen = isinstance(self.options.target_modules, str | set) and self.options.target_modules != ALL_LINEAR
        conv1d = [name for name in self._sides if self.classes[name] == "Conv1D"]
        for name in self.targets(conv1d) if chosen else conv1d:
            rows, columns = self._sides[name]
            if rows != columns:
                raise BenchError(
                    f"peft: init_lora_weights = 'olora' reads the transposed weight of a Conv1D as it is, and {name!r} "
                    f"is {rows} x {columns}; take another start, such as 'pissa'"
                )

    def _check_indices(self) -> None:
        """Indices of layers are those of the backbone."""
        options, last = self.options, self._depth - 1
        asked = getattr(options, "layers_to_transform", None)
        if asked is not None and not getattr(options, "layers_pattern", None):
            for index in [asked] if isinstance(asked, int) else asked:
                if not 0 <= index <= last:
                    raise BenchError(f"peft: layers_to_transform names {index}; the backbone has layers 0 to {last}")
        for pair in getattr(options, "layer_replication", None) or ():
            first, end = pair
            if not 0 <= first < end <= self._depth:
                raise BenchError(
                    f"peft: layer_replication holds {list(pair)}; each pair is a first layer and the end behind the "
                    f"last one, within 0 and {self._depth}"
                )

    def _fit_modules(self, field: str) -> None:
        asked = getattr(self.options, field, None)
        if not asked or (isinstance(asked, str) and asked.lower() == ALL_LINEAR):
            return
        if isinstance(asked, str):
            if self.options.peft_type != "ADAPTION_PROMPT":  # whose one name is an ending
                setattr(self.options, field, self._matched(field, asked))
            return
        ending = str.endswith if field == "modules_to_save" else _is_ending  # peft's own rule for what is saved
        found = [self._named(field, name, self.modules, ending) for name in asked]
        kept = type(asked)(name for name in found if name)
        if not kept and field == "target_modules" and not getattr(self.options, "target_parameters", None):
            raise self._nothing_but_heads(" and ".join(map(str, asked)))
        setattr(self.options, field, kept or None)
        if field == "modules_to_save":
            self.notes += self._taken_as_well(kept)

    def _taken_as_well(self, saved: Iterable[str]) -> Iterator[str]:
        """Modules that end in a name without being called so: peft compares letters there."""
        for name in saved:
            if also := [
                one for one in self.modules if one.endswith(name) and one != name and not _is_ending(one, name)
            ]:
                yield f"modules_to_save: by {name!r} peft also takes {also[0]} and all that end so, {len(also)} in all"

    def _named(self, field: str, name: str, known: Iterable[str], ending: Callable[[str, str], bool]) -> str | None:
        """``name`` as the backbone has it; None for what stands on top of it."""
        if any(one == name or ending(one, name) for one in known):
            return name
        for prefix in self._prefixes:
            if name.startswith(prefix) and name.removeprefix(prefix) in known:
                short = name.removeprefix(prefix)
                if also := [one for one in known if one != short and ending(one, short)]:
                    raise BenchError(
                        f"peft: {field}: {name!r} is {short!r} on the bare backbone, by which peft takes {also[0]} as "
                        "well; name what else is meant, or leave it out"
                    )
                self._stripped[prefix] = None
                return short
        if name in self._converted:
            return name
        if any(part in HEADS for part in name.split(".")):
            self._heads.setdefault(field, {})[name] = None
            return None
        last = {part for one in known for part in (one, one.rpartition(".")[2])}
        near = difflib.get_close_matches(name, sorted(last), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; leave it out"
        if not near and field == "target_modules":
            linear = dict.fromkeys(one.rpartition(".")[2] for one in self.linear([""], ""))
            hint = f"; the linear maps here are called {', '.join(linear)}"
        raise BenchError(f"peft: {field}: {name!r} is not found in the base model{hint}")

    def _matched(self, field: str, expression: str) -> str | None:
        """The expression where it matches as it is, else one of the names that it matches in the whole model."""
        matcher = _compiled(field, expression)
        if any(matcher.fullmatch(name) for name in self.modules):
            return expression
        for prefix in self._prefixes:
            if found := [name for name in self.modules if matcher.fullmatch(prefix + name)]:
                self._stripped[prefix] = None
                return "|".join(map(re.escape, found))
        if any(matcher.fullmatch(prefix + head) for prefix in ("", *self._prefixes) for head in HEADS):
            self._heads.setdefault(field, {})[expression] = None
            if field == "target_modules":
                raise self._nothing_but_heads(expression)
            return None
        raise BenchError(f"peft: {field}: {expression!r} is not found in the base model; it has to match a whole name")

    def _nothing_but_heads(self, asked: str) -> BenchError:
        return BenchError(
            f"peft: target_modules holds nothing of the backbone, {asked} alone; the task head here is trained in full "
            "anyway, so name modules below it"
        )

    def _fit_pattern(self, field: str) -> Mapping[str, Any]:
        pattern: Mapping[str, Any] | None = getattr(self.options, field, None)
        if not pattern:
            return {}
        fitted: dict[str, Any] = {}
        for key, value in pattern.items():
            matcher = _compiled(field, rf"(.*\.)?({key})$")
            known = [*self.modules, *self.parameters]
            if any(matcher.match(name) for name in known) or key in self._converted:
                fitted[key] = value
                continue
            for prefix in self._prefixes:
                if found := [name for name in known if matcher.match(prefix + name)]:
                    self._stripped[prefix] = None
                    fitted |= {re.escape(name): value for name in found}
                    break
            else:
                if not any(part in HEADS for part in re.split(r"[\\.^$]+", key)):
                    raise BenchError(f"peft: {field}: {key!r} is not found in the base model; leave it out")
                self._heads.setdefault(field, {})[key] = None
        setattr(self.options, field, fitted)
        return dict(fitted)  # peft may add to its own

    def _fit_parameters(self) -> None:
        if asked := getattr(self.options, "target_parameters", None):
            found = [self._named("target_parameters", name, self.parameters, _is_ending) for name in asked]
            self.options.target_parameters = [name for name in found if name]

    def _fit_tokens(self, backbone: nn.Module) -> None:
        """Tokens of an embedding that train alone, for each embedding."""
        held = getattr(self.options, "trainable_token_indices", None)
        if isinstance(held, dict):
            named = {
                self._named("trainable_token_indices", name, self.modules, _is_ending): at for name, at in held.items()
            }
            self.options.trainable_token_indices = {name: at for name, at in named.items() if name}
        for field in ("trainable_token_indices", "token_indices", "cpt_token_ids"):
            if not (held := getattr(self.options, field, None)):
                continue
            vocabulary = backbone.get_input_embeddings().num_embeddings  # type: ignore[operator]
            for indices in held.values() if isinstance(held, dict) else [held]:
                if beyond := [token for token in indices if not 0 <= token < vocabulary]:
                    raise BenchError(f"peft: {field} names token {beyond[0]}; the vocabulary has {vocabulary:,}")
                if len(set(indices)) < len(indices) and field != "cpt_token_ids":
                    raise BenchError(f"peft: {field} names a token twice; name each once")

    def _find_layers(self) -> None:
        """Name the list of layers where peft's rule finds none: ``layers.0`` may stand at the top of a backbone."""
        options = self.options
        if getattr(options, "layers_to_transform", None) in (None, []) or getattr(options, "layers_pattern", None):
            return
        below = [name for name in self.modules if re.match(r"[^.]+\.\d+\.", name)]
        if below:
            options.layers_pattern = sorted({name.partition(".")[0] for name in below})

    def _check_pattern(self, field: str, pattern: Mapping[str, Any], targeted: Collection[str]) -> None:
        matchers = {key: re.compile(rf"(.*\.)?({key})$") for key in pattern}
        used = {next((key for key, matcher in matchers.items() if matcher.match(name)), None) for name in targeted}
        if dead := [key for key in pattern if key not in used and key not in self._converted]:
            raise BenchError(f"peft: {field}: {dead[0]!r} is adapted nowhere, or another key comes first; leave it out")

    def _check_layers(self, asked: list[int], targeted: Collection[str]) -> None:
        pattern = getattr(self.options, "layers_pattern", None)
        lists = [pattern] if isinstance(pattern, str) else pattern or [r"[^.]*"]
        found = {name: re.match(rf"(?:^|.*?\.)(?:{'|'.join(lists)})\.(\d+)\.", name) for name in targeted}
        held = {int(match[1]) for match in found.values() if match}
        if not asked:
            raise BenchError("peft: layers_to_transform is empty and leaves no layer out; leave it out")
        if beyond := [index for index in asked if index not in held]:
            raise BenchError(f"peft: layers_to_transform names {beyond[0]}, where no layer is adapted; leave it out")
        if pattern and (dead := [one for one in lists if not any(f"{one}." in name for name in targeted)]):
            raise BenchError(f"peft: layers_pattern: {dead[0]!r} is not found in the base model; leave it out")

    def _check_exclusions(self) -> None:
        """Every exclusion takes something away that would be adapted without it."""
        excluded = getattr(self.options, "exclude_modules", None)
        if not excluded or getattr(self.options, "target_modules", None) is None:
            return
        from peft.tuners.tuners_utils import check_target_module_exists

        without = copy.copy(self.options)
        without.exclude_modules = None
        named = [name for name in self.modules if check_target_module_exists(without, name)]
        for one in [excluded] if isinstance(excluded, str) else sorted(excluded):
            matches = re.compile(one).fullmatch if isinstance(excluded, str) else None
            if not (any(map(matches, named)) if matches else _among(one, named)):
                raise BenchError(f"peft: exclude_modules: {one!r} takes nothing away from the targets; leave it out")

    def _say(self) -> None:
        for field, names in self._heads.items():
            held = ", ".join(names)
            self.notes.append(
                f"{field} names {held}, which the bare backbone lacks and which is left out; the task head stands in "
                "its place and is trained in full"
            )
        if self._stripped:
            held = " and ".join(repr(prefix) for prefix in self._stripped)
            self.notes.append(f"names of the whole model are read without their beginning {held}")


def _is_ending(name: str, asked: str) -> bool:
    return name.endswith(f".{asked}")


def _among(asked: str, names: Iterable[str]) -> bool:
    return any(name == asked or _is_ending(name, asked) for name in names)


def _listed(asked: Any) -> list[str]:
    return [] if asked is None or isinstance(asked, str) else sorted(asked)


def _beginnings(parts: Iterable[str]) -> list[str]:
    """One part, or two after each other, the short ones first."""
    once = list(dict.fromkeys(parts))
    twice = [first + second for first in once for second in once]
    return [*once, *twice, *(f"base_model.model.{two}" for two in twice)]


def _compiled(field: str, expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise BenchError(f"peft: {field}: {expression!r} is no regular expression ({error})") from error
