"""An MLflow server that is away, answers with errors or is slow: training does not wait, nothing is lost,
and every metric arrives once."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rnnbench.record import Courier, job_folders, read_result, undelivered
from rnnbench.record.__main__ import sync
from rnnbench.record.folder import read_delivery
from tests.mlflow_store import (
    Server,
    assert_exact,
    claim,
    epoch,
    make_sweep,
    runs_of,
    start,
    train,
    until,
)
from tests.proxy import Fault, Proxy
from tests.test_app import start as start_app

QUICK = ["fit.epochs=3", "model.hidden_size=4", "data.train_size=64", "hydra.sweep.dir=s", "seed=0,1"]


@pytest.fixture
def server(mlflow_server: Server) -> Server:
    mlflow_server.start()
    return mlflow_server


@pytest.fixture
def quick_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
