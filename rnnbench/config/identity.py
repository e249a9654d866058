"""Computes a trial's identity, and its hash."""

import hashlib
import json
import re
from collections.abc import Container, Iterable
from functools import cache
from typing import Any

from rnnbench.config.metrics import selection
from rnnbench.config.refusals import ConfigError
from rnnbench.config.schema import Config
from rnnbench.config.secrets import mask
from rnnbench.config.trees import flatten, plain
from rnnbench.config.user_code import imported

# Raised whenever the engine's numbers change on purpose: old records then no longer count as the
# same trial.
REVISION = 1

# Keys that a trial's numbers do not depend on by design: they are left out of its hash.
NOT_IDENTITY = {
    "tracking",
    "dry_run",
    "reuse",
    "rnnbench_import",  # the hash has the content of what was imported
    "model.budget",  # the hash has the hidden size that follows from it
    "objective",  # the hash has the metric that chooses the best epoch
    "data.metric",  # follows from the task
    "data.root",
    "data.path",
    "data.download",
    "data.source",
    "data.sha256",  # the hash has the checksum of the data instead
    "fit.checkpoint_every",
    "fit.device",
    "fit.kernel",
}

# Keys that were added when there were records without them, with the value that these trials had.
ADDED = {"fit.precision": "float32", "data.fold": 0, "data.letters": 10}


def is_off(key: str, value: Any) -> bool:
    """Return whether an option has the value that it has in trials recorded before there was the option."""
    return value is None or value is False or value == ADDED.get(key)


@cache
def identifies(key: str) -> bool:
    """True if a trial's numbers depend on the value of this key."""
    return not any(key == name or key.startswith(name + ".") for name in NOT_IDENTITY)


# A plain value of a key: nothing added or deleted, and nothing that is looked up elsewhere.
PLAIN = re.compile(r"[a-z]\w*(?:[./]\w+)*=[^$]*")


def recorded(words: Iterable[str], own: Container[str]) -> list[str]:
    """Check overrides that were read from a record or a study's storage, which others can write to.

    Args:
        own: overrides that come from this process itself: words of its command, or points of its space.

    Raises:
        ConfigError: a word would do more than set what a trial's numbers depend on: import, set up Hydra,
            name another place.
    """
    words = list(words)
    for word in words:
        key = word.partition("=")[0]
        harmless = PLAIN.fullmatch(word) and identifies(key) and key.split("/")[0].split(".")[0] != "hydra"
        if not (harmless or word in own):
            raise ConfigError(
                f"{mask(word)}: stands in a record, but not in the command or the search that is run, and "
                "might import or write something; it is not taken over"
            )
    return words


def trial_hash(config: Config, data_checksum: str) -> str:
    """Return a trial's identity: 16 hex digits of a hash over what determines its numbers.

    Options that are off (null, false, the value in `ADDED`) are left out, so that a later version may add an
    option without renaming every trial of the past.

    Code of one's own enters as `imported.NAME`: the sha256 of each file of `rnnbench_import` under its base
    name, and of each module that it imports from outside of the installed packages and the standard library,
    helpers of helpers too, under the module's name; no path enters. So a file that imports nothing of one's
    own keeps the hash that it always had; one that does has a new one, since its helpers were missing. A
    class of an imported module, a script or a notebook enters in the same way, and the version of an
    installed package whose entry point registers the trial's cell or task.

    Args:
        config: as `own_code` has bound it.
    """
    identity = {
        key: value
        for key, value in flatten(plain(config)).items()
        if not is_off(key, value) and value != {} and identifies(key)
    }
    identity |= {f"imported.{name}": digest for name, digest in imported(config).items()}
    identity |= {
        "selection": selection(config),
        "data.checksum": data_checksum,
        "revision": REVISION,
    }
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
