"""What a trial leaves: its job folder, which is the truth, and MLflow's copy of it.

Training writes job folders and never imports mlflow. A process beside it, the courier, delivers them to
MLflow; `python -m rnnbench.record sync FOLDER` does the same at any later time.
"""

from rnnbench.record.courier import Courier, undelivered
from rnnbench.record.folder import (
    JobFolder,
    abandon,
    inherit,
    previous,
    read_delivery,
    read_metrics,
    read_overrides,
    read_result,
)
from rnnbench.record.provenance import provenance
from rnnbench.record.read import download, records
from rnnbench.record.store import check_store, driven, sqlite_file, ui_command
from rnnbench.record.sweep import (
    STACKS,
    SweepFolder,
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
    "Courier",
    "JobFolder",
    "SweepFolder",
    "abandon",
    "check_store",
    "download",
    "driven",
    "inherit",
    "job_folders",
    "new_folder",
    "previous",
    "provenance",
    "read_delivery",
    "read_metrics",
    "read_overrides",
    "read_result",
    "read_sweep",
    "records",
    "results",
    "sqlite_file",
    "status_now",
    "sync_command",
    "ui_command",
    "undelivered",
    "work",
    "workers",
]
