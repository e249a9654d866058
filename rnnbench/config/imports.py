"""Code of one's own: files named by `rnnbench_import`, packages with an entry point in the group `rnnbench`.

It registers cells and tasks. What was imported enters a trial's identity by its content.
"""

import hashlib
import runpy
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

from rnnbench.config.schema import Config, ConfigError

IMPORTED: dict[str, str] = {}  # file, or package: sha256, or version


def own_code(config: Config) -> None:
    """Run the files of `rnnbench_import`, each once in a process; several are separated by colons.

    Raises:
        ConfigError: a file is not there, or raises.
    """
    for name in (config.rnnbench_import or "").split(":"):
        if name:
            _run(str(Path(name).expanduser().resolve()), name)


@lru_cache
def _run(file: str, name: str) -> None:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"rnnbench_import={name}: cannot be read ({error.strerror}); give a Python file"
        ) from None
    try:
        runpy.run_path(file, run_name=Path(file).stem)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"rnnbench_import={name}: raises {type(error).__name__}: {error}") from error
    IMPORTED[Path(file).name] = hashlib.sha256(content).hexdigest()


@lru_cache
def plugins() -> None:
    """Load the entry points of installed packages, once; asked for where a name is not known."""
    for point in entry_points(group="rnnbench"):
        point.load()
        if point.dist is not None:
            IMPORTED[point.dist.name] = point.dist.version


def imported(config: Config) -> dict[str, str]:
    """Of a trial, the code that is not rnnbench's: file, or package, and sha256, or version."""
    files = {Path(name).name for name in (config.rnnbench_import or "").split(":") if name}
    packages = {name for name in IMPORTED if not name.endswith(".py")}
    return {name: IMPORTED[name] for name in sorted(files | packages) if name in IMPORTED}
