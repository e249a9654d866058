"""Makes cells and optimisers of one's own options of `model=` and `optim=`, as those of rnnbench are.

Hydra reads options from files, or from its store of typed nodes. A cell of one's own needs no file: `leaky`
enters the store as the option model=leaky, whose node is Model(name="leaky"). An optimiser enters with its
class, whose fields become keys below `optim`. A file of the user's (model/leaky.yaml) comes before both.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache, reduce
from operator import getitem
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from rnnbench.config import Model, Optim, conf_folder
from rnnbench.config.optimisers import OWN
from rnnbench.config.user_code import offer as registered_by
from rnnbench.sweep.hydra_api import IConfigRepository

NAMING = ("model", "optim", "experiment", "search")  # groups whose options may name a class of one's own
CELLS: dict[str, Any] = {}  # the classes of the cells of one's own that stand in Hydra's store now
ENTERED: list[tuple[str, str]] = []  # groups and names of what was entered into Hydra's store


def offer(words: Sequence[str], files: IConfigRepository) -> tuple[object, ...]:
    """Enter into Hydra's store what one's own code registers, if a word names an option that rnnbench lacks.

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
    cells = {name: entry.made for (kind, name), entry in entries.items() if kind == "cell"}
    optimisers = {name: entry.made for (kind, name), entry in entries.items() if kind == "optimiser"}
    _enter(cells, optimisers)
    return tuple((name, id(made)) for name, made in sorted((cells | optimisers).items()))


def _enter(cells: dict[str, Any], optimisers: dict[str, type[Optim]]) -> None:
    """Have exactly these cells and optimisers in Hydra's store, beside rnnbench's own."""
    store = ConfigStore.instance()
    for group, name in ENTERED:
        reduce(getitem, group.split("/"), store.repo).pop(f"{name}.yaml", None)
    nodes: list[tuple[str, str, Any]] = [("model", name, Model(name=name)) for name in cells]
    for name, kind in optimisers.items():
        nodes.append(("optim", name, kind))
        if store.get_type(f"hydra/schema/{name}.yaml") is ObjectType.NOT_FOUND:
            nodes.append(("hydra/schema", name, kind))  # for a file of the user's, as those in conf/optim
    for group, name, node in nodes:
        store.store(group=group, name=name, node=node)
    ENTERED[:] = [(group, name) for group, name, _ in nodes]
    for held, now in ((CELLS, cells), (OWN, optimisers)):
        held.clear()
        held.update(now)


def _chosen(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the options that words choose, of the groups that may name code of one's own."""
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
        found = [files.load_config(place) for place in ("config", *chosen) if files.config_exists(place)]
        given = [str(OmegaConf.select(file.config, "rnnbench_import") or "") for file in found if file]
    value = re.sub(r"\w+\(|[)'\"\\]", "", ",".join(given))
    return [name for name in re.split("[,:]", value) if name and "$" not in name and name != "null"]
