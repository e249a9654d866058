"""Code of one's own: files named by `rnnbench_import`, packages with an entry point in the group `rnnbench`,
classes that a notebook or a script registers.

It registers cells, optimisers and tasks. `own_code` binds the names in a configuration to what was registered
under them, so that trials of two files, or of a file before and after it was edited, each have their own
class.
"""

import builtins
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from importlib.util import module_from_spec, resolve_name, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from rnnbench.config.folders import conf_folder
from rnnbench.config.metrics import METRICS, OWN_METRICS, Metric
from rnnbench.config.optimisers import OPTIMISERS, Optim
from rnnbench.config.refusals import ConfigError, refuse
from rnnbench.config.schema import DATA, Config, Data
from rnnbench.config.sources import (
    Sources,
    blamed,
    defined,
    explained,
    fingerprint,
    may_be_own,
    outside,
    sha256,
    traced,
)
from rnnbench.config.trees import typed

Key = tuple[str, str]  # "cell", "optimiser" or "task", and the name
Identity = dict[str, str]  # file, module or package: sha256, or version


@dataclass(frozen=True)
class Entry:
    """What is registered under a name."""

    made: Any  # the class of a cell or an optimiser, the Kind of a task, a Metric
    of: Any  # the class that was registered, or the function that computes a metric
    identity: Identity = field(default_factory=dict)  # of the code that it needs, if files hold it
    file: str | None = None  # where it is written; None: in no file
    digest: str = ""  # of this file

    @property
    def settings(self) -> type[Data]:
        """The class of a task's settings."""
        kind: type[Data] = getattr(self.of, "settings", Data)
        return kind

    def needs(self) -> Identity:
        """The digests of the code that it needs."""
        return self.identity or {f"__main__.{self.of.__qualname__}": fingerprint(self.of)}

    def equals(self, other: "Entry") -> bool:
        """Whether both are the same class, of files and helpers of the same content."""
        common = self.identity.keys() & other.identity.keys()
        same = (self.of.__qualname__, self.digest) == (other.of.__qualname__, other.digest)
        return same and all(self.identity[name] == other.identity[name] for name in common)


class Own(str):
    """A name in a configuration, equal to its text, bound to the code that it means.

    Its repr has the digests of this code, so whatever is sorted by the repr of a configuration (stacks,
    tasks in memory, checks) tells two files apart.
    """

    identity: Identity
    entry: Entry | None

    def __new__(cls, text: str, identity: Identity, entry: Entry | None = None) -> "Own":
        own = super().__new__(cls, text)
        own.identity, own.entry = identity, entry
        return own

    def __repr__(self) -> str:
        return f"{super().__repr__()} of {sorted(self.identity.items())}"

    def __deepcopy__(self, memo: object) -> "Own":
        return self


LOCK = threading.RLock()  # held while sys.modules has the modules of one Code
ACTIVE = threading.local()  # .code: the Code, or .package: the distribution, that registers in this thread
LOADED: dict[str, list["Code"]] = {}  # by file or entry point, the one used last at the end
REGISTERED: dict[Key, Entry] = {}  # by notebooks, scripts, modules that the user imports, installed packages
INSTALLED: set[EntryPoint] = set()  # those that were loaded


