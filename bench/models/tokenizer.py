"""Turns texts into token ids: the backbone's own tokenizer, or word hashing where random weights have none."""

import json
import re
import zlib
from pathlib import Path
from typing import Any, Protocol

from bench.errors import BenchError, said


class Tokenizer(Protocol):
    """What the harness asks of a tokenizer; every transformers tokenizer fits."""

    pad_token_id: int
    eos_token_id: int | None

    def __call__(self, *columns: list[str], truncation: bool, max_length: int, add_special_tokens: bool = True) -> Any:
        """Lists of ids by name (``input_ids``, ``attention_mask``, ``token_type_ids`` where the model has them)."""
        ...

    def convert_ids_to_tokens(self, ids: list[int]) -> Any:
        """How the vocabulary spells each id, as a list of str; None beyond it."""
        ...


class HashingTokenizer:
    """Lower-cased words hashed into the vocabulary of a randomly initialised backbone.

    Ids 0, 1, 2 are padding, start and separator, as in BERT; a random model has learned no other vocabulary.
    """

    pad_token_id = 0
    eos_token_id: int | None = 2

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __call__(
        self, *columns: list[str], truncation: bool, max_length: int, add_special_tokens: bool = True
    ) -> dict[str, list[list[int]]]:
        """Ids of ``[start] a [separator] (b [separator])``, cut on the right to ``max_length``."""
        start, separator = ([1], [2]) if add_special_tokens else ([], [])
        rows = []
        for texts in zip(*columns, strict=True):
            ids = list(start)
            for text in texts:
                ids += [self._id(word) for word in re.findall(r"\w+|[^\w\s]", text.lower())] + separator
            rows.append(ids[:max_length] if truncation else ids)
        return {"input_ids": rows, "attention_mask": [[1] * len(ids) for ids in rows]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        """None for each: of a hash no word is left."""
        return [None] * len(ids)

    def _id(self, word: str) -> int:
        return 3 + zlib.crc32(word.encode()) % (self._vocabulary - 3)


def _check_files(folder: Path) -> None:
    """Name the file of a tokenizer that is no JSON, where one is."""
    for path in (folder / name for name in (*_FILES, "special_tokens_map.json", "added_tokens.json")):
        if path.suffix != ".json" or not path.is_file():
            continue
        try:
            json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise BenchError(
                f"{path}: damaged, not JSON ({said(error)}), so that the tokenizer cannot be loaded; fetch it again"
            ) from error


_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model",
          "sentencepiece.bpe.model")  # fmt: skip
"""What a tokenizer is read from: any of these."""


def load_tokenizer(folder: str | None, vocabulary: int) -> Tokenizer:
    """The tokenizer that belongs to a backbone.

    Args:
        folder: Where the backbone's files lie, None for random weights.
        vocabulary: Size of the backbone's vocabulary.

    Raises:
        BenchError: Its files are missing, cannot be read, ask for code of their own, or belong to a larger vocabulary.
    """
    if folder is None:
        return HashingTokenizer(vocabulary)
    if not any((Path(folder) / name).is_file() for name in _FILES):
        raise BenchError(
            f"{folder}: holds no tokenizer, which scores need; write it there with its save_pretrained, or measure "
            "costs alone"
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        tokenizer(["a \u2603 b"], truncation=True, max_length=8)  # some files are missed only where a word is unknown
    except Exception as error:  # each kind of tokenizer fails on odd files in its own way
        _check_files(Path(folder))
        reason = said(error) or type(error).__name__
        raise BenchError(f"{folder}: its tokenizer cannot be loaded ({reason}); fetch its files again") from error
    if tokenizer.pad_token is None:  # causal families have none; the mask hides whatever stands there
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise BenchError(f"{folder}: its tokenizer has neither pad_token nor eos_token; name one to pad rows with in "
                         "tokenizer_config.json")  # fmt: skip
    word, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= vocabulary:
        raise BenchError(f"{folder}: its tokenizer gives {word!r} the id {largest}, but vocab_size of config.json is "
                         f"{vocabulary}; the two do not belong together: fetch both again")  # fmt: skip
    return tokenizer
