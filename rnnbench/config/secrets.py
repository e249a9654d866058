"""Refuses credentials in configs and command lines, since these are written to disk whole.

Given in the ways that the refusal names they are read by the library that needs them, and by nothing here.
"""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from rnnbench.config.refusals import ConfigError

HIDDEN = "***"
# Where a value ends, and what in the place of a secret is none: nothing, a switch, a reference to a variable.
END = r"(?=[\s,;&}\])\"']|$)"
NOTHING = r"[;&,}\])]*(?:\s|$)|[;&,][\w .-]+[=:]|\"\"|''"
NONE = (
    rf"(?!(?i:null|none|true|false|~|\?\?\?|\*\*\*){END}|\$\{{[^}}]*\}}{END}|\$(?-i:[A-Z_][A-Z0-9_]*){END}"
    rf"|{NOTHING})"
)
VALUE = rf"""{NONE}(?:\\?"(?:\\.|[^"\\])*(?:"|$)\S*|\\?'[^']*(?:'|$)\S*|\{{[^}}]*\}}\S*|\S+)"""

# A name whose value is a secret: password, DB_PASS, PGPASSWORD, api-key, accessToken; not max_tokens, bypass,
# the pad_token of a vocabulary, or the variable PWD of a shell.
NAME = (
    r"(?<![\w.-])(?!(?:[\w.-]*\.)?(?:pad|eos|bos|unk|mask|sep|cls)_token\b)(?!(?:[\w.-]*\.)?(?<!;)(?:OLD)?PWD=/)"
    r"(?:(?i:[\w.-]*?(?:passw(?:or)?d|passphrase|pwd)"
    r"|(?:[\w.-]*[_.-])?(?:pass|(?:auth|access|refresh|bearer)?token|secret|credentials?"
    r"|(?:api|access|secret|private|account|encryption)[_-]?key))"
    r"|[\w.-]*[a-z](?:Token|Secret|Pass|ApiKey|AccessKey))\d*"
)
# What shows, and the secret behind it, which ends with the word unless it is quoted: it may hold any sign.
SECRETS = [
    # scheme://user:password@host, but not scheme://host:port/path@more, nor an address of IPv6
    re.compile(
        r"(://(?!\[[\da-fA-F:.%]*\](?::\d*)?(?:[/?#,\s]|$))[^\s/?#:]*:)(?!\*\*\*@)"
        r"(?!\d*(?:[/?#]\S*@[^\s/@]*(?:\s|$)|,[\w+.-]*://|\s|$))\S+(?=@)"
    ),
    # https://token@host, https://token:@host: over http a name alone is good for nothing else
    re.compile(r"(?i)(https?://)(?!\*\*\*@)(?![^\s/?#@]*:\*\*\*@)[^\s/?#@]+(?=@)"),
    # ?key=, &auth=, ?X-Amz-Signature=, ?sig=; what else names a secret is one in a query too
    re.compile(rf"(?i)([?&](?:[\w.-]*[_.-])?(?:key|auth|sig|signature|credential)=){VALUE}"),
    # Authorization: Basic ...; Bearer ... anywhere
    re.compile(rf"(?i)(\b(?:proxy-)?authorization\\?[\"']?\s*[:=]\s*\\?[\"']?(?:[a-z]+\s+)?+){NONE}\S+"),
    re.compile(rf"(?i)(\bbearer\s+){NONE}\S{{6,}}"),
    # PGPASSWORD=..., {"password": "..."}, PWD={...};
    re.compile(rf"({NAME}\\?[\"']?\s*[:=]\s*){VALUE}"),
    # tokens that show by themselves what they are: of GitHub, GitLab, AWS, OpenAI, Slack, Hugging Face, a JWT
    re.compile(
        r"((?<![A-Za-z0-9]))(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
        r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|sk[-_](?:[a-z]+[-_])*(?=\w*\d)\w{16,}|xox[a-z]-[\w-]{10,}"
        r"|hf_[A-Za-z0-9]{16,}|AIza[\w-]{30,}|dapi[\da-f]{32}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    ),
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?!\*\*\*)[\s\S]+"),
]
OF_KEY = re.compile(rf"(?!.*\b(?:OLD)?PWD$)(?:[\w.@/-]*[./])?(?:{NAME}|(?i:auth|authorization))")
OF_VALUE = re.compile(rf"{NONE}[\s\S]")


def mask(text: str) -> str:
    """Replace what looks like a password, a token or a key by ***, written plainly or with %XX."""
    shown = _mask(text)
    decoded = unquote(shown)
    hidden = _mask(decoded)
    return shown if hidden == decoded else hidden


def _mask(text: str) -> str:
    for pattern in SECRETS:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def check_secret(key: str, value: object) -> None:
    """Refuse a credential in a value, or any value of a key that names a secret.

    Raises:
        ConfigError: names the key, the value without the credential, and the ways that work.
    """
    text = f"{key}={value}"
    shown = mask(text)
    if OF_KEY.fullmatch(key) and not isinstance(value, bool) and OF_VALUE.match(str(value).strip()):
        shown = f"{key}={HIDDEN}"
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
    elif isinstance(tree, str | int | float):
        check_secret(key, tree)


def _way(key: str, shown: str) -> str:
    """Name the ways to give a credential that work for this key."""
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
