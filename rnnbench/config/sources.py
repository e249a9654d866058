"""Reads the Python files that are not of an installed package: what they import, and their digests."""

import ast
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, cached_property
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

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


def sha256(content: bytes) -> str:
    """Return the sha256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
