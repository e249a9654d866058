"""Credentials in what is written to disk: whole configs and command lines are, so there they are refused.

Given in the ways that the refusal names they are read by the library that needs them, and by nothing here.
"""

import re
from collections.abc import Iterable
from typing import Any

from rnnbench.config.schema import ConfigError

HIDDEN = "***"
# What shows, and the secret behind it, which ends with the word: a password may hold any other sign.
SECRETS = [
    # scheme://user:password@host, but not scheme://host:port/path@more
    re.compile(r"(://[^\s/?#@:]*:)(?!\*\*\*@)(?!\d*(?:[/?#,\s]|$))\S+(?=@)"),
    # https://token@host: over http a name alone is good for nothing else
    re.compile(r"(?i)(https?://)(?!\*\*\*@)[^\s/?#@:]+(?=@)"),
    # ?password=, &access_token=, ?X-Amz-Signature=, ?sig=
    re.compile(
        r"(?i)([?&][\w.-]*(?:passw(?:or)?d|pwd|token|secret|api_?key|signature|credential|\bsig)=)"
        r"(?!\*\*\*)[^&\s]+"
    ),
    # PGPASSWORD=..., as for hydra.job.env_set or a launcher's lines of shell; not one that is passed on
    re.compile(r"\b([A-Z][A-Z0-9_]*(?:PASSWORD|TOKEN|SECRET|API_KEY)[A-Z0-9_]*[=:] ?)(?![*$])[^\s,}\]]+"),
]


def mask(text: str) -> str:
    """The text with *** for what looks like a password, a token or a key."""
    for pattern in SECRETS:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def check_secret(key: str, value: object) -> None:
    """Refuse a credential in a value.

    Raises:
        ConfigError: names the key, the value without the credential, and the ways that work.
    """
    text = f"{key}={value}"
    shown = mask(text)
    if shown != text:
        raise ConfigError(
            f"{shown}: a password, token or key in it would be written to disk with every config; "
            f"{_way(key, shown)}"
        )


def check_words(words: Iterable[str]) -> None:
    """Refuse a credential in the words of a command line.

    Raises:
        ConfigError: as `check_secret`.
    """
    for word in words:
        key, _, value = word.partition("=")
        check_secret(key.lstrip("+~"), value)


def check_tree(tree: Any, key: str = "") -> None:
    """Refuse a credential anywhere in a config of plain dicts, lists and values.

    Raises:
        ConfigError: as `check_secret`.
    """
    if isinstance(tree, dict):
        for name, part in tree.items():
            check_tree(part, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list) and key.startswith("hydra.overrides"):
        check_words(map(str, tree))
    elif isinstance(tree, list):
        for part in tree:
            check_tree(part, key)
    elif isinstance(tree, str):
        check_secret(key, tree)


def _way(key: str, shown: str) -> str:
    """The ways that work for what takes this key."""
    if key == "data.source":
        return "use a source that asks for none, or copy the files to data.root"
    if "postgresql" in shown:
        return "use ~/.pgpass or PGPASSWORD in the environment"
    if key in ("tracking.uri", "source"):
        return (
            "use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the "
            "environment, or the file ~/.mlflow/credentials"
        )
    return "give it in the environment that the command is started in"
