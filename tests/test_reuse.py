"""Nothing is trained twice: a finished record of a trial is used in its place, wherever a sweep left it."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

import rnnbench
from rnnbench.config import ConfigError
from rnnbench.mlflow_sync.courier import undelivered
from rnnbench.mlflow_sync.runs import Runs
from rnnbench.record import is_whole, job_folders, provenance, read_metrics, read_result
from rnnbench.record.index import FILE, Index, roots
from rnnbench.record.job_folder import read_delivery
from rnnbench.record.provenance import same_numbers
from rnnbench.system.files import together, write
from rnnbench.train.snapshot import LAST
from tests.forked import Forked
from tests.mlflow_store import client

TINY = ["fit.epochs=2", "model.hidden_size=4", "data.train_size=64", "tracking=none"]


def record(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_a_finished_trial_is_reused_and_counts_once(here, tmp_path):
    here("-m", "seed=0,1", *TINY, "hydra.sweep.dir=multirun/a")
    out, _ = here("-m", "seed=0,1,2", *TINY, "hydra.sweep.dir=multirun/b")
    assert "2 of 3 trials are trained already, and reused from" in out
    assert "2 of 3 trials were reused" in out
    assert (tmp_path / "multirun" / "b" / "comparison.csv").read_text().split()[-1].endswith(",3")
    first, copy = tmp_path / "multirun" / "a" / "0", tmp_path / "multirun" / "b" / "0"
    one, other = record(first), record(copy)
    assert other["reused"] == {"job": one["job"], "folder": str(first)}
    assert other["tags"]["rnnbench.reused"] == one["job"] != other["job"]
    assert other["metrics"] == one["metrics"] and read_metrics(copy) == read_metrics(first)
    assert rnnbench.load(copy).evaluate() == rnnbench.load(first).evaluate()
    frame = rnnbench.records(tmp_path / "multirun")
    assert sorted(frame["seed"]) == [0, 1, 2]  # of a trial and its copy one counts
    assert len(rnnbench.records(tmp_path / "multirun" / "b")) == 3
    # What is reused from a copy comes from the record that was trained.
    out, _ = here("seed=0", *TINY)
    assert "1 of 1 trials is trained already" in out
    (single,) = (tmp_path / "multirun").glob("20*/*/0/result.json")
    assert record(single.parent)["reused"]["job"] == one["job"]


def test_reuse_says_where_records_are_looked_for(here, tmp_path):
    here("seed=0", *TINY, "hydra.run.dir=multirun/a/0")
    for how, reused in (("none", False), ("sweep", False), ("root", True)):
        out, _ = here("seed=0", f"reuse={how}", *TINY, f"hydra.run.dir=multirun/{how}/0")
        assert ("reused from" in out) == reused, how
        assert ("reused" in record(tmp_path / "multirun" / how / "0")) == reused, how
    _, err = here("reuse=store", *TINY, code=1)
    assert "reuse=store: there is no store" in err
    _, err = here("-m", "reuse=root,none", *TINY, code=1)
    assert "reuse" in err


@pytest.mark.parametrize("damage", ["weights.pt", "metrics.csv", "result.json", "status", "kernel"])
def test_what_is_damaged_or_made_by_another_kernel_is_not_used(damage, here, tmp_path):
    here("seed=0", *TINY, "hydra.run.dir=multirun/a/0")
    job = tmp_path / "multirun" / "a" / "0"
    if damage == "weights.pt":
        (job / damage).write_bytes((job / damage).read_bytes()[:-9])
    elif damage == "metrics.csv":
        (job / damage).write_text("epoch")
    elif damage == "result.json":
        (job / damage).write_text((job / damage).read_text()[:50])
    elif damage == "status":
        (job / "result.json").write_text(json.dumps(record(job) | {"status": "running", "ended": None}))
    else:
        other = record(job)["tags"] | {"rnnbench.kernel": "another"}
        (job / "result.json").write_text(json.dumps(record(job) | {"tags": other}))
    out, _ = here("seed=0", *TINY, "hydra.run.dir=multirun/b/0")
    assert "reused from" not in out
    assert "reused" not in record(tmp_path / "multirun" / "b" / "0")


def test_numbers_are_the_same_only_where_nothing_that_rounds_differs() -> None:
    here = provenance("cpu") | {"rnnbench.kernel": "torch"}
    clean = {
        key: value for key, value in here.items() if not key.startswith(("rnnbench.git", "rnnbench.code"))
    }
    assert same_numbers(here, here) and same_numbers(clean, clean)
    for change in (
        {"rnnbench.kernel": "compiled avx2"},
        {"rnnbench.device": "cuda:0"},
        {"rnnbench.version.torch": "1.0"},
        {"rnnbench.instruction_set": "none"},
        {"rnnbench.moved": "to epoch 3 on a card"},
        {"rnnbench.git_dirty": "true"},
        {"rnnbench.git_dirty": "true", "rnnbench.code": "edited"},
    ):
        assert not same_numbers(clean | change, clean), change
    edited = clean | {"rnnbench.git_dirty": "true", "rnnbench.code": "edited"}
    assert same_numbers(edited, edited)
    assert same_numbers(clean | {"rnnbench.device": "cuda:0"}, clean | {"rnnbench.device": "cuda:1"})


def test_more_epochs_go_on_from_the_kept_checkpoint(here, tmp_path):
    few, many = ["fit.checkpoint_every=1", *TINY], [*TINY[1:], "fit.epochs=4"]
    here("seed=0", *few, "hydra.run.dir=multirun/a/0")
    assert (tmp_path / "multirun" / "a" / "0" / LAST).exists()
    out, _ = here("seed=0", *many, "hydra.run.dir=multirun/b/0")
    assert "1 trial goes on from epoch 2" in out
    here("seed=0", *many, "reuse=none", "hydra.run.dir=multirun/c/0")
    on, whole = (tmp_path / "multirun" / name / "0" for name in "bc")
    timeless = [
        {k: v for k, v in read_result(job)["metrics"].items() if not k.startswith("time/")}
        for job in (on, whole)
    ]
    assert timeless[0] == timeless[1]
    tags = record(on)["tags"]
    assert tags["rnnbench.resumed"] == "2"
    assert tags["rnnbench.continues"] == record(tmp_path / "multirun" / "a" / "0")["job"]


def test_more_epochs_train_from_the_start_with_the_reason(here):
    here("seed=0", *TINY, "hydra.run.dir=multirun/a/0")
    out, _ = here("seed=0", *TINY[1:], "fit.epochs=3", "hydra.run.dir=multirun/b/0")
    assert "train from the start: no checkpoint of their last epoch was kept" in out
    cosine = [*TINY[1:], "fit.schedule=cosine", "fit.checkpoint_every=1"]
    here("seed=0", *cosine, "fit.epochs=2", "hydra.run.dir=multirun/c/0")
    out, _ = here("seed=0", *cosine, "fit.epochs=3", "hydra.run.dir=multirun/d/0")
    assert "train from the start: fit.schedule=cosine makes the learning rates" in out


def test_a_search_answers_what_it_knows_and_ends_where_the_space_is_used_up(here, tmp_path):
    search = ["-m", "hydra/sweeper=optuna", "model=choice(lstm,gru)", "hydra.sweeper.n_trials=12", *TINY]
    here("-m", "model=lstm", *TINY, "hydra.sweep.dir=multirun/a")
    out, _ = here(*search, "hydra.sweep.dir=multirun/b", "hydra.sweeper.sampler.seed=1")
    assert re.search(r"model=lstm: .* reused from .*multirun/a/0", out)
    assert re.search(r"all 2 points of the space are trained, so the search ends after \d+ of 12", out)
    jobs = [record(file.parent) for file in (tmp_path / "multirun" / "b").glob("*/result.json")]
    assert sum("reused" not in job for job in jobs) == 1  # one trained: gru
    assert {job["status"] for job in jobs} == {"finished"}


def test_the_index_follows_what_happens_in_the_folders(here, tmp_path):
    here("seed=0", *TINY, "hydra.run.dir=multirun/a/0")
    root = tmp_path / "multirun"
    trial = record(root / "a" / "0")["trial"]

    def found() -> list[Path]:
        index = Index(root, 3)
        index.refresh()
        return index.find(trial)

    assert found() == [root / "a" / "0"]
    assert (root / FILE).exists()
    here("seed=0", *TINY, "hydra.run.dir=multirun/day/b/0")
    assert sorted(found()) == [root / "a" / "0", root / "day" / "b" / "0"]
    os.rename(root / "a", root / "c")
    assert sorted(found()) == [root / "c" / "0", root / "day" / "b" / "0"]
    for text in ("", "[]", '{"format": 1, "depth": 3, "made": 0, "sweeps": {"c": 1}, "folders": {"": [1]}}'):
        (root / FILE).write_text(text)
        assert len(found()) == 2, text
    for name in ("c", "day/b"):
        shutil.rmtree(root / name / "0")
    assert found() == []


def test_two_sweeps_at_once_on_one_root_end_whole_and_agree_to_the_bit(here, tmp_path):
    """Each looks its trials up when it begins, so a trial that both begin with is trained by both."""
    grids = {"a": range(6), "b": range(3, 9)}
    words = [*TINY, "fit.epochs=3", "reuse=root"]
    started = [
        Forked(
            "rnnbench",
            ["-m", f"seed={','.join(map(str, seeds))}", *words, f"hydra.sweep.dir=multirun/{name}"],
            tmp_path,
        )
        for name, seeds in grids.items()
    ]
    said = ["".join(process.communicate(timeout=300)) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = {}
    for name, seeds in grids.items():
        jobs = job_folders(tmp_path / "multirun" / name)
        assert len(jobs) == len(seeds)
        for job in jobs:
            result = read_result(job)
            assert result["status"] == "finished" and is_whole(job, result)
            numbers = {key: value for key, value in result["metrics"].items() if not key.startswith("time/")}
            found.setdefault(result["params"]["seed"], []).append(
                (numbers, (job / "weights.pt").read_bytes())
            )
    assert {seed: len(both) for seed, both in found.items()} == dict.fromkeys(range(9), 1) | dict.fromkeys(
        (3, 4, 5), 2
    )
    assert all(one == other for one, other in (found[seed] for seed in (3, 4, 5)))
    # What both left is found by a third, the index included that they wrote at the same time.
    out, _ = here("-m", "seed=range(9)", *words, "hydra.sweep.dir=multirun/c")
    assert "9 of 9 trials were reused" in out


def test_the_roots_are_multirun_and_outputs_here_and_where_the_sweep_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "multirun").mkdir()
    assert [root for root, _ in roots(Path("multirun/x/y"))] == [tmp_path / "multirun"]
    assert roots(Path("grid"))[1:] == [(tmp_path / "grid", 0)]
    elsewhere = tmp_path / "disk" / "multirun"
    elsewhere.mkdir(parents=True)
    assert elsewhere in dict(roots(elsewhere / "a" / "b"))


def test_files_written_together_take_their_places_at_the_end_or_not_at_all(tmp_path):
    write(tmp_path / "a", "old")
    with together():
        write(tmp_path / "a", "new")
        write(tmp_path / "b", "new")
        assert (tmp_path / "a").read_text() == "old"
    assert [(tmp_path / name).read_text() for name in "ab"] == ["new", "new"]
    with pytest.raises(ConfigError), together():
        write(tmp_path / "a", "newer")
        raise ConfigError("x")
    assert (tmp_path / "a").read_text() == "new" and len(list(tmp_path.iterdir())) == 2


def test_the_store_has_one_run_of_a_trial(here, tmp_path, migrated):
    shutil.copy(migrated, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    stored = [*TINY[:-1], f"tracking.uri={uri}"]
    here("seed=0", *stored, "hydra.run.dir=multirun/a/0")
    here("-m", "seed=0,1", *stored, "hydra.sweep.dir=multirun/b")
    assert undelivered(tmp_path / "multirun" / "b") == []
    frame = rnnbench.records(uri)
    assert sorted(frame["seed"]) == [0, 1] and frame["trial"].is_unique
    # A run counts as there as long as it is not deleted in MLflow.
    run = read_delivery(tmp_path / "multirun" / "a" / "0")["run_id"]
    for change, there in ((None, True), ("delete_run", False), ("restore_run", True)):
        if change is not None:
            getattr(client(uri), change)(run)
        store = Runs(client(uri), "1", uri=uri, experiment="rnnbench", alone=True)
        assert store.is_active(run) == there
        assert not store.is_active("0" * 32)
    # Where its folder is gone the copy gets a run, and the store alone knows the trial.
    shutil.rmtree(tmp_path / "multirun" / "a")
    assert len(undelivered(tmp_path / "multirun" / "b")) == 1
    shutil.rmtree(tmp_path / "multirun")
    out, _ = here("seed=0", *stored, "reuse=root", "hydra.run.dir=multirun/c/0")
    assert "reused" not in out
    shutil.rmtree(tmp_path / "multirun")
    out, _ = here("seed=1", *stored, "reuse=store", "hydra.run.dir=multirun/d/0")
    assert "1 of 1 trials is trained already, and reused from sqlite:" in out
    again = read_result(tmp_path / "multirun" / "d" / "0")
    (known,) = (row for _, row in rnnbench.records(uri).iterrows() if row["seed"] == 1)
    assert {name: known[name] for name in again["metrics"]} == again["metrics"]
    assert again["reused"]["run_id"] == known["run_id"]
    assert [row["epoch"] for row in read_metrics(tmp_path / "multirun" / "d" / "0")] == [1, 2]
    assert undelivered(tmp_path / "multirun" / "d") == []
