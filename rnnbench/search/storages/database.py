"""Keeps studies in an SQL database: an SQLite file, a PostgreSQL or MySQL server."""

from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.pool import NullPool

from rnnbench.config import ConfigError
from rnnbench.config.uris import check_store, driven, sqlite_file
from rnnbench.search.optuna_api import silence_database
from rnnbench.search.storages.kind import StorageKind

LOCKED = 60.0  # seconds that a writer waits for an SQLite file that another one holds


class Sqlite(StorageKind):
    """An SQLite file, for workers on one machine."""

    scheme = "sqlite"
    form = "sqlite:///FILE"

    @property
    def file(self) -> Path | None:
        """The file that the URL names."""
        return sqlite_file(self.url)

    def check(self, key: str) -> None:
        """Refuse a URL without a file, and a file that cannot be written to."""
        if self.file is None or self.file == Path("."):
            raise ConfigError(f"{key}={self.url}: names no file; must be like sqlite:///study.db")
        check_store(self.url, key)

    def open(self) -> BaseStorage:
        """Open the file under a lock, since migrations of a new file by several processes would race."""
        with FileLock(f"{self.file}.lock"):
            return database(self.url, {"timeout": LOCKED})


class Server(StorageKind):
    """A database server.

    Attributes:
        lock: the SQL statement that takes a lock, which is held until the connection is closed.
        connect_args: arguments of the driver.
    """

    lock: ClassVar[str]
    connect_args: ClassVar[dict[str, Any]] = {}

    @property
    def unavailable(self) -> tuple[type[Exception], ...]:
        """SQLAlchemy's errors; PendingRollbackError comes from a read in an interrupted transaction."""
        return (OperationalError, InterfaceError, PendingRollbackError)

    def open(self) -> BaseStorage:
        """Open the database; Optuna's tables are created under a lock, since its first migrations race."""
        address = driven(self.url)
        with closing(create_engine(address, poolclass=NullPool).connect()) as connection:
            if not has_tables(connection):
                connection.execute(text(self.lock))
                if not has_tables(connection):
                    RDBStorage(address)
        return database(address, self.connect_args)


class PostgreSQL(Server):
    """A PostgreSQL server, for many workers on many machines."""

    scheme = "postgresql"
    form = "postgresql://HOST/NAME"
    extra = "postgres"
    lock = "SELECT pg_advisory_lock(7466)"
    # TCP keepalive: probe after 30 s idle, close after 30 s without an acknowledgement.
    connect_args: ClassVar[dict[str, Any]] = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "tcp_user_timeout": 30_000,
    }


class MySQL(Server):
    """A MySQL server."""

    scheme = "mysql"
    form = "mysql://HOST/NAME"
    extra = "postgres"
    lock = "SELECT GET_LOCK('rnnbench', 60)"


def has_tables(connection: Connection) -> bool:
    """True if Optuna's tables are complete: the table with their revision is filled last."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(text("SELECT 1 FROM alembic_version")).first() is not None


def database(address: str, connect_args: dict[str, Any]) -> BaseStorage:
    """Open Optuna's storage in a database, with Optuna's cache of finished trials."""
    silence_database()
    # A worker holds one connection, and briefly more; a PostgreSQL server accepts a hundred by default.
    pool = {} if address.startswith("sqlite") else {"pool_size": 1, "max_overflow": 3}
    return get_storage(RDBStorage(address, engine_kwargs={"connect_args": connect_args, **pool}))
