"""python -m rnnbench.remote FILE: train a stack that was sent here."""

import sys
from pathlib import Path

from rnnbench import signals
from rnnbench.launch import refusals
from rnnbench.remote.worker import work_on
from rnnbench.show import open_streams

if __name__ == "__main__":
    open_streams()
    try:
        with refusals(), signals.listen():
            work_on(Path(sys.argv[1]))
    except signals.Stopped as stopped:
        sys.exit(128 + stopped.number)
