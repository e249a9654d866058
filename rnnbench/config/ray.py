"""Defines the settings of hydra/launcher=ray, typed. The yaml in conf/hydra/launcher only selects."""

from dataclasses import dataclass
from typing import Optional


@dataclass
class Ray:
    """Describes hydra/launcher=ray: the cluster, and what each task gets, which trains one stack."""

    _target_: str = "hydra_plugins.rnnbench_stack.RayLauncher"
    max_stack: Optional[int] = None  # trials that train together at most; null: 16, more on a card
    address: Optional[str] = None  # HOST:PORT of the head, or auto; null: a cluster here, for this sweep
    num_cpus: float = 1  # cores of the stack
    num_gpus: Optional[float] = None  # cards of the stack, or 0.5 of one; null: 1 for fit.device=cuda, else 0
    retries: int = 2  # times that a stack is sent again after its worker or node was lost
