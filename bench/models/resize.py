"""Changes the depth or width of a configuration, with the rest in proportion."""

import math
from typing import Any

from bench.errors import BenchError

_IN_PROPORTION = (
    *("num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "hidden_dim", "d_ff", "n_inner", "ffn_dim"),
    *("embedding_size", "word_embed_proj_dim"),
)
"""What grows with the width, as the families spell it: heads (each keeps its size), FFN, embeddings."""
_DERIVED = ("layer_types", "num_decoder_layers")
"""What transformers derives again from the depth."""


def resize(config: Any, name: str, layers: int | None, width: int | None) -> Any:
    """A configuration like ``config`` with another depth or width.

    Args:
        config: A transformers configuration; untouched.
        name: Of the backbone, for error messages.
        layers: Number of layers; as it is where None.
        width: Hidden size; number of heads, FFN width and embedding width change in proportion. As it is where None.

    Raises:
        BenchError: A number of heads or a width would not be whole.
    """
    if layers is None and width is None:
        return config
    values = config.to_dict()
    spelled = config.attribute_map

    def key(field: str) -> str:
        return str(spelled.get(field, field))

    if layers is not None:
        values[key("num_hidden_layers")] = layers
        values = {field: value for field, value in values.items() if field not in _DERIVED}
    if width is not None:
        hidden: int = config.hidden_size
        present = {key(field): getattr(config, field, None) for field in _IN_PROPORTION}
        scaled: dict[str, int] = {field: value for field, value in present.items() if isinstance(value, int)}
        step = math.lcm(*(hidden // math.gcd(hidden, value) for value in scaled.values()))
        if width % step:
            raise BenchError(
                f"width {width} cannot be divided among the heads of {name!r} ({hidden} wide, "
                f"{config.num_attention_heads} heads); give multiples of {step}"
            )
        values |= {field: value * width // hidden for field, value in scaled.items()}
        values[key("hidden_size")] = width
    return type(config)(**values)
