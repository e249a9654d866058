"""Where a study is kept, by URL: memory, SQLite, a journal file, PostgreSQL, Optuna's gRPC proxy."""

import logging
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import GrpcStorageProxy, InMemoryStorage, RDBStorage, get_storage
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.exc import InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from rnnbench.config import ConfigError, check_secret
from rnnbench.config.uris import check_store, driven, sqlite_file
from rnnbench.search.journal import open_journal
from rnnbench.search.patience import PatientStorage
from rnnbench.system.files import Damaged

KINDS = "sqlite:///FILE, journal:///FILE, postgresql://HOST/NAME, mysql://HOST/NAME, grpc://HOST:PORT"
FIRST_WORD = 5.0  # seconds that a gRPC proxy has for it
GRPC_PORT = 13000  # Optuna's
LOCKED = 60.0  # seconds that a SQLite file may be another's
# A machine that vanishes says no farewell: ask it after half a minute of silence, give up after another.
LOST_HOST = {"connect_timeout": 10, "keepalives_idle": 30, "tcp_user_timeout": 30_000}
# The last: Optuna reads trials once more in the transaction that was cut off.
CUT_OFF = (OperationalError, InterfaceError, PendingRollbackError)
# Optuna's first migration fails when several run it at once: a server locks, as a file does elsewhere.
LOCKS = {"postgresql": "SELECT pg_advisory_lock(7466)", "mysql": "SELECT GET_LOCK('rnnbench', 60)"}


def journal_file(url: str) -> Path | None:
    """The file of a journal URL, three slashes before it; None for any other kind of storage."""
    return Path(url.removeprefix("journal:///")) if url.startswith("journal:///") else None


def file_of(url: str) -> Path | None:
    """The file of a storage that is one."""
    return journal_file(url) or sqlite_file(url)


def check_storage(url: str, key: str = "hydra.sweeper.storage") -> None:
    """Refuse a URL that names no storage, or a file that cannot be written to; makes nothing.

    Raises:
        ConfigError: names the URL and what is wrong with it.
    """
    check_secret(key, url)
    scheme = urlsplit(url).scheme.split("+")[0]
    if scheme not in ("sqlite", "journal", "postgresql", "mysql", "grpc") or "://" not in url:
        raise ConfigError(f"{key}={url}: must be one of {KINDS}; null for memory")
    file = file_of(url)
    if (file is None and scheme in ("sqlite", "journal")) or file == Path("."):
        raise ConfigError(f"{key}={url}: names no file; must be like {scheme}:///study.db")
    if scheme == "sqlite":
        check_store(url, key)
    elif file is not None:
        folder = file.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{key}={url}: there is no folder {folder}; make it, or name another file")
        if file.is_dir():
            raise ConfigError(f"{key}={url}: {file} is a folder; name a file")


def open_storage(url: str | None) -> PatientStorage:
    """The storage that a URL names; what has to be made for it is made.

    Raises:
        ConfigError: it cannot be opened.
    """
    if url is None:
        return PatientStorage(InMemoryStorage(), "null")
    journal, file = journal_file(url), sqlite_file(url)
    try:
        if journal is not None:
            return PatientStorage(open_journal(journal), url)
        if file is not None:
            with FileLock(f"{file}.lock"):
                return PatientStorage(_database(url, {"timeout": LOCKED}), url)
        if url.startswith("grpc://"):
            return _proxy(url)
        address = driven(url)
        kind = url.partition(":")[0].partition("+")[0]
        with closing(create_engine(address, poolclass=NullPool).connect()) as connection:
            if not _made(connection):
                connection.execute(text(LOCKS[kind]))  # until it is closed
                if not _made(connection):
                    RDBStorage(address)
        inner = _database(address, LOST_HOST if kind == "postgresql" else {})
        return PatientStorage(inner, url, CUT_OFF)
    except Damaged as error:
        raise ConfigError(
            f"hydra.sweeper.storage={url}: {error.why}; put a copy in its place, or name another file"
        ) from None
    except ImportError as error:
        extra = "grpc" if url.startswith("grpc") else "postgres"
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"hydra.sweeper.storage={url}: needs a package that is not here ({reason}); "
            f"pip install 'rnnbench[{extra}]' brings it"
        ) from None
    except (SQLAlchemyError, OSError, TimeoutError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"hydra.sweeper.storage={url}: cannot be opened ({reason})") from None


def _made(connection: Connection) -> bool:
    """Whether Optuna's tables are there: the one that says what revision they are is filled last."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    return connection.execute(text("SELECT 1 FROM alembic_version")).first() is not None


def _database(address: str, arguments: dict[str, Any]) -> Any:
    """Optuna's storage in a database, with the cache of finished trials that Optuna puts before it."""
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)  # it logs what it also raises
    # A worker holds one connection, and a second for moments: PostgreSQL has a hundred unless told.
    pool = {} if address.startswith("sqlite") else {"pool_size": 1, "max_overflow": 3}
    return get_storage(RDBStorage(address, engine_kwargs={"connect_args": arguments, **pool}))


def _proxy(url: str) -> PatientStorage:
    from grpc import RpcError

    parts = urlsplit(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = GrpcStorageProxy(host=parts.hostname or "localhost", port=parts.port or GRPC_PORT)
    proxy.wait_server_ready(timeout=FIRST_WORD)
    # What the storage behind it has to say of a call, Optuna gives other types: the rest is trouble.
    return PatientStorage(proxy, url, (RpcError,))
