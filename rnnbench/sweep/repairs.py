"""Finds what is wrong with a word that Hydra cannot read as an override, and a form that it can read."""

import re
from collections.abc import Callable, Iterator, Sequence

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rnnbench.config import ConfigError
from rnnbench.config.advice import either, nearest, shown
from rnnbench.config.keys import keys
from rnnbench.sweep.arguments import SECTIONS
from rnnbench.sweep.groups import Groups, several_options

EXAMPLES = {"choice": "a,b", "range": "3", "interval": "0.1,1", "glob": "*"}
FUNCTIONS = ("choice", "range", "interval", "glob", "tag", "sort", "shuffle", "int", "float", "str", "bool",
             "zip", "union")  # fmt: skip

# The text around the reason in a message of Hydra's parser; the first line appears since Hydra 1.4.
PLACE = r"^(Error when parsing index: .*\n)?(Error parsing override .*\n)?"
NOISE = rf"{PLACE}|\nSee https:[\s\S]*|LexerNoViable\S* .*"


class Repairs:
    """Tries forms of a word that cannot be read until Hydra can read one.

    Args:
        groups: the groups of config files.
        parse: parses a word by Hydra's grammar.
        check: raises ConfigError for an override that can be read, but has no meaning.
    """

    def __init__(
        self, groups: Groups, parse: Callable[[str], Override], check: Callable[[Override], None]
    ) -> None:
        self.groups, self.parse, self.check = groups, parse, check

    def say(self, word: str, before: str, after: Sequence[str], reason: str) -> str:
        """Return the message for a word that cannot be read, with the first repair that Hydra can read.

        Args:
            before, after: the neighbouring words, which may have been meant as part of this one.
            reason: Hydra's message.
        """
        unknown = re.search(r"Unknown function '(\w+)'", reason)
        function = unknown or re.match(r"[^=]+=\s*(\w+)\s*\([^=()]*=", word)  # as in pair=zip(model=
        if function and function[1] not in FUNCTIONS:
            near = nearest(function[1], FUNCTIONS, 2) or FUNCTIONS[:2]
            return f"{word}: there is no {function[1]}(); did you mean {either(f'{n}(...)' for n in near)}?"
        if "=" not in word:
            return self._no_value(word, before, after)
        if function := re.fullmatch(r"[^=]+=(choice|range|interval|glob)\(\s*\)", word):
            return (
                f"{word}: {function[1]}() has no values; for example {function[1]}({EXAMPLES[function[1]]})"
            )
        key, _, value = word.partition("=")
        apart = re.search(r"[^\w,\s]", value) and self.groups.has(key)
        if apart and (names := several_options(value, self.groups.options(key))):
            return f"{word}: several options are a sweep: -m {key}={','.join(names)}"
        if repaired := self._repaired(word, after):
            return f"{word}: {repaired}"
        if not re.fullmatch(r"[~+]{0,2}[A-Za-z0-9_][A-Za-z0-9_./@:-]*", key):
            return f"{word}: a key has letters, digits, _ and dots; write key=value, for example seed=1"
        first = re.sub(NOISE, "", reason)
        return f"{word}: cannot be read; " + (first.splitlines() or ["write key=value, such as seed=1"])[0]

    def _repaired(self, word: str, after: Sequence[str]) -> str | None:
        """Return the fault of a word and its first repair that Hydra can read; None if there is none."""
        for fault, form in _forms(word, after):
            override = self._read(form) if form != word else None
            if override is None:
                continue
            try:
                self.check(override)
            except ConfigError as error:
                return f"{fault}; read as {form}: {error}"
            return f"{fault}; write {shown(form)}{' after -m' if override.is_sweep_override() else ''}"
        return None

    def _read(self, form: str) -> Override | None:
        """Return a form as Hydra reads it; None if Hydra cannot read it."""
        try:
            override = self.parse(form)
        except (HydraException, ValueError):
            return None
        return override if override.key_or_group else None

    def _no_value(self, word: str, before: str, after: Sequence[str]) -> str:
        """Return the message for a word without =."""
        name, word = word.strip(" ,=:"), word or "''"
        known = (*keys(), *SECTIONS, *self.groups.names())
        if name in known:
            return f"{word}: has no value; write {self._with_value(name, after)}"
        if before.endswith("="):
            return f"{before} {word}: has a space after =; write {shown(before + name)}"
        group = before.partition("=")[0]
        option = self.groups.has(group) and name in self.groups.options(group)
        if before.partition("=")[2] and re.fullmatch(r"[\w.+-]+,?", word) and (option or not name.isalpha()):
            return (
                f"{word}: is not key=value; several values of a key are separated by commas, without spaces: "
                f"{before.rstrip(',')},{name}"
            )
        for sign in ":./":
            key, _, rest = name.partition(sign) if sign == ":" else name.rpartition(sign)
            if key in known and rest:
                return f"{word}: is not key=value; did you mean {shown(f'{key}={rest.strip()}')}?"
        choices = {o: f"{g}={o}" for g in reversed(self.groups.names()) for o in self.groups.options(g)}
        near = [name] if name in choices else nearest(name, [*choices, *known])
        meant = [choices.get(text, f"{text}=VALUE") for text in near]
        return f"{word}: is not key=value; " + (
            f"did you mean {either(meant)}?" if near else "for example model=lstm seed=1"
        )

    def _with_value(self, name: str, after: Sequence[str]) -> str:
        """Return how to give a key or group a value, which may be the next word."""
        value = next((text for text in (t.strip(" =") for t in after) if text), None)
        if value:
            return f"{shown(f'{name}={value}')}, without spaces"
        options = self.groups.options(name) if self.groups.has(name) else []
        return f"{name}=NAME, with one of {', '.join(options)}" if options else f"{name}=VALUE"


def _forms(word: str, after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield possible faults of a word that has an =, each with the corrected word."""
    key, _, value = word.partition("=")
    key, value = key.strip(), value.strip()
    if after and re.search(r",$|[\[{(][^\])}]*$|^$", value):
        joined = "".join(part.strip() for part in (value, *after))
        yield "the shell splits words at spaces", f"{key}={re.sub(',+', ',', joined)}"
    if value and value.strip(",") != value:
        yield "a comma without a value", f"{key}={value.strip(',')}"
    tight = re.sub(r"\s*,\s*", ",", value)
    if tight != value or f"{key}={value}" != word:
        yield "spaces around = or a comma", f"{key}={tight}"
    if ",," in tight:
        yield "a value is missing between two commas", f"{key}={re.sub(',+', ',', tight)}"
    if closers := _unclosed(value):
        names = {"]": "[", "}": "{", ")": "("}
        yield f"{names.get(closers[-1], closers[-1])} is not closed", f"{key}={value}{closers}"
    if value[-1:] in ("]", "}", ")", "'", '"'):
        yield f"{value[-1]} has no counterpart", f"{key}={value[:-1]}"
    if "=" in value:
        yield "there are two =", f"{key}.{value}" if f"{key}.{value.partition('=')[0]}" in keys() else word
    for quote in ("'", '"'):
        if value and quote not in value:
            yield "it has signs that need quotes inside of the value", f"{key}={quote}{value}{quote}"


def _unclosed(text: str) -> str:
    """Return the closing brackets and quotes that are missing at the end of a text."""
    stack: list[str] = []
    for sign in text:
        if stack and sign == stack[-1]:
            stack.pop()
        elif stack and stack[-1] in "'\"":
            continue
        elif sign in "'\"":
            stack.append(sign)
        elif sign in "[{(":
            stack.append("]})"["[{(".index(sign)])
    return "".join(reversed(stack))
