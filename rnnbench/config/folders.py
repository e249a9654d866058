"""Finds the files of the config groups."""

from pathlib import Path


def conf_folder() -> Path:
    """Find the folder of the config groups: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
