"""Reads Python code of the user's own: what it imports, its digests, the line that raised."""

import ast
import hashlib
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from rnnbench.config.refusals import ConfigError

# Packages whose objects one's own code and rnnbench share. They are never one's own, even if editable.
SHARED = frozenset({"rnnbench", "torch", "numpy", "omegaconf", "hydra"})


@cache
def _installed() -> tuple[str, ...]:
    """Return the folders of the standard library, of installed packages and of rnnbench."""
    folders = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])]
    return tuple({path + os.sep for folder in folders for path in (folder, os.path.realpath(folder))})


def outside(file: str) -> bool:
    """True if a file lies outside of rnnbench, the standard library and the installed packages.

    A folder of sys.path that holds a *.dist-info has installed packages, as `pip install --target` makes it.
    An editable installation lies in its source tree, so it is outside.
    """
    if file.startswith(_installed()):
        return False
    file = os.path.realpath(file)
    targets = [
        os.path.realpath(entry) + os.sep
        for entry in sys.path
        if entry
        and file.startswith(os.path.realpath(entry) + os.sep)
        and any(Path(entry).glob("*.dist-info"))
    ]
    return not file.startswith((*_installed(), *targets))


def may_be_own(name: str) -> bool:
    """True if a module of this name may be the user's own."""
    top = name.partition(".")[0]
    return top not in SHARED and top not in sys.stdlib_module_names and name != "__main__"


def imports(content: bytes, package: str) -> Iterator[str]:
    """Return the modules that a file may import, at its top or later; of `from a import b` both a and a.b.

    Args:
        package: the one that the file's relative imports begin from.
    """
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))


class Sources:
    """A file of one's own and the modules of one's own that it imports, with their contents.

    Args:
        file: the file.
        name: of its module.
        folder: where its imports are looked for before sys.path is.
    """

    def __init__(self, file: str, name: str, folder: str | None = None) -> None:
        self.file, self.name, self.folder = file, name, folder
        self.files: dict[str, str] = {}  # by module
        self.contents: dict[str, bytes] = {}

    def read(self, name: str, file: str) -> bytes:
        """Return the content of a module's file, which enters the identity."""
        self.files[name], self.contents[name] = file, Path(file).read_bytes()
        return self.contents[name]

    def spec(self, name: str, path: Any = None) -> ModuleSpec | None:
        """Find what Python would import under a name, in the folder of the file first, as for a script."""
        if not may_be_own(name):
            return None
        if path is None and self.folder and (spec := PathFinder.find_spec(name, [self.folder, *sys.path])):
            return spec
        finders = (finder for finder in sys.meta_path if not isinstance(finder, Sources))
        found = (finder.find_spec(name, path, None) for finder in finders if hasattr(finder, "find_spec"))
        return next(filter(None, found), None)

    def trace(self) -> None:
        """Read the modules that those read so far import, also those that a function imports when it runs."""
        todo = list(self.contents)
        while todo:
            name = todo.pop()
            if not self.files[name].endswith(".py"):
                continue
            is_package = os.path.basename(self.files[name]) == "__init__.py"
            try:
                found = set(imports(self.contents[name], name if is_package else name.rpartition(".")[0]))
            except (SyntaxError, ValueError):  # no Python, so it was found but never executed
                continue
            for other in sorted(found):
                todo += self._read_along(other)

    def _read_along(self, name: str) -> list[str]:
        """Read a module and the packages above it, if they are one's own and not read before."""
        path, new = None, []
        parts = name.split(".") if all(name.split(".")) else []  # else above the top, which Python refuses
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            spec = self.spec(part, path)
            if spec is None:
                break
            path = spec.submodule_search_locations
            file = spec.origin if spec.has_location else None
            if file and part not in self.contents and outside(file) and os.path.isfile(file):
                self.read(part, file)
                new.append(part)
            if path is None:
                break
        return new

    @cached_property
    def identity(self) -> dict[str, str]:
        """Return the sha256 of each file, by the name of the file itself and by the names of its modules."""
        names = {name: os.path.basename(self.file) if name == self.name else name for name in self.contents}
        return {names[name]: sha256(content) for name, content in self.contents.items()}

    @property
    def current(self) -> bool:
        """True if all files are still as they were read."""
        try:
            return all(Path(self.files[name]).read_bytes() == held for name, held in self.contents.items())
        except OSError:
            return False


# By module: its spec, and its file as it was when it was first seen. A reload makes a new spec.
AS_IMPORTED: dict[str, tuple[object, str, bytes]] = {}


class Imported(Sources):
    """The sources of a module that Python has imported, as they were at that time.

    A module in sys.modules stays what it is when its file is edited, until it is reloaded.
    """

    def read(self, name: str, file: str) -> bytes:
        module = sys.modules.get(name)
        held = getattr(module, "__file__", None)
        content = super().read(name, file)
        if held is not None and os.path.realpath(held) == os.path.realpath(file):
            spec = getattr(module, "__spec__", None)
            before = AS_IMPORTED.get(name)
            if before is None or before[0] is not spec or before[1] != file:
                AS_IMPORTED[name] = (spec, file, content)
            self.contents[name] = content = AS_IMPORTED[name][2]
        return content


def traced(file: str, name: str) -> Sources:
    """Return the sources of a module that was imported already."""
    sources = Imported(file, name)
    sources.read(name, file)
    sources.trace()
    return sources


