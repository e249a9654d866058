"""rnnbench: compare recurrent networks, and print the answer in a paper.

From Python: `run` trains a trial, `load` gives its trained network, `records` all results as a frame;
`register_cell`, `register_optimiser`, `register_task` and `register_metric` add what is one's own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Cell",
    "ConfigError",
    "Metric",
    "Optim",
    "load",
    "records",
    "register_cell",
    "register_metric",
    "register_optimiser",
    "register_task",
    "run",
]

if TYPE_CHECKING:
    from rnnbench.api import load
    from rnnbench.app import run
    from rnnbench.config import ConfigError, Metric, Optim
    from rnnbench.config.registry import register_metric, register_optimiser
    from rnnbench.nn.cells import Cell, register_cell
    from rnnbench.reader import records
    from rnnbench.tasks import register_task

HOMES = {
    "Cell": "nn.cells",
    "ConfigError": "config",
    "Metric": "config.metrics",
    "Optim": "config.optimisers",
    "load": "api",
    "records": "reader",
    "register_cell": "nn.cells",
    "register_metric": "config.registry",
    "register_optimiser": "config.registry",
    "register_task": "tasks",
    "run": "app",
}


def __getattr__(name: str) -> Any:
    """Import the names above when they are asked for: some bring in torch or pandas."""
    if name in HOMES:
        return getattr(import_module(f"rnnbench.{HOMES[name]}"), name)
    raise AttributeError(f"module 'rnnbench' has no attribute {name!r}")
