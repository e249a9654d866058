"""Reads URIs of MLflow's stores without importing mlflow, which takes seconds."""

import os
import re
import shlex
import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from rnnbench.config.refusals import refuse
from rnnbench.config.secrets import check_secret

# Three slashes before the file, which is percent-encoded (SQLAlchemy decodes it); options follow a "?".
SQLITE = re.compile(r"(sqlite(?:\+\w+)?):///([^?]*)(?:\?(.*))?", re.S)
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
# What may follow the "?": options of sqlite3.connect.
OPTIONS = {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"}


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI; None for any other kind of store."""
    match = SQLITE.fullmatch(uri)
    return Path(unquote(match[2])) if match else None


def sqlite_uri(file: Path) -> str:
    """Return the URI of a SQLite file; encodes only the characters that have another meaning in a URI."""
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


def driven(uri: str) -> str:
    """Return the URI with the driver that this package installs.

    SQLAlchemy's own choice for PostgreSQL depends on its version; for a plain sqlite:///, MLflow makes the
    folder that an encoded name would be if it were not decoded.
    """
    for plain, driver in (("postgresql", "psycopg2"), ("sqlite", "pysqlite")):
        if uri.startswith(f"{plain}://"):
            return f"{plain}+{driver}{uri.removeprefix(plain)}"
    return uri


def absolute(uri: str) -> str:
    """Return the URI of the same store with an absolute path."""
    match, file = SQLITE.fullmatch(uri), sqlite_file(uri)
    if match is None or file is None:
        return uri
    scheme, _, options = match.groups()
    place = sqlite_uri(file.absolute()).removeprefix("sqlite")
    return f"{scheme}{place}" + ("" if options is None else f"?{options}")


def ui_command(uri: str) -> str:
    """Return the command that shows a SQLite store in a browser."""
    return f"mlflow ui --backend-store-uri {shlex.quote(driven(uri) if '%' in uri else uri)}"


def check_store(uri: str, key: str = "tracking.uri") -> None:
    """Refuse a local store that cannot be written to; makes nothing.

    Args:
        key: of the config, whose value it is.

    Raises:
        ConfigError: names the file and what is wrong with it.
    """
    match, file = SQLITE.fullmatch(uri), sqlite_file(uri)
    if match is None or file is None:
        return
    fault = _fault_of_name(file, match[3] or "") or _fault_of_access(file)
    if fault is None and file.exists():
        fault = _fault_of_content(file)
    if fault is not None:
        example = f"for example sqlite:///{file.name}, or null for none"
        refuse(key, uri, f"{fault}; give a file in a folder that can be written to, {example}")


def _fault_of_name(file: Path, options: str) -> str | None:
    """Say why a SQLite URI names no file that MLflow can open; None if it does."""
    if unknown := {option.partition("=")[0] for option in options.split("&") if option} - OPTIONS:
        return f"what follows the ? is read as options, and {min(unknown)} is none (write a ? as %3F)"
    if str(file) in ("", ".", ":memory:") or str(file).startswith("file:") or "\0" in str(file):
        return "names no file on disk"
    if unencodable := [text for text in (str(file), str(file.absolute())) if not _utf8(text)]:
        return f"{unencodable[0]!a} is not UTF-8, which a URI cannot hold"
    return None


def _fault_of_access(file: Path) -> str | None:
    """Say why this process may not write a file, or make it; None if it may."""
    folder = file.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if not os.access(folder, os.W_OK):
        return f"the folder {folder} is read-only"
    if file.is_dir():
        return f"{file} is a folder"
    if file.exists() and not os.access(file, os.W_OK):
        return f"{file} is read-only"
    return None


def _fault_of_content(file: Path) -> str | None:
    """Say why SQLite cannot read a file; None if it can."""
    # Opened to write, though only read: a writer that was killed leaves a journal to be rolled back first.
    connection = sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=rw", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        # If it is locked, another process writes to it: it is in order.
        return None if "locked" in str(error) else f"{file} cannot be opened ({error})"
    except sqlite3.DatabaseError as error:
        return f"{file} is not an SQLite database ({error})"
    finally:
        connection.close()
    return None


def _utf8(text: str) -> bool:
    """True if a path can be encoded as UTF-8."""
    return text.encode(errors="replace").decode() == text


def check_uri(uri: str, key: str = "tracking.uri") -> None:
    """Refuse what is not the URI of an MLflow store.

    Raises:
        ConfigError: names the key.
    """
    check_secret(key, uri)
    url = urlsplit(uri)
    scheme = url.scheme.split("+")[0]
    wanted = f"must be a URI that starts with one of {', '.join(s + '://' for s in SCHEMES)}"
    if scheme not in SCHEMES or not uri.startswith(f"{url.scheme}://"):
        refuse(key, uri, f"{wanted}, for example sqlite:///mlflow.db; null for none")
    if scheme in ("http", "https") and not url.hostname:
        refuse(key, uri, "names no host, for example http://localhost:5000")
    if scheme == "sqlite" and (url.netloc or not url.path.strip("/")):
        refuse(key, uri, "names no file, for example sqlite:///mlflow.db (three slashes)")
