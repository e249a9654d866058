"""What a trial is: its typed configuration, the checks that refuse it, and its identity.

Nothing here needs torch, so that a mistake in the command line is answered before anything slow is
imported.
"""

import hashlib
import json
import re
from collections.abc import Container, Iterable
from dataclasses import asdict, fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rnnbench.config.checks import check
from rnnbench.config.keys import check_keys, said_of, written
from rnnbench.config.metrics import (
    bounds,
    direction,
    final_metrics,
    objective,
    on_test,
    per_epoch,
    selection,
)
from rnnbench.config.optimisers import OPTIMISERS, Adam, AdamW, Optim, RMSprop, Sgd
from rnnbench.config.ray import Ray
from rnnbench.config.refusals import ConfigError
from rnnbench.config.schema import (
    DATA,
    FORGET_GATES,
    STEPS_PER_EPOCH,
    Arrays,
    Artifact,
    Config,
    Data,
    Fill,
    Fit,
    Generated,
    Images,
    Kernel,
    Language,
    Markers,
    Model,
    Music,
    Nonlinearity,
    Order,
    Readout,
    RecurrentInit,
    Schedule,
    Select,
    Text,
    Tracking,
)
from rnnbench.config.search import Drawn, Search
from rnnbench.config.secrets import check_secret, check_tree, check_words, mask
from rnnbench.config.slurm import Slurm
from rnnbench.config.sources import defined, explained
from rnnbench.config.uris import check_uri
from rnnbench.config.user_code import (
    asked,
    failure,
    imported,
    names,
    own_code,
    recalled,
    register,
    registered,
)

__all__ = [
    "DATA",
    "FORGET_GATES",
    "OPTIMISERS",
    "REVISION",
    "STEPS_PER_EPOCH",
    "Adam",
    "AdamW",
    "Arrays",
    "Artifact",
    "Config",
    "ConfigError",
    "Data",
    "Drawn",
    "Fill",
    "Fit",
    "Generated",
    "Images",
    "Kernel",
    "Language",
    "Markers",
    "Model",
    "Music",
    "Nonlinearity",
    "Optim",
    "Order",
    "RMSprop",
    "Ray",
    "Readout",
    "RecurrentInit",
    "Schedule",
    "Search",
    "Select",
    "Sgd",
    "Slurm",
    "Text",
    "Tracking",
    "asked",
    "bounds",
    "check",
    "check_secret",
    "check_tree",
    "check_uri",
    "check_words",
    "conf_folder",
    "defined",
    "direction",
    "explained",
    "failure",
    "final_metrics",
    "flatten",
    "identifies",
    "imported",
    "mask",
    "names",
    "objective",
    "on_test",
    "own_code",
    "per_epoch",
    "plain",
    "recalled",
    "recorded",
    "register",
    "registered",
    "selection",
    "to_yaml",
    "trial_hash",
    "typed",
]

# Raised whenever the engine's numbers change on purpose: old records then no longer count as the
# same trial.
REVISION = 1


def conf_folder() -> Path:
    """The folder of the config groups: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def typed(tree: Any) -> Config:
    """A resolved tree (a composed DictConfig, or the dict read from a record) as a checked Config.

    Raises:
        ConfigError: from `check`.
    """
    if isinstance(tree, DictConfig) and OmegaConf.get_type(tree) is Config:  # as Hydra composes it
        try:
            check_keys(tree)
            parts: dict[str, Any] = {field.name: tree[field.name] for field in fields(Config)}
            for name, part in parts.items():
                parts[name] = OmegaConf.to_object(part) if OmegaConf.is_config(part) else part
        except OmegaConfBaseException as error:  # what the value of a key refers to
            raise ConfigError(said_of(error, written(tree, str(error.full_key)))) from error
        config = Config(**parts)
        check(config)
        return config
    optim = OPTIMISERS.get(tree["optim"]["name"], Optim)()  # an unknown one is refused by `check`
    data = DATA.get(tree["data"]["name"], Data)()
    schema = Config(Model(), optim, data, Fit(), Tracking())
    again = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), tree))
    assert isinstance(again, Config)
    check(again)
    return again


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def plain(config: Config) -> dict[str, Any]:
    """The configuration as JSON types: enums by name, nothing typed left."""

    def simple(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        if isinstance(value, dict):
            return {key: simple(item) for key, item in value.items()}
        if isinstance(value, list):
            return [simple(item) for item in value]
        return str(value) if isinstance(value, str) else value  # a name of one's own is text here

    tree: dict[str, Any] = simple(asdict(config))
    return tree


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Fast where PyYAML has its C library."""


def _quoted(dumper: Any, text: str) -> Any:
    """A string that OmegaConf would read as a number keeps its quotes: its floats are more than YAML's."""
    try:
        float(text)
    except ValueError:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(str, _quoted)


def to_yaml(tree: Any) -> str:
    """Plain dicts, lists and values as YAML that OmegaConf reads back; ten times faster than its own."""
    try:
        return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    except UnicodeEncodeError:  # a file name that is not UTF-8: the C library has no escapes for it
        return str(yaml.dump(tree, Dumper=yaml.SafeDumper, sort_keys=False))


# What a trial's numbers do not depend on by design.
NOT_IDENTITY = {
    "tracking",
    "dry_run",
    "rnnbench_import",  # what was imported enters by its content
    "model.budget",  # the hidden size that it comes down to enters
    "objective",  # enters as what chooses the best epoch
    "data.metric",  # follows from the task, and enters as what chooses the best epoch
    "data.root",
    "data.path",
    "data.download",
    "data.source",
    "data.sha256",  # the data's own checksum enters instead
    "fit.checkpoint_every",
    "fit.device",
    "fit.kernel",
}


@cache
def identifies(key: str) -> bool:
    """Whether a trial's numbers depend on the value of this key."""
    return not any(key == name or key.startswith(name + ".") for name in NOT_IDENTITY)


# A plain value of a key: nothing added or deleted, and nothing that is looked up elsewhere.
PLAIN = re.compile(r"[a-z]\w*(?:[./]\w+)*=[^$]*")


def recorded(words: Iterable[str], own: Container[str]) -> list[str]:
    """Overrides that were read from a record or a study's storage, which others can write to.

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
    """Identity of a trial: 16 hex digits over what determines its numbers by design.

    Options that are off (null, false) are left out, so that a later version may add an option
    without renaming every trial of the past.

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
        if value is not None and value is not False and value != {} and identifies(key)
    }
    identity |= {f"imported.{name}": digest for name, digest in imported(config).items()}
    identity |= {
        "selection": selection(config),
        "data.checksum": data_checksum,
        "revision": REVISION,
    }
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
