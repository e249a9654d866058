"""Imports a file of one's own with modules of its own, apart from those of other trials."""

import builtins
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, resolve_name, spec_from_file_location
from types import ModuleType
from typing import Any

from rnnbench.config.registry import ACTIVE, Entry, Key
from rnnbench.config.sources import Sources, may_be_own, outside

LOCK = threading.RLock()  # held while sys.modules has the modules of one Code


class Code(Sources):
    """A file of one's own as a trial imports it; its modules are not shared with other trials.

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
        """Make imports in this block those of this code."""
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
        """Answer Python's import system: a module of one's own gets a Loader."""
        spec = self.spec(name, path)
        if spec is None:
            return None
        places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or [])
        if not places or not all(place is not None and outside(place) for place in places):
            return None  # an installed module, which Python's other finders find
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
        """Import as `__import__` does, with the modules of this code."""
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
    """True if a module in sys.modules is one's own and can be made again from its source."""
    if not isinstance(module, ModuleType) or not may_be_own(name):
        return False
    file = vars(module).get("__file__")  # getattr would have a lazy module import what it stands for
    if file is not None:
        return str(file).endswith(".py") and outside(str(file))
    folders = list(vars(module).get("__path__") or [])
    return bool(folders) and all(map(outside, folders))
