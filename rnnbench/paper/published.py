"""Reads published.csv, which has published figures with paper, table, task, model, metric and split."""

import csv
from dataclasses import dataclass
from pathlib import Path

from rnnbench.config import ConfigError, direction
from rnnbench.paper.aggregate import FilledTable, Key, as_text
from rnnbench.paper.definition import Publication

FILE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class PublishedValues:
    """Keeps published figures by column and row of a table, as printed in the paper."""

    ours: str  # the table's metric that they are compared with
    values: dict[Key, dict[Key, str]]  # by column, then by row; without columns of which none are named
    notes: list[str]


def read_published() -> list[dict[str, str]]:
    """Return every row of published.csv."""
    with open(FILE, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def cited(wanted: Publication) -> dict[str, list[dict[str, str]]]:
    """Return the published figures that a table names, on the test set, by the paper's task.

    Raises:
        ConfigError: there are none of this paper, task and metric, or their better direction is not ours.
    """
    places = {"published.task": wanted.task} if wanted.task else {}
    places |= {f"published.tasks.{column}": task for column, task in wanted.tasks.items()}
    found = {}
    for place, task in places.items():
        known = read_published()
        for key, column, value in (
            ("published.key", "key", wanted.key),
            (place, "task", task),
            ("published.metric", "metric", wanted.metric),
        ):
            left = [line for line in known if line[column] == value and line["split"] == "test"]
            if not left:
                there = ", ".join(sorted({line[column] for line in known}))
                raise ConfigError(f"{key}={value}: is not known; there is {there}")
            known = left
        found[task] = known
    better = "higher" if direction(wanted.ours) == "maximize" else "lower"
    if any(line["better"] != better for known in found.values() for line in known):
        raise ConfigError(
            f"published.ours={wanted.ours}: is better {better}, and the published {wanted.metric} is not; "
            "name the metric that measures the same"
        )
    return found


def beside(filled: FilledTable) -> PublishedValues | None:
    """Find the published figures of each row's model, if the table names any; else return None.

    Raises:
        ConfigError: see `cited`.
    """
    wanted = filled.table.published
    if wanted is None:
        return None
    known = cited(wanted)
    values: dict[Key, dict[Key, str]] = {}
    for column in filled.columns:
        task = wanted.task or next(
            (wanted.tasks[name] for name in map(as_text, column) if name in wanted.tasks), None
        )
        if task is None:
            continue
        values[column] = {}
        for row in filled.rows:
            names = [wanted.models.get(name, name) for name in map(as_text, row)]
            theirs = [line["value"] for line in known[task] if line["model"] in names]
            if theirs:
                values[column][row] = theirs[0]
    places = dict.fromkeys(
        f"{line['paper']}, {line['where']}" for lines in known.values() for line in lines[:1]
    )
    return PublishedValues(wanted.ours, values, [f"Published: {'; '.join(places)}.", *wanted.caveats])
