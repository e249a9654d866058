"""What a trial leaves: its job folder, which is the truth, and MLflow's copy of it.

Training writes job folders and never imports mlflow. A process beside it, the courier, delivers them to
MLflow; `python -m rnnbench.record sync FOLDER` does the same at any later time.
"""

from rnnbench.record.courier import Courier, undelivered
from rnnbench.record.folder import JobFolder, abandon, read_delivery, read_metrics, read_result, write_json
from rnnbench.record.provenance import mask, provenance
from rnnbench.record.read import download, records
from rnnbench.record.store import check_store, sqlite_file
from rnnbench.record.sweep import (
    STACKS,
    SweepFolder,
    held,
    job_folders,
    read_sweep,
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
    "held",
    "job_folders",
    "mask",
    "provenance",
    "read_delivery",
    "read_metrics",
    "read_result",
    "read_sweep",
    "records",
    "sqlite_file",
    "status_now",
    "sync_command",
    "undelivered",
    "work",
    "workers",
    "write_json",
]
