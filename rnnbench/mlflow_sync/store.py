"""Says whether an MLflow store answers, without importing mlflow, which takes seconds."""

import http.client
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from urllib.parse import urlsplit

from rnnbench.config import ConfigError, mask
from rnnbench.config.uris import check_store, driven, sqlite_file

PATIENCE = "15"  # seconds to wait for a server, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set
WAIT = 60  # seconds that a writer of a SQLite file waits for the others
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


DRIVER = re.compile(r"\((?:builtins|sqlite3|psycopg2|pymysql|MySQLdb|pyodbc)\.[\w.]+\) ")


class StoreError(Exception):
    """Raised if the store does not answer, or not as MLflow does: try again later."""


class NoAnswer(StoreError):
    """Raised if the store does not answer at all, so that trying again at once is of no use."""


class Refusal(StoreError):
    """Raised if the store refuses its input, and will do so until the user repairs the cause."""


def seconds(text: str) -> float:
    """Read MLFLOW_HTTP_REQUEST_TIMEOUT; return PATIENCE if it is not a number of seconds."""
    return float(text if text.isdecimal() and 0 < int(text) < 86_400 else PATIENCE)


def silence(uri: str) -> str | None:
    """Say in a few words why the store does not answer; None if it gives any answer."""
    file = sqlite_file(uri)
    if file is not None:
        try:
            check_store(uri)
        except ConfigError as error:
            return str(error)
        return None
    url = urlsplit(uri)
    patience = seconds(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENCE))
    try:
        if url.scheme in ("http", "https"):
            host = url.netloc.rpartition("@")[2]
            with urllib.request.urlopen(
                f"{url.scheme}://{host}{url.path.rstrip('/')}/health", timeout=patience
            ):
                return None
        if "host=" in url.query:
            return _locked(uri)  # the host is the folder of a Unix socket, which only the driver opens
        port = url.port or PORTS.get(url.scheme.split("+")[0])
        if port is None:
            return None  # a kind of store that cannot be tested here
        with socket.create_connection((url.hostname or "localhost", port), patience):
            pass
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        # MLflow may be configured to trust a certificate that is not trusted here.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return _locked(uri)


def _locked(uri: str) -> str | None:
    """Say why a SQL server refuses the connection, since MLflow itself would retry for minutes."""
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
    """Return the first line of an error, without credentials, no longer than a terminal can show.

    SQLAlchemy's preamble, the class of the driver's error in brackets, is left out.
    """
    lines = DRIVER.sub("", mask(str(error))).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
