"""hydra/launcher=stack, hydra/sweeper=grid and hydra/sweeper=optuna, where Hydra looks for them."""

from rnnbench import grid, launch, sweep


class StackLauncher(launch.StackLauncher):
    __doc__ = launch.StackLauncher.__doc__


class GridSweeper(grid.GridSweeper):
    __doc__ = grid.GridSweeper.__doc__


class OptunaSweeper(sweep.OptunaSweeper):
    __doc__ = sweep.OptunaSweeper.__doc__
