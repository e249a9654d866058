"""The README, the pages and the heads of the configs: commands compose, links resolve, files are there."""

import ast
import contextlib
import functools
import io
import itertools
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import sampled
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

import rnnbench
from rnnbench import tasks
from rnnbench.paper.definition import find_table, read_table
from rnnbench.sweep import launcher
from rnnbench.sweep.compose import compose_one, separate_hydra
from rnnbench.sweep.overrides import Checker
from rnnbench.sweep.points import Expansion, combines
from rnnbench.tasks.array_file import Arrays
from rnnbench.tasks.images import read_idx
from tests.published_files import idx, made_up

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted(ROOT.glob("rnnbench/docs/*.md"))
PAGES = [README, *DOCS, ROOT / "multirun" / "README.md"]
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))
COMMAND = r"python -m (rnnbench(?:\.[a-z.]+)?) (.*)"
# What a page may say in seconds: limits that stand in the code. What was measured stands on speed.md.
SETTINGS = {"15 s", "60 s", "90 s"}


def name(path: Path) -> str:
    """A page or a config as it is called from the root."""
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without its code blocks, paragraphs in one line."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<=\S)\n *(?=[^\s|#>-])", " ", text)


def commands() -> list[tuple[str, str, str]]:
    """Page, module and words of every command in blocks, in running text and in the heads of configs."""
    lines = [(page, line) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [(page, span) for page in PAGES for span in re.findall(r"`([^`]+)`", prose(page))]
    for path in CONFIGS:
        heads = (re.fullmatch(r"# (.*?)(   .*)?", line) for line in path.read_text().splitlines()[:4])
        lines += [(path, head[1]) for head in heads if head]
    found = ((page, re.search(COMMAND, line)) for page, line in lines)
    return list(dict.fromkeys((name(page), match[1], match[2]) for page, match in found if match))


COMMANDS = commands()
# The worked examples of the page on extending, by the file that their first line names.
EXAMPLES = {
    block.partition("\n")[0].removeprefix("# "): block
    for block in blocks(ROOT / "rnnbench/docs/extending.md", "python")
}
# What is one option of one group alone is composed by test_config.py.
TRAINING = {
    words: page
    for page, module, words in COMMANDS
    if module == "rnnbench" and not re.fullmatch(r"\w+=\w+", words)
}
TABLES = {words for _, module, words in COMMANDS if module == "rnnbench.paper" and "table=" in words}
OTHERS = {(module, words) for _, module, words in COMMANDS if module != "rnnbench"}


def split(words: str) -> list[str]:
    """The words of a command as a shell takes them, with a value for each placeholder in capitals."""
    tokens = shlex.shlex(words, posix=True, punctuation_chars="&|;>")
    tokens.whitespace_split, tokens.commenters = True, ""
    own = itertools.takewhile(lambda token: not set(token) <= set("&|;>"), tokens)
    return [re.sub(r"=[A-Z_]+$", "=lstm", word) for word in own]


def first(override: Override) -> str:
    """The override with one value of a sweep."""
    if not override.is_sweep_override():
        return str(override.input_line)
    sweep = override.value()
    if isinstance(sweep, IntervalSweep | RangeSweep):
        return f"{override.key_or_group}={sweep.start}"
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


def compose(words: list[str]) -> None:
    """Compose and check the first trial of a command, as the command itself does."""
    launcher.register()
    given = [word for word in words if word != "-m"]
    with separate_hydra():
        loader = GlobalHydra.instance().config_loader()
        if any(map(combines, given)):
            given = list(Expansion(Checker(loader)).expand(given)[0])
        one = [first(override) for override in OverridesParser.create(loader).parse_overrides(given)]
    launcher.task_config(compose_one(one))


@functools.cache
def help_of(module: str, *part: str) -> str:
    """What a command prints of itself, or of a part of it such as `sync`."""
    told, given = io.StringIO(), sys.argv
    sys.argv = [module, *part, "--help"]
    try:
        with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
            runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = given
    return told.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_shell_takes_every_block(page: Path) -> None:
    for block in blocks(page, "sh"):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, block + done.stderr


def telling(commands: Iterable[str]) -> set[str]:
    """Of commands, the longest first, those with a word that none before has."""
    seen: set[str] = set()
    found = set()
    for command in sorted(commands, key=len, reverse=True):
        if not seen.issuperset(words := split(command)):
            found.add(command)
            seen.update(words)
    return found


@pytest.mark.parametrize("words", sampled(TRAINING, telling(TRAINING)))
def test_hydra_composes_every_command(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands with a file of the reader's find it as the page has it, under the name in its first line."""
    if words == "--help":
        return
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / TRAINING[words], "python"):
        if named := re.match(r"# (\w+\.py)\n", block):
            Path(named[1]).write_text(block)
    compose(split(words))


@pytest.mark.parametrize("words", sorted(TABLES))
def test_hydra_composes_the_trials_of_every_table(words: str) -> None:
    given = [word for word in split(words) if not word.startswith(("--", "source="))]
    (chosen,) = (word.removeprefix("table=") for word in given if word.startswith("table="))
    if chosen == "lstm":  # of a page that speaks of table=NAME
        return
    table = read_table(find_table(chosen, []))
    tuned = table.tuned.rows[:1] if table.tuned else []
    compose([*table.sweep, *tuned, *(word for word in given if not word.startswith("table="))])


@pytest.mark.parametrize("module, words", sorted(OTHERS))
def test_a_command_has_every_part_and_option_that_a_page_names(module: str, words: str) -> None:
    given = split(words)
    part = given[:1] if module != "rnnbench.paper" and re.fullmatch("[a-z]+", given[0]) else []
    usage = help_of(module, *part)
    for word in (option.split("=")[0] for option in given if option.startswith("--")):
        assert word in usage
    assert all(word in help_of(module) for word in part)


def test_there_are_commands_of_every_kind() -> None:
    assert len(TRAINING) > 75 and len(TABLES) > 10 and len(OTHERS) > 25
    pages = {page for page, _, _ in COMMANDS}
    assert {name(page) for page in PAGES} <= pages | {"multirun/README.md"}


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists() and there.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", there.read_text()), re.M)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("file", [*PAGES, *CONFIGS], ids=name)
def test_every_file_that_is_named_is_there(file: Path) -> None:
    named = re.findall(
        r"\b((?:rnnbench|conf|tests)/[\w./-]*\w(?:\.(?:py|yaml|md|csv|sbatch)\b|/))", file.read_text()
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_is_for_the_first_hour() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    for page in DOCS:
        assert f"]({name(page)})" in text, f"the README has no link to {name(page)}"
    packages = {path.parent.name for path in (ROOT / "rnnbench").glob("*/__init__.py")}
    (layout,) = (
        block for block in blocks(ROOT / "rnnbench/docs/code.md", "text") if block.startswith("conf/")
    )
    assert [package for package in sorted(packages) if f" {package}/" not in layout] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "speed.md"], ids=name)