class Code(Sources):
    """A file of one's own as a trial imports it, with modules that are apart from those of other trials.

    While it is imported sys.modules has only its modules from outside of installed packages, each made from
    its source as it is now, and what it adds to sys.path is there for no other code. An import statement that
    runs later, inside a function, finds the same ones.
    """

    def __init__(self, file: str, name: str, folder: str | None) -> None:
        super().__init__(file, name, folder)
        self.path: list[str] | None = None  # sys.path as it has left it
        self.modules: dict[str, ModuleType] = {}
        self.found: set[str] = set()  # names of its modules
        self.registered: dict[Key, Entry] = {}
        self.builtins = vars(builtins) | {"__import__": self.import_}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Imports in this block are this code's."""
        with LOCK:
            others = {name: module for name, module in list(sys.modules.items()) if _is_own(name, module)}
            for name in others:
                del sys.modules[name]
            sys.modules.update(self.modules)
            sys.meta_path.insert(0, self)
            path = list(sys.path)
            sys.path[:] = self.path or path
            before, ACTIVE.code = getattr(ACTIVE, "code", None), self
            try:
                yield
            finally:
                ACTIVE.code = before
                self.path = list(sys.path)
                sys.path[:] = path
                sys.meta_path.remove(self)
                self.modules = {name: sys.modules.pop(name) for name in self.found & sys.modules.keys()}
                sys.modules.update(others)

    def find_spec(self, name: str, path: Any = None, target: object = None) -> ModuleSpec | None:
        """Python's question to each finder in sys.meta_path: a module of one's own gets a Loader."""
        spec = self.spec(name, path)
        if spec is None:
            return None
        places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or [])
        if not places or not all(place is not None and outside(place) for place in places):
            return None  # an installed one: whoever else is asked will find it
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(name, str(spec.origin), self)
        if isinstance(spec.loader, Loader) or not spec.has_location:  # the latter has no __init__.py
            self.found.add(name)
        return spec

    def import_(
        self,
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` of its modules."""
        if level and not globals.get("__package__"):
            raise ImportError(
                f"{'.' * level}{name} is relative, but the file is not imported as a part of its package; "
                "name a file beside the package that imports from it (from PACKAGE.MODULE import ...)"
            )
        wanted = resolve_name("." * level + name, globals["__package__"]) if level else name
        top = wanted.partition(".")[0]
        own = top in {found.partition(".")[0] for found in (*self.found, *self.contents)}
        if own and getattr(ACTIVE, "code", None) is not self:
            held = self.modules.get(wanted)
            if held is not None and fromlist and all(hasattr(held, item) for item in fromlist):
                return held
            with self.active():
                return builtins.__import__(name, globals, locals, fromlist or (), level)
        return builtins.__import__(name, globals, locals, fromlist or (), level)

    def run(self) -> None:
        """Execute the file."""
        loader = Loader(self.name, self.file, self)
        spec = spec_from_file_location(self.name, self.file, loader=loader)
        assert spec is not None
        module = module_from_spec(spec)
        if may_be_own(self.name):
            self.found.add(self.name)
            sys.modules[self.name] = module
        loader.exec_module(module)


class Loader(SourceFileLoader):
    """Makes a module of a Code from its source as it is now.

    Never from __pycache__, which takes a file that was edited within the same second for the old one.
    """

    def __init__(self, name: str, file: str, code: Code) -> None:
        super().__init__(name, file)
        self.code = code

    def get_code(self, name: str) -> Any:
        return self.source_to_code(self.code.read(name, str(self.path)), self.path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self.code.builtins
        super().exec_module(module)


def _is_own(name: str, module: object) -> bool:
    """Whether a module in sys.modules is one's own and can be made again from its source."""
    if not isinstance(module, ModuleType) or not may_be_own(name):
        return False
    file = vars(module).get("__file__")  # getattr would have a lazy module import what it stands for
    if file is not None:
        return str(file).endswith(".py") and outside(str(file))
    folders = list(vars(module).get("__path__") or [])
    return bool(folders) and all(map(outside, folders))


def _load(key: str, said: str, code: Code, point: EntryPoint | None = None) -> Code:
    """The code as it is now: what was loaded before if nothing has changed, else `code` is run.

    Args:
        key: what it is known by in LOADED.
        said: how a message names it.

    Raises:
        ConfigError: it raises; names file and line.
    """
    with LOCK:
        versions = LOADED.setdefault(key, [])
        same = next((known for known in versions if known.current), None)
        if same is not None:
            versions.remove(same)
            versions.append(same)
            return same
        importlib.invalidate_caches()  # a file may have been added just now
        try:
            with code.active():
                point.load() if point else code.run()
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{said}: {explained(error)}; correct the file (HYDRA_FULL_ERROR=1 shows the traceback)"
            ) from error
        with code.active():
            code.trace()
        versions.append(code)
        return code


def _file(name: str) -> Code:
    """The code of a file in `rnnbench_import`."""
    path = Path(name).expanduser()
    try:
        path = path.resolve()
        path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"rnnbench_import={name}: cannot be read ({reason}); give a Python file") from None
    if path.suffix == ".ipynb":
        raise ConfigError(
            f"rnnbench_import={name}: is a notebook; save the cell that registers as a file NAME.py, or call "
            "rnnbench.run in the notebook"
        )
    return _load(str(path), f"rnnbench_import={name}", Code(str(path), path.stem, str(path.parent)))


@cache
def _points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of the packages in these folders, which is slow to find out."""
    return tuple(entry_points(group="rnnbench"))


def plugins() -> list[Code]:
    """Load the entry points of installed packages; the code of those that are installed as editable.

    Raises:
        ConfigError: one cannot be loaded.
    """
    editable = []
    for point in _points(tuple(sys.path)):
        top = importlib.util.find_spec(point.module.partition(".")[0])
        places = (
            [top.origin] if top and top.origin else list(top.submodule_search_locations or []) if top else []
        )
        said = f"entry point {point.name} = {point.value}"
        if places and all(place is not None and outside(place) for place in places):
            file = str(places[0])
            editable.append(_load(point.value, said, Code(file, point.module, None), point))
        elif point not in INSTALLED:
            ACTIVE.package = point.dist
            try:
                point.load()
            except (Exception, SystemExit) as error:
                raise ConfigError(f"{said}: {explained(error)}; mend or uninstall the package") from error
            finally:
                ACTIVE.package = None
            INSTALLED.add(point)
    return editable


def register(kind: str, name: str, made: Any, of: Any) -> None:
    """Enter a class under a name.

    Within a file of `rnnbench_import` and its modules a name is registered once. Elsewhere a class replaces
    an earlier one of the same file, or of a notebook, whose cells are run again and again.

    Raises:
        ConfigError: another class has the name.
    """
    code: Code | None = getattr(ACTIVE, "code", None)
    if code is not None:
        module = of.__module__ if of.__module__ in code.files else code.name
        entry = Entry(made, of, {}, code.files[module], sha256(code.contents[module]))
        if code.registered.setdefault((kind, name), entry).of is not of:
            raise _twice(kind, name, code.registered[kind, name], entry)
        return
    entry = Entry(made, of)
    if (file := _file_of(of)) is not None:
        entry = Entry(made, of, _identity(of, file), file, sha256(Path(file).read_bytes()))
    there = REGISTERED.get((kind, name))
    if there is not None and there.file and file and there.file != file and not there.equals(entry):
        raise _twice(kind, name, there, entry)
    REGISTERED[kind, name] = entry


# Names in a stack's state that are no optimiser's.
STATE = {"parameters", "best", "step", "clip", "dropout", "recurrent_dropout", "weight_noise", "seed"}
Made = TypeVar("Made", bound=type[Optim])


def register_optimiser(name: str) -> Callable[[Made], Made]:
    """A decorator: the class below it is the optimiser that `optim=NAME` means.

    The class derives from `rnnbench.Optim` and has `update`, settings with types and defaults, which become
    keys (`optim.SETTING`), and perhaps `memory` and `check`; it is made a dataclass. See `rnnbench.Optim`.

    Raises:
        ConfigError: an optimiser of rnnbench has this name, or a class in another file; it is no class of an
            optimiser.
    """
    if not isinstance(name, str):
        raise ConfigError(
            'register_optimiser: needs the name that optim= will have: @register_optimiser("NAME")'
        )
    said = f"register_optimiser({name!r})"
    if name in OPTIMISERS:
        raise ConfigError(f"{said}: rnnbench has an optimiser of that name; choose another")

    def enter(kind: Made) -> Made:
        if not (isinstance(kind, type) and issubclass(kind, Optim)):
            raise ConfigError(f"{said}: must stand above a class that derives from rnnbench.Optim")
        if kind.update is Optim.update:
            raise ConfigError(f"{said}: {defined(kind)} has no update(self, state, parameters, gradient)")
        kind.__annotations__ = {"name": str} | vars(kind).get("__annotations__", {})
        kind.name = name
        dataclass(kind)  # in place
        settings = {field.name for field in fields(kind)}
        if taken := STATE & {*settings, *kind.memory} or settings & set(kind.memory):
            raise ConfigError(
                f"{said}: {', '.join(sorted(taken))} in {defined(kind)} has another meaning in "
                "the state; give it another name"
            )
        register("optimiser", name, kind, kind)
        return kind

    return enter


def register_metric(metric: Metric) -> Metric:
    """Enter a metric: a trial with `data.metrics=[NAME]` measures it, and may be judged by it.

    Raises:
        ConfigError: a metric of rnnbench has this name, or one of another file; or the function that computes
            it is not one of one's own.
    """
    said = f"register_metric: {metric.name}"
    if metric.name in METRICS:
        raise ConfigError(f"{said} is a metric of rnnbench; choose another name")
    if not isinstance(metric.computed_by, FunctionType):
        raise ConfigError(f"{said} must be computed by a function that is written in Python")
    register("metric", metric.name, metric, metric.computed_by)
    OWN_METRICS[metric.name] = metric
    return metric


def _file_of(of: Any) -> str | None:
    """The file of the module that a class is in; None if it was typed into a notebook, or made by exec."""
    file = getattr(sys.modules.get(of.__module__), "__file__", None)
    written = [part.__code__.co_filename for part in vars(of).values() if hasattr(part, "__code__")]
    if file is None or not os.path.isfile(file):
        return None
    file = os.path.realpath(file)
    return file if not written or file in map(os.path.realpath, written) else None


def _identity(of: Any, file: str) -> Identity:
    """Of a class in a module that was imported: version of the package if it is installed, else digests."""
    if getattr(ACTIVE, "package", None) is not None:
        return {ACTIVE.package.name: ACTIVE.package.version}
    if not outside(file):
        for name in packages_distributions().get(of.__module__.partition(".")[0], []):
            return {name: version(name)}
    return traced(file, of.__module__).identity


def _twice(kind: str, name: str, first: Entry, second: Entry) -> ConfigError:
    return ConfigError(
        f"register_{kind}({name!r}): both {defined(first.of)} and {defined(second.of)} register it; "
        "give one of them another name"
    )


def own_code(config: Config) -> Config:
    """Run the files of `rnnbench_import` (several are separated by colons), each again once it has changed.

    Returns:
        the configuration with its cell, optimiser and task bound to what these files, or else other code of
        one's own, have registered.

    Raises:
        ConfigError: a file is not there, or raises; two files register different classes under one name; a
            file that is being imported trains.
    """
    if getattr(ACTIVE, "code", None) is not None:
        raise ConfigError('it trains while it is imported; put that below if __name__ == "__main__":')
    codes = [_file(name) for name in _paths(config.rnnbench_import)]
    text = config.rnnbench_import
    imports = Own(text, _merged(code.identity for code in codes)) if text and codes else text
    return _bound(replace(config, rnnbench_import=imports), _entries(codes))


def _entries(codes: Iterable[Code]) -> dict[Key, Entry]:
    """What the code of one trial has registered."""
    entries: dict[Key, Entry] = {}
    for code in codes:
        for key, entry in code.registered.items():
            entry = replace(entry, identity=code.identity)
            if key in entries and not entries[key].equals(entry):
                raise _twice(*key, entries[key], entry)
            entries[key] = entry
    return entries


def own_config(tree: Any) -> Config:
    """Make the configuration of a stack file, a dict, with its own code imported as `own_code` does.

    Raises:
        ConfigError: it cannot be run, or as `own_code`.
    """
    entries = _entries(map(_file, _paths(tree["rnnbench_import"])))
    return own_code(_typed(tree, entries))


def _typed(tree: Any, entries: dict[Key, Entry]) -> Config:
    """Make a configuration of a dict, whose optimiser and task may be one's own."""

    def own(kind: str, name: str) -> Entry | None:
        return None if _ours(kind, name) else _entry(entries, kind, name)

    optimiser, task = own("optimiser", str(tree["optim"]["name"])), own("task", str(tree["data"]["name"]))
    return typed(tree, None if optimiser is None else optimiser.made, None if task is None else task.settings)


def _paths(files: str | None) -> list[str]:
    """The files that `rnnbench_import` names."""
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


def offer(files: Iterable[str]) -> dict[Key, Entry]:
    """Find what may be chosen where words name these files: what they, the user and packages have registered.

    Where two files that are alternatives in a sweep register one name, that of the later one.

    Raises:
        ConfigError: a file is not there, or raises.
    """
    found = _entries(plugins()) | REGISTERED
    for name in files:
        found |= _entries([_file(name)])
    return found


def registered(kind: str, name: str) -> Entry | None:
    """What a name means: what it is bound to; else what the user or a package has registered under it."""
    if isinstance(name, Own) and name.entry is not None:
        return name.entry
    if (kind, name) in REGISTERED or _ours(kind, name):
        return REGISTERED.get((kind, name))
    entries = _entries(plugins())
    return entries.get((kind, name)) or REGISTERED.get((kind, name))


@cache
def _ours(kind: str, name: str) -> bool:
    """Whether rnnbench itself has a cell, an optimiser, a task or a metric of this name."""
    if kind in ("optimiser", "metric"):
        return name in (OPTIMISERS if kind == "optimiser" else METRICS)
    return name in DATA if kind == "task" else (conf_folder() / "model" / f"{name}.yaml").is_file()


def names(kind: str) -> list[str]:
    """The names under which code of one's own has registered something."""
    loaded = (key for versions in LOADED.values() for code in versions[-1:] for key in code.registered)
    return sorted({name for of, name in (*REGISTERED, *loaded) if of == kind})


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
        if not _ours(kind, name):
            entries[kind, name] = _recalled(kind, name, tree.get("rnnbench_import"), digests)
    return _bound(_typed(tree, entries), entries)


def _recalled(kind: str, name: str, files: str | None, digests: Identity) -> Entry:
    """Find what a record was trained with among the code that was imported here; see `recalled`."""
    codes = [code for versions in LOADED.values() for code in reversed(versions)]
    known = [_entries([code])[kind, name] for code in codes if (kind, name) in code.registered]
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
    """Digests of several codes; where two have a file of one name, both digests one after the other."""
    merged: Identity = {}
    for identity in identities:
        for name, digest in identity.items():
            before = merged.get(name, "").split()
            merged[name] = " ".join([*before, *([] if digest in before else [digest])])
    return merged


def imported(config: Config) -> Identity:
    """Of a trial that `own_code` has bound, the code that is not rnnbench's: name and sha256, or version."""
    names = (config.model.name, config.optim.name, config.data.name, *(config.data.metrics or []))
    parts = (config.rnnbench_import, *names)
    return dict(sorted(_merged(part.identity for part in parts if isinstance(part, Own)).items()))


def failure(config: Config, error: Exception) -> str:
    """What the exception that a trial has failed with says, and where in code of one's own it comes from.

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
