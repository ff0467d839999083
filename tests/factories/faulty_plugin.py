"""Methods that fail in every way a method can; installed as a plug-in by the fault tests."""

import os
import signal
import time

import torch

from bench.method import Method


class _Faulty(Method):
    def apply(self, backbone, config):
        self.strike()
        return backbone

    def strike(self):
        pass


class Raises(_Faulty):
    def strike(self):
        print("a method's own print", flush=True)  # noqa: T201
        raise ValueError("this method is broken")


class OutOfMemory(_Faulty):
    def strike(self):
        raise torch.OutOfMemoryError("no memory left")


class Killed(_Faulty):
    def strike(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(_Faulty):
    def strike(self):
        time.sleep(600)


class NotANumber(_Faulty):
    def apply(self, backbone, config):
        for parameter in backbone.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
        return backbone.requires_grad_(True)


class GatedScale(torch.nn.Module):
    """Multiplies the last hidden state by one learned scalar."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, **inputs):
        output = self.backbone(**inputs)
        output.last_hidden_state = output.last_hidden_state * self.scale
        return output


class Slow(_Faulty):
    """Sound, but slow enough to be killed in the middle."""

    def apply(self, backbone, config):
        time.sleep(1.0)
        return GatedScale(backbone)
