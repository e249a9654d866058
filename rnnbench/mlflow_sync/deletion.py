"""Finds and deletes the runs of folders that the user removes."""

from collections.abc import Iterable
from pathlib import Path

from rnnbench.config.uris import absolute, sqlite_file
from rnnbench.mlflow_sync.connection import patient, settle, store_errors
from rnnbench.mlflow_sync.runs import Identity, Runs
from rnnbench.record.job_folder import read_result
from rnnbench.record.sweep_folder import read_sweep


def open_runs(sweep: Path) -> Runs | None:
    """Open the runs of a sweep folder; return None if its store or experiment is not there. Makes neither.

    Raises:
        StoreError: the store does not answer.
    """
    tracking = read_sweep(sweep)["tracking"]
    uri, experiment = absolute(tracking["uri"]), tracking["experiment"]
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return None
    settle(uri)
    from mlflow.tracking import MlflowClient

    with store_errors():
        client = MlflowClient(patient(uri))
        found = client.get_experiment_by_name(experiment)
        return (
            None
            if found is None
            else Runs(client, found.experiment_id, uri=uri, experiment=experiment, alone=True)
        )


def find_runs(runs: Runs, sweep: Path, jobs: Iterable[Path], *, whole: bool) -> list[str]:
    """Find the ids of the runs of job folders.

    Args:
        whole: also find the sweep's own run, and runs of jobs whose folders were removed by hand.

    Raises:
        StoreError: the store does not answer.
    """
    with store_errors():
        identities = [Identity.of_job(job, read_result(job)) for job in jobs]
        own = Identity.of_sweep(sweep, read_sweep(sweep))
        found = [run.info.run_id for identity in identities for run in runs.find(identity)]
        if whole:
            parents = [run.info.run_id for run in runs.find(own)]
            found += parents
            found += [run for parent in parents for run in runs.below(parent, sweep)]
        return list(dict.fromkeys(found))


def delete_runs(runs: Runs, found: Iterable[str]) -> None:
    """Delete runs that `find_runs` has found.

    Raises:
        StoreError: the store does not answer.
    """
    with store_errors():
        runs.delete(found)
