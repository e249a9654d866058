"""Converts a configuration between typed objects, plain dicts and YAML."""

from dataclasses import asdict, fields
from enum import Enum
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rnnbench.config.checks import check
from rnnbench.config.keys import check_keys, said_of, written
from rnnbench.config.optimisers import OPTIMISERS, Optim
from rnnbench.config.refusals import ConfigError
from rnnbench.config.schema import DATA, Config, Data, Fit, Model, Tracking


def typed(tree: Any, optimiser: type[Optim] | None = None, settings: type[Data] | None = None) -> Config:
    """Make a checked Config of a resolved tree: a composed DictConfig, or the dict read from a record.

    Args:
        optimiser: the class of the optimiser, if a dict names one that is not rnnbench's.
        settings: the class of its `data`, if a dict names a task that is not rnnbench's; that of others is
            found by data.name among those that rnnbench.tasks has entered in DATA.

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
    optim = (optimiser or OPTIMISERS.get(tree["optim"]["name"], Optim))()  # `check` refuses an unknown one
    data = (settings or DATA.get(tree["data"]["name"], Data))()
    schema = Config(Model(), optim, data, Fit(), Tracking())
    again = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), tree))
    assert isinstance(again, Config)
    check(again)
    return again


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested dicts into one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def plain(config: Config) -> dict[str, Any]:
    """Turn a configuration into JSON types, enums by name."""

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
    """PyYAML's dumper, in C where that is installed."""


def _quoted(dumper: Any, text: str) -> Any:
    """Quote a string that OmegaConf would read as a number; it reads more forms of floats than YAML."""
    try:
        float(text)
    except ValueError:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(str, _quoted)


def to_yaml(tree: Any) -> str:
    """Write plain dicts, lists and values as YAML that OmegaConf reads; ten times faster than OmegaConf."""
    try:
        return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    except UnicodeEncodeError:  # a file name that is not UTF-8: the C library has no escapes for it
        return str(yaml.dump(tree, Dumper=yaml.SafeDumper, sort_keys=False))
