"""Laws of `python -m rnnbench.bench gpu-check`, whose checks the interpreter runs here."""

import re
import runpy
import sys
from itertools import islice

import pytest
from conftest import sampled

from rnnbench.bench import gpu_check
from rnnbench.kernels.gpu.scan import ResidentScan


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code of a check in the interpreter, and its lines."""
    monkeypatch.setattr(sys, "argv", ["bench", "gpu-check", "--interpreter"])
    code = 0
    try:
        runpy.run_module("rnnbench.bench", run_name="__main__")
    except SystemExit as end:
        code = end.code
    return code, capfd.readouterr().out.splitlines()


@pytest.mark.parametrize("most", sampled([2, None], [2]))
def test_a_part_of_the_checks_passes_in_the_interpreter(most, monkeypatch, capfd):
    whole = gpu_check.sample
    monkeypatch.setattr(gpu_check, "sample", lambda device: islice(whole(device), most))
    code, (first, *lines, last) = run(monkeypatch, capfd)
    assert first == "Triton's interpreter runs a part of the checks on the CPU"
    assert [line for line in lines if not line.startswith("pass  ")] == []
    assert len(lines) >= 2
    assert re.fullmatch(rf"{len(lines)} of {len(lines)} passed, 0 failed, in \d+ s", last)
    assert code == 0


def test_a_kernel_that_is_wrong_or_cannot_run_fails_and_the_others_are_checked(monkeypatch, capfd):
    right, calls = ResidentScan.forward, []

    def wrong(scan, layer, training):
        calls.append(layer)
        if len(calls) == 2:
            raise RuntimeError("out of resources: shared memory\nRequired: 400000")
        right(scan, layer, training)
        layer.outputs *= 1 + 1e-4

    monkeypatch.setattr(ResidentScan, "forward", wrong)
    (gru,) = (check for check in gpu_check.cells("cpu") if check.name == "cell gru, hidden size 10")
    assert gpu_check.report([gru] * 3) == 3
    lines = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"fail  cell .*, hidden size 10: \d\.\de-0[45], at most 1e-05", lines[0])
    assert re.fullmatch(
        r"fail  .*: nan, at most 1e-05; RuntimeError: out of resources: shared memory", lines[1]
    )
    assert lines[3].startswith("0 of 3 passed, 3 failed, in ")


def test_every_cell_task_option_and_promise_has_a_check():
    names = [check.name for check in gpu_check.checks("cuda")]
    assert len(set(names)) == len(names)
    for word in (
        "cell mut3, ",
        "task music",
        "option zoneout",
        "tf32x3",
        "two runs",
        "alone",
        "a CUDA graph",
    ):
        assert any(word in name for name in names), word


@pytest.mark.slow
@pytest.mark.parametrize("check", list(gpu_check.checks("cpu")), ids=lambda check: check.name)
def test_every_check_passes_in_the_interpreter(check):
    assert check.error() <= check.limit
