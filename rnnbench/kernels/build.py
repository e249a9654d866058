"""python -m rnnbench.kernels.build: compile the CPU kernels; installing the package does the same.

Needs a C compiler (gcc or clang; `CC`, if set, names it) and nothing else: no headers of Python or
torch. The C of rnnbench's own cells is generated from their graphs, generator/steps/*.txt. The same sources
are compiled once for each instruction set, and the machine chooses when the library is loaded. Nothing here
imports the rest of rnnbench: an installation runs it before that is there.
"""

import hashlib
import importlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

SOURCES = Path(__file__).parent / "native"
GENERATOR = Path(__file__).parent / "generator"
LIBRARY = Path(__file__).parent / "stack.so"

# No -ffast-math: vectors are explicit in the products, sums keep their order, and nan and inf are seen.
FLAGS = [
    *("-std=gnu11", "-O3", "-fPIC", "-ffp-contract=fast"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
]
SETS: dict[str, list[str]] = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    SETS["avx2"] = ["-mavx2", "-mfma"]
    SETS["avx512"] = [*SETS["avx2"], *(f"-mavx512{part}" for part in ("f", "vl", "bw", "dq"))]
    SETS["avx512"].append("-mprefer-vector-width=512")


class BuildError(Exception):
    """The kernels cannot be built; the message says why: there is no compiler, or it failed."""


def digest() -> str:
    """Return what the library is built of: 16 digits of the sha256 of sources, generator and graphs."""
    files = [*SOURCES.glob("*.[ch]"), *GENERATOR.glob("*.py"), *GENERATOR.glob("steps/*.txt")]
    content = b"".join(path.read_bytes() for path in sorted(files))
    return hashlib.sha256(content).hexdigest()[:16]


def stock_cells() -> dict[str, str]:
    """Generate the C of each of rnnbench's own cells, by the names of their graphs."""
    c, graph = _generator("c"), _generator("graph")
    graphs = [graph.parse(path.read_text(encoding="utf-8")) for path in sorted(GENERATOR.glob("steps/*.txt"))]
    return {each.name: c.source(each) for each in graphs}


def _generator(name: str) -> ModuleType:
    """Import a module of the generator by its path, as a package of its own."""
    package = "rnnbench_generator"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(package, GENERATOR / "__init__.py")
        assert spec is not None and spec.loader is not None
        sys.modules[package] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.{name}")


def compiler() -> list[str]:
    """Find the C compiler's command.

    Raises:
        BuildError: there is none.
    """
    if "CC" in os.environ:
        return shlex.split(os.environ["CC"])
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is None:
        raise BuildError("there is no C compiler (cc, gcc or clang)")
    return [found]


def build(library: Path = LIBRARY) -> None:
    """Compile rnnbench's own cells for every instruction set of this kind of machine into one library.

    Raises:
        BuildError: there is no compiler, or it failed; no library is left then.
    """
    compile_library(stock_cells(), SETS, library)


def compile_library(cells: dict[str, str], sets: Iterable[str], target: Path) -> None:
    """Compile the kernels with some cells, the C of each by its name, for instruction sets of SETS.

    Raises:
        BuildError: there is no compiler, or it failed; the target is as it was.
    """
    cc = compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        (Path(folder) / "cells.h").write_text(_generator("c").library(cells), encoding="utf-8")
        names = json.dumps("\n".join(cells), ensure_ascii=False)  # a string of C, too
        jobs = [("stack.c", f"{name}.o", [*SETS[name], f"-DSET={name}", f"-I{folder}"]) for name in sets]
        jobs.append(("machine.c", "machine.o", [f'-DSOURCES="{digest()}"', f"-DCELLS={names}"]))
        objects = [name for _, name, _ in jobs]
        commands = [
            [*cc, *FLAGS, *flags, "-c", str(SOURCES / source), "-o", name] for source, name, flags in jobs
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda command: _run(command, folder), commands))
        _run([*cc, "-shared", "-pthread", *objects, "-o", "library.so", "-lm"], folder)
        os.replace(Path(folder) / "library.so", target)


def _run(command: list[str], folder: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    try:
        build()
    except BuildError as error:
        sys.exit(str(error))
    print(f"built {LIBRARY} for {', '.join(SETS)}")
