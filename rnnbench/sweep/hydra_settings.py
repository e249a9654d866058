"""Lists the keys of Hydra's own settings, and refuses those that a single run or a sweep has no use for."""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from rnnbench.config import ConfigError, Ray, Search, Slurm
from rnnbench.config.advice import either, nearest, shown
from rnnbench.config.trees import stray_keys

GRID = ("max_batch_size", "params", "plan", "only")


@cache
def hydra_keys() -> dict[str, tuple[str, ...]]:
    """Return the keys of Hydra's settings, each with the options that have it; () if all options do."""
    found: dict[str, tuple[str, ...]] = {}

    def gather(kind: Any, prefix: str) -> None:
        for field in fields(kind):
            name = f"{prefix}.{field.name}"
            if isinstance(field.type, type) and is_dataclass(field.type):
                gather(field.type, name)
            else:
                found[name] = ()

    gather(HydraConf, "hydra")
    owned: list[tuple[str, str, Sequence[str]]] = [
        ("hydra.sweeper", "hydra/sweeper=grid", GRID),
        ("hydra.sweeper", "hydra/sweeper=optuna", [field.name for field in fields(Search)]),
        ("hydra.launcher", "hydra/launcher=stack", ["max_stack"]),
        ("hydra.launcher", "hydra/launcher=slurm", [field.name for field in fields(Slurm)]),
        ("hydra.launcher", "hydra/launcher=ray", [field.name for field in fields(Ray)]),
    ]
    for node, option, names in owned:
        for name in names:
            if not name.startswith("_"):
                found[f"{node}.{name}"] = (*found.get(f"{node}.{name}", ()), option)
    return found


def unknown_hydra_key(key: str, value: str | None) -> str:
    """Return the message for a setting of Hydra's that does not exist."""
    given = key if value is None else f"{key}={value}"
    if options := hydra_keys().get(key):
        return f"{given}: goes with {either(options)}"
    near = nearest(key, hydra_keys())
    return f"{given}: there is no key {key}" + (f"; did you mean {either(near)}?" if near else "")


def check_settings(config: DictConfig, kind: str) -> None:
    """Refuse settings of Hydra's that do not exist, or that a `run` or a `sweep` has no use for.

    Args:
        config: as Hydra composed it, hydra node included.

    Raises:
        ConfigError: names the setting.
    """
    strays = set(stray_keys(config.hydra))  # Hydra's own files have some too, so only overrides are checked
    words: Any = OmegaConf.to_container(config.hydra.overrides.hydra)  # as written, not resolved
    for word in words:
        key, _, value = str(word).lstrip("+").partition("=")
        if key in strays or not _is_known(key, config):
            raise ConfigError(unknown_hydra_key(key, value))
        if kind == "run" and re.match(r"hydra[./](launcher|sweeper)\b", key):
            raise ConfigError(
                f"{word}: is of a sweep, and this is a single run; leave it out, or put -m first"
            )
        if kind == "run" and key.startswith("hydra.sweep."):
            form = shown(f"hydra.run.dir={value}")
            raise ConfigError(
                f"{word}: is of a sweep, and this is a single run; give {form}, or put -m first"
            )
        if kind == "sweep" and key == "hydra.run.dir":
            form = shown(f"hydra.sweep.dir={value}")
            raise ConfigError(f"{word}: is of a single run, and -m makes this a sweep; give {form}")


def _is_known(key: str, config: DictConfig) -> bool:
    """Return whether a setting exists; those of launchers and sweepers that are not ours always pass."""
    setting = ".".join(key.split(".")[:3])
    node, _, name = setting.rpartition(".")
    ours = node in ("hydra.launcher", "hydra.sweeper") and "rnnbench" in str(
        OmegaConf.select(config, f"{node}._target_")
    )
    return not ours or setting in hydra_keys() or name.startswith("_")
