"""Lists the groups of config files and their options, and refuses an option that a group does not have."""

import re
from collections.abc import Iterator, Sequence

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Glob, Override
from yaml import YAMLError

from rnnbench.config import ConfigError
from rnnbench.config.advice import either, nearest, shown
from rnnbench.sweep.arguments import SECTIONS
from rnnbench.sweep.hydra_api import IConfigRepository


class Groups:
    """The groups of config files, as folders of files: `model` has the option `lstm`.

    Args:
        files: Hydra's repository of config files.
    """

    def __init__(self, files: IConfigRepository) -> None:
        self.files = files

    def has(self, group: str) -> bool:
        """Return whether there is such a group."""
        return self.files.group_exists(group)

    def options(self, group: str) -> list[str]:
        """Return the names of a group's files."""
        return self.files.get_group_options(group, ObjectType.CONFIG)

    def names(self, parent: str = "") -> list[str]:
        """Return the names of all groups below the parent that have options."""
        found = []
        for name in self.files.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{name}" if parent else name
            if group.startswith("hydra/schema"):
                continue
            found += [group] if self.options(group) else []
            found += self.names(group)
        return found

    def check(self, override: Override) -> None:
        """Refuse an override that chooses an option that its group does not have.

        Raises:
            ConfigError: names the word and the options.
        """
        group, value = override.key_or_group, override.value()
        if isinstance(value, Glob) and not value.filter(self.options(group)):
            raise ConfigError(
                f"{override.input_line}: none of the options is like this; "
                f"{group} is one of {', '.join(sorted(self.options(group)))}"
            )
        for name in _chosen(override):
            if "${" not in name and "???" not in name:  # Hydra resolves these later
                self._check_option(group, name)

    def _check_option(self, group: str, name: str) -> None:
        """Refuse an option that a group does not have, or whose file is no YAML."""
        options = self.options(group)
        if name.removesuffix(".yaml") not in options and not self.files.config_exists(f"{group}/{name}"):
            raise ConfigError(no_option(group, name, options))
        try:
            self.files.load_config(f"{group}/{name}")
        except (YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{group}={name}: {unreadable(error)}") from error


def _chosen(override: Override) -> Iterator[str]:
    """Yield the names of the options that an override chooses from its group.

    Raises:
        ConfigError: it is a list, though each trial has one option of this group.
    """
    group, value = override.key_or_group, override.value()
    if override.is_sweep_override():
        if override.is_choice_sweep():
            yield from override.sweep_string_iterator()
    elif isinstance(value, list):
        if group.partition("/")[0] in (*SECTIONS, "hydra"):
            form = shown(f"{group}={','.join(map(str, value))}")
            raise ConfigError(
                f"{override.input_line}: each trial has one {group}; several are a sweep: -m {form}"
            )
        yield from map(str, value)
    else:
        yield value if isinstance(value, str) else str(override.input_line).partition("=")[2]


def no_option(group: str, name: str, options: Sequence[str]) -> str:
    """Return the message for an option that a group does not have."""
    if names := several_options(name, options):
        return f"{group}={name}: several options are a sweep: -m {group}={','.join(names)}"
    near = nearest(name, options)
    if near:
        return (
            f"{group}={name}: there is no such option; did you mean {either(f'{group}={o}' for o in near)}?"
        )
    return f"{group}={name}: there is no such option; {group} is one of {', '.join(sorted(options))}"


def several_options(text: str, options: Sequence[str]) -> list[str]:
    """Return the options that a text consists of, whatever separates them; [] if they are not several."""
    names = re.findall(r"\w+", text)
    return names if len(names) > 1 and set(names) <= set(options) else []


def unreadable(error: YAMLError | UnicodeDecodeError) -> str:
    """Return the message for a config file that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"its file is no YAML in UTF-8: {' '.join(str(error).split())}"
    place = mark.name.removeprefix("file://")
    return f"{place}:{mark.line + 1}: {getattr(error, 'problem', None)}; correct the YAML"
