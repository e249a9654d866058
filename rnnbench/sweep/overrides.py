"""Checks overrides before Hydra composes: grammar, groups and options, keys, number of values."""

import re
from collections.abc import Container, Sequence
from dataclasses import fields
from functools import partial
from itertools import takewhile
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep, Sweep
from hydra.errors import HydraException

from rnnbench.config import Config, ConfigError
from rnnbench.config.advice import better, either, nearest, shown, unknown_key, wrong_value
from rnnbench.config.keys import is_free, keys
from rnnbench.config.loading import is_ours
from rnnbench.sweep.arguments import SECTIONS
from rnnbench.sweep.explain import explained
from rnnbench.sweep.groups import Groups
from rnnbench.sweep.hydra_api import IConfigRepository, files_of, files_seen_with, parsed_value
from rnnbench.sweep.own_options import offer
from rnnbench.sweep.points import as_typed, combines, names_a_file
from rnnbench.sweep.repairs import Repairs

OF_THE_SWEEP = ("tracking", "dry_run", "reuse", "search")  # sections of which a whole sweep has one option


class Checker:
    """Checks overrides, one by one, against Hydra's grammar, the config groups and the schema's keys.

    Args:
        loader: Hydra's.
        files: the config files; by default those of the loader.
    """

    def __init__(self, loader: ConfigLoader, files: IConfigRepository | None = None) -> None:
        self.loader = loader
        self.groups = Groups(files or files_of(loader))
        self.parser = OverridesParser.create(config_loader=loader)
        self.parsed: dict[str, Override] = {}  # the words that could be read

    def check(self, words: Sequence[str], several: bool, known: Container[str] = ()) -> None:
        """Refuse overrides that have no meaning.

        Args:
            several: whether a word may give several values, as those of a sweep do.
            known: words that were checked before.

        Raises:
            ConfigError: names the word, what is wrong with it, and the form that works.
        """
        searched = [word for word in words if word.startswith("hydra.searchpath=")]
        if searched:
            with explained(words):
                self.groups = Groups(files_seen_with(self.loader, "config", searched))
        offer(words, self.groups.files)
        before = ""
        swept: dict[str, str] = {}  # words by key
        for number, word in enumerate(words):
            if word in known:
                continue
            if combines(word) and not several:
                raise ConfigError(f"{as_typed(word)}: is of a sweep: put -m before all values")
            if combines(word) and not names_a_file(word):
                continue  # its parts are checked where it is expanded
            after = list(takewhile(lambda text: "=" not in text[1:], words[number + 1 :]))
            override = self.parse(word, before, after)
            self.check_one(override, several)
            if override.is_sweep_override():
                swept[override.key_or_group] = word
            elif override.key_or_group in swept and isinstance(values := override.value(), dict):
                raise ConfigError(_replaces(word, values, swept[override.key_or_group]))
            before = word

    def read(self, word: str) -> Override:
        """Return an override as Hydra's grammar reads it; what was read once is kept.

        Raises:
            HydraException, ValueError: it cannot be read.
        """
        if word not in self.parsed:
            (self.parsed[word],) = self.parser.parse_overrides([word])
        return self.parsed[word]

    def parse(self, word: str, before: str = "", after: Sequence[str] = ()) -> Override:
        """Return an override as `read` does, or say what is wrong with it.

        Args:
            before, after: the neighbouring words, which may have been meant as part of this one.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            override = self.read(word)
            if override.key_or_group:
                return override
            reason = "has no key before ="
        except (HydraException, ValueError) as error:
            reason = str(error)
        repairs = Repairs(self.groups, self.parser.parse_override, partial(self.check_one, several=True))
        raise ConfigError(repairs.say(word, before, after, reason))

    def check_one(self, override: Override, several: bool) -> None:
        """Refuse an override that has no meaning.

        Raises:
            ConfigError: see `check`.
        """
        if override.is_sweep_override():
            check_several(override, several)
        if override.package is not None:
            self._check_package(override)
            return
        if held := _sweep_within(parsed_value(override)):
            name = type(held).__name__.lower().removesuffix("sweep")
            raise ConfigError(f"{override.input_line}: inside of a value, {name}(...) stands in quotes")
        if override.is_delete():
            self._check_deletion(override)
        elif not self.groups.has(override.key_or_group):
            self._check_key(override)
        elif not isinstance(override.value(), dict):
            if override.is_force_add():
                plain = str(override.input_line).lstrip("+")
                raise ConfigError(
                    f"{override.input_line}: an option is chosen without ++; write {shown(plain)}"
                )
            self.groups.check(override)

    def _check_package(self, override: Override) -> None:
        """Refuse to put an option of a group into a section that does not exist."""
        word, group, section = str(override.input_line), override.key_or_group, str(override.package)
        known = (*SECTIONS, "hydra", "_global_", "_group_", "_here_")
        if section.partition(".")[0] not in known:
            form = shown(f"{group}={word.partition('=')[2]}")
            raise ConfigError(
                f"{word}: there is no section {section}, where this option of {group} would go; write {form}"
            )

    def _check_deletion(self, override: Override) -> None:
        """Refuse to delete a key or section that each trial has, and an option that is not given by name."""
        word, key = str(override.input_line), override.key_or_group
        section = key.partition("/")[0].partition(".")[0]
        if (section in SECTIONS or key in keys()) and not is_free(key):
            raise ConfigError(f"{word}: {key} cannot be deleted; give it a value, or leave it as it is")
        if self.groups.has(key) and not isinstance(override.value(), str | None):
            raise ConfigError(f"{word}: what is left out is an option, by its name; write ~{key}")

    def _check_key(self, override: Override) -> None:
        """Refuse a key that does not exist, and a group that is written like a key."""
        word, key = str(override.input_line), override.key_or_group
        value = word.partition("=")[2]
        slashed, dotted = key.replace(".", "/"), key.replace("/", ".")
        chooses = isinstance(override.value(), str) or override.is_sweep_override()
        if chooses and slashed != key and self.groups.has(slashed):
            raise ConfigError(f"{word}: an option is chosen with a slash: {shown(f'{slashed}={value}')}")
        if key.startswith("hydra.") or key in keys() or is_free(key):
            return
        if dotted in keys():
            raise ConfigError(f"{word}: a value has a dot in its key: {shown(f'{dotted}={value}')}")
        groups = self.groups.names() if "." not in key else []
        likely = [group for group in groups if value.partition(",")[0] in self.groups.options(group)]
        signs = "+" * override.is_add() + "++" * override.is_force_add()
        raise ConfigError(unknown_key(key, value, [*keys(), *(likely or groups)], signs))


def check_several(override: Override, several: bool) -> None:
    """Refuse several values where only one is allowed, and a range without values.

    Raises:
        ConfigError: names the word, and a form that works.
    """
    word, key = str(override.input_line), override.key_or_group
    sweep = override.value()
    if not several:
        one = better(key, word.partition("=")[2])
        hint = f", or {key}={one} if this is one number" if one and "," in word else ""
        raise ConfigError(f"{word}: several values are a sweep: put -m before all values{hint}")
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        raise ConfigError(f"{word}: a whole sweep has one {key}; give one value")
    if section := next((s for s in OF_THE_SWEEP if key == s or key.startswith(f"{s}.")), None):
        raise ConfigError(f"{word}: all trials of a sweep have the same {section}; give one value")
    if isinstance(sweep, RangeSweep) and not (sweep.step and len(list(sweep.range()))):
        raise ConfigError(f"{word}: a range without values; range(3) is 0,1,2 and range(1,4) is 1,2,3")


def check_given(words: Sequence[str], config: Config) -> None:
    """Refuse overrides of a trial that contradict each other or have no effect, and other flags than 0 and 1.

    Raises:
        ConfigError: names the override, and what to do.
    """
    sized = [word for word in words if word.lstrip("+").startswith("model.hidden_size=")]
    if sized and config.model.budget is not None:
        raise ConfigError(
            f"{sized[-1]}: model.budget={config.model.budget} chooses the hidden size; leave one of the two "
            "away, or give model.budget=null"
        )
    if config.data.options and is_ours("task", config.data.name):
        raise ConfigError(_no_options(words, config))
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        flag = key in keys() and keys()[key].kind is bool
        if flag and re.fullmatch(r"[-+]?[\d.]+", value) and value not in ("0", "1"):
            raise ConfigError(wrong_value(key, value))  # OmegaConf takes each number but 0 for true


def _no_options(words: Sequence[str], config: Config) -> str:
    """Return the message for options of a task of one's own that are given to another task."""
    name, task = next(iter(config.data.options)), config.data.name
    given = next(
        (word for word in words if word.lstrip("+").startswith("data.options")), f"data.options.{name}"
    )
    near = nearest(name, [field.name for field in fields(config.data)])
    advice = f"did you mean {either(f'data.{other}' for other in near)}?" if near else "leave it out"
    return f"{given}: data.options are of a task of your own, and data={task} reads none; {advice}"


def _replaces(word: str, values: dict[str, Any], sweep: str) -> str:
    """Return the message for a mapping that takes the place of the options of a sweep, as Hydra reads it."""
    group = word.lstrip("+").partition("=")[0]
    forms = " ".join(shown(f"{group}.{key}={value}") for key, value in values.items())
    return f"{word}: takes the place of {sweep} in a sweep; write {forms}"


def _sweep_within(value: Any) -> Sweep | None:
    """Return the first sweep inside of a list or mapping, where Hydra expands none; None if there is none."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (p if isinstance(p, Sweep) else _sweep_within(p) for p in parts)), None)
