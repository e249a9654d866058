"""Records in memory, for laws of tables that need many runs and no files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnbench.paper.aggregate import TableTrial
from rnnbench.reader import Record, SearchRecord, Source


class Kept(Source):
    """Finished records, each by the hash of its trial."""

    name = "kept"

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def all(self) -> list[Record]:
        return list(self.records)

    def find(self, trials: Iterable[str]) -> list[Record]:
        wanted = set(trials)
        return [record for record in self.records if record.trial in wanted]

    def of_study(self, study: str) -> list[Record]:
        return []

    def searches(self) -> dict[str, SearchRecord]:
        return {}

    def curve(self, record: Record, metric: str) -> list[tuple[int, float]]:
        return []


def kept(
    runs: Mapping[tuple[str, str], Iterable[float]],
    metrics: Mapping[str, str] | None = None,
    sizes: Mapping[str, float] | None = None,
    **params: Any,
) -> tuple[list[TableTrial], list[Record]]:
    """The trials and records of cells under seeds 0, 1, ...: values of a metric by model and task.

    Args:
        metrics: the metric of each task; test/accuracy where none is given.
        sizes: the number of parameters of each model.
        params: further params of every trial, __ for a dot.
    """
    planned, records = [], []
    more = {key.replace("__", "."): value for key, value in params.items()}
    for (model, task), values in runs.items():
        for seed, value in enumerate(values):
            keys = {"model.name": model, "data.name": task, "seed": seed, "fit.select": "val"} | more
            trial = " ".join(map(str, keys.values()))
            metric = (metrics or {}).get(task, "test/accuracy")
            found = {metric: float(value), "parameters/total": (sizes or {}).get(model, 1000.0)}
            words = [f"model={model}", f"data={task}", f"seed={seed}"]
            planned.append(TableTrial(trial, words, keys))
            records.append(
                Record(trial, trial, trial, "finished", 0, 0, None, None, found, {}, None, keys, Path(trial))
            )
    return planned, records
