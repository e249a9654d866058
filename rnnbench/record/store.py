"""Where MLflow's copy goes, as far as it can be told without importing mlflow (which takes seconds)."""

import http.client
import os
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

from rnnbench.config import ConfigError, mask

PATIENCE = "15"  # seconds that a server has for an answer, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other kind of store."""
    scheme, _, rest = uri.partition("://")
    if scheme.split("+")[0] != "sqlite":
        return None
    return Path(rest.partition("?")[0].removeprefix("/"))


def driven(uri: str) -> str:
    """The URI with the driver that we install; SQLAlchemy's own choice depends on its version."""
    return uri.replace("postgresql://", "postgresql+psycopg2://", 1)


def absolute(uri: str) -> str:
    """The same store as seen from any directory."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    scheme, _, rest = uri.partition("://")
    mark, query = rest.partition("?")[1:]
    return f"{scheme}:///{file.absolute()}{mark}{query}"


def check_store(uri: str, key: str = "tracking.uri") -> None:
    """Refuse a local store that cannot be written to; makes nothing.

    Args:
        key: of the config, whose value it is.

    Raises:
        ConfigError: names the file and what is wrong with it.
    """
    file = sqlite_file(uri)
    if file is None:
        return

    def refuse(fault: str) -> ConfigError:
        return ConfigError(
            f"{key}={uri}: {fault}; give a file in a folder that can be written to, "
            f"for example sqlite:///{file.name}, or null for none"
        )

    folder = file.absolute().parent
    if not folder.is_dir():
        raise refuse(f"there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise refuse(f"the folder {folder} is read-only")
    if file.is_dir():
        raise refuse(f"{file} is a folder")
    if not file.exists():
        return
    if not os.access(file, os.W_OK):
        raise refuse(f"{file} is read-only")
    # Opened to write, though only read: a writer that was killed leaves a journal to be rolled back first.
    connection = sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=rw", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):  # else someone writes to it: it is in order
            raise refuse(f"{file} cannot be opened ({error})") from None
    except sqlite3.DatabaseError as error:
        raise refuse(f"{file} is not an SQLite database ({error})") from None
    finally:
        connection.close()


def silence(uri: str) -> str | None:
    """Why the store does not answer, in a few words; None if it does, whatever it says."""
    file = sqlite_file(uri)
    if file is not None:
        try:
            check_store(uri)
        except ConfigError as error:
            return str(error)
        return None
    url = urlsplit(uri)
    patience = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENCE))
    try:
        if url.scheme in ("http", "https"):
            host = url.netloc.rpartition("@")[2]
            with urllib.request.urlopen(
                f"{url.scheme}://{host}{url.path.rstrip('/')}/health", timeout=patience
            ):
                return None
        if "host=" in url.query:
            return _locked(uri)  # a socket's folder, which is the driver's to open
        port = url.port or PORTS.get(url.scheme.split("+")[0])
        if port is None:
            return None  # a kind of store that only MLflow knows
        with socket.create_connection((url.hostname or "localhost", port), patience):
            pass
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        # A certificate that we do not trust may be one that MLflow is told to trust.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return _locked(uri)


def _locked(uri: str) -> str | None:
    """Why a SQL server that is there does not let us in; MLflow itself would try for minutes."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        with closing(create_engine(driven(uri), poolclass=NullPool).connect()):
            return None
    except ImportError as error:
        return f"{error}; for PostgreSQL: pip install 'rnnbench[postgres]'"
    except SQLAlchemyError as error:
        return first_line(error)


def first_line(error: Exception) -> str:
    """The first line of an error, without credentials, no longer than a terminal can show."""
    lines = mask(str(error)).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
