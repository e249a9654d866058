"""Times parallel scans on the torch path beside a loop over time."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from rnnbench.bench.measure import in_turn
from rnnbench.config import Model
from rnnbench.nn.cells import Cell, Weights, make_cell

BATCH = 32


def drawn(name: str, K: int, H: int) -> Weights:
    """Return initial weights of a cell."""
    shapes = make_cell(Model(name, H)).all_shapes(H)
    return {name: (torch.rand(K, *shape) * 2 - 1) * H**-0.5 for name, shape in shapes.items()}


def pass_of(run: Callable[[Weights, Tensor], Tensor], weights: Weights, x: Tensor) -> Callable[[], float]:
    """Time a forward and a backward pass of a layer, in seconds."""

    def measure() -> float:
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        started = time.perf_counter()
        torch.autograd.grad(run(leaves, x).sum(), list(leaves.values()))
        return time.perf_counter() - started

    return measure


def scan_times(T: int, H: int, rounds: int) -> dict[str, list[float]]:
    """Time forward and backward passes at length T: nn.GRU, our gru, the minimal cells, minGRU as a loop."""
    torch.set_num_threads(1)
    x = torch.randn(1, T, H, BATCH)
    contestants: dict[str, Callable[[], float]] = {}
    layer = nn.GRU(H, H)
    flat = x[0].permute(0, 2, 1).contiguous()

    def torch_gru() -> float:
        started = time.perf_counter()
        torch.autograd.grad(layer(flat)[0].sum(), list(layer.parameters()))
        return time.perf_counter() - started

    contestants["nn.GRU"] = torch_gru
    for name in ("gru", "mingru", "minlstm"):
        contestants[name] = pass_of(partial(whole, make_cell(Model(name, H))), drawn(name, 1, H), x)
    contestants["mingru, step by step"] = pass_of(partial(steps, H), drawn("mingru", 1, H), x)
    return dict(zip(contestants, in_turn(list(contestants.values()), rounds), strict=True))


def whole(cell: Cell, weights: Weights, x: Tensor) -> Tensor:
    """Run a layer over all of x."""
    return cell(x, weights, False)


def steps(H: int, weights: Weights, x: Tensor) -> Tensor:
    """Run minGRU as a loop over time."""
    rows = torch.baddbmm(
        weights["bias"].unsqueeze(-1), weights["weight_ih"], x.transpose(1, 2).flatten(2)
    ).view(len(x), -1, x.shape[1], x.shape[3])
    z, n = (part.unbind(2) for part in rows.split(H, 1))
    h, out = torch.zeros_like(n[0]), []
    for t in range(x.shape[1]):
        h = torch.lerp(h, n[t], z[t].sigmoid())
        out.append(h)
    return torch.stack(out, 1)
