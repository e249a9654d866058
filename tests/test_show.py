"""Laws of the terminal: it fails no trial, shows nothing raw, fits its width, marks what validation chose."""

import io
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnbench import __version__, terminal
from rnnbench.__main__ import main
from rnnbench.config import to_yaml
from rnnbench.render.layout import Layout
from rnnbench.sweep.launcher import labels
from rnnbench.sweep.scheduler import _say_resumed
from rnnbench.sweep.session import say_best
from rnnbench.system.plain_text import printable
from rnnbench.terminal import (
    Live,
    compare,
    complain,
    judge,
    legend,
    mean_sd,
    print_layout,
    refuse,
    say,
    visible,
    warn,
)
from tests.test_app import QUICK


def result(model: str, seed: int, accuracy: float, status: str = "finished", **params: object) -> dict:
    metrics = {
        "best/val_accuracy": accuracy,
        "test/accuracy": accuracy - 0.1,
        "parameters/total": 1234.0,
        "time/train_seconds": 2.0,
    }
    return {
        "status": status,
        "params": {"model.name": model, "seed": seed, "tracking.uri": None, "optim.lr": 0.1} | params,
        "metrics": metrics if status == "finished" else {},
    }


def marked(table: Layout) -> list[int]:
    """The rows that are marked as the best."""
    return [n for n, row in enumerate(table.rows) if row.best]


def test_mean_and_deviation_by_hand():
    assert mean_sd([0.8, 0.9, 1.0], "val/accuracy") == "0.9000 ± 0.1000"
    assert mean_sd([0.8], "val/accuracy") == "0.8000"  # one seed has no deviation
    assert mean_sd([], "val/accuracy") == ""
    assert mean_sd([0.62, 0.62], "time/train_seconds") == "0.62 ± 0.00"  # as many digits as the mean
    assert mean_sd([12.0, 12.5], "time/train_seconds") == "12.2 ± 0.4"
    assert mean_sd([0.000053, 0.000055], "test/mse") == "5.4e-05 ± 1.414e-06"
    assert mean_sd([0.9, 0.90002], "val/accuracy") == "0.9000 ± 1.41e-05"  # not zero


