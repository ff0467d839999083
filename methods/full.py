"""The two ends of the scale: full fine-tuning and the head alone; neither adds a parameter to the backbone."""

import dataclasses

from torch import nn

from bench.method import Method, MethodConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullConfig(MethodConfig):
    """Full fine-tuning has nothing to set."""


class FullFineTuning(Method):
    """Every parameter trains: ``W <- W - lr * update(dL/dW)`` for all W (Devlin et al., NAACL 2019, arXiv:1810.04805).

    Trains all P parameters (bert-base without its pooler: 108,891,648) and stores all of them per task. Backward
    computes each weight gradient and, above the embeddings, each input gradient: about twice the forward's FLOPs.
    The trained module is already in the backbone's own structure, so merging returns it as it is.
    """

    Config = FullConfig

    def apply(self, backbone: nn.Module, config: FullConfig) -> nn.Module:
        """Unfreeze everything."""
        return backbone.requires_grad_(True)

    def merge(self, module: nn.Module) -> nn.Module:
        """Return ``module`` itself: there is nothing to fold."""
        return module


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig(MethodConfig):
    """Training the head alone has nothing to set."""


class HeadOnly(Method):
    """``logits = head(pool(backbone(x)))`` with a fixed backbone (linear probe; Devlin et al. 2019, section 5.3).

    Trains 0 backbone parameters (bert-base: 0) and stores none; the harness's head is counted apart. Nothing in the
    backbone requires a gradient, so autograd records nothing there and backward ends at the head. Merging returns
    the module itself, which is the untouched backbone.
    """

    Config = HeadConfig

    def apply(self, backbone: nn.Module, config: HeadConfig) -> nn.Module:
        """Return the backbone as it came, frozen."""
        return backbone

    def merge(self, module: nn.Module) -> nn.Module:
        """Return ``module`` itself: it is the backbone."""
        return module
