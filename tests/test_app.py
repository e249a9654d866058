"""The whole path as a user walks it: commands, folders, MLflow, resume, failure, interruption."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rnnbench.record import read_metrics, read_result
from tests.forked import Forked

QUICK = ["fit.epochs=2", "model.hidden_size=6", "data.train_size=128"]


def start(folder, *arguments, **more):
    """The command in a process of its own, forked; started from nothing where Popen is to be told `more`."""
    if not more:
        return Forked("rnnbench", arguments, folder)
    return subprocess.Popen(
        [sys.executable, "-m", "rnnbench", *arguments], cwd=folder, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def run(folder, *arguments, code=0, **more):
    """The command's stdout and stderr; its exit code is checked."""
    process = start(folder, *arguments, **more)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def jobs(sweep):
    return sorted(
        (path.parent for path in Path(sweep).glob("*/result.json")), key=lambda path: int(path.name)
    )


def numbers(job):
    """All numbers of a job but its times."""
    result, rows = read_result(job), read_metrics(job)
    final = {name: value for name, value in result["metrics"].items() if not name.startswith("time/")}
    return final, [{name: row[name] for name in row if name != "timestamp_ms"} for row in rows]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The main job in small: folder of the command, stdout."""
    folder = tmp_path_factory.mktemp("main")
    out, err = run(folder, "-m", "model=lstm,gru", "seed=0,1", "hydra.sweep.dir=s", *QUICK)
    expected = (
        "warning: no compiled kernels",
        "warning: all is recorded; MLflow",
    )  # the latter where it is busy
    assert [line for line in err.splitlines() if "warning" in line and not line.startswith(expected)] == []
    return folder, out


def test_the_main_job_leaves_its_records(sweep):
    folder, out = sweep
    assert [job.name for job in jobs(folder / "s")] == ["0", "1", "2", "3"]
    for job in jobs(folder / "s"):
        result = read_result(job)
        assert result["status"] == "finished"
        assert len(read_metrics(job)) == 2
        assert {"config.yaml", "hydra.yaml", "overrides.yaml"} == {f.name for f in (job / ".hydra").iterdir()}
        assert OmegaConf.load(job / ".hydra" / "overrides.yaml")[0] in ("model=lstm", "model=gru")
        assert OmegaConf.load(job / ".hydra" / "config.yaml").model.name == result["params"]["model.name"]
        assert OmegaConf.load(job / ".hydra" / "hydra.yaml").hydra.job.num == int(job.name)
        assert {"test/accuracy", "best/val_accuracy", "best/epoch", "parameters/total"} <= result[
            "metrics"
        ].keys()
        row = read_metrics(job)[0]
        assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "grad_norm"} <= row.keys()
    table = [line.split() for line in out.splitlines()]
    assert [row[0] for row in table if row and row[0] in ("lstm", "gru")] == ["lstm", "gru"]
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in out
    assert (folder / "s" / "comparison.md").read_text().startswith("| model |")


def test_the_main_job_is_in_mlflow(sweep):
    folder, _ = sweep
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("rnnbench").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "rnnbench.job" in run.data.tags]
    means = sorted(run.info.run_name for run in runs if "rnnbench.cell" in run.data.tags)
    assert (len(parents), len(children)) == (1, 4)
    assert means == ["gru: mean of 2", "lstm: mean of 2"]
    assert parents[0].data.metrics["best/val_accuracy"] == max(
        read_result(job)["metrics"]["best/val_accuracy"] for job in jobs(folder / "s")
    )
    assert parents[0].data.tags["mlflow.note.content"].startswith("| model |")
    names = {f"{model} seed={seed}" for model in ("lstm", "gru") for seed in (0, 1)}
    assert {run.info.run_name for run in children} == names  # without what is constant in the sweep
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run_ in children:
        job = next(
            j for j in jobs(folder / "s") if read_result(j)["trial"] == run_.data.tags["rnnbench.trial"]
        )
        for name, value in read_result(job)["metrics"].items():
            assert run_.data.metrics[name] == value
        history = client.get_metric_history(run_.info.run_id, "val/loss")
        assert [metric.value for metric in history] == [row["val/loss"] for row in read_metrics(job)]
        assert run_.data.params["model.name"] in ("lstm", "gru")
        assert run_.inputs.dataset_inputs[0].dataset.name == "digits"
        assert run_.data.tags["rnnbench.kernel"].split()[0] in ("compiled", "torch")


def test_hydras_own_launcher_and_sweeper_give_the_same_numbers(sweep):
    folder, _ = sweep
    grid = ["-m", "model=lstm,gru", "seed=0,1", "tracking=none", *QUICK]
    run(folder, *grid, "hydra/launcher=basic", "hydra.sweep.dir=basic")
    run(folder, *grid, "hydra/launcher=basic", "hydra/sweeper=basic", "hydra.sweep.dir=stock")
    run(folder, *grid, "hydra/sweeper=basic", "hydra.sweep.dir=mixed")
    for other in ("basic", "stock", "mixed"):
        for one, two in zip(jobs(folder / "s"), jobs(folder / other), strict=True):
            assert read_result(one)["trial"] == read_result(two)["trial"]
            (final, rows), (final2, rows2) = numbers(one), numbers(two)
            assert final == pytest.approx(final2, rel=1e-5, abs=1e-5)
            assert all(a == pytest.approx(b, rel=1e-5, abs=1e-5) for a, b in zip(rows, rows2, strict=True))


def test_a_sweep_is_resumed_and_not_run_again(sweep):
    folder, _ = sweep
    command = ["-m", "model=lstm,gru", "seed=0,1", "hydra.sweep.dir=again", "tracking=none", *QUICK]
    run(folder, *command)
    before = {job.name: (job / "result.json").read_bytes() for job in jobs(folder / "again")}
    gone = read_result(folder / "again" / "2")
    (folder / "again" / "2" / "result.json").unlink()
    out, _ = run(folder, *command)
    assert "3 of 4 trials are finished already" in out
    after = {job.name: (job / "result.json").read_bytes() for job in jobs(folder / "again")}
    assert {name for name in after if after[name] != before[name]} == {"2"}
    assert read_result(folder / "again" / "2")["trial"] == gone["trial"]
    # A wider grid on the same folder adds what is new, wherever it stands in the grid.
    command[2] = "seed=1,2,0"
    out, _ = run(folder, *command)
    assert "4 of 6 trials are finished already" in out
    trials = [read_result(job)["trial"] for job in jobs(folder / "again")]
    assert len(trials) == len(set(trials)) == 6


def test_a_failing_trial_fails_alone(tmp_path):
    out, err = run(
        tmp_path, "-m", "model=rnn", "optim=sgd", "optim.momentum=0", "optim.lr=0.1,1e38", "tracking=none",
        "hydra.sweep.dir=s", *QUICK, code=1,
    )  # fmt: skip
    good, bad = (read_result(job) for job in jobs(tmp_path / "s"))
    assert (good["status"], bad["status"]) == ("finished", "failed")
    assert "not finite in epoch 1" in bad["error"]
    assert "1 of 2 trials failed" in err
    assert "1 failed" in out


def test_an_error_fails_its_trial_with_its_traceback(tmp_path):
    """A cell that asks for more than any memory, beside one that does not."""
    (tmp_path / "greedy.py").write_text(
        "import rnnbench, torch\n\n"
        "@rnnbench.register_cell('greedy')\n"
        "class Greedy(rnnbench.Cell):\n"
        "    def step(self, a, state, layer):\n"
        "        greed = torch.empty(10**15) if a.shape[-1] > 4 else None  # in training alone\n"
        "        return (layer.recurrent(state[0], a).tanh(),)\n"
    )
    given = [
        "rnnbench_import=greedy.py",
        "model.name=greedy,gru",
        "fit.epochs=1",
        "fit.kernel=torch",
        "tracking=none",
    ]
    _, err = run(tmp_path, "-m", *given, "hydra.sweep.dir=s", code=1)
    bad, good = (read_result(job) for job in jobs(tmp_path / "s"))
    assert (bad["status"], good["status"]) == ("failed", "finished")
    assert "Traceback" in bad["traceback"] and "allocate" in bad["error"]
    assert "1 of 2 trials failed" in err


@pytest.mark.parametrize(
    "grid",
    [
        pytest.param("model.hidden_size=5,6", id="side by side"),
        pytest.param("seed=0,1", id="a stack", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_ends_with_130_and_the_sweep_can_be_resumed(grid, tmp_path):
    command = ["-m", grid, "hydra.sweep.dir=s", "tracking=none", "fit.epochs=1000000"]
    process = start(tmp_path, *command)
    deadline = time.monotonic() + 300
    while not (tmp_path / "s" / "0" / "metrics.csv").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    locked = run(tmp_path, *command, code=1)[1]
    assert f"in use by process {process.pid}" in locked and "Traceback" not in locked
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert {read_result(job)["status"] for job in jobs(tmp_path / "s")} == {"interrupted"}
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["status"] == "interrupted"
    # Shorter trials are other trials: they get folders of their own beside the interrupted ones.
    run(tmp_path, *command, "fit.epochs=3")
    ended = [read_result(job)["status"] for job in jobs(tmp_path / "s")]
    assert ended[-2:] == ["finished"] * 2 and set(ended[:-2]) == {"interrupted"}


def test_stacks_side_by_side_change_no_number(tmp_path):
    several = "model=lstm,gru", "model.hidden_size=5,6", "fit.epochs=3", "data.train_size=128"
    run(tmp_path, "-m", *several, "hydra.sweep.dir=s", "tracking=none")
    alone = "model=gru", "model.hidden_size=6", "fit.epochs=3", "data.train_size=128"
    run(tmp_path, *alone, "hydra.run.dir=one/0", "tracking=none")
    assert numbers(tmp_path / "s" / "3") == numbers(tmp_path / "one" / "0")


def test_a_dry_run_makes_nothing(tmp_path):
    out, _ = run(tmp_path, "-m", "model=lstm,gru", "seed=0,1,2", "dry_run=true")
    assert "6 trials in 2 kinds of stacks" in out and "MiB" in out
    assert len(re.findall(r", (?:compiled \w+|torch \(.*\))$", out, re.MULTILINE)) == 2  # each stack's kernel
    run(tmp_path, "dry_run=true")
    assert list(tmp_path.iterdir()) == []


def test_a_single_run_and_its_network(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "model=gru", "hydra.run.dir=r/0", "model.num_layers=2", f"tracking.uri={store}", *QUICK)
    import torch

    import rnnbench

    trained = rnnbench.load("r/0")
    assert trained.config.model.name == "gru"
    examples = torch.rand(5, 8, 8)
    logits = trained(examples)
    torch.testing.assert_close(trained.to_torch()((examples - 0.5) / 0.5), logits, atol=1e-5, rtol=1e-5)
    frame = rnnbench.records("r")
    assert frame["model.name"].tolist() == ["gru"]
    run_id = json.loads(Path("r/0/mlflow.json").read_text())["run_id"]
    by_id = rnnbench.load(run_id)
    torch.testing.assert_close(by_id(examples), logits)


def test_a_trial_is_trained_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import rnnbench

    result = rnnbench.run("model=rnn", "tracking=none", *QUICK, folder="mine/0")
    assert result["status"] == "finished"
    assert read_result("mine/0")["metrics"] == result["metrics"]
    with pytest.raises(rnnbench.ConfigError, match=r"optim\.lr=0\.0"):
        rnnbench.run("optim.lr=0")


def test_the_tutorials_experiment_says_that_it_watches_the_test_set(tmp_path, mnist_root):
    out, _ = run(
        tmp_path, "experiment=tutorial", "model=gru", f"data.root={mnist_root}", "fit.epochs=1",
        "data.train_size=256", "hydra.run.dir=t/0", "tracking=none",
    )  # fmt: skip
    assert "watches the test set" in out
    result = read_result(tmp_path / "t" / "0")
    assert result["metrics"]["parameters/total"] == 1970
    assert "best/test_accuracy" in result["metrics"] and "test/accuracy" not in result["metrics"]
    assert "test/accuracy" in read_metrics(tmp_path / "t" / "0")[0]


def test_a_users_own_config_folder_adds_to_the_choices(tmp_path):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nmodel: {hidden_size: 5}\nfit: {epochs: 1}\n")
    run(tmp_path, "--config-dir", "own", "experiment=mine", "hydra.run.dir=m", "tracking=none")
    assert read_result(tmp_path / "m" / "0")["params"]["model.hidden_size"] == 5


def test_help_shows_groups_choices_and_examples(tmp_path):
    out, _ = run(tmp_path, "--help")
    for text in (
        "model: cifg, cornn, fgr, gru, ",
        "optim: adam, adamw, rmsprop, sgd",
        "-m model=lstm,gru",
        "fashion_mnist",
    ):
        assert text in out
    assert out.count("python -m rnnbench") >= 3
