"""python -m rnnbench: compose a run or a sweep, train it, record it, compare it."""

import os
import signal
import sys

from hydra.errors import CompactHydraException

from rnnbench import __version__
from rnnbench.app import app
from rnnbench.config import ConfigError, conf_folder
from rnnbench.config.secrets import check_words
from rnnbench.sweep.arguments import as_hydra_reads, completable, is_sweep, loader_of, read_arguments
from rnnbench.sweep.explain import explained
from rnnbench.sweep.hydra_api import run_application
from rnnbench.sweep.launcher import refusals, register
from rnnbench.sweep.overrides import Checker
from rnnbench.system.files import show_warnings
from rnnbench.terminal import complain, open_streams, say


def main() -> None:
    """Run the application; exit with 1 for what was refused or failed, 130 for Ctrl-C, 143 for SIGTERM."""
    open_streams()
    show_warnings()
    if sys.argv[1:] == ["--version"]:  # before Hydra, which would print its own version
        say(f"rnnbench {__version__}")
        return
    register()
    words = sys.argv[1:]
    try:
        with refusals():
            check_here()
            check_words(words)  # before Hydra, whose messages quote what they cannot read
            arguments = read_arguments(words)
            if arguments.shell_completion:
                os.environ["COMP_LINE"] = completable(os.environ.get("COMP_LINE", ""))  # Hydra reads it
            else:
                Checker(loader_of(arguments)).check(arguments.overrides, several=is_sweep(arguments))
            with explained(arguments.overrides):
                run_application(app, str(conf_folder()), "config", as_hydra_reads)
    except KeyboardInterrupt as stopped:
        complain("interrupted; the same command on the same folder goes on from here")
        sys.exit(128 + getattr(stopped, "number", signal.SIGINT))
    except CompactHydraException as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        complain(str(error))
        sys.exit(1)


def check_here() -> None:
    """Refuse to run in a folder that was deleted: Hydra asks for the working directory at once.

    Raises:
        ConfigError: the working directory does not exist.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"the folder that this command runs in is gone ({error.strerror}); change to another: cd ..."
        ) from None


if __name__ == "__main__":
    main()
