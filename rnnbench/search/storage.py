"""Finds the storage of a study by its URL.

The kinds that come with the package are in `rnnbench.search.storages`. A file that is imported
(`imports=[redis.py]`) adds one by defining a subclass of
`rnnbench.search.storages.kind.StorageKind`.
"""

from pathlib import Path
from urllib.parse import urlsplit

from optuna.storages import InMemoryStorage
from sqlalchemy.exc import SQLAlchemyError

from rnnbench.config import ConfigError
from rnnbench.config.secrets import check_secret
from rnnbench.search import storages
from rnnbench.search.retry import RetryingStorage
from rnnbench.search.storages.kind import StorageKind
from rnnbench.system.files import DamagedFile


def kind_of(url: str, key: str = "hydra.sweeper.storage") -> StorageKind:
    """Return the kind of storage that a URL names.

    Raises:
        ConfigError: no kind has its scheme.
    """
    scheme = urlsplit(url).scheme.partition("+")[0]
    if scheme not in storages.KINDS or "://" not in url:
        forms = ", ".join(kind.form for kind in storages.KINDS.values())
        raise ConfigError(f"{key}={url}: must be one of {forms}; null for memory")
    return storages.KINDS[scheme](url)


def file_of(url: str) -> Path | None:
    """Return the file that a URL's storage is kept in; None for a server."""
    return kind_of(url).file


def check_storage(url: str, key: str = "hydra.sweeper.storage") -> None:
    """Refuse a URL that names no storage, or a file that cannot be written to; nothing is created.

    Raises:
        ConfigError: names the URL and what is wrong with it.
    """
    check_secret(key, url)
    kind_of(url, key).check(key)


def open_storage(url: str | None) -> RetryingStorage:
    """Open the storage that a URL names, and create it if needed; None opens one in memory.

    Raises:
        ConfigError: it cannot be opened.
    """
    if url is None:
        return RetryingStorage(InMemoryStorage(), "null")
    kind = kind_of(url)
    try:
        return RetryingStorage(kind.open(), url, kind.unavailable)
    except DamagedFile as error:
        raise ConfigError(
            f"hydra.sweeper.storage={url}: {error.why}; put a copy in its place, or name another file"
        ) from None
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        install = f"; pip install 'rnnbench[{kind.extra}]' brings it" if kind.extra else ""
        raise ConfigError(
            f"hydra.sweeper.storage={url}: needs a package that is not here ({reason}){install}"
        ) from None
    except (SQLAlchemyError, OSError, TimeoutError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"hydra.sweeper.storage={url}: cannot be opened ({reason})") from None
