"""Says what is wrong with a key or a value, and which ones were probably meant."""

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from enum import Enum
from typing import Any

from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

from rnnbench.config.keys import fits, inner_kind, is_free, keys, wanted

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


def no_name(key: str, name: str, known: Collection[str]) -> str:
    """Return the message for an unknown name."""
    near = nearest(name, known)
    advice = f"; did you mean {either(f'{key}={other}' for other in near)}?" if near else ""
    return f"{key}={name}: must be one of {', '.join(known)}{advice}"


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
        return (
            f"{given}: the chosen {section} has no {name}; it goes with {either(sorted(keys()[key].options))}"
        )
    near = nearest(key, known or keys())
    if not near:
        return f"{given}: there is no key {key}; `python -m rnnbench --cfg job` shows all that there are"
    meant = []
    for name in near:
        form = value if value is not None and fits(name, value) else better(name, value or "")
        meant.append(name if form is None else f"{name}={form}")
    return f"{given}: there is no key {key}; did you mean {either(meant)}?"


def better(key: str, text: str) -> str | None:
    """Guess the value that was meant by one of the wrong type; None if it is right or cannot be guessed."""
    kind, optional = inner_kind(keys()[key].kind if key in keys() else Any)
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
