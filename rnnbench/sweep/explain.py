"""Turns errors of Hydra and OmegaConf while they compose into one message that names a form that works."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile

from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError

from rnnbench.config import ConfigError
from rnnbench.config.advice import said_of, shown
from rnnbench.sweep.arguments import SECTIONS
from rnnbench.sweep.groups import no_option, unreadable
from rnnbench.sweep.hydra_settings import hydra_keys, unknown_hydra_key


@contextmanager
def explained(words: Sequence[str]) -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf about overrides into one message.

    Raises:
        ConfigError: replaces an error that Hydra or OmegaConf raise while they compose.
    """
    try:
        yield
    except (
        ConfigCompositionException,
        OverrideParseException,
        InstantiationException,
        SearchPathException,
        OmegaConfBaseException,
    ) as error:
        raise ConfigError(explain(error, words)) from error
    except MarkedYAMLError as error:  # raised for a file that another file names
        raise ConfigError(unreadable(error)) from error


def explain(error: Exception, words: Sequence[str]) -> str:
    """Return one message for an error of Hydra's or OmegaConf's while they compose from these overrides."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group:
            return no_option(group, name, error.options or [])
        return f"--config-name={name}: there is no such file"
    if isinstance(error.__cause__, ConfigError):  # raised by a launcher or sweeper that Hydra makes
        return str(error.__cause__)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    values = {word.partition("=")[0].lstrip("+~"): word.partition("=")[2] for word in words}
    if isinstance(cause, OmegaConfBaseException):
        return _of_a_node(cause, str(error), words, values)
    if stray := re.search(r"unexpected keyword argument '(\w+)'[\s\S]*full_key: (\S+)", str(error)):
        return unknown_hydra_key(f"{stray[2]}.{stray[1]}", values.get(f"{stray[2]}.{stray[1]}"))
    text = str(error)
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        if word.startswith("+") and re.search(
            rf"'{re.escape(key)}'|Multiple values for {re.escape(key)}\.", text
        ):
            return f"{word}: {key} is there already; write {shown(word.lstrip('+'))}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = takewhile(lambda line: not line.startswith(("See https", "To append", "Config search")), lines)
    return " ".join(kept) or type(error).__name__


def _of_a_node(
    cause: OmegaConfBaseException, text: str, words: Sequence[str], values: Mapping[str, str]
) -> str:
    """Return one message for OmegaConf's error about a node, with the config file that sets the node.

    Args:
        text: Hydra's message.
        values: the values of the words, by key.
    """
    place = re.match(r"In '(.*?)': ", text)
    prefix = f"{place[1]}.yaml: " if place else ""
    key = re.sub(r"\[.*", "", str(cause.full_key or ""))
    value = None if place else values.get(key)
    if key.startswith("hydra.") and isinstance(cause, ConfigKeyError | ConfigAttributeError):
        setting = ".".join(key.split(".")[:3])
        given = next((w for w in words if w.startswith(setting) and "is not in struct" in str(cause)), None)
        if given is not None and setting != key and setting in hydra_keys():
            return f"{given}: adds to a mapping; write {shown(f'+{given}')}"
        return prefix + unknown_hydra_key(key, value)
    if place and key == place[1].rpartition("/")[0] and key not in SECTIONS:
        return f"{prefix}must begin with the line `# @package _global_`, since it sets keys of all sections"
    return prefix + said_of(cause, value)


def of_point(words: Sequence[str], error: ConfigError) -> ConfigError:
    """Return an error that names the point of a sweep, unless it begins with one of the point's words."""
    named = any(str(error).startswith(f"{word}: ") for word in words)
    return error if named else ConfigError(f"{' '.join(words)}: {error}")
