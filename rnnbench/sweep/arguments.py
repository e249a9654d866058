"""Reads the flags and overrides of a command line, and refuses those that have no meaning."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.core.config_loader import ConfigLoader

import rnnbench.tasks  # noqa: F401  (enters the settings of each task, whose keys are checked here)
from rnnbench.config import Config, ConfigError, conf_folder
from rnnbench.config.advice import either, nearest, shown
from rnnbench.config.keys import keys
from rnnbench.sweep.hydra_api import arguments_parser, flags_of, make_loader
from rnnbench.sweep.points import combines, for_hydra, names_a_file

SHELLS = ("bash", "fish", "zsh")
COMPLETION = ("install", "uninstall", "query")  # the words of --shell-completion, each followed by =SHELL
LISTS = ("hydra.sweeper.enqueue", "hydra.sweeper.constraints")  # keys whose entries hold =, < or >
# The sections of the config; each trial has one option of each.
SECTIONS = tuple(field.name for field in fields(Config) if field.name not in keys())


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the flags and overrides of a command line, as Hydra reads them.

    Raises:
        ConfigError: a flag does not exist, stands between the overrides, or does not go with the others.
    """
    parser = arguments_parser()
    _check_flags(words, flags_of(parser))

    def refuse(message: str) -> Any:
        raise ConfigError(f"{message}; `python -m rnnbench --help` shows the flags")

    parser.error = refuse  # type: ignore[method-assign]
    arguments, rest = parser.parse_known_args(list(words))
    if rest:
        first = [word for word in words if word.startswith("-") and word not in rest]
        form = " ".join(map(shown, [*first, *(word for word in words if word not in first)]))
        raise ConfigError(f"{rest[0]}: flags stand before all values: python -m rnnbench {form}")
    arguments.overrides = list(map(in_quotes, arguments.overrides))
    _check_modes(arguments)
    if arguments.shell_completion:
        _check_completion(arguments.overrides)
    return arguments


def is_sweep(arguments: argparse.Namespace) -> bool:
    """Return whether a command line asks for a sweep, by -m, sweep=NAME or hydra.mode=MULTIRUN.

    Raises:
        ConfigError: it asks for both a sweep and a single run.
    """
    modes = [word.rpartition("=")[2] for word in arguments.overrides if word.startswith("hydra.mode=")]
    files = [word for word in arguments.overrides if names_a_file(word)]
    if modes[-1:] == ["RUN"] and (arguments.multirun or files):
        raise ConfigError(
            f"hydra.mode=RUN: is of a single run, and {[*files, '-m'][0]} makes this a sweep; leave one of "
            "the two out"
        )
    return bool(arguments.multirun or files or modes[-1:] == ["MULTIRUN"])


def in_quotes(word: str) -> str:
    """Put the entries of a search's list of points or constraints in quotes, which Hydra's grammar needs."""
    key, _, value = word.partition("=")
    if key not in LISTS or not re.fullmatch(r"\[[^'\"\[\]]*\]", value):
        return word
    entries = [entry.strip() for entry in value[1:-1].split(",") if entry.strip()]
    return f"{key}=[{','.join(map(repr, entries))}]"


def as_hydra_reads(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with words that Hydra can read, and with -m where a sweep is from a file."""
    multirun = arguments.multirun or any(map(names_a_file, arguments.overrides))
    return argparse.Namespace(
        **vars(arguments)
        | {"multirun": multirun, "overrides": for_hydra(list(map(in_quotes, arguments.overrides)))}
    )


def completable(line: str) -> str:
    """Return a line whose last word the shell asks to complete, without words that Hydra cannot read."""
    words = re.findall(r"(?:'[^']*'|\"[^\"]*\"|\S)+\s*", line)
    return "".join(word for word in words if not (word[-1].isspace() and combines(word.strip(" '\""))))


def loader_of(arguments: argparse.Namespace) -> ConfigLoader:
    """Make the loader of the config files that a command line names, as Hydra would.

    Raises:
        ConfigError: its --config-dir is no folder.
    """
    extra = arguments.config_dir
    if extra is not None and not os.path.isdir(extra):
        raise ConfigError(f"--config-dir={extra}: is not a folder")
    path = arguments.config_path or str(conf_folder())
    return make_loader(path, None if extra is None else os.path.abspath(extra))


def _check_flags(words: Sequence[str], flags: Mapping[str, argparse.Action]) -> None:
    """Refuse words that look like flags but are none, and flags with a value that they do not take.

    Args:
        flags: the parser's action for each flag.

    Raises:
        ConfigError: names the word, and the flag or the key that may have been meant.
    """
    if "--version" in words:
        raise ConfigError("--version: stands alone: python -m rnnbench --version")
    for number, word in enumerate(words):
        flag, _, value = word.partition("=")
        if value and flag in flags and flags[flag].nargs == 0:
            raise ConfigError(f"{word}: takes no value; write {flag}")
        if not re.match("--?[A-Za-z]", word) or flag in flags:
            continue
        before = flags.get(words[number - 1]) if number else None
        if before is None or before.nargs == 0:  # else it is the value of a flag
            raise ConfigError(_no_flag(word, words[number + 1 :], flags))


def _no_flag(word: str, after: Sequence[str], flags: Mapping[str, argparse.Action]) -> str:
    """Return the message for a word with dashes that is no flag."""
    flag, _, value = word.partition("=")
    name = flag.lstrip("-").replace("-", "_")
    known = name in keys() or name in SECTIONS
    if known or (value and not nearest(flag, flags, 1)):
        near = name if known else (nearest(name, keys(), 1) or [name])[0]
        given = value or next(iter(after[:1]), "VALUE")
        return f"{word}: values are given without dashes: {shown(f'{near}={given}')}"
    likely = nearest(flag, [*flags, *keys(), *SECTIONS])
    meant = [text if text in flags else f"{text}=VALUE" for text in likely]
    advice = f"did you mean {either(meant)}?" if meant else "`python -m rnnbench --help` shows all"
    return f"{word}: there is no such flag; {advice}"


def _check_modes(arguments: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        ConfigError: names the flags.
    """
    modes = {
        "--run": arguments.run,
        "--multirun": arguments.multirun,
        "--cfg": arguments.cfg,
        "--info": arguments.info,
        "--shell-completion": arguments.shell_completion,
    }
    chosen = [flag for flag, given in modes.items() if given]
    if len(chosen) > 1:
        raise ConfigError(f"{' '.join(chosen)}: only one of these at a time")
    file = next(filter(names_a_file, arguments.overrides), None)
    if file is not None and chosen and not arguments.multirun:
        raise ConfigError(f"{file}: is a sweep, and {chosen[0]} is of a single run; leave one of the two out")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise ConfigError("--resolve: goes with --cfg job")
    if arguments.help and (bare := next((w for w in arguments.overrides if "=" not in w), None)):
        raise ConfigError(f"{bare}: --help tells of all groups and keys at once, without a word after it")


def _check_completion(overrides: Sequence[str]) -> None:
    """Refuse words that do not go with --shell-completion.

    Raises:
        ConfigError: names the words that do.
    """
    asked = [word.partition("=")[0] for word in overrides]
    if sum(word in COMPLETION for word in asked) != 1:
        raise ConfigError("--shell-completion: goes with install=SHELL or uninstall=SHELL")
    if not set(overrides) & {f"{do}={shell}" for do in COMPLETION for shell in SHELLS}:
        raise ConfigError(f"{' '.join(overrides)}: there are completions for {either(SHELLS)}")
