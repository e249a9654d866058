"""A sweep is watched from its records while it trains, and its winner's command trains the winner again."""

import json
import shlex
import sys
import time
from pathlib import Path

import pytest

from rnnbench.record import read_result, read_sweep
from rnnbench.record.__main__ import main
from rnnbench.record.job_folder import JobFolder
from rnnbench.record.progress import Reader
from rnnbench.record.sweep_folder import SweepFolder
from rnnbench.sweep.plan import plan_grid
from rnnbench.system.files import write_json
from tests.forked import Forked
from tests.mlflow_store import DATASET, make_config, tracking

GOAL = "best/val_accuracy"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """What the command ends with, and what it says."""
    before = sys.argv
    sys.argv = ["rnnbench.record", *words]
    try:
        code = main()
    finally:
        sys.argv = before
    said = capsys.readouterr()
    return code, said.out, said.err


def job(folder: Path, name: str, status: str, value: float = 0.5, epochs: int = 5, **more: object) -> None:
    """Write the record of a job of ten epochs, and the overrides that Hydra leaves."""
    seed, rate = int(str(more.get("seed", 0))), float(str(more.get("rate", 0.01)))
    config = make_config(seed=seed)
    config.fit.epochs, config.optim.lr = 10, rate
    fold = more.get("fold")
    if fold is not None:
        config.data.folds, config.data.fold = 2, int(str(fold))
    tags = {f"rnnbench.{key}": str(more[key]) for key in ("study", "number") if key in more}
    job = JobFolder.start(
        folder / name, name=f"rate={rate:g} seed={seed}", config=config,
        trial=f"{rate}{seed}{fold}".encode().hex(), dataset=DATASET, tags=tags,
    )  # fmt: skip
    for epoch in range(1, epochs + 1):
        job.epoch(epoch, {"val/accuracy": value - 0.01 * (epochs - epoch)})
    if status == "finished":
        job.end(status, {GOAL: value})
    elif status != "running":
        job.end(status, {}, error="loss is nan" if status == "failed" else None)
    (folder / name / ".hydra").mkdir()
    folded = [] if fold is None else ["data.folds=2", f"data.fold={fold}"]
    words = json.dumps([f"optim.lr={rate}", f"seed={seed}", "tracking=none", *folded])
    (folder / name / ".hydra" / "overrides.yaml").write_text(words)


def claim(folder: Path):
    """Hold a sweep folder."""
    command = ["rnnbench/__main__.py", "-m", "seed=0,1"]
    return SweepFolder.claim(folder, name="x", command=command, tracking=tracking(None), single=False)


def test_a_running_sweep_is_shown_with_its_jobs_by_state_and_the_time_left(tmp_path, capsys):
    folder = tmp_path / "s"
    with claim(folder) as sweep:
        sweep.note(plan={"jobs": 7, "since": int(time.time() * 1000) - 10_000})
        job(folder, "0", "finished", 0.9, 10, seed=0)
        job(folder, "1", "finished", 0.7, 10, seed=1)
        job(folder, "2", "running", 0.85, 5, rate=0.02)
        job(folder, "3", "failed", rate=0.03)
        job(folder, "4", "failed", rate=0.04)
        (folder / "5").mkdir()
        (folder / "5" / "result.json").write_text("{")
        now = Reader().read(folder)
        assert now.states() == {"finished": 2, "running": 1, "waiting": 1, "failed": 2}
        assert now.epochs() == (35, 50)
        assert now.seconds_left(now.plan["since"] + 10_000) == pytest.approx(15 / 35 * 10)
        code, out, _ = run(capsys, "show", str(folder))
    assert code == 0
    assert "7 jobs: 2 finished, 1 running, 1 waiting, 2 failed, 1 damaged" in out
    assert "epochs: 35 of 50, about 4 s left" in out
    assert "best so far: optim.lr=0.02: val/accuracy 0.8500; " in out
    assert "2  rate=0.02 seed=0: running, epoch 5 of 10, best val/accuracy 0.8500" in out
    assert "failed: 3, 4: loss is nan" in out
    assert "damaged: " in out and "result.json" in out
    # Its process is gone: what ran is interrupted, and the command goes on.
    code, out, _ = run(capsys, "show", str(folder))
    assert ": x: interrupted" in out and "1 interrupted" in out and " left" not in out
    assert "to go on: python -m rnnbench -m seed=0,1" in out


def test_the_best_of_a_grid_is_the_best_mean_over_seeds_and_of_a_search_over_its_repeats(tmp_path, capsys):
    grid, search = tmp_path / "grid", tmp_path / "search"
    with claim(grid) as sweep:
        for number, (rate, seed, value) in enumerate(
            [(0.1, 0, 0.9), (0.1, 1, 0.5), (0.2, 0, 0.8), (0.2, 1, 0.8)]
        ):
            job(grid, str(number), "finished", value, rate=rate, seed=seed)
        sweep.end("finished")
    code, out, err = run(capsys, "best", str(grid))
    assert (code, out) == (0, "python -m rnnbench optim.lr=0.2 seed=0 tracking=none\n")
    assert "best: optim.lr=0.2: val/accuracy 0.8000 ± 0.0000, the mean of 2 jobs" in err
    with claim(search) as sweep:
        sweep.note(plan={"jobs": 10, "trials": 5, "objectives": [GOAL], "since": 1})
        for number, name, seed, value in (
            (0, "0", 0, 0.6),
            (0, "0.1", 1, 0.6),
            (1, "1", 0, 0.9),
            (1, "1.1", 1, 0.1),
        ):
            job(search, name, "finished", value, rate=0.1 + number, seed=seed, study="s", number=number)
        job(search, "0.c0", "finished", 1.0, rate=0.1, seed=2, study="s", number=0)
        job(search, "2", "running", 0.99, rate=2.1, study="s", number=2)
        code, out, _ = run(capsys, "show", str(search))
        assert "trials: 2 of 5 have ended" in out
        assert "4 finished, 1 running, 5 waiting; 1 on fresh seeds" in out
        assert "best so far: trial 2, optim.lr=2.1: val/accuracy 0.9900" in out
        # One of the two repeats of a suggestion is no mean to compare with those of two.
        job(search, "3", "finished", 0.95, rate=3.1, seed=0, study="s", number=3)
        code, out, err = run(capsys, "best", str(search))
    assert (code, out) == (0, "python -m rnnbench optim.lr=0.1 seed=0 tracking=none\n")
    assert "trial 0" in err and "so far (the sweep is running)" in err
    study = {
        "tags": {"rnnbench.best_command": "python -m rnnbench optim.lr=7 ';x'", "rnnbench.best_trial": "7"}
    }
    write_json(
        search / "sweep.json", read_sweep(search) | {"status": "finished", "study": study | {"metrics": {}}}
    )
    assert run(capsys, "best", str(search))[1] == "python -m rnnbench optim.lr=7 ';x'\n"


