"""Checks the words of a command line; a message says what is wrong with one, and a form that works.

What a word says by itself (flags, grammar, groups and their options, keys, several values where one is
taken) is checked before Hydra composes; what Hydra then refuses is said again in one message.
"""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import takewhile
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep, Sweep
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
    SearchPathException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

import rnnbench.tasks  # noqa: F401  (enters the settings of each task, whose keys are checked here)
from rnnbench.config import Config, ConfigError, Ray, Search, Slurm, conf_folder
from rnnbench.config.keys import (
    better,
    either,
    is_free,
    keys,
    nearest,
    said_of,
    shown,
    stray_keys,
    unknown_key,
    wrong_value,
)
from rnnbench.sweep.hydra_api import (
    IConfigRepository,
    arguments_parser,
    files_of,
    files_seen_with,
    flags_of,
    make_loader,
    parsed_value,
)

SHELLS = ("bash", "fish", "zsh")
GRID = ("max_batch_size", "params", "plan", "only")
EXAMPLES = {"choice": "a,b", "range": "3", "interval": "0.1,1", "glob": "*"}
FUNCTIONS = ("choice", "range", "interval", "glob", "tag", "sort", "shuffle", "int", "float", "str", "bool")
# Sections, of which each trial has one option; and those that a whole sweep has one of.
SECTIONS = tuple(field.name for field in fields(Config) if field.name not in keys())
OF_THE_SWEEP = ("tracking", "dry_run", "search")


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The flags and overrides of a command line, as Hydra reads them.

    Raises:
        ConfigError: a flag that there is not, or one between the overrides.
    """
    parser = arguments_parser()
    flags = flags_of(parser)
    if "--version" in words:
        raise ConfigError("--version: stands alone: python -m rnnbench --version")
    for number, word in enumerate(words):
        flag, _, value = word.partition("=")
        if value and flag in flags and flags[flag].nargs == 0:
            raise ConfigError(f"{word}: takes no value; write {flag}")
        if not re.match("--?[A-Za-z]", word) or flag in flags:
            continue
        before = flags.get(words[number - 1]) if number else None
        if before is not None and before.nargs != 0:
            continue  # the value of a flag
        name = flag.lstrip("-").replace("-", "_")
        if name in keys() or name in SECTIONS or (value and not nearest(flag, flags, 1)):
            given = value or next(iter(words[number + 1 : number + 2]), "VALUE")
            near = name if name in keys() or name in SECTIONS else (nearest(name, keys(), 1) or [name])[0]
            raise ConfigError(f"{word}: values are given without dashes: {shown(f'{near}={given}')}")
        likely = nearest(flag, [*flags, *keys(), *SECTIONS])
        meant = [text if text in flags else f"{text}=VALUE" for text in likely]
        advice = f"did you mean {either(meant)}?" if meant else "`python -m rnnbench --help` shows all"
        raise ConfigError(f"{word}: there is no such flag; {advice}")

    def refuse(message: str) -> Any:
        raise ConfigError(f"{message}; `python -m rnnbench --help` shows the flags")

    parser.error = refuse  # type: ignore[method-assign]
    arguments, rest = parser.parse_known_args(list(words))
    if rest:
        first = [word for word in words if word.startswith("-") and word not in rest]
        form = " ".join(map(shown, [*first, *(word for word in words if word not in first)]))
        raise ConfigError(f"{rest[0]}: flags stand before all values: python -m rnnbench {form}")
    modes = {
        "--run": arguments.run,
        "--multirun": arguments.multirun,
        "--cfg": arguments.cfg,
        "--info": arguments.info,
        "--shell-completion": arguments.shell_completion,
    }
    chosen = [flag for flag, given in modes.items() if given]
    if len(chosen) > 1:
        raise ConfigError(f"{' '.join(chosen)}: only one of these at a time")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise ConfigError("--resolve: goes with --cfg job")
    if arguments.help and (bare := next((w for w in arguments.overrides if "=" not in w), None)):
        raise ConfigError(f"{bare}: --help tells of all groups and keys at once, without a word after it")
    asked = [word.partition("=")[0] for word in arguments.overrides]
    if arguments.shell_completion and sum(word in ("install", "uninstall", "query") for word in asked) != 1:
        raise ConfigError("--shell-completion: goes with install=SHELL or uninstall=SHELL")
    if arguments.shell_completion and not set(arguments.overrides) & {
        f"{do}={shell}" for do in ("install", "uninstall", "query") for shell in SHELLS
    }:
        raise ConfigError(f"{' '.join(arguments.overrides)}: there are completions for {either(SHELLS)}")
    return arguments


def is_sweep(arguments: argparse.Namespace) -> bool:
    """Whether a command line asks for a sweep: by its flag, or as Hydra has it in its settings.

    Raises:
        ConfigError: it asks for both a sweep and a single run.
    """
    modes = [word.rpartition("=")[2] for word in arguments.overrides if word.startswith("hydra.mode=")]
    if modes[-1:] == ["RUN"] and arguments.multirun:
        raise ConfigError(
            "hydra.mode=RUN: is of a single run, and -m makes this a sweep; leave one of the two out"
        )
    return bool(arguments.multirun or modes[-1:] == ["MULTIRUN"])


def loader_of(arguments: argparse.Namespace) -> ConfigLoader:
    """A loader of the config files that a command line names, as Hydra makes one.

    Raises:
        ConfigError: its --config-dir is no folder.
    """
    extra = arguments.config_dir
    if extra is not None and not os.path.isdir(extra):
        raise ConfigError(f"--config-dir={extra}: is not a folder")
    path = arguments.config_path or str(conf_folder())
    return make_loader(path, None if extra is None else os.path.abspath(extra))


class Checker:
    """Checks overrides, one by one, against Hydra's grammar, the config groups and the schema's keys.

    Args:
        loader: Hydra's.
        files: where the config groups are; by default those of the loader.
    """

    def __init__(self, loader: ConfigLoader, files: IConfigRepository | None = None) -> None:
        self.loader = loader
        self.files = files or files_of(loader)
        self.parser = OverridesParser.create(config_loader=loader)

    def check(self, words: Sequence[str], several: bool) -> None:
        """Refuse overrides that cannot be meant.

        Args:
            several: whether a word may give several values, as those of a sweep do.

        Raises:
            ConfigError: names the word, what is wrong with it, and the form that works.
        """
        searched = [word for word in words if word.startswith("hydra.searchpath=")]
        if searched:
            with explained(words):
                self.files = files_seen_with(self.loader, "config", searched)
        before = ""
        for number, word in enumerate(words):
            after = list(takewhile(lambda text: "=" not in text[1:], words[number + 1 :]))
            self.check_one(self.parse(word, before, after), several)
            before = word

    def parse(self, word: str, before: str = "", after: Sequence[str] = ()) -> Override:
        """An override, as Hydra's grammar reads it.

        Args:
            before, after: its neighbours, with which it may have been meant to be one.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            (override,) = self.parser.parse_overrides([word])
            if override.key_or_group:
                return override
            reason = "has no key before ="
        except (HydraException, ValueError) as error:
            reason = str(error)
        raise ConfigError(self._unreadable(word, before, after, reason))

    def check_one(self, override: Override, several: bool) -> None:
        """Refuse an override that cannot be meant.

        Raises:
            ConfigError: see `check`.
        """
        word, key = str(override.input_line), override.key_or_group
        section = key.partition("/")[0].partition(".")[0]
        if override.is_sweep_override():
            self._check_several(override, several)
        if override.package is not None:
            return  # Hydra knows
        value = word.partition("=")[2]
        if held := _sweep_within(parsed_value(override)):
            name = type(held).__name__.lower().removesuffix("sweep")
            raise ConfigError(f"{word}: inside of a value, {name}(...) stands in quotes")
        if override.is_delete():
            if (section in SECTIONS or key in keys()) and not is_free(key):
                raise ConfigError(f"{word}: {key} cannot be deleted; give it a value, or leave it as it is")
            if self.files.group_exists(key) and not isinstance(override.value(), str | None):
                raise ConfigError(f"{word}: what is left out is an option, by its name; write ~{key}")
            return
        if self.files.group_exists(key):
            if not isinstance(override.value(), dict):
                self._check_option(override)
            return
        slashed = key.replace(".", "/")
        chooses = isinstance(override.value(), str) or override.is_sweep_override()
        if chooses and slashed != key and self.files.group_exists(slashed):
            raise ConfigError(f"{word}: an option is chosen with a slash: {shown(f'{slashed}={value}')}")
        if key.startswith("hydra.") or key in keys() or is_free(key):
            return
        dotted = key.replace("/", ".")
        if dotted in keys():
            raise ConfigError(f"{word}: a value has a dot in its key: {shown(f'{dotted}={value}')}")
        groups = self.groups() if "." not in key else []
        likely = [group for group in groups if value.partition(",")[0] in self.options(group)]
        signs = "+" * override.is_add() + "++" * override.is_force_add()
        raise ConfigError(unknown_key(key, value, [*keys(), *(likely or groups)], signs))

    def _check_several(self, override: Override, several: bool) -> None:
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

    def _check_option(self, override: Override) -> None:
        """Refuse an option that a group does not have."""
        word, group, value = str(override.input_line), override.key_or_group, override.value()
        if override.is_sweep_override():
            if isinstance(value, Glob) and not value.filter(self.options(group)):
                raise ConfigError(
                    f"{word}: none of the options is like this; "
                    f"{group} is one of {', '.join(sorted(self.options(group)))}"
                )
            if not override.is_choice_sweep():
                return
            names = list(override.sweep_string_iterator())
        elif isinstance(value, list):
            if group.partition("/")[0] in (*SECTIONS, "hydra"):
                form = shown(f"{group}={','.join(map(str, value))}")
                raise ConfigError(f"{word}: each trial has one {group}; several are a sweep: -m {form}")
            names = list(map(str, value))
        else:
            names = [word.partition("=")[2]] if not isinstance(value, str) else [value]
        for name in names:
            if "${" in name or "???" in name:  # Hydra looks these up
                continue
            options = self.options(group)
            if name.removesuffix(".yaml") not in options and not self.files.config_exists(f"{group}/{name}"):
                raise ConfigError(no_option(group, name, options))
            try:
                self.files.load_config(f"{group}/{name}")
            except (YAMLError, UnicodeDecodeError) as error:
                raise ConfigError(f"{group}={name}: {unreadable(error)}") from error

    def options(self, group: str) -> list[str]:
        """The names of a group's files."""
        return self.files.get_group_options(group, ObjectType.CONFIG)

    def groups(self, parent: str = "") -> list[str]:
        """The names of all config groups below one."""
        found = []
        for name in self.files.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{name}" if parent else name
            if group.startswith("hydra/schema"):
                continue
            found += [group] if self.options(group) else []
            found += self.groups(group)
        return found

    def _reads(self, word: str) -> bool:
        try:
            return bool(self.parser.parse_override(word).key_or_group)
        except (HydraException, ValueError):
            return False

    def _unreadable(self, word: str, before: str, after: Sequence[str], reason: str) -> str:
        """What is to be said of a word that is no override: the first repair that Hydra can read."""
        if function := re.search(r"Unknown function '(\w+)'", reason):
            near = nearest(function[1], FUNCTIONS, 2) or FUNCTIONS[:2]
            return f"{word}: there is no {function[1]}(); did you mean {either(f'{n}(...)' for n in near)}?"
        if "=" not in word:
            return self._no_value(word, before, after)
        if function := re.fullmatch(r"[^=]+=(choice|range|interval|glob)\(\s*\)", word):
            return (
                f"{word}: {function[1]}() has no values; for example {function[1]}({EXAMPLES[function[1]]})"
            )
        key, _, value = word.partition("=")
        apart = re.search(r"[^\w,\s]", value) and self.files.group_exists(key)
        if apart and (names := several_options(value, self.options(key))):
            return f"{word}: several options are a sweep: -m {key}={','.join(names)}"
        for fault, form in _repairs(word, after):
            if form != word and self._reads(form):
                try:
                    self.check_one(self.parser.parse_override(form), several=True)
                except ConfigError as error:
                    return f"{word}: {fault}; read as {form}: {error}"
                advice = " after -m" if self.parser.parse_override(form).is_sweep_override() else ""
                return f"{word}: {fault}; write {shown(form)}{advice}"
        if not re.fullmatch(r"[~+]{0,2}[A-Za-z0-9_][A-Za-z0-9_./@:-]*", key):
            return f"{word}: a key has letters, digits, _ and dots; write key=value, for example seed=1"
        first = re.sub(r"^Error parsing override .*\n|\nSee https:[\s\S]*|LexerNoViable\S* .*", "", reason)
        return f"{word}: cannot be read; " + (first.splitlines() or ["write key=value, such as seed=1"])[0]

    def _no_value(self, word: str, before: str, after: Sequence[str]) -> str:
        """What is to be said of a word without =."""
        name, word = word.strip(" ,=:"), word or "''"
        value = next((text for text in (t.strip(" =") for t in after) if text), None)
        known = (*keys(), *SECTIONS, *self.groups())
        if name in known:
            if value:
                return f"{word}: has no value; write {shown(f'{name}={value}')}, without spaces"
            options = self.options(name) if self.files.group_exists(name) else []
            if not options:
                return f"{word}: has no value; write {name}=VALUE"
            return f"{word}: has no value; write {name}=NAME, with one of {', '.join(options)}"
        if before.endswith("="):
            return f"{before} {word}: has a space after =; write {shown(before + name)}"
        group = before.partition("=")[0]
        option = self.files.group_exists(group) and name in self.options(group)
        if before.partition("=")[2] and re.fullmatch(r"[\w.+-]+,?", word) and (option or not name.isalpha()):
            return (
                f"{word}: is not key=value; several values of a key are separated by commas, without spaces: "
                f"{before.rstrip(',')},{name}"
            )
        for sign in ":./":
            key, _, rest = name.partition(sign) if sign == ":" else name.rpartition(sign)
            if key in known and rest:
                return f"{word}: is not key=value; did you mean {shown(f'{key}={rest.strip()}')}?"
        choices = {o: f"{g}={o}" for g in reversed(self.groups()) for o in self.options(g)}
        near = nearest(name, [*choices, *known])
        meant = [choices.get(text, f"{text}=VALUE") for text in near]
        return f"{word}: is not key=value; " + (
            f"did you mean {either(meant)}?" if near else "for example model=lstm seed=1"
        )