@pytest.mark.parametrize("diverged", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_left_out_and_said(diverged):
    assert mean_sd([0.8, diverged, 0.9, 1.0], "test/mse") == "0.9 ± 0.1, 1 not finite"
    assert mean_sd([diverged, diverged], "test/mse") == "2 not finite"
    table = compare(
        [result("lstm", 0, diverged), result("lstm", 1, 0.8), result("gru", 0, 0.7)], "best/val_accuracy"
    )
    assert table.lines()[0][2] == "0.8000, 1 not finite"
    assert marked(table) == [0]


def test_a_trial_counts_once():
    """Three records of one trial and one of another are two seeds; its newest finished one counts."""
    first, again = result("lstm", 0, 0.8), result("lstm", 0, 0.9)
    failed = result("lstm", 0, 0.0, "failed")
    table = compare([one | {"trial": "a"} for one in (first, again, failed)] + [result("lstm", 1, 0.9)])
    assert table.lines() == [["lstm", "1,234", "0.9000 ± 0.0000", "0.8000 ± 0.0000", "2.0 ± 0.0", "2"]]


def test_seeds_share_a_row_and_failures_are_counted():
    table = compare([result("lstm", 0, 0.8), result("lstm", 1, 0.9), result("gru", 0, 0.0, "failed")])
    assert table.headings() == ["model", "parameters", "val accuracy", "test accuracy", "seconds", "seeds"]
    assert table.lines()[0] == ["lstm", "1,234", "0.8500 ± 0.0707", "0.7500 ± 0.0707", "2.0 ± 0.0", "2"]
    assert table.lines()[1] == ["gru", "", "", "", "", "0, 1 failed"]


def test_folds_are_averaged_within_a_seed_and_are_no_seeds():
    def fold(model, seed, k, accuracy, **more):
        return result(model, seed, accuracy, **more, **{"data.folds": 2, "data.fold": k})

    reached = zip(product((0, 1), (0, 1)), (0.6, 0.8, 0.8, 0.8), strict=True)
    two = [fold("lstm", seed, k, accuracy) for (seed, k), accuracy in reached]
    one = [fold("gru", 0, 0, 0.5), fold("gru", 0, 1, 0.7)]
    table = compare(
        [*two, *one, fold("rnn", 0, 0, 0.5), fold("rnn", 0, 1, 0.5, status="failed")], "best/val_accuracy"
    )
    assert table.headings()[-1] == "seeds x folds" and "data.fold" not in table.headings()
    assert [(line[2], line[-1]) for line in table.lines()] == [
        ("0.7500 ± 0.0707", "2 x 2"),
        ("0.6000 ± 0.1414", "1 x 2"),
        ("0.5000", "1 of 1 x 2, 1 failed"),
    ]
    assert marked(table) == [0]
    assert legend(table, None) == ["±: sample standard deviation over seeds, of a single seed over its folds"]
    three = [result("gru", 0, 0.5, **{"data.folds": 3, "data.fold": k}) for k in range(3)]
    assert [line[-1] for line in compare([*one, *three]).lines()] == ["1 x 2", "1 x 3"]


def test_each_task_has_its_own_metric():
    table = compare([result("lstm", 0, 0.8), result("gru", 0, 8.5, **{"data.metric": "nll"})])
    assert table.headings() == ["model", "parameters", "val accuracy", "test accuracy", "seconds", "seeds"]


@pytest.mark.parametrize(("key", "columns"), [("optim.lr", 1), ("tracking.uri", 0), ("data.root", 0)])
def test_what_varied_is_a_column_unless_it_says_where(key, columns):
    table = compare([result("lstm", 0, 0.8, **{key: "one"}), result("lstm", 1, 0.9, **{key: "other"})])
    assert table.headings().count(key) == columns
    assert len(table.rows) == 1 + columns


# Columns


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A terminal of 80 columns."""
    monkeypatch.setattr(terminal.out, "_width", 80)
    yield


WIDE = {
    "lr and size": {"optim.lr": [0.003, 0.01], "model.hidden_size": [8, 128]},
    "six keys": {
        "optim.lr": [0.003, 0.01],
        "model.hidden_size": [8, 128],
        "model.recurrent_dropout": [0.1, 0.2],
        "fit.batch_size": [32, 64],
        "optim.weight_decay": [0.0, 1e-5],
        "data.train_size": [100, 1000],
    },
    "a long name": {"data.path": ["/a/long/path/" + "x" * 60, "/another/long/path/" + "y" * 70]},
}


@pytest.mark.parametrize("case", WIDE)
def test_a_table_fits_its_terminal_and_loses_no_setting(case: str, narrow: None, capsys) -> None:
    results = [
        result(model, seed, 0.8 + 0.01 * seed, **{key: values[k] for key, values in WIDE[case].items()})
        for model in ("lstm", "gru") for k in (0, 1) for seed in (0, 1, 2)
    ]  # fmt: skip
    comparison = compare(results, "best/val_accuracy")
    print_layout(comparison, legend(comparison, "best/val_accuracy"), "sweep/comparison.md")
    printed = capsys.readouterr().out
    table, _, below = printed.partition("every row: ")
    assert max(map(len, table.splitlines())) <= 80
    assert "lstm *" in table and "gru *" in table
    assert "0.8100 ± 0.0100" in table  # of validation
    together = "".join(table.split())
    for values in WIDE[case].values():
        for value in values:
            assert str(value)[:12] in together  # folded at most
    if "test accuracy" not in table and "0.7100 ± 0.0100" not in table:
        assert "test accuracy" in below and "sweep/comparison.md" in below
    assert "±: sample standard deviation over seeds" in below


def test_the_best_row_is_that_of_validation(narrow: None, capsys) -> None:
    results = [result("lstm", 0, 0.8), result("gru", 0, 0.9), result("rnn", 0, float("nan"))]
    results[0]["metrics"]["test/accuracy"] = 1.0
    for goal in ("best/val_accuracy", "test/accuracy", "best/test_accuracy"):
        comparison = compare(results, judge(goal, results))
        assert marked(comparison) == [1]
    print_layout(comparison, legend(comparison, "best/val_accuracy"))
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "*" in line] == [
        ["gru", "*"], ["*:", "the"],
    ]  # fmt: skip
    losses = [result("lstm", 0, 0.8), result("gru", 0, 0.9)]
    for entry, loss in zip(losses, (0.1, 0.2), strict=True):
        entry["metrics"]["best/val_loss"] = loss
    assert marked(compare(losses, judge("best/val_loss", losses))) == [0]
    two_tasks = [result("lstm", 0, 0.8), result("gru", 0, 8.5, **{"data.metric": "nll"})]
    assert judge("best/val_accuracy", two_tasks) is None


def test_a_job_is_called_by_what_tells_it_apart() -> None:
    assert labels([["model=lstm", "seed=0", "fit.epochs=5"], ["model=gru", "seed=0", "fit.epochs=5"]]) == [
        "lstm", "gru",
    ]  # fmt: skip
    assert labels([["seed=3", "hydra.sweep.dir=x"]]) == ["seed=3"]


@pytest.mark.parametrize(("epochs", "lines"), [(1, 1), (5, 5), (30, 30), (1000, 30)])
def test_a_trial_that_trains_alone_shows_its_epochs(epochs: int, lines: int, capsys) -> None:
    for trials in (1, 2):
        live = Live(trials, epochs, "best/val_accuracy", True)
        for epoch in range(1, epochs + 1):
            live.epoch(1, [0.5])
            live.alone(epoch, epochs, {"train/loss": 0.25, "val/accuracy": 0.5})
        live.close()
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
        assert len(said) in ((lines, lines + 1) if trials == 1 else (0,))
        if trials == 1:
            assert said[-1] == f"epoch {epochs}/{epochs}, train/loss 0.25, val/accuracy 0.5000"


def test_the_best_trial_of_a_grid_can_be_trained_again_from_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(sys, "argv", ["rnnbench", "-m", "--config-dir", "my conf", "model=lstm,gru"])
    words = ["model=gru", "data.path='a b.npz'", "seed=1"]
    results = [result("lstm", 0, 0.8), result("gru", 1, 0.9), result("rnn", 0, 0.95, "failed")]
    folders = [tmp_path / str(n) for n in range(3)]
    say_best("best/val_accuracy", folders, results, {folders[1]: words})
    best, command = capsys.readouterr().out.splitlines()
    assert best.startswith("best: trial 1, val/accuracy 0.9000; ") and best.endswith("/1")
    given = shlex.split(command)
    assert given == ["python", "-m", "rnnbench", "--config-dir", "my conf", *words]


def test_of_folds_the_best_is_that_of_their_mean_and_the_command_trains_all(tmp_path: Path, capsys) -> None:
    reached = {("lstm", 0): 0.7, ("lstm", 1): 0.95, ("gru", 0): 0.9, ("gru", 1): 0.9}
    results = [result(m, 0, value, **{"data.folds": 2, "data.fold": k}) for (m, k), value in reached.items()]
    folders = [tmp_path / str(n) for n in range(4)]
    given = {folders[n]: [f"model={m}", "data.folds=2", f"data.fold={k}"] for n, (m, k) in enumerate(reached)}
    assert say_best("best/val_accuracy", folders, results, given) == folders[2]
    best, command = capsys.readouterr().out.splitlines()
    assert best.startswith("best: trial 2, val/accuracy 0.9000 in the mean over 2 folds; ")
    assert command.endswith(" -m model=gru data.folds=2")


def test_no_command_is_printed_ready_to_paste_that_a_file_in_a_folder_says(tmp_path: Path, capsys) -> None:
    inner = tmp_path / "1" / ".hydra"
    inner.mkdir(parents=True)
    (inner / "overrides.yaml").write_text("- rnnbench_import=theirs.py\n")
    say_best(
        "best/val_accuracy",
        [tmp_path / "0", tmp_path / "1"],
        [result("lstm", 0, 0.8), result("gru", 1, 0.9)],
        {tmp_path / "0": ["seed=0"]},
    )
    assert "best: trial 1" in (said := capsys.readouterr().out) and "theirs.py" not in said


def test_resumed_trials_say_from_which_epoch(capsys) -> None:
    _say_resumed([12, 12, 0, 7, 12])
    said = capsys.readouterr().out.splitlines()
    assert said == ["1 trial goes on from epoch 7", "3 trials go on from epoch 12"]


# What a terminal can show

HOSTILE = ["[new]", "[/]", "[bold red]", ":smile:", "$\\frac$", "a\x1b[31mred", "bell\x07", "back\rover"]
HOSTILE += ["\x9b2J", "caf\udce9", "\u202eturned", "\u2028"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_name_is_shown_as_it_is_and_nothing_raw(
    name: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = {}
    for which in ("stdout", "stderr"):
        streams[which] = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
        monkeypatch.setattr(sys, which, streams[which])
    say(f"{name}: 0.5 ± 0.1")
    warn(name)
    complain(name)
    print_layout(compare([result(name, 0, 0.8), result("gru", 0, 0.9)], "best/val_accuracy"))
    for stream in streams.values():
        said = stream.buffer.getvalue().decode(encoding)
        shown = printable(name) if stream is streams["stdout"] else visible(name)
        assert shown.encode(encoding, "backslashreplace").decode(encoding) in said
        assert not set(said) & set("\x1b\x07\r\x9b\u202e\u2028")
    assert "0.5 +- 0.1" in streams["stdout"].buffer.getvalue().decode(encoding).replace("±", "+-")
    assert "\x1b" not in str(refuse(name).code)


@given(st.text())
def test_what_is_visible_can_be_encoded_and_names_are_left_alone(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


def test_a_name_that_is_not_utf8_is_kept_in_yaml() -> None:
    import yaml

    assert yaml.safe_load(to_yaml({"path": "caf\udce9", "other": "café"})) == {
        "path": "caf\udce9",
        "other": "café",
    }


# Streams that do not take what is written


class Broken(io.StringIO):
    """A stream without a number whose every write fails."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize(
    "stream", [None, Broken(BrokenPipeError()), Broken(OSError(28, "full")), Broken(ValueError("closed"))]
)
def test_a_stream_that_takes_nothing_fails_nothing(stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    say("x")
    warn("y")
    print_layout(compare([result("lstm", 0, 0.8), result("gru", 0, 0.9)]), ["note"])
    live = Live(1, 1, "best/val_accuracy", True)
    live.epoch(1, [0.5])
    live.end("ended", 0, failed=False)
    live.close()
    assert str(refuse("z").code) == "error: z"


def test_what_others_print_in_a_command_fails_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    monkeypatch.setattr(sys, "stderr", Broken(BrokenPipeError()))
    terminal.open_streams()
    terminal.open_streams()  # once is enough
    print("0.5 ± 0.1", flush=True)
    print("x", file=sys.stderr, flush=True)
    say("ü")
    assert narrow.buffer.getvalue() == b"0.5 +- 0.1\n\\xfc\n"
    assert sys.stdout.buffer is narrow.buffer


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["rnnbench", "--version"])
    main()
    assert capsys.readouterr().out == f"rnnbench {__version__}\n"


