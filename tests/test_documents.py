"""The commands of the README, the pages and the configs: a shell takes them, and Hydra composes them."""

import re
import shlex
import subprocess
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from rnnbench.config import conf_folder
from rnnbench.sweep import launcher

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("rnnbench/docs/*.md")), ROOT / "multirun" / "README.md"]
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))


def blocks(page):
    """The shell's code blocks."""
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands():
    """Every command that trains, from blocks, from running text, and from the heads of configs."""
    found = {}
    for page in PAGES:
        spans = re.findall(r"`(python -m rnnbench [^`]+)`", page.read_text().replace("\n", " "))
        for line in [*"\n".join(blocks(page)).splitlines(), *spans]:
            found |= dict.fromkeys(re.findall(r"python -m rnnbench .*", line), page.name)
    for path in CONFIGS:
        head = path.read_text().splitlines()[:4]
        lines = (re.fullmatch(r"# (python -m rnnbench .*?)(   .*)?", line) for line in head)
        found |= {line.group(1): path.name for line in lines if line}
    return found


COMMANDS = commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_shell_takes_every_block(page):
    for block in blocks(page):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, block + done.stderr


def first(override: Override):
    """The override with one value of a sweep."""
    if not override.is_sweep_override():
        return override.input_line
    sweep = override.value()
    if isinstance(sweep, IntervalSweep | RangeSweep):
        return f"{override.key_or_group}={sweep.start}"
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("command", COMMANDS)
def test_hydra_composes_every_command(command):
    words = shlex.split(re.split(r" [&|>]|; ", command)[0])[3:]
    if "--help" in words or any(word.startswith("rnnbench_import=") for word in words):
        pytest.skip("its page goes on to say what there is, or needs a file of the reader's")
    words = [re.sub(r"=[A-Z_]+$", "=lstm", word) for word in words if word != "-m"]  # model=MODEL
    launcher.register()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        launcher.task_config(hydra.compose("config", [first(o) for o in parser.parse_overrides(words)]))


def test_there_are_commands_of_every_kind():
    assert len(COMMANDS) > 80
    assert {"README.md", "slurm.md", "ray.md", "protocols.md", "cooijmans2016.yaml"} <= set(COMMANDS.values())