def _sweep_within(value: Any) -> Sweep | None:
    """The first sweep that stands in a list or a mapping, where Hydra knows none."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (p if isinstance(p, Sweep) else _sweep_within(p) for p in parts)), None)


def no_option(group: str, name: str, options: Sequence[str]) -> str:
    """What is to be said of an option that a group does not have."""
    if names := several_options(name, options):
        return f"{group}={name}: several options are a sweep: -m {group}={','.join(names)}"
    near = nearest(name, options)
    if near:
        return (
            f"{group}={name}: there is no such option; did you mean {either(f'{group}={o}' for o in near)}?"
        )
    return f"{group}={name}: there is no such option; {group} is one of {', '.join(sorted(options))}"


def unreadable(error: YAMLError | UnicodeDecodeError) -> str:
    """What is to be said of a configuration file that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"its file is no YAML in UTF-8: {' '.join(str(error).split())}"
    place = mark.name.removeprefix("file://")
    return f"{place}:{mark.line + 1}: {getattr(error, 'problem', None)}; correct the YAML"


def several_options(text: str, options: Sequence[str]) -> list[str]:
    """The options that a text consists of, whatever stands between them; [] if it is not several."""
    names = re.findall(r"\w+", text)
    return names if len(names) > 1 and set(names) <= set(options) else []


