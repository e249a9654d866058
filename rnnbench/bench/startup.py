"""Times the command up to the first epoch's report, beside `import torch`."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def first_epoch() -> float:
    """Time from the command to the first epoch's report, in seconds, on the digits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "rnnbench", "hydra.run.dir=run/0", "fit.epochs=2"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder, env=environment)
        metrics = folder / "run" / "0" / "metrics.csv"
        while not (metrics.exists() and metrics.read_text(encoding="utf-8").count("\n") > 1):
            if process.poll() not in (None, 0):
                raise RuntimeError("the command failed")
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        process.wait()
        return seconds


def import_torch() -> float:
    """Time a process that imports torch and ends, in seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started
