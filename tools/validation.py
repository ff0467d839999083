"""Counts the experiments of peft's published method comparison, and sets what is counted beside what was measured.

python -m tools.validation [EXPERIMENT ...]
python -m tools.validation litgpt

Counts the experiments that ``results/validation/counted_peft.csv`` lacks, or those that are named, and writes each row
as soon as it is there (minutes each); or the rows of litgpt. ``python -m tools.validation_page`` makes the page.
"""

import csv
import dataclasses
import importlib.metadata
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.count.count import Adapted
from bench.count.depth import count
from bench.count.fake import uncounted, without_data
from bench.count.memory import follow_step
from bench.count.roofline import DEVICES
from bench.errors import BenchError
from bench.models import backbone
from bench.registry import make
from bench.schema.jobs import BackboneSpec
from bench.schema.shape import Setting
from tests.methods.comparison import BACKBONE, experiments, method_of

FOLDER = Path(__file__).parents[1] / "results" / "validation"
PUBLISHED, COUNTED = FOLDER / "peft_metamathqa.csv", FOLDER / "counted_peft.csv"
ROWS, LONGEST, MEAN, VOCABULARY = 4, 768, 210, 128_256
"""Rows of a batch, the most tokens that a row may have and their mean, and logits of a token."""
SETTING = Setting(
    batch=ROWS, length=LONGEST, dtype="bfloat16", adapter_dtype="float32", optimizer="adamw_foreach", device="cuda",
    clipping=True, objective="text", loss="full",
)  # fmt: skip
"""Of the comparison's step with the largest peak."""
HELD = 2 * ROWS * LONGEST * VOCABULARY
"""Bytes of the logits in bfloat16, which the comparison's loop holds through backward: its ``outputs`` is a variable
of the loop (``method_comparison/MetaMathQA/run.py``). A loop that lets go of them, as transformers' Trainer does, takes
that much less."""
A_LOGIT = 14
"""Bytes of a logit at the top of backward: held in bfloat16, in float32, as log-probability, and as gradient."""
DEVICE = DEVICES["l40s"]
"""Whose times they are."""
IN_THE_MODELS_TYPE = ("osf/rank128",)
"""Experiments whose ``training_params.json`` asks for adapters in the model's type (``autocast_adapter_dtype``)."""
LIKE = {"ia3/lr_0.001": "ia3/default", "prompt_tuning/default": "prompt_tuning/lr_0.001"}
"""Experiments whose file was not to be had -> those of the same type and number of parameters, whose names differ by
the learning rate alone."""
COUNTED_LITGPT = FOLDER / "counted_litgpt.csv"
QV = {"rank": 32, "dropout": 0.05}
MAPS = ["query", "key", "value", "output", "ffn_in", "ffn_gate", "ffn_out"]
"""All that litgpt's ``lora_query`` to ``lora_mlp`` adapt."""
LITGPT: dict[str, tuple[str, int, dict[str, Any]]] = {
    "litgpt-llama2-7b-QLoRA-b2": ("llama-2-7b", 2, QV),
    "litgpt-llama2-7b-LoRA-b2": ("llama-2-7b", 2, QV),
    "litgpt-llama3.2-1b-LoRA-b1": ("llama-3.2-1b", 1, QV),
    "litgpt-llama3.2-1b-QLoRA-b2": ("llama-3.2-1b", 2, QV),
    "litgpt-llama3-8b-LoRA-b1": ("llama-3.1-8b", 1, QV),
    "litgpt-llama3-8b-QLoRA-b2": ("llama-3.1-8b", 2, QV),
    "litgpt-llama3.2-3b-LoRA-b1": ("llama-3.2-3b", 1, QV),
    "litgpt-llama3.2-3b-QLoRA-b2": ("llama-3.2-3b", 2, QV),
    "litgpt-mistral-7b-LoRA-b2": ("mistral-7b", 2, QV),
    "litgpt-mistral-7b-QLoRA-b2": ("mistral-7b", 2, QV),
    "litgpt-tinyllama-LoRA-b8": ("tinyllama-1.1b", 8, QV | {"targets": MAPS}),
    "litgpt-tinyllama-QLoRA-b8": ("tinyllama-1.1b", 8, QV | {"targets": MAPS}),
    "litgpt-phi3-mini-LoRA-b4": ("phi-3-mini", 4, {"rank": 8, "dropout": 0.05, "targets": MAPS}),
    "litgpt-gemma-2b-LoRA-b2": ("gemma-2b", 2, {"rank": 8, "dropout": 0.1, "targets": MAPS}),
    "litgpt-gemma-2b-QLoRA-b2": ("gemma-2b", 2, {"rank": 8, "dropout": 0.1, "targets": MAPS}),
}
"""Rows of litgpt -> shape, rows and LoRA; Llama 3 8B has the shape of 3.1. Those with ``MAPS`` adapt the LM head too,
which is left out: its factors are a few MB."""
LITGPT_SETTING = Setting(
    batch=1, length=512, dtype="bfloat16", adapter_dtype="model", optimizer="adamw_foreach", device="cuda",
    objective="text", loss="chunked",
)  # fmt: skip
"""Of litgpt's ``bf16-true``: all that trains is bfloat16. Its logits are counted apart."""
LITGPT_LOGIT = 10
"""Bytes of a logit where litgpt's forward ends: in bfloat16; in float32, which Fabric's ``convert_output`` makes of
them; and those of the step before in float32, which the loop's ``logits`` holds until it is bound anew."""
PACKED_BYTES = 0.5 + 4 / 64
"""Of a weight in 4 bits with its part of a scale: Fabric packs the LM head as well."""
LITGPT_BITSANDBYTES = "0.42.0"
"""The one that litgpt asked for while these rows were printed (``litgpt/finetune/lora.py`` warns of any other)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted:
    """What is counted of an experiment, or the reason why nothing is."""

    experiment: str
    trainable: int | None = None
    stored_bytes: int | None = None
    backward_bytes: int | None = None
    """Peak of backward on rows of ``LONGEST`` tokens, none of them padded, without ``HELD``."""
    padded_backward_bytes: int | None = None
    """The same where the last row is half padded; None where it was not counted."""
    flops: int | None = None
    """Of forward and backward on rows of ``MEAN`` tokens, as the two figures that follow."""
    traffic_bytes: int | None = None
    estimated_step_seconds: float | None = None
    peft: str = ""
    """Version of peft that was counted."""
    not_counted: str = ""


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a file, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def counted_rows() -> dict[str, Counted]:
    """What has been counted, by experiment."""
    kinds = {"experiment": str, "peft": str, "not_counted": str, "estimated_step_seconds": float}
    return {
        row["experiment"]: Counted(**{key: kinds.get(key, int)(value) for key, value in row.items() if value})
        for row in (read(COUNTED) if COUNTED.exists() else [])
    }


def method(name: str, folder: Path) -> tuple[Any, Any]:
    """Method and configuration of an experiment by its name.

    Raises:
        BenchError: The installed peft has not what it asks for.
    """
    if name.startswith("full-finetuning/"):
        return make("full", {})
    return method_of(experiments()[LIKE.get(name, name)], folder)


def counts_of(name: str, *, padded: bool = False) -> Counted:
    """Count one experiment; ``padded`` also with a padded row."""
    version = importlib.metadata.version("peft")
    setting = SETTING.model_copy(update={"adapter_dtype": "model"} if name in IN_THE_MODELS_TYPE else {})
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = method(name, Path(folder))
            counts = count(BACKBONE, *made, setting.model_copy(update={"length": MEAN}))
            peak = count(BACKBONE, *made, setting).peak
            masked = count(BACKBONE, *made, setting.model_copy(update={"padded": True})).peak if padded else None
        except Exception as error:  # a type that this peft lacks, or that starts from the weights' values
            reason = str(error) if isinstance(error, BenchError) else uncounted(error)
            return Counted(experiment=name, peft=version, not_counted=reason)
    assert counts.traffic_bytes is not None
    return Counted(
        experiment=name, trainable=counts.trainable.method, stored_bytes=counts.delta_bytes,
        backward_bytes=peak.backward, padded_backward_bytes=masked and masked.backward,
        flops=counts.flops.forward + counts.flops.backward, traffic_bytes=counts.traffic_bytes.step,
        estimated_step_seconds=DEVICE.seconds(counts.work), peft=version,
    )  # fmt: skip


def beside(name: str, kind: str) -> int:
    """Bytes at the top of backward that the comparison's loop has and a step here has not.

    The logits of every position that it holds, and all bytes of those of a prompt: peft hands the prompt's embeddings
    and labels to the causal model (``PeftModelForCausalLM.forward``), whose loss takes the logits of all positions.
    """
    if kind not in ("PROMPT_TUNING", "P_TUNING"):
        return HELD
    prompt = experiments()[LIKE.get(name, name)].adapter["num_virtual_tokens"]
    return int(HELD + A_LOGIT * ROWS * prompt * VOCABULARY)


def write(rows: Iterable[Counted]) -> None:
    """Write ``counted_peft.csv`` in the order of the published rows."""
    order = [row["experiment"] for row in read(PUBLISHED)]
    with COUNTED.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in dataclasses.fields(Counted)], lineterminator="\n")
        table.writeheader()
        table.writerows(map(dataclasses.asdict, sorted(rows, key=lambda row: order.index(row.experiment))))


def count_litgpt() -> None:
    """Count the rows of ``LITGPT`` and write them."""
    with COUNTED_LITGPT.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "backbone", "forward_bytes", "graph_bytes", "head_bytes", "logit_bytes"))
        for name, (shape, rows, lora) in LITGPT.items():
            spec, packed = backbone.shape_of(shape), "QLoRA" in name
            config = backbone.configuration(spec)
            more = {"weights": "nf4", "bitsandbytes": LITGPT_BITSANDBYTES} if packed else {}
            setting = LITGPT_SETTING.model_copy(update={"batch": rows, "dropout": lora["dropout"], **more})
            matrix = config.vocab_size * config.hidden_size
            # ours stands in bfloat16, as the packed one does while a product unpacks it
            head = PACKED_BYTES * matrix if packed else 2 * matrix * config.tie_word_embeddings
            logits = LITGPT_LOGIT * rows * setting.length * config.vocab_size
            peak = count(spec, *make("lora", lora), setting).peak.forward
            table.writerow((name, shape, peak, graph_bytes(spec, lora, setting), int(head), logits))
            file.flush()


def graph_bytes(spec: BackboneSpec, lora: dict[str, Any], setting: Setting) -> int:
    """What the graph of a step holds after its backward, of every layer alike: the inputs that 4-bit layers keep.

    litgpt's loop holds it through the next forward: ``loss`` and ``logits`` are bound anew only after that.
    """
    layers = int(backbone.configuration(spec).num_hidden_layers)
    two, three = (_graph_bytes(dataclasses.replace(spec, layers=few), lora, setting) for few in (2, 3))
    return three + (layers - 3) * (three - two)


def _graph_bytes(spec: BackboneSpec, lora: dict[str, Any], setting: Setting) -> int:
    adapted = Adapted(spec, *make("lora", lora), setting)
    with without_data(setting.device):
        course = follow_step(adapted.step())
    return sum(event.size for phase in course.phases[:2] for event in phase) - course.held.gradients


if __name__ == "__main__":
    if sys.argv[1:] == ["litgpt"]:
        count_litgpt()
        sys.exit()
    found = counted_rows()
    for asked in sys.argv[1:] or [row["experiment"] for row in read(PUBLISHED) if row["experiment"] not in found]:
        found[asked] = counts_of(asked, padded=True)
        write(found.values())
