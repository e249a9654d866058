"""Imports each module of this package; each defines a kind of storage for studies, which registers itself."""

import pkgutil
from importlib import import_module

from rnnbench.search.storages.kind import KINDS

__all__ = ["KINDS"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
