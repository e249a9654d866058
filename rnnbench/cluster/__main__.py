"""python -m rnnbench.cluster FILE: train a stack that was sent here."""

import sys
from pathlib import Path

from rnnbench.cluster.base import work_on
from rnnbench.sweep.launcher import refusals
from rnnbench.system import signals
from rnnbench.terminal import open_streams

if __name__ == "__main__":
    open_streams()
    try:
        with refusals(), signals.listen():
            work_on(Path(sys.argv[1]))
    except signals.StopRequest as stopped:
        sys.exit(128 + stopped.number)
