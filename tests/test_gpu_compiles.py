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

from rnnbench.bench.gpu_check import LAYERS
from rnnbench.kernels import libraries
from rnnbench.tasks import Goal

SCRIPT = Path(__file__).with_name("gpu_compiled.py")
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes of shared memory that a program may have, by capability
STACK = 64  # bytes of a thread that may lie in memory
FGR = 512  # of its thirteen square products a thread cannot hold all at hidden size 32


def check(*cases: dict[str, int | str], stack: int = STACK) -> set[str]:
    """Compile the kernels of minibatches; they fit, and nothing is said on the terminal. Give their names."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(OURS / "triton")}
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, *map(json.dumps, cases)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    for kernel in kernels:
        assert kernel["shared"] <= min(SHARED[int(case["capability"])] for case in cases), kernel
        assert kernel["stack"] <= stack, kernel
    return {kernel["kernel"] for kernel in kernels}


@pytest.mark.parametrize("capability, cell", [(90, "lstm"), pytest.param(80, "gru", marks=pytest.mark.slow)])
def test_the_kernels_of_a_minibatch_compile_and_fit_on_a_card_that_is_not_there(capability, cell):
    names = check({"capability": capability, "cell": cell, "hidden_size": 10})
    assert {"forward", "backward", "down", "across", "add_parts", "add_totals"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("cell", libraries.card_models())
def test_the_kernels_of_every_cell_compile_and_fit(cell, capability):
    """On the chip, and tiled; the first layer and one above it."""
    sizes = (10, 32, 128)
    cases = [{"capability": capability, "cell": cell, "hidden_size": size, "layers": 2} for size in sizes]
    check(*cases, stack=FGR if cell == "fgr" else STACK)


@pytest.mark.slow
@pytest.mark.parametrize("hidden_size", [10, 40])
@pytest.mark.parametrize("capability", SHARED)
def test_the_kernels_of_every_option_and_operation_compile_and_fit(capability, hidden_size):
    """The interpreter takes what the compiler refuses, such as a variable that changes its type in a loop."""
    names = [*LAYERS, "every operation"]
    case = {"capability": capability, "hidden_size": hidden_size}
    check(*(case | {"layer": name} for name in names), stack=256)


@pytest.mark.slow
@pytest.mark.parametrize("goal", Goal)
def test_the_kernels_of_every_loss_compile_and_fit(goal):
    for precision in ("ieee", "tf32x3", "tf32"):
        check(
            {"capability": 90, "cell": "rnn", "hidden_size": 16, "goal": goal.value, "precision": precision}
        )
