"""Laws of the bench that need no card: counts are right, and measurements run on a CPU too."""

import re
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rnnbench.bench import gpu
from rnnbench.bench.bound import CARDS, Load, bound, works_of
from rnnbench.config import Model, Precision
from rnnbench.nn.network import Network
from rnnbench.tasks import Task

H100 = CARDS["h100"]


def test_the_operations_and_bytes_of_an_rnn_are_those_counted_by_hand():
    """Two layers of 32 units on 28 inputs (28 are computed as 32), 4 steps, 16 examples, 3 trials."""
    load = Load(Model("rnn", 32, 2), K=3, steps=4, batch=16)
    examples = 3 * 4 * 16
    *layers, update = works_of(load)
    products = [work.operations / (2 * 32 * 32 * examples) for work in layers]  # of 32 x 32
    assert products == [2, 3, 2, 4]  # forward and backward; the images get no gradient
    weights = [4 * 3 * (32 * size + 32 * 32 + 2 * 32) for size in (28, 32)]
    assert layers[0].bytes == (28 + 4 * 32) * examples + weights[0]  # bytes of x, and h
    assert layers[3].bytes == (4 * 32 + 4 * 32 + 4 * 32) * examples + 2 * weights[1]  # h, x and d_x
    assert update.bytes == 4 * 3 * (1 + 1 + 5) * Network(load.model, 28, 10).count()


@pytest.mark.parametrize("hidden_size", [10, 32, 130])
@pytest.mark.parametrize("model", ["lstm", "gru", "mingru"])
def test_more_work_and_less_precise_products_keep_their_order(model, hidden_size):
    load = Load(Model(model, hidden_size, 2), K=64)
    seconds = [bound(load, H100, precision.value).seconds for precision in Precision]
    assert seconds == sorted(seconds, reverse=True)
    assert bound(replace(load, K=128), H100).seconds == pytest.approx(2 * bound(load, H100).seconds)
    alone = bound(replace(load, K=1), H100).seconds
    assert alone >= 0.999 * bound(load, H100).seconds / 64  # more where some processors have no work
    assert bound(load, CARDS["a100"]).seconds > bound(load, H100).seconds


def small() -> Task:
    rng = np.random.RandomState(0)
    everything = np.arange(256)
    x, y = rng.randint(0, 256, (256, 3, 4), dtype=np.uint8), rng.randint(0, 10, 256)
    return Task(
        x, y, {"train": everything, "val": everything, "test": everything},
        scale=1 / 255, mean=0.5, std=0.5, outputs=10, checksum="", details={},
    )  # fmt: skip


def test_a_stack_is_measured_beside_one_run_and_a_stack_too_large_is_named(monkeypatch):
    monkeypatch.setattr(gpu, "shuffled", lambda K, count: [torch.randint(256, (K, count * gpu.BATCH))])
    monkeypatch.setattr(gpu, "EPOCH", 2)
    whole = gpu.stack_of

    def lacking(config, task, K):
        if K == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(config, task, K)

    monkeypatch.setattr(gpu, "stack_of", lacking)
    config = gpu.configured(Model("gru", 4, 2), "cpu", Precision.float32)
    row, line = gpu.gpu_rows([config], small(), [2, 3], 1, H100)
    assert line == "gru, hidden size 4, stack of 3: memory does not suffice"
    assert row.times == [pytest.approx(2 * row.serial[0] / row.stack[0])]
    assert len(row.cells) == len(gpu.HEADER)
    assert row.least == bound(Load(config.model, 2, 4, 3, gpu.BATCH, 10), H100).seconds


@pytest.mark.parametrize("arguments", [["--device", "cuda"], ["pixels"]])
def test_without_a_card_one_line_says_so(arguments, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("rnnbench.bench", run_name="__main__")
    assert capfd.readouterr().out == ""
    assert re.match("error: fit.device=cuda: .*$", str(ended.value))


def test_the_bound_is_printed_without_a_card(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["bench", "gpu-bound", "--hidden", "10", "--stacks", "1", "512"])
    runpy.run_module("rnnbench.bench", run_name="__main__")
    first, header, _, *rows = capfd.readouterr().out.splitlines()
    assert first.startswith("reckoned, not measured: NVIDIA H100")
    assert {row.count("|") for row in [header, *rows]} == {9}
    assert len(rows) == 4
