"""Our launchers and sweepers, where Hydra looks for them."""

from rnnbench import grid, launch, sweep
from rnnbench.remote import ray, slurm


class StackLauncher(launch.StackLauncher):
    __doc__ = launch.StackLauncher.__doc__


class SlurmLauncher(slurm.SlurmLauncher):
    __doc__ = slurm.SlurmLauncher.__doc__


class RayLauncher(ray.RayLauncher):
    __doc__ = ray.RayLauncher.__doc__


class GridSweeper(grid.GridSweeper):
    __doc__ = grid.GridSweeper.__doc__


class OptunaSweeper(sweep.OptunaSweeper):
    __doc__ = sweep.OptunaSweeper.__doc__
