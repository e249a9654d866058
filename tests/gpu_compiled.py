"""Compiles the kernels of minibatches for a card that is not there; prints what each needs as a line of JSON.

    python tests/gpu_compiled.py '{"capability": 90, "cell": "lstm", "hidden_size": 10}' ...

It is a process of its own: under TRITON_INTERPRET nothing can be compiled, and LLVM may end the process.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # read when triton is imported
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from rnnbench.kernels.gpu.layer import BYTES
from rnnbench.kernels.gpu.minibatch import Examples, Minibatch
from rnnbench.kernels.trace import graph_of, stock_models
from rnnbench.nn.network import Network
from rnnbench.tasks import Goal

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class NoCard:
    """What Triton asks a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def needs(kernel: Any) -> dict[str, int]:
    """Return the registers and the bytes of stack of a thread, and the bytes of shared memory of a program.

    What does not fit into the registers is on the stack.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        told = subprocess.check_output([CUOBJDUMP, "-res-usage", file.name], text=True)
    registers, stack = (int(re.findall(rf"{word}:(\d+)", told)[0]) for word in ("REG", "STACK"))
    return {"registers": registers, "stack": stack, "shared": kernel.metadata.shared}


def compile_only(function: JITFunction, grid: Any) -> Callable[..., None]:
    """Compile what would be launched, and print what it needs."""

    def launch(*arguments: Any, **named: Any) -> None:
        kernel = function.run(*arguments, grid=grid, warmup=True, **named)
        print(json.dumps({"kernel": function.fn.__name__, **needs(kernel)}), flush=True)

    return launch


def minibatch(
    cell: str,
    hidden_size: int,
    inputs: int = 28,
    layers: int = 1,
    goal: str = "label",
    precision: str = "ieee",
) -> Minibatch:
    """Make a minibatch of 128 examples of 28 steps of 28 bytes, and of 10 classes or numbers."""
    model, asked = replace(stock_models()[cell], hidden_size=hidden_size, num_layers=layers), Goal(goal)
    x = torch.zeros(9, 28, 28, dtype=torch.uint8)
    steps, outputs = (28,) if asked.every_step else (), () if asked in (Goal.label, Goal.labels) else (10,)
    kind = {Goal.keys: torch.uint8}.get(asked, torch.float32 if outputs else torch.int64)
    examples = Examples(BYTES, x, torch.zeros(9, *steps, *outputs, dtype=kind), None)
    network = Network(model, 28, 10, asked.every_step)
    return Minibatch(network, asked, graph_of(model), examples, K=2, B=128, precision=precision)


def main() -> None:
    """Compile what the command line says."""
    JITFunction.__getitem__ = compile_only
    for case in map(json.loads, sys.argv[1:]):
        driver.set_active(NoCard(case.pop("capability")))
        minibatch(**case).run()


if __name__ == "__main__":
    main()
