"""Times records: a table of many runs from each place, and delivery with and without means over seeds."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rnnbench.bench.measure import in_turn
from rnnbench.config import Adam, Config, Fit, Model, Tracking, flatten, plain, trial_hash
from rnnbench.config.metrics import final_metrics, per_epoch
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.reading import ClientRuns
from rnnbench.mlflow_sync.runs import Runs
from rnnbench.mlflow_sync.sql import SqlRuns
from rnnbench.paper.aggregate import TableTrial, fill
from rnnbench.paper.definition import table_of
from rnnbench.paper.layout import layout
from rnnbench.reader import Folders, Source
from rnnbench.record import JobFolder, SweepFolder, job_folders, provenance
from rnnbench.render.markdown import markdown
from rnnbench.tasks.sequences import Images

DATASET = {"name": "digits", "checksum": "0" * 64}
CELLS = ("lstm", "gru", "rnn", "mgu")


def table_times(runs: int, rounds: int) -> dict[str, list[float]]:
    """Time reading and tabulating finished runs of five epochs, in seconds, by where they are read.

    The runs are made up, and delivered to a SQLite store first.
    """
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, "sweep")
        tracking = Tracking(f"sqlite:///{folder}/mlflow.db")
        planned = []
        with SweepFolder.claim(sweep, name="x", command=["x"], tracking=tracking, single=False) as records:
            for number in range(runs):
                planned.append(_leave(sweep / str(number), number))
            records.end("finished")
        Delivery(sweep).deliver(job_folders(sweep))
        table = table_of({"title": "x", "sweep": ["x"], "metrics": ["parameters/total", "test/accuracy"]})
        ways: dict[str, Callable[[], Source]] = {
            "job folders": lambda: Folders(sweep),
            "MLflow's tables": lambda: SqlRuns(str(tracking.uri)),
            "search_runs": lambda: ClientRuns(str(tracking.uri)),
        }
        texts = set()

        def taken(way: Callable[[], Source]) -> float:
            started = time.perf_counter()
            texts.add(markdown(layout(fill(table, planned, way()))))
            return time.perf_counter() - started

        figures = in_turn([lambda way=way: taken(way) for way in ways.values()], rounds)  # type: ignore[misc]
        assert len(texts) == 1  # the table is the same from every source
        return dict(zip(ways, figures, strict=True))


class WithoutMeans(Delivery):
    """Delivers a sweep folder without the runs that have the means over seeds."""

    def _deliver_cells(self, runs: Runs, parent: str, ended: int) -> None:
        """Deliver nothing."""


def delivery_times(seeds: int, trials: int, epochs: int, rounds: int) -> list[list[float]]:
    """Time the delivery of a made-up sweep to a fresh SQLite store, in seconds: without and with its means.

    Args:
        seeds: number of seeds of each configuration.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracking, sweep = Tracking(f"sqlite:///{folder}/mlflow.db"), folder / "sweep"
        with SweepFolder.claim(sweep, name="x", command=["x"], tracking=tracking, single=False) as records:
            records.end("finished")
        Delivery(sweep).deliver([])  # makes the tables, which takes seconds
        (sweep / "mlflow.json").unlink()
        shutil.copy(folder / "mlflow.db", folder / "fresh.db")
        for number in range(trials):
            _train(sweep / str(number), number // seeds, number % seeds, epochs)

        def taken(kind: type[Delivery]) -> float:
            shutil.copy(folder / "fresh.db", folder / "mlflow.db")
            for state in sweep.rglob("mlflow.json"):
                state.unlink()
            started = time.perf_counter()
            kind(sweep).deliver_all()
            return time.perf_counter() - started

        return in_turn([lambda: taken(WithoutMeans), lambda: taken(Delivery)], rounds)


def _train(folder: Path, place: int, seed: int, epochs: int) -> None:
    """Write the record of a made-up trial with the metrics that a trial has."""
    config = Config(
        Model("lstm"), Adam(lr=0.001 * (1 + place)), Images("digits"), Fit(epochs=epochs), seed=seed
    )
    trial = trial_hash(config, DATASET["checksum"])
    tags = provenance("cpu")
    job = JobFolder.start(folder, name="x", config=config, trial=trial, dataset=DATASET, tags=tags)
    value = 1 / (2 + place + seed)
    for epoch in range(1, epochs + 1):
        job.epoch(epoch, dict.fromkeys(per_epoch(config), value / epoch) | {"lr": 0.001, "grad_norm": 1.0})
    job.end("finished", dict.fromkeys(final_metrics(config), value))


def _leave(folder: Path, number: int) -> TableTrial:
    """Write the record of a made-up run."""
    model, seed = CELLS[number % len(CELLS)], number // len(CELLS)
    config = Config(Model(model), Adam(), Images("digits"), Fit(epochs=5), Tracking(), seed)
    trial = trial_hash(config, DATASET["checksum"])
    job = JobFolder.start(
        folder, name=model, config=config, trial=trial, dataset=DATASET, tags=provenance("cpu")
    )
    for epoch in range(1, 6):
        job.epoch(epoch, {"train/loss": 1 / epoch, "val/accuracy": 0.9, "lr": 0.001})
    accuracy = 0.9 + 0.05 * ((number * 2654435761) % 1000) / 1000
    job.end("finished", {"test/accuracy": accuracy, "parameters/total": 5000.0, "time/train_seconds": 1.0})
    return TableTrial(trial, [f"model={model}", f"seed={seed}"], flatten(plain(config)))