def test_the_shell_completes(tmp_path: Path) -> None:
    line = "rnnbench model=ls"
    done = subprocess.run(
        [sys.executable, "-m", "rnnbench", "-sc", "query=bash"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
    )  # fmt: skip
    assert done.stdout.split() == ["model=lstm", "model=lstm_peephole"], done.stderr


@pytest.mark.parametrize(
    "kind", ["dead pipe", "closed", pytest.param("full device", marks=pytest.mark.slow)]
)  # the last is told as the first is: test_what_others_print_in_a_command_fails_nothing_either
def test_a_sweep_ends_well_whatever_its_terminal_does(kind: str, tmp_path: Path) -> None:
    words = ["-m", "seed=0,1", "hydra.sweep.dir=s", *QUICK, "tracking=none"]
    line = shlex.join([sys.executable, "-m", "rnnbench", *words])
    if kind == "dead pipe":
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(shlex.split(line), cwd=tmp_path, stdout=writing, stderr=writing)
        os.close(writing)
    else:
        away = ">/dev/full 2>/dev/full" if kind == "full device" else ">&- 2>&-"
        done = subprocess.run(f"{line} {away}", shell=True, cwd=tmp_path)
    assert done.returncode == 0
    for file in ("0/result.json", "1/result.json", "sweep.json"):
        assert json.loads((tmp_path / "s" / file).read_text())["status"] == "finished"


def test_trials_of_a_file_before_and_after_an_edit_are_no_seeds_of_one_another():
    trials = [result("leaky", seed, 0.9, rnnbench_import="mine.py") for seed in range(3)]
    for trial, digest in zip(trials, ("a", "a", "b"), strict=True):
        trial["tags"] = {"rnnbench.import.mine.py": digest * 64}
    assert len(compare(trials[:2]).rows) == 1
    table = compare(trials)
    assert "code" in table.headings() and len(table.rows) == 2
