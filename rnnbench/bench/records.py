"""Times a table of many runs: from job folders, from MLflow's tables, through search_runs."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rnnbench.bench.measure import in_turn
from rnnbench.config import Adam, Config, Fit, Model, Tracking, flatten, plain, trial_hash
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.reading import ClientRuns
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
