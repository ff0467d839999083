"""Linear layers as methods take them: one view of their weights, and the way into a backbone; adapts nothing."""

from torch import nn

from bench.anatomy import oriented as oriented


def set_module(backbone: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` in place of the one that is at the dotted ``path``, in the training mode of the old one."""
    module.train(backbone.get_submodule(path).training)
    backbone.set_submodule(path, module)
