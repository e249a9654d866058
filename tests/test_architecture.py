"""The laws of the source itself: imports point one way, each file says what it is."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rnnbench"
FILES = sorted(PACKAGE.rglob("*.py"))

# A part (a module or subpackage of rnnbench) imports itself and parts on lines above its own.
ORDER = [
    {"config", "plain_text", "signals"},
    {"files", "limits"},
    {"show"},
    {"cells", "tasks"},
    {"network", "optim"},
    {"kernels"},
    {"engine", "memory"},
    {"checkpoint"},
    {"record"},
    {"overrides"},
    {"compose"},
    {"ledger"},
    {"budget", "hydra_jobs", "plan", "preflight", "train"},
    {"launch"},
    {"grid", "trained"},
    {"sweep"},
    {"remote"},
    {"hydra_plugins", "paper", "app"},
    {"__main__"},
    {"__init__"},
    {"bench"},
]
LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}

# Packages that a part never imports, not even late, inside a function.
NEVER = {
    "config": {"torch", "hydra", "mlflow", "optuna"},
    "kernels": {"hydra", "mlflow", "optuna"},
    "cells": {"hydra", "mlflow", "optuna"},
    "tasks": {"hydra", "mlflow", "optuna"},
    "network": {"hydra", "mlflow", "optuna"},
    "optim": {"hydra", "mlflow", "optuna"},
    "engine": {"hydra", "mlflow", "optuna"},
    "memory": {"hydra", "mlflow", "optuna"},
    "checkpoint": {"hydra", "mlflow", "optuna"},
    "record": {"torch", "torchvision"},
    "sweep": {"torch", "torchvision"},
    "paper": {"torch", "torchvision", "hydra"},
}

# What is imported before a command line has been read: these bring in nothing that takes seconds.
QUICK = {
    "__init__",
    "config",
    "files",
    "plain_text",
    "signals",
    "tasks",
    "record",
    "show",
    "budget",
    "preflight",
    "ledger",
    "train",
}
QUICK |= {"compose", "hydra_jobs", "overrides", "launch", "grid", "sweep", "remote", "app", "__main__"}
SECONDS = {"torch", "torchvision", "mlflow", "pandas", "sklearn", "matplotlib"}


def part(file: Path) -> str:
    """The part of rnnbench that a file belongs to: `cells` for cells/lstm.py, `engine` for engine.py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Dotted names that a module of `package` imports when it runs, early or late, each as a tuple.

    Imports for the type checker alone (`if TYPE_CHECKING:`) are left out.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*source, alias.name) for alias in node.names)
        else:
            yield from imported(node, package)


def imports(file: Path) -> set[tuple[str, ...]]:
    package = ("rnnbench", *file.relative_to(PACKAGE).parts[:-1])
    return set(imported(ast.parse(file.read_text()), package))


def named(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_imports_are_read_as_python_reads_them() -> None:
    source = "import a.b\nfrom . import c\ndef f():\n    from ..d import e\nif TYPE_CHECKING:\n    import g"
    found = set(imported(ast.parse(source), ("rnnbench", "cells")))
    assert found == {("a", "b"), ("rnnbench", "cells", "c"), ("rnnbench", "d", "e")}


@pytest.mark.parametrize("file", FILES, ids=named)
def test_imports_point_one_way(file: Path) -> None:
    assert part(file) in LEVEL, "a new part needs a place in ORDER"
    inside = {name[1] for name in imports(file) if name[0] == "rnnbench" and len(name) > 1}
    wrong = {
        other
        for other in inside & LEVEL.keys()  # what is not there is a name of the package itself
        if other != part(file) and LEVEL[other] >= LEVEL[part(file)]
    }
    assert wrong == set()


@pytest.mark.parametrize("file", FILES, ids=named)
def test_parts_stay_clear_of_what_they_must_not_know(file: Path) -> None:
    assert {name[0] for name in imports(file)} & NEVER.get(part(file), set()) == set()


def test_the_command_line_is_read_before_anything_slow_is_imported() -> None:
    modules = [
        ".".join(("rnnbench", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for file in FILES
        if part(file) in QUICK
    ]
    script = f"import sys, {', '.join(modules)}; print(*({SECONDS!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("file", FILES, ids=named)
def test_files_say_what_they_are(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text())), "no module docstring"
