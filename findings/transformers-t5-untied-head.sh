#!/bin/sh
# T5Config of transformers 5.23.0 turns `tie_word_embeddings = False` into True (the word goes to `scale_decoder_outputs`
# alone). A Flan-T5 or T5 v1.1 that is built from its configuration so has no LM head of its own: 24,674,304 parameters
# fewer than the 247,577,856 that are published of flan-t5-base. To set the field afterwards gives no published model either:
# then encoder and decoder have an embedding each as well.
#
# Output seen with torch 2.13.0 (CPU) and transformers 5.23.0, the versions that are installed below:
#
#   set in the configuration: it says True, 222,903,552 parameters
#   set after the configuration: it says True, 296,926,464 parameters
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
from transformers import T5Config, T5ForConditionalGeneration

FLAN = {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "gated-gelu"}


def counted(after):
    config = T5Config(**FLAN, tie_word_embeddings=False)
    said = config.tie_word_embeddings
    if after:
        config.tie_word_embeddings = False
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"set {'after' if after else 'in'} the configuration: it says {said}, {parameters:,} parameters")
    return said, parameters


sys.exit([counted(False), counted(True)] != [(True, 222_903_552), (True, 296_926_464)])
PYTHON
