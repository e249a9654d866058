"""The keys of the schema: the values that each takes, the options that have it, the keys that are near a
word that is none."""

import re
import types
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from rnnbench.config.optimisers import OPTIMISERS, OWN, Optim
from rnnbench.config.refusals import ConfigError
from rnnbench.config.schema import DATA, OWN_DATA, Config, Data

# What other libraries call a key or a group of ours.
ALIASES = {
    "learning_rate": "optim.lr",
    "early_stopping": "fit.patience",
    "gradient_clip": "fit.clip",
    "grad_norm": "fit.clip",
    "batch": "fit.batch_size",
    "scheduler": "fit.schedule",
    "gpu": "fit.device",
    "hidden": "model.hidden_size",
    "units": "model.hidden_size",
    "layers": "model.num_layers",
    "parameters": "model.budget",
    "cell": "model",
    "dataset": "data",
    "task": "data",
    "optimizer": "optim",
}
UNITS = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "%": 0.01}


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


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the names most similar to a word, or to its part after the last dot; best first."""
    known = list(known)
    names = {name: name for name in known} | {a: name for a, name in ALIASES.items() if name in known}

    def likeness(name: str) -> float:
        tails = (re.split(r"[./]", text.lower())[-1] for text in (word, name))
        return max(_ratio(word.lower(), name.lower()), 0.95 * _ratio(*tails))

    scores: dict[str, float] = {}
    for name, meant in names.items():
        scores[meant] = max(scores.get(meant, 0), likeness(name))
    best = max(scores.values(), default=0)
    near = [name for name, score in scores.items() if score > max(0.6, best - 0.15)]
    return sorted(near, key=lambda name: -scores[name])[:count]


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def either(names: Iterable[str]) -> str:
    """Write names as a choice: `a`, `a or b`, `a, b or c`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def unknown_key(key: str, value: str | None = None, known: Collection[str] = (), plus: str = "") -> str:
    """Return the message for a key that does not exist, or not under the options that were chosen.

    Args:
        value: what it was to be set to, as text.
        known: names that may have been meant; by default the keys of a trial.
        plus: the signs that stood before the key.
    """
    given = plus + (key if value is None else f"{key}={value}")
    if is_free(key) and value is not None:
        return f"{given}: is new in {key.rpartition('.')[0]}; write {shown(f'+{key}={value}')}"
    if key in keys() and keys()[key].options:
        section, _, name = key.partition(".")
        return f"{given}: the chosen {section} has no {name}; it goes with {either(keys()[key].options)}"
    near = nearest(key, known or keys())
    if not near:
        return f"{given}: there is no key {key}; `python -m rnnbench --cfg job` shows all that there are"
    meant = []
    for name in near:
        form = value if value is not None and fits(name, value) else better(name, value or "")
        meant.append(name if form is None else f"{name}={form}")
    return f"{given}: there is no key {key}; did you mean {either(meant)}?"


def _parts(kind: Any) -> tuple[Any, bool]:
    """Return a type without its None, and whether None was in it."""
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(kind) if part is not type(None))
        return inner, True
    return kind, False


def wanted(key: str) -> str:
    """Say in words what values a key takes."""
    kind, optional = _parts(keys()[key].kind if key in keys() else Any)
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
    kind, optional = _parts(keys()[key].kind if key in keys() else Any)
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


def better(key: str, text: str) -> str | None:
    """Guess the value that was meant by one of the wrong type; None if it is right or cannot be guessed."""
    kind, optional = _parts(keys()[key].kind if key in keys() else Any)
    if optional and text.lower() in ("none", "nil", "off", "~"):
        return "null"
    if isinstance(kind, type) and issubclass(kind, Enum | bool):
        accepted = ["true", "false"] if kind is bool else [str(member.value) for member in kind]
        return next(iter(nearest(text, accepted, 1)), None) if text not in accepted else None
    if kind not in (int, float):
        return None
    if spread := re.fullmatch(r"(-?\d+)(?:\.{2,3}|[-:…])(-?\d+)", text):
        first, last = int(spread[1]), int(spread[2])
        return f"range({f'{first},' if first else ''}{last + 1})" if first < last else None
    if values := re.fullmatch(r"\[([^\[\]{}]*)\]", text):
        return values[1].replace(" ", "")
    number = re.fullmatch(r"([-+]?[\d_', ]*\.?\d+(?:e[-+]?\d+)?)([kmg%]?)", text.lower())
    if number is None:
        return None
    digits = re.sub("[_' ]", "", number[1])
    if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", digits) and kind is int:
        digits = digits.replace(",", "")
    elif digits.count(",") == 1 and kind is float:
        digits = digits.replace(",", ".")
    try:
        value = float(digits) * UNITS.get(number[2], 1)
    except ValueError:
        return None
    if abs(value) >= 1e15 or (kind is int and value != int(value)):
        return None
    said = str(int(value)) if value == int(value) else f"{value:g}"
    return said if said != text else None


def no_name(key: str, name: str, known: Collection[str]) -> str:
    """Return the message for an unknown name."""
    near = nearest(name, known)
    advice = f"; did you mean {either(f'{key}={other}' for other in near)}?" if near else ""
    return f"{key}={name}: must be one of {', '.join(known)}{advice}"


def wrong_value(key: str, value: str) -> str:
    """Return the message for a value of the wrong type."""
    form = better(key, value)
    advice = "" if form is None else f"; write {shown(f'{key}={form}')}"
    if form is not None and re.search(r"\(|,", form):
        advice += " after -m, for a sweep over these"
    return f"{key}={value}: {wanted(key)}{advice}"


def shown(word: str) -> str:
    """Quote a word of the command line where a shell needs it."""
    if re.fullmatch(r"[\w@%+=:,./~-]+", word):
        return word
    return f'"{word}"' if not re.search(r'["$`\\!]', word) else "'" + word.replace("'", "'\\''") + "'"


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


# What OmegaConf says of values of the wrong kind, and what is to be said.
REASONS = {
    r"^Invalid value assigned: .* is not a ListConfig.*": "must be a list, in brackets: [a,b]",
    r"^Cannot assign .* to Dict.*": "must be a mapping, such as {key: value}",
    r"^field .* is not Optional$": "cannot be null; leave it out, or give a value",
    r"^Value .* could not be converted to Integer$": "must be a whole number",
    r"^Value .* could not be converted to Float$": "must be a number",
    r"^Value .* is not a valid bool.*": "must be true or false",
}


def said_of(error: OmegaConfBaseException, value: str | None = None) -> str:
    """Return the message for an error of OmegaConf.

    Args:
        value: what its key was to be set to, as text.
    """
    reason = str(error.msg or error).splitlines()[0]
    key = re.sub(r"\[.*", "", str(error.full_key or ""))
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and key:
        return unknown_key(key, value)
    if isinstance(error, ValidationError) and key in keys():
        if value is None:
            quoted = re.match(r".*?alue '(.*?)'", reason)
            value = quoted[1] if quoted else None
        return f"{key}: {reason}" if value is None else wrong_value(key, value)
    for pattern, said in REASONS.items():
        reason = re.sub(pattern, said, reason)
    if not key or "_dummy_" in key:  # of a text that Hydra looks up by itself
        return reason
    return f"{key}: {reason}" if value is None else f"{key}={value}: {reason}"


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
