"""Methods that fail in every way a method can; installed as a plug-in by the fault tests."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from transformers.models.bert.modeling_bert import BertSelfOutput

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


class Talks(_Faulty):
    def strike(self):
        raise ValueError("word " * 2_000_000)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class CannotSay(_Faulty):
    def strike(self):
        raise Unspeakable


class Surrogates(_Faulty):
    def strike(self):
        raise ValueError("half of a pair: \ud83d")


class Odd(BaseException):
    pass


class RaisesNoException(_Faulty):
    def strike(self):
        raise Odd("neither an error nor a signal")


class StartsAProcess(_Faulty):
    """Leaves one running that ignores what asks it to end, and notes its number beside this file."""

    def strike(self):
        program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.DEVNULL)
        with Path(__file__).with_name("left").open("a") as file:
            file.write(f"{process.pid}\n")
        raise ValueError("left one behind")


class Mended(_Faulty):
    """Ends its process until there is a file ``mended`` beside this one."""

    def apply(self, backbone, config):
        if not Path(__file__).with_name("mended").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return GatedScale(backbone)


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


class Rests(_Faulty):
    """Sound, and takes five seconds without a core."""

    def apply(self, backbone, config):
        time.sleep(5.0)
        return GatedScale(backbone)


LATE = 6
"""Builds of a method in one process: its counts need five, and timing more where it builds anew for every block."""


class _Sound(Method):
    """Trains one scale; what it does to its process beside that is its fault."""

    done = 0

    def apply(self, backbone, config):
        type(self).done += 1
        self.harm()
        if type(self).done == LATE:
            self.late()
        return GatedScale(backbone)

    def harm(self):
        pass

    def late(self):
        pass


def _twice(owner, name):
    """Let a function of ``owner`` do its work twice."""
    own = getattr(owner, name)

    def doubled(*args, **kwargs):
        own(*args, **kwargs)
        return own(*args, **kwargs)

    setattr(owner, name, doubled)


class PatchesLinear(_Sound):
    def harm(self):
        _twice(torch.nn.Linear, "forward")


class PatchesDropout(_Sound):
    def harm(self):
        _twice(torch.nn.functional, "dropout")


class PatchesTensors(_Sound):
    def harm(self):
        _twice(torch.Tensor, "mean")


class PatchesTheOptimizer(_Sound):
    def harm(self):
        _twice(torch.optim.AdamW, "step")


class DefaultType(_Sound):
    def harm(self):
        torch.set_default_dtype(torch.float64)


class DefaultDevice(_Sound):
    def harm(self):
        torch.set_default_device("meta")


class Threads(_Sound):
    def harm(self):
        torch.set_num_threads(3)


class Deterministic(_Sound):
    def harm(self):
        torch.use_deterministic_algorithms(True)


class NoGradients(_Sound):
    def harm(self):
        torch.set_grad_enabled(False)


class Precision(_Sound):
    def harm(self):
        torch.set_float32_matmul_precision("medium")


class HooksEverything(_Sound):
    def harm(self):
        torch.nn.modules.module.register_module_forward_hook(lambda module, given, out: out)


class NoFusedAttention(_Sound):
    def harm(self):
        torch.backends.cuda.enable_mem_efficient_sdp(False)


class WarningsAreErrors(_Sound):
    def harm(self):
        warnings.simplefilter("error")


class Exits(_Sound):
    def harm(self):
        os._exit(0)


class ExitsInThree(_Sound):
    def harm(self):
        os._exit(3)


class Leaves(_Sound):
    def harm(self):
        sys.exit("nothing more to do")


class Interrupts(_Sound):
    def harm(self):
        raise KeyboardInterrupt


class Spins(_Sound):
    def harm(self):
        while True:
            pass


class LeavesAChild(_Sound):
    def harm(self):
        if not os.fork():
            time.sleep(5)
            os._exit(0)
        os._exit(4)


class ExitsLate(_Sound):
    def late(self):
        os._exit(5)


class HangsLate(_Sound):
    def late(self):
        time.sleep(600)


class PatchesLate(_Sound):
    def late(self):
        _twice(BertSelfOutput, "forward")


class PrecisionLate(_Sound):
    def late(self):
        torch.set_float32_matmul_precision("medium")