def _repairs(word: str, after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What may be wrong with the form of a word that has an =, and the word put right."""
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
        yield f"{value[-1]} closes nothing", f"{key}={value[:-1]}"
    if "=" in value:
        yield "there are two =", f"{key}.{value}" if f"{key}.{value.partition('=')[0]}" in keys() else word
    if value and "'" not in value:
        yield "it has signs that need quotes inside of the value", f"{key}='{value}'"
    if value and '"' not in value:
        yield "it has signs that need quotes inside of the value", f'{key}="{value}"'


def _unclosed(text: str) -> str:
    """The brackets and quotes that a text lacks at its end."""
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


@cache
def hydra_keys() -> dict[str, tuple[str, ...]]:
    """The keys of Hydra's settings, and the options that have them; () where all have."""
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
    """What is to be said of a setting of Hydra's that there is not."""
    given = key if value is None else f"{key}={value}"
    if options := hydra_keys().get(key):
        return f"{given}: goes with {either(options)}"
    near = nearest(key, hydra_keys())
    return f"{given}: there is no key {key}" + (f"; did you mean {either(near)}?" if near else "")


def check_settings(config: DictConfig, kind: str) -> None:
    """Refuse settings of Hydra's that there are not, or that a `run` or a `sweep` has no use for.

    Args:
        config: as Hydra composed it, hydra node included.

    Raises:
        ConfigError: names the setting.
    """
    strays = set(stray_keys(config.hydra))  # some of which Hydra's own files have
    words: Any = OmegaConf.to_container(config.hydra.overrides.hydra)  # as written, not resolved
    for word in words:
        key, _, value = str(word).lstrip("+").partition("=")
        setting = ".".join(key.split(".")[:3])
        node = setting.rpartition(".")[0]
        ours = node in ("hydra.launcher", "hydra.sweeper") and "rnnbench" in str(
            OmegaConf.select(config, f"{node}._target_")
        )
        known = setting in hydra_keys() or setting.rpartition(".")[2].startswith("_")
        if key in strays or (ours and not known):
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


def check_given(words: Sequence[str], config: Config) -> None:
    """Refuse overrides of a trial of which one takes away the effect of another.

    Raises:
        ConfigError: names both.
    """
    sized = [word for word in words if word.lstrip("+").startswith("model.hidden_size=")]
    if sized and config.model.budget is not None:
        raise ConfigError(
            f"{sized[-1]}: model.budget={config.model.budget} chooses the hidden size; leave one of the two "
            "away, or give model.budget=null"
        )
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        flag = key in keys() and keys()[key].kind is bool
        if flag and re.fullmatch(r"[-+]?[\d.]+", value) and value not in ("0", "1"):
            raise ConfigError(wrong_value(key, value))  # OmegaConf takes each number but 0 for true


def of_point(words: Sequence[str], error: ConfigError) -> ConfigError:
    """The error of a point of a sweep, which names the point unless it begins with a word of it."""
    named = any(str(error).startswith(f"{word}: ") for word in words)
    return error if named else ConfigError(f"{' '.join(words)}: {error}")


@contextmanager
def explained(words: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra says against overrides into one message.

    Raises:
        ConfigError: in place of an error of Hydra's or OmegaConf's while they compose.
    """
    try:
        yield
    except (
        ConfigCompositionException,
        OverrideParseException,
        InstantiationException,
        SearchPathException,
        OmegaConfBaseException,
    ) as error:
        raise ConfigError(explain(error, words)) from error
    except MarkedYAMLError as error:  # of a file that another one names
        raise ConfigError(unreadable(error)) from error


def explain(error: Exception, words: Sequence[str]) -> str:
    """One message for an error of Hydra's or OmegaConf's while they compose from these overrides."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group:
            return no_option(group, name, error.options or [])
        return f"--config-name={name}: there is no such file"
    if isinstance(error.__cause__, ConfigError):  # of a launcher or sweeper that Hydra makes
        return str(error.__cause__)
    place = re.match(r"In '(.*?)': ", str(error))
    prefix = f"{place[1]}.yaml: " if place else ""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    values = {word.partition("=")[0].lstrip("+~"): word.partition("=")[2] for word in words}
    if isinstance(cause, OmegaConfBaseException):
        key = re.sub(r"\[.*", "", str(cause.full_key or ""))
        value = None if place else values.get(key)
        if key.startswith("hydra.") and isinstance(cause, ConfigKeyError | ConfigAttributeError):
            setting = ".".join(key.split(".")[:3])
            given = next(
                (w for w in words if w.startswith(setting) and "is not in struct" in str(cause)), None
            )
            if given is not None and setting != key and setting in hydra_keys():
                return f"{given}: adds to a mapping; write {shown(f'+{given}')}"
            return prefix + unknown_hydra_key(key, value)
        if place and key == place[1].rpartition("/")[0] and key not in SECTIONS:
            return (
                f"{prefix}must begin with the line `# @package _global_`, since it sets keys of all sections"
            )
        return prefix + said_of(cause, value)
    if stray := re.search(r"unexpected keyword argument '(\w+)'[\s\S]*full_key: (\S+)", str(error)):
        return unknown_hydra_key(f"{stray[2]}.{stray[1]}", values.get(f"{stray[2]}.{stray[1]}"))
    text = str(error)
    for word in words:
        key = word.lstrip("+").partition("=")[0]
        if word.startswith("+") and re.search(
            rf"'{re.escape(key)}'|Multiple values for {re.escape(key)}\.", text
        ):
            return f"{word}: {key} is there already; write {shown(word.lstrip('+'))}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = takewhile(lambda line: not line.startswith(("See https", "To append", "Config search")), lines)
    return " ".join(kept) or type(error).__name__


def compose_words(words: Sequence[str]) -> DictConfig:
    """The config of one trial with these overrides, its hydra node included, in an initialised Hydra.

    Raises:
        ConfigError: they cannot be composed.
    """
    Checker(GlobalHydra.instance().config_loader()).check(words, several=False)
    with explained(words):
        return hydra.compose("config", list(words), return_hydra_config=True)
