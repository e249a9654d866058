"""Provides rnnbench's sweeper under the published sweeper's name, for configs that name that one."""

from typing import Any

from rnnbench.search import sweeper as sweep
from rnnbench.terminal import say


class OptunaSweeper(sweep.OptunaSweeper):
    __doc__ = sweep.OptunaSweeper.__doc__

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        say(f"{type(self).__module__}.{type(self).__name__} is hydra/sweeper=optuna of rnnbench here")
