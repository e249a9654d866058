"""The laws of the source itself: imports point one way, each file says what it is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rnnbench"
FILES = sorted(PACKAGE.rglob("*.py"))

# A part (a module or subpackage of rnnbench) imports itself and parts on lines above its own.
ORDER = [
    {"config"},
    {"system"},
    {"job_state"},
    {"render"},
    {"terminal"},
    {"tasks"},
    {"nn"},
    {"kernels"},
    {"train"},
    {"record"},
    {"mlflow_sync"},
    {"reader"},
    {"sweep"},
    {"search"},
    {"cluster"},
    {"api"},
    {"look"},
    {"app", "hydra_plugins", "paper"},
    {"__main__"},  # the command, and those of packages: python -m rnnbench.record, .paper, .cluster
    {"__init__"},
    {"bench"},
]
LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}

# Packages that a part never imports, not even late, inside a function.
NEVER = {
    "config": {"torch", "hydra", "optuna"},
    "job_state": {"torch", "hydra", "optuna"},
    "system": {"torch", "hydra", "optuna"},
    "render": {"torch", "hydra", "optuna"},
    "terminal": {"torch", "hydra", "optuna"},
    "tasks": {"hydra", "optuna"},
    "nn": {"hydra", "optuna"},
    "kernels": {"hydra", "optuna"},
    "train": {"hydra", "optuna"},
    "record": {"torch", "torchvision", "hydra", "optuna"},
    "mlflow_sync": {"torch", "torchvision", "hydra", "optuna"},
    "reader": {"torch", "torchvision", "hydra", "optuna"},
    "sweep": {"torchvision", "optuna"},
    "search": {"torch", "torchvision"},
    "cluster": {"optuna"},
    "look": {"hydra", "optuna"},
    "paper": {"torch", "torchvision"},
}
# mlflow is imported by mlflow_sync alone.
NEVER |= {part: NEVER.get(part, set()) | {"mlflow"} for part in LEVEL if part != "mlflow_sync"}

# What is imported before a command line has been read: these bring in nothing that takes seconds.
QUICK = [
    "rnnbench",
    "rnnbench.__main__",
    "rnnbench.app",
    "rnnbench.hydra_plugins.rnnbench_stack",
    "rnnbench.reader",
    "rnnbench.record",
    "rnnbench.tasks",
    "rnnbench.terminal",
]
SECONDS = {"torch", "torchvision", "mlflow", "pandas", "sklearn", "matplotlib"}


def part(file: Path) -> str:
    """The part of rnnbench that a file belongs to: `nn` for nn/cells/lstm.py, `reader` for reader.py."""
    if file.name == "__main__.py" and file.parent.name != "bench":
        return "__main__"
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


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def imports(file: Path) -> set[tuple[str, ...]]:
    package = ("rnnbench", *file.relative_to(PACKAGE).parts[:-1])
    return set(imported(parsed(file), package))


def named(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_imports_are_read_as_python_reads_them() -> None:
    source = "import a.b\nfrom . import c\ndef f():\n    from ..d import e\nif TYPE_CHECKING:\n    import g"
    found = set(imported(ast.parse(source), ("rnnbench", "cells")))
    assert found == {("a", "b"), ("rnnbench", "cells", "c"), ("rnnbench", "d", "e")}


def test_imports_point_one_way() -> None:
    for file in FILES:
        assert part(file) in LEVEL, f"a new part needs a place in ORDER: {named(file)}"
        inside = {name[1] for name in imports(file) if name[0] == "rnnbench" and len(name) > 1}
        wrong = {
            other
            for other in inside & LEVEL.keys()  # what is not there is a name of the package itself
            if other != part(file) and LEVEL[other] >= LEVEL[part(file)]
        }
        assert wrong == set(), named(file)


def test_parts_stay_clear_of_what_they_must_not_know() -> None:
    for file in FILES:
        assert {name[0] for name in imports(file)} & NEVER.get(part(file), set()) == set(), named(file)


def test_the_command_line_is_read_before_anything_slow_is_imported() -> None:
    script = f"import sys, {', '.join(QUICK)}; print(*({SECONDS!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


ADAPTERS = {"hydra": "sweep/hydra_api.py", "optuna": "search/optuna_api.py"}
PRIVATE = re.compile(
    r"""\b(_parse_overrides_and_create_caching_repo|_apply_overrides_to_config|_instances|run_and_report
    |_study_id|_trial_id|_thread_local|fixed_params)\b""",
    re.VERBOSE,
)


def test_private_names_of_hydra_and_optuna_are_used_in_one_module_each() -> None:
    for file in FILES:
        for name in imports(file):
            if any(part.startswith("_") for part in name[1:]) and name[0] in ADAPTERS:
                assert named(file) == ADAPTERS[name[0]]
        if named(file) not in ADAPTERS.values():
            assert not PRIVATE.findall(file.read_text()), named(file)


def modules_of(package: Path) -> dict[str, set[str]]:
    """Each module of a package, with those of the same package that it imports, early or late."""
    prefix = ("rnnbench", *package.relative_to(PACKAGE).parts)
    names = {file.stem for file in package.glob("*.py")}
    return {
        file.stem: {
            name[len(prefix)]
            for name in imports(file)
            if name[: len(prefix)] == prefix and len(name) > len(prefix) and name[len(prefix)] in names
        }
        - {file.stem}
        for file in package.glob("*.py")
    }


PACKAGES = sorted({file.parent for file in FILES} - {PACKAGE})


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.relative_to(PACKAGE).as_posix())
def test_modules_of_a_package_import_each_other_without_circles(package: Path) -> None:
    list(TopologicalSorter(modules_of(package)).static_order())  # raises CycleError with the circle


def test_modules_of_sweep_import_those_above_them_in_the_docstring_of_the_package() -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / "sweep" / "__init__.py").read_text())) or ""
    lines = re.findall(r"^    (\w+(?:, \w+)*) {2,}\S", text, re.MULTILINE)
    order = [name for line in lines for name in line.split(", ")]
    graph = modules_of(PACKAGE / "sweep")
    assert sorted(order) == sorted(graph.keys() - {"__init__"})
    for n, name in enumerate(order):
        assert graph[name] <= set(order[:n]), name


def test_files_say_what_they_are() -> None:
    for file in FILES:
        assert ast.get_docstring(parsed(file)), f"no module docstring: {named(file)}"


# Where modules of this package are imported inside functions: in one file a package.
LATE_IMPORTS = {
    "app.py",  # a search's jobs need Optuna
    "bench/__main__.py",  # Triton, which is not everywhere; its interpreter is switched on before
    "cluster/base.py",  # training needs torch, a search's jobs need Optuna
    "kernels/__init__.py",  # Triton, which is not everywhere
    "kernels/libraries.py",  # what is compiled at first use; build and trace are modules of commands, too
    "paper/weights.py",  # torch, which most figures do without
    "search/sweeper.py",  # Optuna and torch, which a command that is refused does without
    "sweep/stages.py",  # torch, likewise
    "tasks/task.py",  # rich, which most tasks do without
    "train/resources.py",  # Triton, likewise
}


# How a docstring begins that names a thing, where it should say with a verb what the function does.
NAMES_A_THING = re.compile(
    r"(?:The|A|An|What|Whether|How|Why|Where|When|Of|All|Each|Every|One|Its|Some|Any|Those|Which|Who|In|As|For|"
    r"After|Before|If|Another|No|Several|Two|This|Few|Bytes|Seconds|Jobs|Trials|Logits|Text|Names|Numbers)\b"
)


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    for file in FILES:
        for node in ast.walk(parsed(file)):
            if not isinstance(node, ast.FunctionDef) or any(
                "property" in ast.unparse(d) for d in node.decorator_list
            ):
                continue  # a property is a thing
            docstring = ast.get_docstring(node) or ""
            assert not NAMES_A_THING.match(docstring), (
                f"{named(file)} {node.name}: {docstring.splitlines()[0]}"
            )


def test_functions_have_at_most_50_lines() -> None:
    for file in FILES:
        long = {
            f"{named(file)} {node.name}"
            for node in ast.walk(parsed(file))
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 50
        }
        assert long == set()


def test_own_modules_are_imported_at_the_top() -> None:
    for file in FILES:
        functions = [n for n in ast.walk(parsed(file)) if isinstance(n, ast.FunctionDef)]
        late = {
            node.module
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rnnbench"
        }
        assert not late or named(file) in LATE_IMPORTS, named(file)


# The modules that write the files of a record. Hydra's own config.yaml is written to .hydra/ beside them.
JOB_FILES = {"config.yaml", "metrics.csv", "result.json", "weights.pt", "confusion.csv", "by_length.csv"}
WRITERS = {
    "record/job_folder.py": JOB_FILES | {"mlflow.json"},
    "record/copying.py": {
        "config.yaml",
        "metrics.csv",
        "result.json",
    },
    "record/sweep_folder.py": {"sweep.json"},
    "sweep/launcher.py": {"config.yaml"},
}
WRITING = ("write", "write_csv", "write_json", "write_text", "open")
RECORD_FILES = set().union(*WRITERS.values())


def test_one_module_writes_the_files_of_a_record() -> None:
    for file in FILES:
        calls = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.Call)]
        written = {
            name.value
            for call in calls
            if ast.unparse(call.func).split(".")[-1] in WRITING
            for name in ast.walk(call)
            if isinstance(name, ast.Constant) and name.value in RECORD_FILES
        }
        assert written <= WRITERS.get(named(file), set()), named(file)
