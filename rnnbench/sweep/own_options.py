"""Makes one's own cells, optimisers and tasks available as options of `model=`, `optim=` and `data=`.

Hydra reads options from files, or from its store of typed nodes. A cell of one's own needs no file: `leaky`
enters the store as the option model=leaky, whose node is Model(name="leaky"). An optimiser enters with its
class, whose fields become keys below `optim`; a task with its settings, whose fields are keys below `data`,
and its metric. A file of the user's (model/leaky.yaml) comes before all three.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache, reduce
from operator import getitem
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf
from yaml import YAMLError

from rnnbench.config import Data, Model, Optim, conf_folder
from rnnbench.config.loading import offer as registered_by
from rnnbench.config.optimisers import OWN
from rnnbench.config.registry import Entry
from rnnbench.config.schema import OWN_DATA
from rnnbench.sweep.hydra_api import IConfigRepository

NAMING = (
    "model",
    "optim",
    "data",
    "experiment",
    "search",
)  # groups whose options may name a class of one's own
KINDS = ("cell", "optimiser", "task")  # the kinds of registered code that are options of a group
CELLS: dict[str, Any] = {}  # one's own cells that are in Hydra's store now
ENTERED: list[tuple[str, str]] = []  # groups and names of what was entered into Hydra's store


def offer(words: Sequence[str], files: IConfigRepository) -> tuple[object, ...]:
    """Enter one's own code into Hydra's store, if a word names an option that rnnbench does not have.

    Args:
        words: the overrides that will be composed.
        files: the config files; those of an experiment may name the code (rnnbench_import).

    Returns:
        what was entered: equal for equal code; () where all options are rnnbench's own.

    Raises:
        ConfigError: the code cannot be imported.
    """
    asked = {(group, name) for group, name in _chosen(words) if not _is_ours(group, name)}
    if not asked:
        return ()
    entries = registered_by(_imports(words, asked, files))
    of = {kind: {name: e for (k, name), e in entries.items() if k == kind} for kind in KINDS}
    cells, optimisers = ({name: e.made for name, e in of[kind].items()} for kind in ("cell", "optimiser"))
    _enter(cells, optimisers, of["task"])
    return tuple((*key, id(entry.made)) for key, entry in sorted(entries.items()) if key[0] in KINDS)


def _enter(cells: dict[str, Any], optimisers: dict[str, type[Optim]], tasks: dict[str, Entry]) -> None:
    """Make these the only cells, optimisers and tasks in Hydra's store besides rnnbench's own."""
    store = ConfigStore.instance()
    settings = {name: entry.settings for name, entry in tasks.items()}
    for group, name in ENTERED:
        reduce(getitem, group.split("/"), store.repo).pop(f"{name}.yaml", None)
    nodes: list[tuple[str, str, Any]] = [("model", name, Model(name=name)) for name in cells]
    nodes += [("optim", name, kind) for name, kind in optimisers.items()]
    nodes += [("data", name, _of_task(name, entry)) for name, entry in tasks.items()]
    for name, schema in (*optimisers.items(), *settings.items()):
        if store.get_type(f"hydra/schema/{name}.yaml") is ObjectType.NOT_FOUND:
            nodes.append(("hydra/schema", name, schema))  # for a file of the user's, as those in conf/
    for group, name, node in nodes:
        store.store(group=group, name=name, node=node)
    ENTERED[:] = [(group, name) for group, name, _ in nodes]
    held: list[tuple[dict[str, Any], dict[str, Any]]]
    held = [(CELLS, cells), (OWN, optimisers), (OWN_DATA, settings)]
    for before, now in held:
        before.clear()
        before.update(now)


def _of_task(name: str, entry: Entry) -> Data:
    """Return the node of a task: its settings, with its name and its metric."""
    return entry.settings(name=name, metric=getattr(entry.of, "metric", "accuracy"))


def _chosen(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the (group, option) pairs that words choose, of groups that may name code of one's own."""
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        group = "model" if key == "model.name" else key
        if group in NAMING:
            names = re.findall(r"[\w.-]+", re.sub(r"\w+\(", " ", value))
            yield from ((group, name) for name in names if name != "null")


@cache
def _is_ours(group: str, name: str) -> bool:
    return (conf_folder() / group / f"{name.removesuffix('.yaml')}.yaml").is_file()


def _imports(words: Sequence[str], asked: set[tuple[str, str]], files: IConfigRepository) -> list[str]:
    """Return the files of one's own that words name; else those that the chosen config files name."""
    given = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("rnnbench_import=")]
    if not given:
        chosen = [f"{group}/{name}" for group, name in sorted(asked) if group in ("experiment", "search")]
        given = [_named_in(place, files) for place in ("config", *chosen) if files.config_exists(place)]
    value = re.sub(r"\w+\(|[)'\"\\]", "", ",".join(given))
    return [name for name in re.split("[,:]", value) if name and "$" not in name and name != "null"]


def _named_in(place: str, files: IConfigRepository) -> str:
    """Return the files that a config file imports; none if it is no YAML, which a later check refuses."""
    try:
        file = files.load_config(place)
    except (YAMLError, UnicodeDecodeError):
        return ""
    return str(OmegaConf.select(file.config, "rnnbench_import") or "") if file else ""
