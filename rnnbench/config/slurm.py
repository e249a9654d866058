"""Defines the settings of hydra/launcher=slurm, typed. The yaml in conf/hydra/launcher only selects."""

from dataclasses import dataclass, field
from typing import Any, Optional


@dataclass
class Slurm:
    """Describes hydra/launcher=slurm: what each task gets, which trains one stack."""

    _target_: str = "hydra_plugins.rnnbench_stack.SlurmLauncher"
    max_stack: Optional[int] = None  # trials that train together at most; null: 16, more on a card
    cluster: Optional[str] = None  # slurm; local: processes of this machine; null: slurm where srun is
    timeout_min: int = 60  # the time limit, in minutes
    cpus_per_task: int = 1  # threads of the stack
    mem_gb: Optional[float] = None  # null: the cluster's default
    gpus_per_node: Optional[int] = None  # cards of the stack; null: 1 for fit.device=cuda, else none
    partition: Optional[str] = None
    account: Optional[str] = None
    array_parallelism: int = 256  # tasks of an array that run at the same time
    requeue: int = 3  # times that a stack goes on after its time limit; 0: never, nor after preemption
    retries: int = 2  # times that a stack is sent again after its task was lost
    setup: list[str] = field(default_factory=list)  # shell lines before the worker starts: module load ...
    additional_parameters: dict[str, Any] = field(
        default_factory=dict
    )  # further options of sbatch: {qos: low}
