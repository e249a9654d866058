"""Defines rnnbench's launchers and sweepers where Hydra looks for plugins."""

from rnnbench.cluster import ray, slurm
from rnnbench.search import sweeper as sweep
from rnnbench.sweep import grid, launcher


class StackLauncher(launcher.StackLauncher):
    __doc__ = launcher.StackLauncher.__doc__


class SlurmLauncher(slurm.SlurmLauncher):
    __doc__ = slurm.SlurmLauncher.__doc__


class RayLauncher(ray.RayLauncher):
    __doc__ = ray.RayLauncher.__doc__


class GridSweeper(grid.GridSweeper):
    __doc__ = grid.GridSweeper.__doc__


class OptunaSweeper(sweep.OptunaSweeper):
    __doc__ = sweep.OptunaSweeper.__doc__
