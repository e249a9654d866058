"""Knows the keys of the schema: the values that each takes, and the options that have it."""

import re
import types
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from rnnbench.config.optimisers import OPTIMISERS, OWN, Optim
from rnnbench.config.schema import DATA, OWN_DATA, Config, Data


@dataclass(frozen=True)
class Key:
    """Describes a key of the schema."""

    kind: Any  # its type
    options: tuple[str, ...] = ()  # the options that have it, such as optim=sgd; () where all have


def keys() -> dict[str, Key]:
    """Return every key of a trial's configuration, by name."""
    return _keys(tuple(OWN.items()), tuple(OWN_DATA.items()))


@cache
def _keys(
    optimisers: tuple[tuple[str, type[Optim]], ...], tasks: tuple[tuple[str, type[Data]], ...]
) -> dict[str, Key]:
    """Return every key, those of optimisers and tasks of one's own among them."""
    found: dict[str, Key] = {}
    for name, kind in get_type_hints(Config).items():
        if not is_dataclass(kind):
            found[name] = Key(kind)
            continue
        variants: dict[str, Any] = {"": kind}
        if name == "optim":
            variants = OPTIMISERS | dict(optimisers)
        elif name == "data":
            variants = {**DATA, "own": Data, **dict(tasks)}
        kinds = {option: _kinds(variant) for option, variant in variants.items()}
        for key in sorted({key for own in kinds.values() for key in own}):
            having = [option for option, own in kinds.items() if key in own]
            options = tuple(f"{name}={option}" for option in having) if len(having) < len(kinds) else ()
            found[f"{name}.{key}"] = Key(kinds[having[0]][key], options)
    return found


def _kinds(part: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass."""
    hints = get_type_hints(part)
    return {field.name: hints[field.name] for field in fields(part)}


def is_free(key: str) -> bool:
    """True if a key stands in a mapping that takes any key, such as data.options."""
    parent = key.rpartition(".")[0]
    return bool(parent) and (
        (parent in keys() and get_origin(keys()[parent].kind) is dict) or is_free(parent)
    )


def inner_kind(kind: Any) -> tuple[Any, bool]:
    """Return a type without its None, and whether None was in it."""
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(kind) if part is not type(None))
        return inner, True
    return kind, False


def wanted(key: str) -> str:
    """Say in words what values a key takes."""
    kind, optional = inner_kind(keys()[key].kind if key in keys() else Any)
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        inner = f" of {', '.join(e.value for e in item)}" if issubclass(item, Enum) else ""
        return f"must be a list{inner}, in brackets"
    if get_origin(kind) is dict:
        return "must be a mapping, such as {key: value}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        names = ", ".join(str(member.value) for member in kind)
        return f"must be one of {names}{', or null' if optional else ''}"
    said = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return f"must be {said.get(kind, 'another kind of value')}{', or null' if optional else ''}"


def fits(key: str, text: str) -> bool:
    """True if a text is a value, or several, of the type that a key takes."""
    kind, optional = inner_kind(keys()[key].kind if key in keys() else Any)
    if optional and text == "null":
        return True
    if isinstance(kind, type) and issubclass(kind, Enum):
        return set(text.split(",")) <= {str(member.value) for member in kind}
    words = {
        int: r"[-+]?\d+",
        float: r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?",
        bool: "true|false|yes|no|on|off",
    }
    if kind not in words or re.match(r"[a-z]+\(|\$", text):
        return True
    return all(re.fullmatch(words[kind], part.lower()) for part in text.split(","))
