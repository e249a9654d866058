"""Runs and sweeps that start in the same second, in the same directory: each has a folder of its own."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf

from rnnbench.record import job_folders, new_folder, read_result, read_sweep
from tests.forked import Forked

QUICK = ["fit.epochs=1", "model.hidden_size=4", "data.train_size=64", "tracking.uri=null"]
# The command, with a clock that stands still for Hydra's ${now:...}.
STOPPED = """
import datetime, sys, types, hydra.core.utils
moment = datetime.datetime(2001, 2, 3, 4, 5, 6)
hydra.core.utils.datetime = types.SimpleNamespace(now=lambda: moment)
from rnnbench.__main__ import main
main()
"""
MOMENT = Path("multirun/2001-02-03")


def at_once(folder: Path, *commands: list[str]) -> None:
    """Start the commands at the same moment, whatever it is, and see that all succeed."""
    (folder / "stopped.py").write_text(STOPPED)
    started = [Forked("stopped", [*command, *QUICK], folder) for command in commands]
    said = ["".join(process.communicate(timeout=600)) for process in started]
    assert [process.returncode for process in started] == [0] * len(commands), said


def seeds(sweep: Path) -> list[int]:
    """The seeds of a sweep's jobs; each job's files agree on its own."""
    found = []
    for job in job_folders(sweep):
        seed = read_result(job)["params"]["seed"]
        for file in ("config.yaml", ".hydra/config.yaml"):
            assert OmegaConf.load(job / file).seed == seed
        assert read_result(job)["status"] == "finished"
        found.append(seed)
    return found


def test_of_many_that_make_a_folder_at_once_each_has_its_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_folder(tmp_path / "a" / "12-00-00"), range(32)))
    names = ["12-00-00", *(f"12-00-00-{number}" for number in range(2, 33))]
    assert {path.name for path in made} == set(names) == set(os.listdir(tmp_path / "a"))


def test_runs_and_sweeps_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    at_once(tmp_path, ["-m", "seed=0,1"], ["-m", "seed=10,11,12"], ["seed=20"])
    sweeps = sorted((tmp_path / MOMENT).iterdir())
    assert [path.name for path in sweeps] == ["04-05-06", "04-05-06-2", "04-05-06-3"]
    assert sorted(map(seeds, sweeps)) == [[0, 1], [10, 11, 12], [20]]
    assert {read_sweep(sweep)["status"] for sweep in sweeps} == {"finished"}


@pytest.mark.slow
def test_runs_of_one_second_one_after_the_other(tmp_path: Path) -> None:
    for seed in (1, 2):
        at_once(tmp_path, [f"seed={seed}"])
    first, second = (tmp_path / MOMENT / name for name in ("04-05-06", "04-05-06-2"))
    assert (seeds(first), seeds(second)) == ([1], [2])


@pytest.mark.slow
def test_sweepers_that_make_their_folder_at_once_too(tmp_path: Path) -> None:
    at_once(tmp_path, *(["-m", "hydra/sweeper=basic", f"seed={seed}"] for seed in (1, 2, 3)))
    sweeps = sorted((tmp_path / MOMENT).iterdir())
    assert sorted(map(seeds, sweeps)) == [[1], [2], [3]]
    for sweep in sweeps:
        (seed,) = seeds(sweep)
        assert f"seed={seed}" in OmegaConf.load(sweep / "multirun.yaml").hydra.overrides.task


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_searches_without_a_name_do_not_meet_in_a_storage(tmp_path: Path, launcher: str) -> None:
    search = ["-m", "hydra/sweeper=optuna", "optim.lr=interval(0.001,0.1)", "hydra.sweeper.n_jobs=1"]
    search += ["hydra.sweeper.storage=sqlite:///study.db", f"hydra/launcher={launcher}"]
    at_once(
        tmp_path,
        [*search, "hydra.sweeper.n_trials=2", "seed=1"],
        [*search, "hydra.sweeper.n_trials=3", "seed=2"],
    )
    sweeps = sorted((tmp_path / MOMENT).iterdir())
    assert sorted(map(seeds, sweeps)) == [[1] * 2, [2] * 3]
    studies = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/study.db")
    assert sorted(study.n_trials for study in studies) == [2, 3]
    assert {study.study_name for study in studies} == {str(MOMENT / sweep.name) for sweep in sweeps}


def test_a_refusal_and_a_dry_run_make_no_folder(tmp_path: Path) -> None:
    for words in (["-m", "optim.lr=0,1"], ["-m", "dry_run=true", "seed=0,1"]):
        Forked("rnnbench", [*words, *QUICK], tmp_path).communicate(timeout=600)
        assert list(tmp_path.iterdir()) == []
