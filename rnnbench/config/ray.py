"""Defines the settings of hydra/launcher=ray, typed. The yaml in conf/hydra/launcher only selects."""

from dataclasses import dataclass
from typing import Optional


@dataclass
class Ray:
    """Describes hydra/launcher=ray: the cluster, and what each task gets, which trains one stack."""

    _target_: str = "hydra_plugins.rnnbench_stack.RayLauncher"
    max_stack: Optional[int] = None  # trials that train together at most; null: 16
    address: Optional[str] = None  # HOST:PORT of the head, or auto; null: a cluster here, for this sweep
    num_cpus: float = 1  # cores of the stack
    num_gpus: float = 0  # for fit.device=cuda: GPUs of the stack, or the share of one (0.5)
    retries: int = 2  # times that a stack is sent again after its worker or node was lost
