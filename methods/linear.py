"""One view of the two linear layers of transformers, ``nn.Linear`` and ``Conv1D``; adapts nothing by itself."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bench.errors import BenchError


def oriented(module: nn.Module) -> Tensor:
    """Weight of ``module`` as ``[out, in]``: the parameter itself, or for ``Conv1D`` a transposed view of it.

    Writing into the result writes into the module.

    Raises:
        BenchError: ``module`` is neither ``nn.Linear`` nor ``Conv1D``, e.g. a quantised layer.
    """
    if type(module) is nn.Linear:
        return module.weight
    if type(module) is Conv1D:
        return module.weight.t()
    raise BenchError(f"cannot adapt a {type(module).__name__}; this method takes nn.Linear and transformers' Conv1D")


def set_module(backbone: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` in place of the one that is at the dotted ``path``, in the training mode of the old one."""
    module.train(backbone.get_submodule(path).training)
    backbone.set_submodule(path, module)
