"""rnnbench: compare recurrent networks, and print the answer in a paper.

From Python: `run` trains a trial, `load` gives its trained network, `records` all results as a frame.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ConfigError", "load", "records", "run"]

if TYPE_CHECKING:
    from rnnbench.config import ConfigError
    from rnnbench.record import records
    from rnnbench.trained import load, run

HOMES = {"ConfigError": "config", "records": "record", "load": "trained", "run": "trained"}


def __getattr__(name: str) -> Any:
    """The names above, imported when they are asked for: some bring in torch or pandas."""
    if name in HOMES:
        return getattr(import_module(f"rnnbench.{HOMES[name]}"), name)
    raise AttributeError(f"module 'rnnbench' has no attribute {name!r}")
