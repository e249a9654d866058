"""Writes command lines that a reader can paste into a shell."""

import shlex
import sys
from collections.abc import Sequence

CONFIG_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")


def train_command(overrides: Sequence[str], of: Sequence[str] | None = None) -> str:
    """Return the command line that trains a trial alone, to be pasted into a shell.

    Args:
        of: the command that trained it, which may name configuration folders; None: this process's.
    """
    flags = _config_files(sys.argv if of is None else of)
    return shlex.join(["python", "-m", "rnnbench", *flags, *overrides])


def under_folds(overrides: Sequence[str], folds: Sequence[int], of: int) -> list[str]:
    """Return the words that train a trial under several folds, as one sweep.

    Args:
        overrides: of one of its folds.
        folds: to train, of data.folds=`of`.
    """
    words = [word for word in overrides if not word.startswith("data.fold=")]
    named = [] if len(folds) == of else [f"data.fold={','.join(map(str, folds))}"]
    return ["-m", *words, *named]


def _config_files(words: Sequence[str]) -> list[str]:
    """Return the command-line words that give the user's own configuration folders: flags, then values."""
    flags: list[str] = []
    values: list[str] = []
    for n, word in enumerate(words):
        flag, equals, _ = word.partition("=")
        if flag in CONFIG_FLAGS:
            flags += [word] if equals else words[n : n + 2]
        elif word.startswith("hydra.searchpath="):
            values.append(word)
    return [*flags, *values]
