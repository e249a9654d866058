"""Binds the names in a configuration to the code of one's own that is registered under them.

So trials of two files, or of a file before and after it was edited, each have their own class, and their own
identity.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from rnnbench.config.loading import LOADED, entries_of, is_ours, load_file, registered
from rnnbench.config.optimisers import OPTIMISERS
from rnnbench.config.places import blamed, defined, explained
from rnnbench.config.refusals import ConfigError, refuse
from rnnbench.config.registry import ACTIVE, Entry, Identity, Key, Own
from rnnbench.config.schema import Config, Data
from rnnbench.config.trees import typed

IMPORT = "rnnbench.import."  # the tags that name code of one's own begin with it


def own_code(config: Config) -> Config:
    """Run the files of `rnnbench_import` (several are separated by colons), each again once it has changed.

    Returns:
        the configuration with its cell, optimiser, task and added metrics bound to what these files, or else
        other code of one's own, have registered.

    Raises:
        ConfigError: a file is not there, or raises; two files register different classes under one name; a
            file that is being imported trains.
    """
    if getattr(ACTIVE, "code", None) is not None:
        raise ConfigError('it trains while it is imported; put that below if __name__ == "__main__":')
    codes = [load_file(name) for name in _paths(config.rnnbench_import)]
    text = config.rnnbench_import
    imports = Own(text, _merged(code.identity for code in codes)) if text and codes else text
    return _bound(replace(config, rnnbench_import=imports), entries_of(codes))


def own_config(tree: Any) -> Config:
    """Make the configuration of a stack file, a dict, with its own code imported as `own_code` does.

    Raises:
        ConfigError: it cannot be run, or as `own_code`.
    """
    entries = entries_of(map(load_file, _paths(tree["rnnbench_import"])))
    return own_code(_typed(tree, entries))


def _typed(tree: Any, entries: dict[Key, Entry]) -> Config:
    """Make a configuration of a dict, whose optimiser and task may be one's own."""

    def own(kind: str, name: str) -> Entry | None:
        return None if is_ours(kind, name) else _entry(entries, kind, name)

    optimiser, task = own("optimiser", str(tree["optim"]["name"])), own("task", str(tree["data"]["name"]))
    return typed(tree, None if optimiser is None else optimiser.made, None if task is None else task.settings)


def _paths(files: str | None) -> list[str]:
    """Return the files that `rnnbench_import` names."""
    return [name for name in (files or "").split(":") if name]


def _entry(entries: dict[Key, Entry], kind: str, name: str) -> Entry | None:
    return entries.get((kind, name)) or registered(kind, name)


def _bound(config: Config, entries: dict[Key, Entry]) -> Config:
    """Bind the names of cell, optimiser, task and added metrics to what was registered under them."""

    def own(kind: str, name: str) -> str:
        entry = _entry(entries, kind, name)
        return name if entry is None else Own(name, entry.needs(), entry)

    model = replace(config.model, name=own("cell", config.model.name))
    data = _bound_data(config.data, own)
    optim = config.optim
    name = own("optimiser", optim.name)
    if isinstance(name, Own) and name.entry is not None:
        values = {field.name: getattr(optim, field.name) for field in fields(optim)}
        optim = name.entry.made(**values | {"name": name})
    elif name not in OPTIMISERS:
        refuse("optim.name", name, f"choose with optim=NAME, one of {', '.join(OPTIMISERS)}")
    return replace(config, model=model, optim=optim, data=data)


def _bound_data(data: Data, own: Callable[[str, str], str]) -> Data:
    """Bind the names of the task and of the metrics that it adds; its settings are of the task's class."""
    name = own("task", data.name)
    values = {field.name: getattr(data, field.name) for field in fields(data)}
    kind = name.entry.settings if isinstance(name, Own) and name.entry is not None else type(data)
    if values.keys() != {field.name for field in fields(kind)}:
        refuse("data.name", name, f"has keys of its own; choose it with data={name}")
    metrics = None if data.metrics is None else [own("metric", metric) for metric in data.metrics]
    return kind(**values | {"name": name, "metrics": metrics})


def recalled(tree: Any, digests: Identity) -> Config:
    """Make the configuration of a record, bound to code that was imported here already, or is installed.

    Args:
        tree: the configuration as it was written.
        digests: what the record says that it was trained with; empty: it does not say.

    Raises:
        ConfigError: this code has not been imported, or it has changed since.
    """
    entries: dict[Key, Entry] = {}
    for kind, part in (("cell", "model"), ("optimiser", "optim"), ("task", "data")):
        name = str(tree[part]["name"])
        if not is_ours(kind, name):
            entries[kind, name] = _recalled(kind, name, tree.get("rnnbench_import"), digests)
    return _bound(_typed(tree, entries), entries)


def _recalled(kind: str, name: str, files: str | None, digests: Identity) -> Entry:
    """Find what a record was trained with among the code that was imported here; see `recalled`."""
    codes = [code for versions in LOADED.values() for code in reversed(versions)]
    known = [entries_of([code])[kind, name] for code in codes if (kind, name) in code.registered]
    known += [entry for entry in [registered(kind, name)] if entry is not None]
    if not known:
        raise ConfigError(
            f"its {kind} {name} comes from {files or 'code of your own'}; import that file first"
        )
    fitting = [entry for entry in known if _as_recorded(entry, digests)]
    if not fitting:
        raise ConfigError(
            f"its {kind} {name} was trained with other code than {defined(known[-1].of)} is now; "
            f"import it as it was ({', '.join(f'{n} {d[:12]}' for n, d in digests.items())})"
        )
    return fitting[0]


def _as_recorded(entry: Entry, digests: Identity) -> bool:
    identity = entry.needs()
    common = identity.keys() & digests.keys()
    return not digests or (bool(common) and all(identity[name] in digests[name].split() for name in common))


def _merged(identities: Iterable[Identity]) -> Identity:
    """Merge digests of several codes; where two have a file of one name, both digests are joined."""
    merged: Identity = {}
    for identity in identities:
        for name, digest in identity.items():
            before = merged.get(name, "").split()
            merged[name] = " ".join([*before, *([] if digest in before else [digest])])
    return merged


def imported(config: Config) -> Identity:
    """Return name and sha256, or version, of the code of one's own that a bound trial (`own_code`) needs."""
    names = (config.model.name, config.optim.name, config.data.name, *(config.data.metrics or []))
    parts = (config.rnnbench_import, *names)
    return dict(sorted(_merged(part.identity for part in parts if isinstance(part, Own)).items()))


def failure(config: Config, error: Exception) -> str:
    """Return the message of the exception that a trial failed with, and the line of one's own code.

    An exception that no line of one's own has passed (one of the backward pass, for example) may come of it
    all the same: then where the trial's own cell, optimiser or task is written.
    """
    names = (config.model.name, config.optim.name, config.data.name)
    own = [defined(name.entry.of) for name in names if isinstance(name, Own) and name.entry is not None]
    return explained(error) + (f" ({', '.join(own)})" if own and blamed(error) is None else "")


@contextmanager
def asked(key: str, name: str) -> Iterator[None]:
    """Turn what code of one's own raises in this block into a refusal of KEY=NAME with file and line.

    Raises:
        ConfigError: it raises; what no line of one's own has passed is raised as it is.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if registered("task" if key.startswith("data") else "cell", name) is None:
            raise
        raise ConfigError(
            f"{key}={name}: {explained(error)} (HYDRA_FULL_ERROR=1 shows the traceback)"
        ) from error
