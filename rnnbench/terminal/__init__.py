"""Prints what the user sees: lines, live progress, and the table that compares the trials of a sweep.

Everything that the package prints goes through here. Training continues if a terminal cannot show a
character, a pipe is closed or a device is full.
"""

from rnnbench.terminal.commands import train_command, under_folds
from rnnbench.terminal.comparison import chosen, compare, grouped, judge, legend, save_comparison
from rnnbench.terminal.formats import mean_sd, number, title
from rnnbench.terminal.lines import complain, err, out, refuse, say, warn
from rnnbench.terminal.progress import Live, Reading
from rnnbench.terminal.streams import Stream, open_streams, stderr, stdout, visible
from rnnbench.terminal.tables import print_layout, show_table

__all__ = [
    "Live", "Reading", "Stream", "chosen", "compare", "complain", "err", "grouped", "judge",
    "legend", "mean_sd", "number", "open_streams", "out", "print_layout", "refuse",
    "save_comparison", "say", "show_table", "stderr", "stdout", "title", "train_command",
    "under_folds", "visible", "warn",
]  # fmt: skip
