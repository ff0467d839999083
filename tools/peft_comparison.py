"""Write what this harness makes of the experiments of peft's public method comparison.

python -m tools.peft_comparison docs/peft-comparison.md
"""

import collections
import importlib.metadata
import sys
import tempfile
from pathlib import Path

from tests.methods.comparison import LENGTH, experiments, outcome
from tools.peft_table import cell

HEAD = """# The experiments of peft's method comparison under this harness

<!-- Generated: python -m tools.peft_comparison docs/peft-comparison.md -->

Each folder of MetaMathQA/experiments in peft's public method comparison is what `adapter_config` takes as it is:

```
python -m bench predict --backbone llama-3.2-3b --method 'peft(adapter_config="experiments/lora/llama-3.2-3B-rank32")'
```

The configuration comes from its `adapter_config.json`; LoRA's own optimizer (`lora+`, `lora-fa`, `riemannian`) from the
`training_params.json` beside it. Rates, steps, decay and every other optimizer belong to the recipe, the same for every
method: they are the suite's. A field that the installed peft lacks is left out where it is null, false or empty, and
refused where it asks for something.

Below, with peft {version}: a training step of each experiment, one row of {length} tokens on the shape of Llama 3.2 3B
without weights. *published*: the trainable parameters that the comparison's own result prints; empty where none was to
be had. Of {total} experiments {run} run, and {refused} need a type, field or value that this peft has not. Of those
that run, {equal} train exactly as many parameters as published, {unequal} another number; {unknown} have nothing to
compare with. Names leave out `llama-3.2-3B-`.

The configurations and figures are those of huggingface/peft, method_comparison/MetaMathQA, in versions of its files
that are not all of one date. Left out are ten experiments whose `adapter_config.json` was not to be had, most of which
differ by name in rates, steps or the batch alone, and full fine-tuning, which has none.

| experiment | type | trainable | published | |
| --- | --- | ---: | ---: | --- |
"""


def text() -> str:
    """The page."""
    rows, found = [], collections.Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number, experiment in enumerate(experiments().values()):
            counted, said = outcome(experiment, Path(folder, str(number)))
            print(number, experiment.name, counted, said[:60], flush=True)
            found["run"] += counted is not None
            if counted is not None:
                compared = "equal" if counted == experiment.trainable else "unequal"
                found["unknown" if experiment.trainable is None else compared] += 1
            figures = ["" if figure is None else f"{figure:,}" for figure in (counted, experiment.trainable)]
            reason = cell(said.partition("; known")[0])
            rows.append(" | ".join((experiment.name, experiment.adapter["peft_type"], *figures, reason)))
    head = HEAD.format(
        version=importlib.metadata.version("peft"), length=LENGTH, total=len(rows),
        refused=len(rows) - found["run"], **{key: found[key] for key in ("run", "equal", "unequal", "unknown")},
    )  # fmt: skip
    return head + "".join(f"| {row} |\n" for row in rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text())
