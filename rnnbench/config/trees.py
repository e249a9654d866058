"""Converts a configuration between typed objects, plain dicts and YAML, and refuses a tree of other keys."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rnnbench.config.advice import said_of, unknown_key
from rnnbench.config.checks import check
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
    tree: dict[str, Any] = _plain(config)
    return tree


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value  # a name of one's own is text here


MOST_SHARED = 500  # parts of trees whose YAML is kept


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


class SharedYaml:
    """Writes many trees as `to_yaml` does, of which most parts are the same objects: each of those once."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], tuple[Any, str]] = {}  # parts and their YAML, by key and object

    def write(self, tree: dict[str, Any], within: str = "") -> str:
        """Return the YAML of a tree.

        Args:
            within: the key that the tree is the value of in the file.
        """
        head = f"{within}:\n" if within else ""
        return head + "".join(self._part(key, part, within, head) for key, part in tree.items())

    def _part(self, key: str, part: Any, within: str, head: str) -> str:
        place = (f"{within}.{key}", id(part))
        known = self.known.pop(place, None)
        if known is None:
            text = to_yaml({within: {key: part}} if within else {key: part}).removeprefix(head)
            known = (part, text)  # the part is kept, so that no other object gets its id
        self.known[place] = known  # the one used last stands at the end
        if len(self.known) > MOST_SHARED:
            del self.known[next(iter(self.known))]
        return known[1]


def stray_keys(tree: DictConfig) -> Iterator[str]:
    """Return the keys of typed nodes that are no fields of their class; only `+` and `++` add such keys."""
    kind = OmegaConf.get_type(tree)
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else None
    for key in tree:
        node = tree._get_node(key)
        if known is not None and key not in known and not (kind is Config and key == "hydra"):
            yield str(tree._get_full_key(key))
        elif isinstance(node, DictConfig) and not (
            node._is_none() or node._is_missing() or node._is_interpolation()
        ):
            yield from stray_keys(node)


def check_keys(tree: DictConfig) -> None:
    """Refuse a composed configuration with keys that the schema lacks, or without a key or value it needs.

    Raises:
        ConfigError: names the key.
    """
    for key in stray_keys(tree):
        if key.partition(".")[0] != "hydra":
            raise ConfigError(unknown_key(key))
    for field in fields(Config):
        if field.name not in tree:
            raise ConfigError(f"{field.name}: cannot be deleted; give it a value, or leave it as it is")
        for key in sorted(_missing(tree, field.name)):
            raise ConfigError(f"{key}: has no value; give {key}=...")


def _missing(tree: DictConfig, name: str) -> set[str]:
    node = tree._get_node(name)
    if OmegaConf.is_missing(tree, name):
        return {name}
    special = not isinstance(node, DictConfig) or node._is_none() or node._is_interpolation()
    return set() if special else OmegaConf.missing_keys(node)


def written(tree: DictConfig, key: str) -> str | None:
    """Return the value of a key as it is written, interpolations not resolved."""
    *parents, name = key.split(".")
    node: Any = tree
    for part in parents:
        node = node._get_node(part) if isinstance(node, DictConfig) else None
    value = node._get_node(name) if isinstance(node, DictConfig) else None
    return None if value is None else str(value._value())