def test_what_was_measured_stands_on_the_page_for_it(page: Path) -> None:
    units = r"(?:ms|s|seconds?|minutes?|hours?|MB|MiB|GiB|GFLOP/s|trials/s|trials a second)"
    times = re.findall(rf"(?<![\w.])\d[\d.,]* {units}(?![\w/])", prose(page))
    assert [time for time in times if time not in SETTINGS] == []
    assert not re.search(
        r"\d times (?:as|the(?! parameters)|faster|slower)|\btwo (?:slow |shared )?cores", prose(page)
    )


def test_the_arrays_of_the_page_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "rnnbench/docs/tasks.md", "python")
    exec(compile(block, "tasks.md", "exec"), {})
    task = tasks.load(Arrays("npz", path="mine.npz"))
    assert task.inputs.shape == (600, 20, 6) and task.outputs == 2 and task.lengths is not None


def test_the_small_images_of_the_page_are_made_of_the_published_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pixel is the mean of two by two; one fixed order of them all is what permuted.npz has."""
    monkeypatch.chdir(tmp_path)
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for file, content in made_up("mnist").items():
        (raw / file).write_bytes(
            content if "images" in file else idx(np.arange(len(content) - 8, dtype=np.uint8) % 10)
        )
    (block,) = blocks(ROOT / "rnnbench/docs/protocols.md", "python")
    exec(compile(block, "small_mnist.py", "exec"), {})
    permuted, pixels = (
        tasks.load(Arrays("npz", path=f"{name}.npz")).inputs for name in ("permuted", "pixels")
    )
    assert permuted.shape == pixels.shape == (30, 196, 1)
    assert (np.sort(permuted, 1) == np.sort(pixels, 1)).all() and (permuted != pixels).any()
    first = read_idx((raw / "train-images-idx3-ubyte").read_bytes())[0]
    assert pixels[0, 15, 0] == pytest.approx(first[2:4, 2:4].mean() / 255)


def test_the_worked_examples_are_those_that_the_seams_are_tested_with() -> None:
    """Comments and layout aside; a cell and a task are trained below as the page has them."""
    tree = ast.parse((ROOT / "tests/test_seams.py").read_text())
    seams = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            with contextlib.suppress(SyntaxError):
                seams.add(ast.dump(ast.parse(node.value)))
    for file, block in EXAMPLES.items():
        assert file in ("my_cells.py", "my_tasks.py") or ast.dump(ast.parse(block)) in seams, file


@pytest.mark.parametrize("words", [("my_cells.py", "model=leaky"), ("my_tasks.py", "data=largest")])
def test_the_cell_and_the_task_of_the_page_train(
    words: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, option = words
    Path(file).write_text(EXAMPLES[file])
    result = rnnbench.run(
        f"rnnbench_import={file}", option, "fit.epochs=1", "data.train_size=64", "tracking=none"
    )
    assert result["status"] == "finished"


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
def test_the_cell_of_the_page_trains_compiled_on_the_arrays_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newcomer's way: ten lines of a cell, series of several lengths; the torch path's numbers."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "rnnbench/docs/tasks.md", "python")
    exec(compile(block, "tasks.md", "exec"), {})
    Path("my_cells.py").write_text(EXAMPLES["my_cells.py"])
    words = "rnnbench_import=my_cells.py", "model=leaky", "data=npz", "data.path=mine.npz", "fit.epochs=2"
    compiled, torch = (
        rnnbench.run(*words, "tracking=none", f"fit.kernel={kernel}", folder=kernel)
        for kernel in ("compiled", "torch")
    )
    assert compiled["tags"]["rnnbench.kernel"].startswith("compiled ")
    for name in ("best/val_loss", "test/loss"):
        assert compiled["metrics"][name] == pytest.approx(torch["metrics"][name], rel=1e-4)


def test_the_tables_of_the_page_are_tables(tmp_path: Path) -> None:
    kinds = []
    for block in blocks(ROOT / "rnnbench/docs/tables.md", "yaml"):
        (tmp_path / "mine.yaml").write_text(block)
        table = read_table(tmp_path / "mine.yaml")
        compose(table.sweep)
        kinds += [figure.kind for figure in table.figures.values()]
    assert kinds == ["pareto", "critical_difference"]
