"""Laws of the generated GPU kernels that need a compiler and no card: they compile and fit on a card.

Whether they are fast only a card can say. But what does not fit into the registers goes through memory at
each step, and what does not fit into the shared memory is refused when it is launched.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OURS

from rnnbench.kernels.trace import stock_models

SCRIPT = Path(__file__).with_name("gpu_compiled.py")
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that a program may have, by capability
STACK = 64  # bytes of a thread that may lie in memory
FGR = 512  # of its thirteen square products a thread cannot hold all at hidden size 32


def check(capability: int, cell: str, *sizes: str, precision: str = "ieee") -> None:
    """Compile both kernels of layers; they fit, and nothing is said on the terminal."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(OURS / "triton")}
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, str(capability), cell, precision, *sizes],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert [kernel["kernel"] for kernel in kernels] == ["forward", "backward"] * len(sizes)
    for kernel in kernels:
        assert kernel["shared"] <= SHARED[capability], kernel
        assert kernel["stack"] <= (FGR if cell == "fgr" else STACK), kernel


@pytest.mark.parametrize("capability, cell, size", [(90, "lstm", "10,28"), (80, "gru", "10,10")])
def test_kernels_compile_and_fit_on_a_card_that_is_not_there(capability, cell, size):
    check(capability, cell, size)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("cell", stock_models())
def test_kernels_of_every_cell_compile_and_fit(cell, capability):
    check(capability, cell, "10,28", "10,10", "32,28", "32,32")
