"""Says which options of a sweep lack a key that others of them have."""

from collections.abc import Iterable, Mapping, Sequence

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rnnbench.config import ConfigError
from rnnbench.sweep.compose import Composer


def swept_options(composer: Composer, points: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Return the options that the points of a sweep choose from each group, where they are several."""
    found: dict[str, dict[str, None]] = {}
    for word in dict.fromkeys(word for point in points for word in point):
        override = composer.checker.read(word)
        if composer.is_choice(override):
            found.setdefault(override.key_or_group, {})[str(override.value())] = None
    return {group: list(names) for group, names in found.items() if len(names) > 1}


def of_options(
    composer: Composer,
    options: Mapping[str, Sequence[str]],
    words: Sequence[str],
    point: Sequence[str],
    error: ConfigError,
) -> ConfigError:
    """Return the error for a point with a key that only some of the swept options have; else `error`.

    Args:
        options: the options that are swept, by group.
        words: the overrides of the sweep, to be named as they were given.
        point: the overrides of the point, which could not be composed.
        error: what was said of it.
    """
    chosen = [word for word in point if composer.is_choice(composer.checker.read(word))]
    for override in map(composer.checker.read, point):
        if composer.is_choice(override) or not _sets(override) or _has(composer, chosen, override):
            continue
        for group, names in options.items():
            others = [word for word in chosen if composer.checker.read(word).key_or_group != group]
            having = [name for name in names if _has(composer, [*others, f"{group}={name}"], override)]
            if having and len(having) < len(names):
                lacking = [name for name in names if name not in having]
                return ConfigError(_said(override, words, group, lacking, having))
    return error


def _said(
    override: Override, words: Sequence[str], group: str, lacking: Sequence[str], having: Sequence[str]
) -> str:
    """Return the message for a key that some options of a group lack, and others have."""
    key = override.key_or_group
    word = next((word for word in words if word.partition("=")[0] == key), override.input_line)
    name = key.removeprefix(f"{group}.")
    verb = "has" if len(lacking) == 1 else "have"
    return (
        f"{word}: {group}={','.join(lacking)} {verb} no {name}; leave {name} out, or sweep over those that "
        f"have it: {group}={','.join(having)}"
    )


def _sets(override: Override) -> bool:
    """Return whether an override sets a key that has to be there."""
    added = override.is_add() or override.is_force_add() or override.is_delete()
    return not (added or override.is_hydra_override())


def _has(composer: Composer, choices: Sequence[str], override: Override) -> bool:
    """Return whether the config that these choices compose has the key of an override."""
    above, _, name = override.key_or_group.rpartition(".")
    cfg = composer.compose(choices)
    parent = OmegaConf.select(cfg, above) if above else cfg
    return isinstance(parent, DictConfig) and name in parent.keys()  # noqa: SIM118  (`in` is False for ???)
