"""Makes a composed job into another one of its sweep, of which single values alone are others.

Most of the time that a job takes to compose goes into converting it to typed objects and plain dicts. Jobs
that choose the same and set the same keys differ in the values of these keys only. So Hydra's own function
sets the values, OmegaConf converts them, and all else is that of the first of these jobs.
"""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from threading import Lock
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import (
    BooleanNode,
    DictConfig,
    EnumNode,
    FloatNode,
    IntegerNode,
    StringNode,
)

from rnnbench.config import Config
from rnnbench.sweep.hydra_api import apply_values, override_dirname

ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")  # as in data.root: it depends on no value of a config
TYPED = (BooleanNode, EnumNode, FloatNode, IntegerNode, StringNode)


class Template:
    """A job of which others are made that choose the same and set the same keys in the same order.

    Args:
        values: its overrides that set values.
        cfg: its composed config, which belongs to the template from now on.
        config, tree: what `cfg` was converted to: typed, and as plain dicts with the hydra node.
    """

    def __init__(
        self, values: Sequence[Override], cfg: DictConfig, config: Config, tree: dict[str, Any]
    ) -> None:
        self.cfg, self.config, self.tree = cfg, config, tree
        self.known: dict[str | None, Any] = {}  # converted values, by override
        self.unchanged = {override.input_line for override in values}
        self.lock = Lock()  # jobs of a search may be composed in several threads

    def job(
        self, overrides: Sequence[Override], values: Sequence[Override]
    ) -> tuple[Config, dict[str, Any]] | None:
        """Return a job, typed but not checked, and as plain dicts; None if it has to be composed by itself.

        Args:
            overrides: all overrides of the job.
            values: those that set values.
        """
        config, tree = self.config, dict(self.tree)
        for override in values:
            if override.input_line in self.unchanged:
                continue
            section, _, key = override.key_or_group.rpartition(".")
            value = self._convert(override, section, key)
            if value is ...:
                return None
            written = value.name if isinstance(value, Enum) else value
            if section:
                part = replace(getattr(config, section), **{key: value})
                config = replace(config, **{section: part})
                tree[section] = tree[section] | {key: written}
            else:
                config, tree[key] = replace(config, **{key: value}), written
        tree["hydra"] = self._hydra(overrides)
        return config, tree

    def _convert(self, override: Override, section: str, key: str) -> Any:
        """Return the value of an override as the config has it; ... if it is none that stands for itself."""
        with self.lock:
            if override.input_line not in self.known:
                self.known[override.input_line] = self._set(override, section, key)
            return self.known[override.input_line]

    def _set(self, override: Override, section: str, key: str) -> Any:
        part = getattr(self.config, section, None) if section else self.config
        if not is_dataclass(part) or key not in {field.name for field in fields(part)}:
            return ...
        try:
            apply_values([override], self.cfg)
        except HydraException:
            return ...
        above = self.cfg._get_node(section) if section else self.cfg
        node = above._get_node(key) if isinstance(above, DictConfig) else None
        if not isinstance(node, TYPED) or node._is_interpolation() or node._is_missing():
            return ...
        return node._value()

    def _hydra(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """Return the hydra node of a job with these overrides."""
        task = [override for override in overrides if not override.is_hydra_override()]
        hydra: dict[str, Any] = self.tree["hydra"]
        words = {"task": [override.input_line for override in task]}
        name = override_dirname(task, self.cfg.hydra.job)
        job = hydra["job"] if name is None else hydra["job"] | {"override_dirname": name}
        return hydra | {"overrides": hydra["overrides"] | words, "job": job}


def suits(values: Sequence[Override], tree: dict[str, Any]) -> bool:
    """Return whether others can be made of a job: each of its values has one place, and none refers to one.

    Args:
        values: the overrides that set values.
        tree: the job as plain dicts, unresolved.
    """
    keys = [override.key_or_group for override in values]
    return (
        len(set(keys)) == len(keys)
        and all(each.type is OverrideType.CHANGE and not isinstance(each.value(), dict) for each in values)
        and not any(_refers(part) for key, part in tree.items() if key != "hydra")
    )


def _refers(value: Any) -> bool:
    """Return whether an interpolation is in a plain value, other than of the environment."""
    if isinstance(value, dict | list):
        return any(map(_refers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and "${" in ENVIRONMENT.sub("", value)
