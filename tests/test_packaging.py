"""What is installed: the wheel and the editable install, the pins, and the commands that install them."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import quick_compiler
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[1]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
PINS = (CHECKOUT / "requirements.txt").read_text()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads: a build leaves folders beside it that would go into the next one."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    for name in ("conf", "rnnbench"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for steps in (folder / "rnnbench/kernels/generator/steps").iterdir():
        if steps.name != "lstm.txt":  # one cell is compiled in a fraction of the time
            steps.unlink()
    return folder


def build(source: Path, kind: str) -> Path:
    """The `wheel` or the `editable` wheel of a source folder, made as pip makes it."""
    make = f"from setuptools import build_meta; build_meta.build_{kind}('dist-{kind}')"
    environment = os.environ | quick_compiler(source.parent)
    subprocess.run([sys.executable, "-c", make], cwd=source, env=environment, check=True, capture_output=True)
    (wheel,) = (source / f"dist-{kind}").glob("*.whl")
    return wheel


def run(command: list[str | Path], folder: Path) -> str:
    """Standard output of a command that must succeed, started where no checkout is in sight."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_carries_every_module_config_and_kernel_and_nothing_else(source: Path) -> None:
    modules = {path.relative_to(source).as_posix() for path in source.glob("rnnbench/**/*.py")}
    configs = {f"rnnbench/{path.relative_to(source).as_posix()}" for path in source.glob("conf/**/*.*")}
    kernels = {
        path.relative_to(source).as_posix()
        for pattern in ("native/*", "generator/steps/*.txt")
        for path in source.glob(f"rnnbench/kernels/{pattern}")
    }
    assert modules and configs and kernels
    if any(map(shutil.which, ("cc", "gcc", "clang"))):
        kernels.add("rnnbench/kernels/stack.so")
    with zipfile.ZipFile(build(source, "wheel")) as wheel:
        carried = {name for name in wheel.namelist() if ".dist-info/" not in name}
    data = {f"rnnbench/paper/{name}" for name in ("published.csv", "report.html.jinja")}
    assert carried == modules | configs | kernels | data, (
        "a new subpackage is one more line in pyproject.toml"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_installed_it_runs_from_any_directory(kind: str, source: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", build(source, kind)], tmp_path)

    # Everything else comes from the environment that runs this test. As a plain path: its own .pth
    # files, and with them an editable install of the checkout, are not followed.
    packages = Path(
        run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip()
    )
    (packages / "outer.pth").write_text(sysconfig.get_path("purelib"))

    conf = run([python, "-c", "import rnnbench.config as c; print(c.conf_folder())"], tmp_path).strip()
    assert Path(conf) == (source / "conf" if kind == "editable" else packages / "rnnbench/conf")

    ask = "from rnnbench.kernels.compiled import instruction_sets; print(*instruction_sets())"
    compiled = any(map(shutil.which, ("cc", "gcc", "clang")))
    assert ("baseline" in run([python, "-c", ask], tmp_path)) == compiled

    shown = run([python, "-m", "rnnbench", "--help"], tmp_path)
    for group in ("model", "optim", "data", "fit", "experiment", "tracking"):
        assert group in shown
        for choice in CHECKOUT.glob(f"conf/{group}/*.yaml"):
            assert choice.stem in shown
    assert run([tmp_path / "env/bin/rnnbench", "--help"], tmp_path) == shown


def test_pins_hold_names_versions_and_hashes_only() -> None:
    """No host, no index and no option, so that they install from wherever the reader installs."""
    pin = re.compile(r"[a-z0-9-]+==[\w.]+( ; [^:]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in PINS.splitlines() if not pin.fullmatch(line)] == []


def test_pins_meet_the_declared_ranges() -> None:
    pins = dict(re.findall(r"^([a-z0-9-]+)==([\w.]+)", PINS, re.MULTILINE))
    assert "rnnbench" not in pins
    extras = PROJECT["optional-dependencies"].values()
    lines = [line for part in (PROJECT["dependencies"], *extras) for line in part]
    for wanted in (Requirement(line) for line in lines if not line.startswith("rnnbench[")):
        assert wanted.specifier.contains(pins[wanted.name]), f"{wanted} but pinned {pins[wanted.name]}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (CHECKOUT / ".ci/run").read_text().replace('"$venv"', ".venv").splitlines()
    readme = (CHECKOUT / "README.md").read_text()
    (command,) = set(re.findall(r"python3 -m venv .* pytest -q$", readme, re.MULTILINE))
    assert [line for line in script if line in command.split(" && ")] == command.split(" && ")