def test_folds_of_a_seed_are_one_value_and_are_trained_again_together(tmp_path, capsys):
    with claim(tmp_path / "s") as sweep:
        for number, (seed, fold, value) in enumerate([(0, 0, 0.9), (0, 1, 0.7), (1, 0, 0.8), (1, 1, 0.8)]):
            job(tmp_path / "s", str(number), "finished", value, seed=seed, fold=fold)
        sweep.end("finished")
    _, out, _ = run(capsys, "show", str(tmp_path / "s"))
    assert "val/accuracy 0.8000 ± 0.0000 (2 seeds over 2 folds)" in out
    _, out, err = run(capsys, "best", str(tmp_path / "s"))
    assert out == "python -m rnnbench -m optim.lr=0.01 seed=0 tracking=none data.folds=2\n"
    assert "the mean of 2 seeds over 2 folds (0.8)" in err


def test_folders_of_several_sweeps_or_none(tmp_path, capsys):
    for name in "ab":
        with claim(tmp_path / "m" / name) as sweep:
            job(tmp_path / "m" / name, "0", "finished")
            sweep.end("finished")
    code, out, _ = run(capsys, "show", str(tmp_path / "m"))
    assert code == 0
    assert [line.count("1 job: 1 finished; best val/accuracy 0.5000") for line in out.splitlines()] == [1, 1]
    assert run(capsys, "show", str(tmp_path / "m" / "a" / "0"))[1].count("1 job: 1 finished") == 1
    (tmp_path / "m" / "a" / "sweep.json").write_text("{")
    assert "is damaged" in run(capsys, "show", str(tmp_path / "m"))[1]
    assert run(capsys, "show", str(tmp_path / "none")) == (
        1, f"error: no records in {tmp_path / 'none'}: it and the folders in it have no sweep.json\n", ""
    )  # fmt: skip


REFUSED = {
    "there is none": "no records in",
    "there are several": "holds 2 sweeps; give one of them",
    "none has finished": "no trial has finished; show it: python -m rnnbench.record show",
    "several tasks": "of several tasks or objectives, so none is the best of all",
    "no overrides": "its overrides are not recorded",
    "a flag": "is damaged: '--config-dir=x' is no override",
    "no command": "the search has reported no command for its best trial, 3",
}


@pytest.mark.parametrize("case", REFUSED)
def test_without_a_winner_best_says_why(case, tmp_path, capsys):
    folder = tmp_path / "s"
    if case != "there is none":
        with claim(folder) as sweep:
            job(folder, "0", "failed" if case == "none has finished" else "finished")
            sweep.end("finished")
    if case == "there are several":
        with claim(tmp_path / "t") as sweep:
            sweep.end("finished")
    if case == "no overrides":
        (folder / "0" / ".hydra" / "overrides.yaml").unlink()
    if case == "a flag":
        (folder / "0" / ".hydra" / "overrides.yaml").write_text("- --config-dir=x\n")
    if case == "several tasks":
        result = read_result(folder / "0")
        job(folder, "1", "finished")
        write_json(
            folder / "1" / "result.json", result | {"params": result["params"] | {"data.name": "mnist"}}
        )
    if case == "no command":
        study = {"tags": {"rnnbench.best_trial": "3"}, "metrics": {}}
        write_json(folder / "sweep.json", read_sweep(folder) | {"study": study})
    code, out, err = run(capsys, "best", str(tmp_path))
    assert (code, out) == (1, "")
    assert REFUSED[case] in err


@pytest.mark.slow
def test_a_sweep_of_another_process_is_watched_and_its_winner_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "model=lstm,gru", "seed=0,1", "optim.lr=0.01,0.03", "fit.epochs=30", "fit.kernel=torch"]
    process = Forked("rnnbench", [*words, "tracking=none", "hydra.sweep.dir=multirun/s"], tmp_path)
    seen = set()
    while process.poll() is None:
        _, out, _ = run(capsys, "show", "multirun")
        seen |= {word for word in ("waiting", "running", "best so far", " left") if word in out}
        time.sleep(0.2)
    assert seen == {"waiting", "running", "best so far", " left"}
    assert "8 jobs: 8 finished" in run(capsys, "show", "multirun")[1]
    _, out, err = run(capsys, "best", "multirun")
    (line,) = out.splitlines()
    (point,) = plan_grid(shlex.split(line)[3:])
    folder = Path(err.rpartition("; ")[2].splitlines()[0])
    assert read_result(folder)["trial"] == point["trial"]
