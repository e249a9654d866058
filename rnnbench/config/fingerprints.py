"""Computes digests of classes and functions that no file holds, such as those typed into a notebook."""

import hashlib
import os
import sys
from collections.abc import Iterator
from functools import cached_property
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from rnnbench.config.sources import outside, traced


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
