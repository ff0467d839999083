#!/bin/sh
# Two names in a report of optimum-benchmark 0.6.0 (text generation, PyTorch) that are not what they say:
#
#   first_generate   A guess: the first call of generate, cold, as load_model is the loading and first_forward the first
#                    forward. It is the second: the warm-up calls generate once, untimed, before it measures.
#   decode.memory    A guess: memory of the tokens after the first, as decode.latency is their time (generate less the
#                    mean of prefill). It is the peak of a whole generate, the pass over the prompt in it; and
#                    generate.memory, which has that name, stays empty.
#
# Output seen with optimum-benchmark 0.6.0, torch 2.13.0 (CPU) and transformers 4.57.6, as installed below:
#
#   first_generate: calls of generate before it: 1
#   prefill.memory: measured over ['prefill']
#   decode.memory: measured over ['generate'] of 4 tokens for a prompt of 8
#   generate.memory: None
#
# Exits with 1 where this is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==4.57.6" "datasets==4.4.2" "optimum-benchmark==0.6.0"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys
from contextlib import contextmanager

from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, InlineConfig, PyTorchConfig
from optimum_benchmark.backends.pytorch.backend import PyTorchBackend
from optimum_benchmark.trackers.memory import MemoryTracker
from transformers import GPT2Config, GPT2LMHeadModel

calls, measured = [], []
GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2)).save_pretrained("tiny")


def noted(name):
    real = getattr(PyTorchBackend, name)

    def call(self, inputs, kwargs):
        calls.append((name, inputs["input_ids"].shape[1], kwargs["max_new_tokens"]))
        return real(self, inputs, kwargs)

    setattr(PyTorchBackend, name, call)


track = MemoryTracker.track


@contextmanager
def tracked(self):
    """What is called while memory is measured, and what was called before."""
    start = len(calls)
    with track(self):
        yield
    measured.append((calls[:start], calls[start:]))


MemoryTracker.track = tracked
noted("prefill")
noted("generate")
report = Benchmark.launch(
    BenchmarkConfig(
        name="tiny",
        launcher=InlineConfig(),
        backend=PyTorchConfig(
            model="tiny", task="text-generation", library="transformers", model_type="gpt2", device="cpu"
        ),
        scenario=InferenceConfig(
            memory=True,
            latency=False,
            warmup_runs=1,
            input_shapes={"batch_size": 1, "sequence_length": 8},
            generate_kwargs={"max_new_tokens": 4, "min_new_tokens": 4},
        ),
    )
)
loading, first, prefill, decode = measured
before = sum(name == "generate" for name, *_ in first[0])
print("first_generate: calls of generate before it:", before)
print("prefill.memory: measured over", [name for name, *_ in prefill[1]])
((name, prompt, new),) = decode[1]
print(f"decode.memory: measured over {[name]} of {new} tokens for a prompt of {prompt}")
print("generate.memory:", report.generate.memory)
named = [report.first_generate.memory, report.prefill.memory, report.decode.memory]
seen = (before, [one[0] for one in first[1]], prefill[1][0][0], (name, prompt, new), report.generate.memory, None in named)
sys.exit(seen != (1, ["generate"], "prefill", ("generate", 8, 4), None, False))
PYTHON
