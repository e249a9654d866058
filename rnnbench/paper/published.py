"""Reads published.csv, which has published figures with paper, table, task, model, metric and split."""

import csv
from dataclasses import dataclass
from pathlib import Path

from rnnbench.config import ConfigError, direction
from rnnbench.paper.aggregate import FilledTable, Key
from rnnbench.paper.definition import Publication

FILE = Path(__file__).with_name("published.csv")


@dataclass(frozen=True)
class PublishedValues:
    """Keeps published figures by row of a table, as printed in the paper."""

    ours: str  # the table's metric that they are compared with
    values: dict[Key, str]
    notes: list[str]


def read_published() -> list[dict[str, str]]:
    """Return every row of published.csv."""
    with open(FILE, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def cited(wanted: Publication) -> list[dict[str, str]]:
    """Return the published figures that a table names, on the test set.

    Raises:
        ConfigError: there are none of this paper, task and metric, or their better direction is not ours.
    """
    known = read_published()
    for column in ("key", "task", "metric"):
        value = getattr(wanted, column)
        left = [line for line in known if line[column] == value and line["split"] == "test"]
        if not left:
            there = ", ".join(sorted({line[column] for line in known}))
            raise ConfigError(f"published.{column}={value}: is not known; there is {there}")
        known = left
    better = "higher" if direction(wanted.ours) == "maximize" else "lower"
    if {line["better"] for line in known} != {better}:
        raise ConfigError(
            f"published.ours={wanted.ours}: is better {better}, and the published {wanted.metric} is not; "
            "name the metric that measures the same"
        )
    return known


def beside(filled: FilledTable) -> PublishedValues | None:
    """Find the published figures of each row's model, if the table names any; else return None.

    Raises:
        ConfigError: see `cited`.
    """
    wanted = filled.table.published
    if wanted is None:
        return None
    known = cited(wanted)
    values = {}
    for row in filled.rows:
        names = [str(part) for part in row]
        theirs = [
            line["value"] for line in known if line["model"] in [wanted.models.get(n, n) for n in names]
        ]
        if theirs:
            values[row] = theirs[0]
    source = f"Published: {known[0]['paper']}, {known[0]['where']}."
    return PublishedValues(wanted.ours, values, [source, *wanted.caveats])
