"""Reads records, wherever they are: in job folders or in an MLflow store."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnbench.config import mask
from rnnbench.mlflow_sync.reading import ClientRuns
from rnnbench.mlflow_sync.sql import KINDS, OtherSchemaError, SqlRuns
from rnnbench.record.source import Folders, Record, SearchRecord, Source, classes, confusion, in_order, once
from rnnbench.system.files import RecordsWarning

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Folders",
    "Record",
    "SearchRecord",
    "Source",
    "classes",
    "confusion",
    "in_order",
    "once",
    "open_source",
    "records",
]


def open_source(where: str | Path) -> Source:
    """Open the records in a folder, or in the MLflow store that a URI names.

    Raises:
        ConfigError: there is no such folder or store, or it cannot be read.
    """
    if isinstance(where, Path) or "://" not in where:
        return Folders(Path(where))
    if not where.startswith(KINDS):
        return ClientRuns(where)
    try:
        return SqlRuns(where)
    except OtherSchemaError as error:
        source = ClientRuns(where)
        warnings.warn(
            f"{mask(where)}: its tables are of a version of MLflow that rnnbench was not checked with "
            f"(schema {error}); they are read through MLflow's client, which takes some twenty times as long",
            RecordsWarning,
            stacklevel=2,
        )
        return source


def records(source: str | Path | Sequence[str | Path] = "multirun") -> "pandas.DataFrame":
    """Read records into a data frame, one row a trial, in order of its start.

    Columns: status, trial (hash), name, folder, run_id (MLflow's, if delivered), error, started and ended;
    then config values by dotted name (`model.hidden_size`), metrics (`test/accuracy`; the last value of a
    metric that is measured every epoch), and tags (`rnnbench.git_commit`). A trial whose files are damaged is
    left out, with a warning that names the file; so is one that was reused from another that is read here.

    Args:
        source: a job folder, a sweep folder or a folder of them; several of these; or an MLflow tracking
            URI, of which all rnnbench runs in all experiments are read.

    Raises:
        ConfigError: there is no such folder or store.
    """
    import pandas

    sources = [source] if isinstance(source, (str, Path)) else source
    found = [record for where in sources for record in open_source(where).all()]
    rows = [_row(record) for record in once(found)]
    rows.sort(key=lambda row: (row["started"] or 0, row["trial"] or ""))
    # Text columns of pandas must be UTF-8. Folder names may not be, so their columns hold objects.
    odd = {name for row in rows for name, value in row.items() if isinstance(value, str) and not _utf8(value)}
    frame = pandas.DataFrame([{name: None if name in odd else row[name] for name in row} for row in rows])
    for name in odd:
        frame[name] = pandas.Series([row.get(name) for row in rows], dtype=object)
    for moment in ("started", "ended"):
        if rows:
            frame[moment] = pandas.to_datetime(frame[moment], unit="ms", utc=True)
    return frame


def _utf8(text: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _row(record: Record) -> dict[str, Any]:
    columns = {
        "status": record.status,
        "trial": record.trial,
        "name": record.name,
        "folder": str(record.folder),
        "run_id": record.run_id,
        "error": record.error,
        "started": record.started,
        "ended": record.ended,
    }
    # `columns` comes first for the order and last so that no value of a record replaces a column.
    return columns | record.params | record.metrics | record.tags | columns
