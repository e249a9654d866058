"""Writes and reads records: what a trial leaves in its job folder.

The job folder is the truth, and MLflow has a copy. Training writes job folders and never imports mlflow: a
process beside it, the courier (see `rnnbench.mlflow_sync`), delivers them to MLflow, and
`python -m rnnbench.record sync FOLDER` does the same at any later time.
"""

from rnnbench.record.copying import begin_from, copy_record, inherit, is_whole, write_copy
from rnnbench.record.job_folder import (
    JobFolder,
    abandon,
    is_job,
    previous,
    read_delivery,
    read_metrics,
    read_overrides,
    read_result,
)
from rnnbench.record.provenance import provenance, same_numbers
from rnnbench.record.sweep_folder import (
    STACKS,
    SweepFolder,
    delivered_runs,
    is_sweep,
    job_folders,
    new_folder,
    read_sweep,
    results,
    status_now,
    sync_command,
    work,
    workers,
)

__all__ = [
    "STACKS",
    "JobFolder",
    "SweepFolder",
    "abandon",
    "begin_from",
    "copy_record",
    "delivered_runs",
    "inherit",
    "is_job",
    "is_sweep",
    "is_whole",
    "job_folders",
    "new_folder",
    "previous",
    "provenance",
    "read_delivery",
    "read_metrics",
    "read_overrides",
    "read_result",
    "read_sweep",
    "results",
    "same_numbers",
    "status_now",
    "sync_command",
    "work",
    "workers",
    "write_copy",
]
