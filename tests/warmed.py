"""Imported where commands are forked: Hydra knows its plugins there, and has parsed the files of a trial."""

from rnnbench.sweep.compose import compose_one
from rnnbench.sweep.launcher import register

register()
compose_one([])
compose_one(["hydra/sweeper=optuna"])
