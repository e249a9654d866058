"""Compiles the kernels of minibatches for a card that is not there; prints what each needs as a line of JSON.

    python tests/gpu_compiled.py '{"capability": 90, "cell": "lstm", "hidden_size": 10}' ...
    python tests/gpu_compiled.py '{"capability": 90, "layer": "zoneout backwards", "hidden_size": 40}' ...

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

from rnnbench.bench.gpu_check import LAYERS
from rnnbench.bench.layers import Case, arrays, run
from rnnbench.config import Model
from rnnbench.kernels import libraries
from rnnbench.kernels.gpu.choice import scan_for
from rnnbench.kernels.gpu.layer import BYTES
from rnnbench.kernels.gpu.minibatch import Examples, Minibatch
from rnnbench.kernels.gpu.step import TEXT
from rnnbench.nn.cells import Cell, register_cell
from rnnbench.nn.network import Network
from rnnbench.tasks import Goal

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
PRINTED: set[str] = set()


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
    """Compile what would be launched, and print what it needs, once."""

    def launch(*arguments: Any, **named: Any) -> None:
        kernel = function.run(*arguments, grid=grid, warmup=True, **named)
        if kernel.hash in PRINTED:
            return
        PRINTED.add(kernel.hash)
        print(json.dumps({"kernel": function.fn.__name__, **needs(kernel)}), flush=True)

    return launch


@register_cell("operations")
class Operations(Cell):
    """A step with every operation that kernels have."""

    gates, states = 3, 2

    def shapes(self, input_size):
        return super().shapes(input_size) | {"number": (1,), "vector": (self.hidden_size,)}

    def step(self, a, state, layer):
        h, c = state
        x, y, z = layer.recurrent(h, a).split(self.hidden_size, 1)
        z = torch.maximum(x.sin(), torch.minimum(y.cos(), z.abs())) / (1 + (x * x + 1).sqrt())
        z = torch.where(z > 0.1, z.exp(), (y.abs() + 1).log()) + torch.where(x <= y, x.relu(), -y)
        z = z * x.sign() + torch.where(z != 0, 1.0, z) - torch.where(z >= 1, x, torch.where(z < 2, y, z))
        c = c * layer["number"] + z * layer["vector"]
        return torch.where(x == y, x, y).sigmoid() * c.tanh(), c / (1 + c.pow(2).sum(1, keepdim=True))


def layer(name: str, hidden_size: int) -> None:
    """Compile the kernels of a layer, in training and in evaluation."""
    case = LAYERS.get(name, Case(Model("operations"), input=10))
    model = replace(case.model, hidden_size=hidden_size)
    case, graph = replace(case, model=model, T=28, B=128), libraries.graph(model)
    if name == "every operation":
        assert {getattr(node, "op", "") for node in graph.nodes} >= TEXT.keys()
    scan = scan_for(graph, hidden_size, case.input, "ieee")
    filled = arrays(case, scan).layer
    run(scan, filled)
    scan.forward(filled, training=False)


def minibatch(
    cell: str,
    hidden_size: int,
    inputs: int = 28,
    layers: int = 1,
    goal: str = "label",
    precision: str = "ieee",
) -> Minibatch:
    """Make a minibatch of 128 examples of 28 steps of 28 bytes, and of 10 classes or numbers."""
    model, asked = (
        replace(libraries.card_models()[cell], hidden_size=hidden_size, num_layers=layers),
        Goal(goal),
    )
    x = torch.zeros(9, 28, 28, dtype=torch.uint8)
    steps, outputs = (28,) if asked.every_step else (), () if asked in (Goal.label, Goal.labels) else (10,)
    kind = {Goal.keys: torch.uint8}.get(asked, torch.float32 if outputs else torch.int64)
    examples = Examples(BYTES, x, torch.zeros(9, *steps, *outputs, dtype=kind), None)
    network = Network(model, 28, 10, asked.every_step)
    return Minibatch(network, asked, libraries.graph(model), examples, K=2, B=128, precision=precision)


def main() -> None:
    """Compile what the command line says."""
    JITFunction.__getitem__ = compile_only
    for case in map(json.loads, sys.argv[1:]):
        driver.set_active(NoCard(case.pop("capability")))
        if "layer" in case:
            layer(case["layer"], case["hidden_size"])
        else:
            minibatch(**case).run()


if __name__ == "__main__":
    main()
