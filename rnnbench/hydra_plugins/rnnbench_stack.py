"""hydra/launcher=stack, hydra/sweeper=grid and hydra/sweeper=optuna, where Hydra looks for them."""

from rnnbench import launch, sweep


class StackLauncher(launch.StackLauncher):
    __doc__ = launch.StackLauncher.__doc__


class GridSweeper(launch.GridSweeper):
    __doc__ = launch.GridSweeper.__doc__


class OptunaSweeper(sweep.OptunaSweeper):
    __doc__ = sweep.OptunaSweeper.__doc__
