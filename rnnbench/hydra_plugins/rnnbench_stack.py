"""hydra/launcher=stack and hydra/sweeper=grid, where Hydra looks for them."""

from rnnbench import launch


class StackLauncher(launch.StackLauncher):
    __doc__ = launch.StackLauncher.__doc__


class GridSweeper(launch.GridSweeper):
    __doc__ = launch.GridSweeper.__doc__
