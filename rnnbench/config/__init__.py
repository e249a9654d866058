"""Defines a trial: its typed configuration, the checks that refuse it, its identity.

Nothing here needs torch, so that a mistake in the command line is answered before anything slow is
imported.
"""

from rnnbench.config.checks import check
from rnnbench.config.folders import conf_folder
from rnnbench.config.folds import folds_of
from rnnbench.config.identity import ADDED, REVISION, identifies, is_off, recorded, trial_hash
from rnnbench.config.metrics import (
    Metric,
    bounds,
    digits,
    direction,
    final_metrics,
    heading,
    measured_by,
    objective,
    on_test,
    per_epoch,
    selection,
)
from rnnbench.config.optimisers import OPTIMISERS, Adam, AdamW, Optim, RMSprop, Sgd
from rnnbench.config.ray import Ray
from rnnbench.config.refusals import ConfigError
from rnnbench.config.schema import (
    DATA,
    STEPS_PER_EPOCH,
    Artifact,
    Config,
    Data,
    Fit,
    Kernel,
    Model,
    Nonlinearity,
    Precision,
    Readout,
    RecurrentInit,
    Reuse,
    Schedule,
    Select,
    Tracking,
)
from rnnbench.config.search import Drawn, Search
from rnnbench.config.secrets import mask
from rnnbench.config.slurm import Slurm
from rnnbench.config.trees import SharedYaml, flatten, plain, to_yaml, typed
from rnnbench.config.uris import check_uri

__all__ = [
    "ADDED",
    "DATA",
    "OPTIMISERS",
    "REVISION",
    "STEPS_PER_EPOCH",
    "Adam",
    "AdamW",
    "Artifact",
    "Config",
    "ConfigError",
    "Data",
    "Drawn",
    "Fit",
    "Kernel",
    "Metric",
    "Model",
    "Nonlinearity",
    "Optim",
    "Precision",
    "RMSprop",
    "Ray",
    "Readout",
    "RecurrentInit",
    "Reuse",
    "Schedule",
    "Search",
    "Select",
    "Sgd",
    "SharedYaml",
    "Slurm",
    "Tracking",
    "bounds",
    "check",
    "check_uri",
    "conf_folder",
    "digits",
    "direction",
    "final_metrics",
    "flatten",
    "folds_of",
    "heading",
    "identifies",
    "is_off",
    "mask",
    "measured_by",
    "objective",
    "on_test",
    "per_epoch",
    "plain",
    "recorded",
    "selection",
    "to_yaml",
    "trial_hash",
    "typed",
]
