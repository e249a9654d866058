"""Registers cells, optimisers, tasks and metrics of one's own, each with the code that it needs.

Files of `rnnbench_import` register while they are imported (`rnnbench.config.isolation`). Notebooks, scripts
and modules that Python has imported register for the whole process.
"""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

from rnnbench.config.fingerprints import fingerprint
from rnnbench.config.metrics import METRICS, OWN_METRICS, Metric
from rnnbench.config.optimisers import OPTIMISERS, Optim
from rnnbench.config.places import defined
from rnnbench.config.refusals import ConfigError
from rnnbench.config.schema import Data
from rnnbench.config.sources import outside, sha256, traced

if TYPE_CHECKING:
    from rnnbench.config.isolation import Code

Key = tuple[str, str]  # "cell", "optimiser", "task" or "metric", and the name
Identity = dict[str, str]  # file, module or package: sha256, or version
ACTIVE = threading.local()  # .code: the Code, or .package: the distribution, that registers in this thread


@dataclass(frozen=True)
class Entry:
    """A class, or a metric, that is registered under a name."""

    made: Any  # the class of a cell or an optimiser, the Kind of a task, a Metric
    of: Any  # the class that was registered, or the function that computes a metric
    identity: Identity = field(default_factory=dict)  # of the code that it needs, if files hold it
    file: str | None = None  # where it is written; None: in no file
    digest: str = ""  # of this file

    @property
    def settings(self) -> type[Data]:
        """Return the class of a task's settings."""
        kind: type[Data] = getattr(self.of, "settings", Data)
        return kind

    def needs(self) -> Identity:
        """Return the digests of the code that it needs."""
        return self.identity or {f"__main__.{self.of.__qualname__}": fingerprint(self.of)}

    def equals(self, other: "Entry") -> bool:
        """True if both are the same class, of files and helpers of the same content."""
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


REGISTERED: dict[Key, Entry] = {}  # by notebooks, scripts, modules that the user imports, installed packages


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
            raise registered_twice(kind, name, code.registered[kind, name], entry)
        return
    entry = Entry(made, of)
    if (file := _file_of(of)) is not None:
        entry = Entry(made, of, _identity(of, file), file, sha256(Path(file).read_bytes()))
    there = REGISTERED.get((kind, name))
    if there is not None and there.file and file and there.file != file and not there.equals(entry):
        raise registered_twice(kind, name, there, entry)
    REGISTERED[kind, name] = entry


# Names in a stack's state that are no optimiser's.
STATE = {"parameters", "best", "step", "clip", "dropout", "recurrent_dropout", "weight_noise", "seed"}
Made = TypeVar("Made", bound=type[Optim])


def register_optimiser(name: str) -> Callable[[Made], Made]:
    """Register the class below this decorator as the optimiser that `optim=NAME` selects.

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
    """Return the file of the module that a class is in; None if it was typed in a notebook or by exec."""
    file = getattr(sys.modules.get(of.__module__), "__file__", None)
    written = [part.__code__.co_filename for part in vars(of).values() if hasattr(part, "__code__")]
    if file is None or not os.path.isfile(file):
        return None
    file = os.path.realpath(file)
    return file if not written or file in map(os.path.realpath, written) else None


def _identity(of: Any, file: str) -> Identity:
    """Return the version of the installed package that a class is in, else the digests of its files."""
    if getattr(ACTIVE, "package", None) is not None:
        return {ACTIVE.package.name: ACTIVE.package.version}
    if not outside(file):
        for name in packages_distributions().get(of.__module__.partition(".")[0], []):
            return {name: version(name)}
    return traced(file, of.__module__).identity


def registered_twice(kind: str, name: str, first: Entry, second: Entry) -> ConfigError:
    return ConfigError(
        f"register_{kind}({name!r}): both {defined(first.of)} and {defined(second.of)} register it; "
        "give one of them another name"
    )
