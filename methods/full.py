"""The two ends of the scale: full fine-tuning and the head alone; neither adds a parameter to the backbone."""

import dataclasses
from collections.abc import Sequence

from torch import nn

from bench.anatomy import anatomy
from bench.method import Method, MethodConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullConfig(MethodConfig):
    """Full fine-tuning has nothing to set."""


class FullFineTuning(Method):
    """Every parameter trains: ``W <- W - lr * update(dL/dW)`` for all W.

    Paper: Devlin et al., NAACL 2019, arXiv:1810.04805.
    Trains: all P parameters (bert-base without its pooler: 108,891,648), and stores all of them per task.
    Backward: each weight gradient and, above the embeddings, each input gradient: about twice the forward's FLOPs.
    Merging: the trained module is already in the backbone's own structure and is returned as it is.
    Use: as the yardstick, and where three more numbers for each weight (its gradient and AdamW's two moments) fit into
    memory and a whole model per task into storage.
    """

    Config = FullConfig
    takes_float32 = True

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
    """``logits = head(pool(backbone(x)))`` with a fixed backbone, also called a linear probe.

    On a language model the head is its LM head: a copy of that matrix, untied from the embeddings, is what trains.

    Paper: Devlin et al., NAACL 2019, arXiv:1810.04805, section 5.3.
    Trains: 0 backbone parameters (bert-base: 0) and stores none; the harness's head is counted apart. The objective
    text: the LM head, ``V d`` (gpt2: 38,597,376).
    Backward: ends at the head; nothing in the backbone requires a gradient, so autograd records nothing there.
    Merging: returns the module itself, which is the untouched backbone.
    Use: as the floor: what a method scores above it is what training more than the head has bought.
    """

    Config = HeadConfig
    takes_float32 = True

    def apply(self, backbone: nn.Module, config: HeadConfig) -> nn.Module:
        """Return the backbone as it came, frozen but for the LM head of a language model."""
        if (path := anatomy(backbone).lm_head) is not None:
            output = backbone.get_submodule(path)
            for name, parameter in list(output.named_parameters()):  # new tensors: tied ones stay with the embeddings
                setattr(output, name, nn.Parameter(parameter.detach().clone()))
        return backbone

    def widen(self, module: nn.Module, added: Sequence[nn.Parameter]) -> None:
        """Nothing: its LM head is the model's own, untied."""

    def merge(self, module: nn.Module) -> nn.Module:
        """Return ``module`` itself: it is the backbone."""
        return module
