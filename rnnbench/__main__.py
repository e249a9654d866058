"""python -m rnnbench: compose a run or a sweep, train it, record it, compare it."""

import signal
import sys

import hydra

from rnnbench.app import app
from rnnbench.config import check_words, conf_folder
from rnnbench.files import show_warnings
from rnnbench.launch import refusals, register
from rnnbench.show import complain, open_streams


def main() -> None:
    """The application; exit code 1 for what was refused or failed, 130 for Ctrl-C, 143 for SIGTERM."""
    open_streams()
    show_warnings()
    register()
    with refusals():
        check_words(sys.argv[1:])  # before Hydra, whose messages quote what they cannot read
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(app)()
    except KeyboardInterrupt as stopped:
        complain("interrupted; the same command on the same folder goes on from here")
        sys.exit(128 + getattr(stopped, "number", signal.SIGINT))


if __name__ == "__main__":
    main()
