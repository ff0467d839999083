"""The choices that suites, records and the command line share, as types alone: importing them costs nothing."""

from typing import Literal

Status = Literal["ok", "oom", "nan", "timeout", "crashed", "failed"]
Dtype = Literal["float32", "bfloat16", "bfloat16_autocast"]
"""``bfloat16_autocast``: forward under autocast, frozen matrices bfloat16, vectors and all that trains float32."""
Attention = Literal["sdpa", "eager"]
Optimizer = Literal["adamw_fused", "adamw_foreach", "adamw_loop", "adamw_8bit", "sgd", "adafactor"]
Weights = Literal["native", "nf4"]
"""How frozen linear weights of the backbone's layers are stored: as computed with, or as 4-bit normal floats."""
Device = Literal["cuda", "cpu"]