def fingerprint(value: Any) -> str:
    """Return a digest of a class or function that is in no file: of its code and what that refers to."""
    digest = hashlib.sha256()
    _feed(digest, value, {})
    return digest.hexdigest()


def _feed(digest: Any, value: Any, seen: dict[int, tuple[int, Any]]) -> None:
    """Add a value to a digest; where code was typed, and the numbers of its lines, do not matter.

    Args:
        seen: by id what was added before, with its number; this keeps it, so that no other has its id.
    """
    digest.update(f"<{type(value).__name__}>".encode())
    if isinstance(value, (str, bytes, int, float, complex, type(None))):
        digest.update(repr(value).encode())
    elif id(value) in seen:
        digest.update(str(seen[id(value)][0]).encode())
    else:
        seen[id(value)] = len(seen), value
        for part in _parts(value):
            _feed(digest, part, seen)
        digest.update(b";")


def _parts(value: Any) -> list[Any]:
    """Return the parts of a value that its meaning depends on."""
    match value:
        case CodeType():
            return [value.co_code, value.co_names, value.co_varnames, value.co_freevars, value.co_consts]
        case ModuleType():
            return _known(value)
        case FunctionType():
            return _known(value) or _closed(value)
        case type():
            return _known(value) or _parts_of_class(value)
        case staticmethod() | classmethod():
            return [value.__func__]
        case property():
            return [value.fget, value.fset, value.fdel]
        case cached_property():
            return [value.func]
        case dict():
            return [part for item in value.items() for part in item]
        case list() | tuple():
            return list(value)
        case set() | frozenset():
            return sorted(value, key=repr)
    return [type(value), *_state(value)]


def _state(value: Any) -> list[Any]:
    """Return the state of an object of any other class."""
    if hasattr(value, "__wrapped__"):  # a function behind a cache
        return [value.__wrapped__]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor) and value.layout is torch.strided:
        held = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), held]
    try:
        made = value.__reduce_ex__(4)
    except Exception:  # copying may raise anything, by its class
        return [getattr(value, "__dict__", {})]
    if isinstance(made, str):  # a name
        return [made]
    return [list(part) if isinstance(part, Iterator) else part for part in made]


def _known(value: Any) -> list[Any]:
    """Return name and digests of a thing that is in a file, digests only of one's own; else nothing."""
    if isinstance(value, ModuleType):
        name, file, there = value.__name__, getattr(value, "__file__", None), True
    else:
        module = sys.modules.get(value.__module__)
        name, file = f"{value.__module__}.{value.__qualname__}", getattr(module, "__file__", None)
        there = value.__module__ != "__main__" and _within(module, value.__qualname__) is value
    if not there:
        return []
    if file and outside(file) and os.path.isfile(file):
        return [name, *sorted(traced(file, name).identity.items())]
    return [name]


def _within(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _closed(function: FunctionType) -> list[Any]:
    """Return a function's code, its defaults, and the values of its closure and globals."""
    found = function.__globals__
    names = sorted(_names(function.__code__) & found.keys())
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    about = [function.__code__, function.__defaults__, function.__kwdefaults__, cells]
    return [*about, *(part for name in names for part in (name, found[name]))]


def _parts_of_class(kind: type) -> list[Any]:
    about_the_text = ["__module__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"]
    counted = [
        "_backward_cls"
    ]  # of a torch.autograd.Function: it has the number of this class in the process
    held = {key: part for key, part in sorted(vars(kind).items()) if key not in about_the_text + counted}
    return [kind.__qualname__, list(kind.__bases__), held]


def _names(code: CodeType) -> set[str]:
    """Return the names that code and the functions in it look up."""
    inner = (_names(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)


def sha256(content: bytes) -> str:
    """Return the sha256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def defined(value: Any) -> str:
    """Return FILE:LINE of a function, or of the first function of a class."""
    functions = [value] if isinstance(value, FunctionType) else vars(value).values()
    for function in functions:
        if isinstance(function, FunctionType):
            return place(function.__code__.co_filename, function.__code__.co_firstlineno)
    return f"{value.__module__}.{value.__qualname__}"


def place(file: str, line: int | None) -> str:
    """Write FILE:LINE for a message, the file relative to the working directory if it is below it."""
    below = os.path.realpath(file).startswith(os.path.realpath(os.curdir) + os.sep)
    return f"{os.path.relpath(os.path.realpath(file), os.path.realpath(os.curdir)) if below else file}:{line}"


def blamed(error: BaseException) -> str | None:
    """Return the last line of one's own code in an exception's traceback, as FILE:LINE; None if none is."""
    if isinstance(error, SyntaxError) and error.filename and outside(error.filename):
        return place(error.filename, error.lineno)
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file, main = frame.f_code.co_filename, frame.f_globals.get("__name__") == "__main__"
        if outside(file) if os.path.isfile(file) else main:
            found = place(file, line)
    return found


def explained(error: BaseException) -> str:
    """Return an exception's message, after the line of one's own code that raised it, if one did."""
    where = blamed(error)
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
    except Exception:  # printing may raise anything, by its class
        text = "its message cannot be printed"
    said = [] if isinstance(error, ConfigError) else [type(error).__name__]
    words = ". ".join([": ".join([*said, *([str(text)] if text else [])]), *getattr(error, "__notes__", [])])
    return f"{where}: {words}" if where else words
