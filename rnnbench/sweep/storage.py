"""Where a study is kept, by URL: memory, SQLite, a journal file, PostgreSQL, Optuna's gRPC proxy."""

from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from optuna.storages import BaseStorage, GrpcStorageProxy, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from rnnbench.config import ConfigError, check_secret
from rnnbench.record import check_store, driven, sqlite_file

KINDS = "sqlite:///FILE, journal:///FILE, postgresql://HOST/NAME, mysql://HOST/NAME, grpc://HOST:PORT"
WAIT = 60.0  # seconds that a worker waits for others that write to the SQLite file; its own five are few
PATIENCE = 5.0  # seconds that a gRPC proxy has for its first word
GRPC_PORT = 13000  # Optuna's
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


def open_storage(url: str | None) -> BaseStorage:
    """The storage that a URL names; what has to be made for it is made.

    Raises:
        ConfigError: it cannot be opened.
    """
    if url is None:
        return InMemoryStorage()
    journal, file = journal_file(url), sqlite_file(url)
    try:
        if journal is not None:
            return JournalStorage(JournalFileBackend(str(journal)))
        if file is not None:
            with FileLock(f"{file}.lock"):
                return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": WAIT}})
        if url.startswith("grpc://"):
            parts = urlsplit(url)
            proxy = GrpcStorageProxy(host=parts.hostname or "localhost", port=parts.port or GRPC_PORT)
            proxy.wait_server_ready(timeout=PATIENCE)
            return proxy
        address = driven(url)
        with closing(create_engine(address, poolclass=NullPool).connect()) as connection:
            connection.execute(text(LOCKS[url.partition(":")[0].partition("+")[0]]))  # until it is closed
            return RDBStorage(address)
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
