"""Makes MLflow's SQLite file under another name, and renames it when it is whole.

MLflow makes its tables in about seventy steps. If a process dies between two of them, MLflow can never use
the file again. The file gets its final name only after the last step is on disk.
"""

import glob
import os
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rnnbench.config.uris import absolute, driven, sqlite_uri
from rnnbench.mlflow_sync.store import WAIT, Refusal, StoreError, first_line

PART = ".part-"  # appended to the file's name while its tables are made
COMPANIONS = ("", "-journal", "-wal", "-shm")  # SQLite's own files beside a database
STEP = 5.0  # seconds within which a process that makes the tables changes the file
# The rows of a store without runs: the version of its schema, and the first rows that MLflow writes.
FIRST_ROWS = {"alembic_version": "1", "experiments": "experiment_id = 0", "workspaces": "name = 'default'"}


def prepare(file: Path, say: Callable[[str], None]) -> None:
    """Make sure that a SQLite file holds the tables of this MLflow. The caller holds the file's lock.

    An unfinished file without runs is renamed to FILE.unusable-N.

    Args:
        say: is given each message for the user.

    Raises:
        Refusal: the file has runs, or is another program's, and its tables are not this MLflow's.
        StoreError: another process keeps it locked.
    """
    try:
        _prepare(file, say)
    except sqlite3.OperationalError as error:
        raise StoreError(first_line(error)) from error
    except sqlite3.DatabaseError as error:
        raise Refusal(
            f"{file} is damaged ({first_line(error)}); put a copy in its place, or move it away, and all "
            "records are delivered to a new one"
        ) from error


def _prepare(file: Path, say: Callable[[str], None]) -> None:
    for left in file.parent.glob(f"{glob.escape(file.name)}{PART}*"):
        left.unlink()  # left by a process that was killed
    while (state := _state(file)) == "unfinished":
        changed = file.stat().st_mtime_ns
        time.sleep(STEP)  # `mlflow ui` may be making it at this moment
        if file.exists() and file.stat().st_mtime_ns == changed:
            say(f"{file} was left unusable when a first start of MLflow broke off; it has no runs, is now "
                f"{_set_aside(file).name}, and a new one is made")  # fmt: skip
    if state == "absent":
        _make(file)


def _state(file: Path) -> str:
    """Say what is in a file: `whole`, `absent` (no tables), or `unfinished` (some tables, and no runs).

    Raises:
        Refusal: the tables are another MLflow's, or another program's.
    """
    import mlflow.store.db.utils  # this import brings all tables into the metadata
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.db.base_sql_model import Base

    if not file.exists():
        return "absent"
    script = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    head = script.get_current_head()
    name = f"file:{quote(str(file.absolute()))}?mode=rw"  # rw: to roll back a dead writer's journal
    with closing(sqlite3.connect(name, uri=True, timeout=WAIT)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        versioned = "alembic_version" in tables
        row = db.execute("SELECT version_num FROM alembic_version").fetchone() if versioned else None
        version = row[0] if row else None
        missing = sorted(set(Base.metadata.tables) - tables)
        if version == head and not missing:
            return "whole"
        if not tables:
            return "absent"
        if "experiments" not in tables:
            raise Refusal(f"{file} is a database of another program; give tracking.uri a file of its own")
        empty = not any(
            db.execute(f'SELECT 1 FROM "{table}" WHERE NOT ({FIRST_ROWS.get(table, "0")}) LIMIT 1').fetchone()
            for table in tables
        )
    found = f"found version {version}, expected {head}"
    found += f"; there is no table {missing[0]}" if missing else ""
    try:
        script.get_revisions(version or ())
    except CommandError as error:
        raise Refusal(
            f"{file} was made by another version of MLflow, newer than the one installed ({found}): "
            f"{first_line(error)}; install that version, or give another tracking.uri"
        ) from error
    if empty:
        return "unfinished"
    raise Refusal(
        f"{file} was made by an older version of MLflow, its upgrade broke off, or it is damaged ({found}); "
        f"copy the file, then: mlflow db upgrade {driven(sqlite_uri(file))}"
    )


def _set_aside(file: Path) -> Path:
    """Rename an unusable file, with its companions; return the new name."""
    number = 1
    while (aside := file.with_name(f"{file.name}.unusable-{number}")).exists():
        number += 1
    for end in COMPANIONS:
        if (companion := file.with_name(file.name + end)).exists():
            companion.rename(f"{aside}{end}")
    return aside


def _make(file: Path) -> None:
    """Have MLflow make its tables under another name, write them to disk, and rename the file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = file.with_name(f"{file.name}{PART}{uuid.uuid4().hex}")
    try:
        # The artifacts of MLflow's default experiment lie beside the file. It is given as a URI, which
        # escapes its characters, since MLflow puts the name into SQL.
        artifacts = (file.absolute().parent / "mlruns").as_uri()
        store: Any = SqlAlchemyStore  # SqlAlchemyStore has no type annotations
        store(driven(absolute(sqlite_uri(part))), artifacts).engine.dispose()
        _to_disk(part)
        os.replace(part, file)
        _to_disk(file.parent)
    finally:
        for end in COMPANIONS:
            part.with_name(part.name + end).unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until changes to a file, or to the names in a folder, are safely on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
