"""python -m rnnbench.kernels.build: compile the CPU kernels; installing the package does the same.

Needs a C compiler (gcc or clang; `CC`, if set, names it) and nothing else: no headers of Python or
torch. The same sources are compiled once for each instruction set, and the machine chooses when the
library is loaded. Nothing here imports the rest of rnnbench: an
installation runs it before that is there.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
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


def digest(sources: Path = SOURCES) -> str:
    """Return what the library is built of: sha256 of the sources, 16 digits."""
    content = b"".join(path.read_bytes() for path in sorted(sources.glob("*.[ch]")))
    return hashlib.sha256(content).hexdigest()[:16]


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
    """Compile the kernels for every instruction set of this kind of machine into one library.

    Raises:
        BuildError: there is no compiler, or it failed; no library is left then.
    """
    cc = compiler()
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        jobs = [("stack.c", f"{name}.o", [*flags, f"-DSET={name}"]) for name, flags in SETS.items()]
        jobs.append(("machine.c", "machine.o", [f'-DSOURCES="{digest()}"']))
        objects = [target for _, target, _ in jobs]
        commands = [
            [*cc, *FLAGS, *flags, "-c", str(SOURCES / source), "-o", target] for source, target, flags in jobs
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda command: _run(command, folder), commands))
        _run([*cc, "-shared", "-pthread", *objects, "-o", "stack.so", "-lm"], folder)
        os.replace(Path(folder) / "stack.so", library)


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
