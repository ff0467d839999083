#!/bin/sh
# A guess: T5, mT5 and UMT5 are one architecture in three files, so that a model of each, built from its configuration
# and given labels, has a loss. In transformers 5.23.0 those of mT5 and UMT5 have: their configurations set
# `decoder_start_token_id` to 0. T5Config has no such field at all, and a T5 that is built from it cannot shift its
# labels to the right. The published checkpoints of T5 write the 0 into their own config.json, which hides it.
#
# Output seen with torch 2.13.0 (CPU) and transformers 5.23.0, the versions that are installed below:
#
#   T5: decoder_start_token_id missing, with labels AttributeError
#   T5, given 0: decoder_start_token_id 0, with labels a loss
#   MT5: decoder_start_token_id 0, with labels a loss
#   UMT5: decoder_start_token_id 0, with labels a loss
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

TINY = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}
ROWS = torch.tensor([[5, 6, 7, 1]])


def seen(name, config, kind):
    start = getattr(config, "decoder_start_token_id", "missing")
    try:
        loss = kind(config)(input_ids=ROWS, labels=ROWS).loss
        given = "a loss" if torch.isfinite(loss) else "no finite loss"
    except (AttributeError, ValueError) as error:
        given = type(error).__name__
    print(f"{name}: decoder_start_token_id {start}, with labels {given}")
    return start, given


found = [
    seen("T5", T5Config(**TINY), T5ForConditionalGeneration),
    seen("T5, given 0", T5Config(**TINY, decoder_start_token_id=0), T5ForConditionalGeneration),
    seen("MT5", MT5Config(**TINY), MT5ForConditionalGeneration),
    seen("UMT5", UMT5Config(**TINY), UMT5ForConditionalGeneration),
]
sys.exit(found != [("missing", "AttributeError"), (0, "a loss"), (0, "a loss"), (0, "a loss")])
PYTHON
