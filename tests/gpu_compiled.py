"""Compiles the kernels of layers for a card that is not there, and prints what each needs as a line of JSON.

    python tests/gpu_compiled.py 90 lstm ieee 10,28 10,10     for sm_90: cell, precision, hidden size, inputs

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

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from rnnbench.kernels.gpu.scan import ResidentScan
from rnnbench.kernels.trace import graph_of, stock_models
from tests.gpu_layers import Case, arrays, run

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


def main() -> None:
    """Compile what the command line says."""
    capability, cell, precision, *sizes = sys.argv[1:]
    driver.set_active(NoCard(int(capability)))
    JITFunction.__getitem__ = compile_only
    for hidden_size, inputs in (map(int, size.split(",")) for size in sizes):
        model = replace(stock_models()[cell], hidden_size=hidden_size)
        scan = ResidentScan(graph_of(model), hidden_size, precision)
        run(scan, arrays(Case(model, K=1, T=28, B=128, input=inputs), scan).layer)


if __name__ == "__main__":
    main()
