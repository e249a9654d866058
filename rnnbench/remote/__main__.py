"""python -m rnnbench.remote FILE: train a stack that was sent here."""

import sys
from pathlib import Path

from rnnbench.launch import refusals
from rnnbench.remote.worker import work_on

if __name__ == "__main__":
    with refusals():
        work_on(Path(sys.argv[1]))
