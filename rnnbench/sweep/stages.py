"""The stages of a sweep that need torch: compose what depends on a cell, check, show the plan, open, train.

Their modules are imported only when a stage is reached: `import torch` takes seconds, and a faulty command
line is refused before that.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from rnnbench.config import Config
from rnnbench.config.schema import CELL_KEYS
from rnnbench.sweep import own_options
from rnnbench.sweep import preflight as light
from rnnbench.sweep.job import Job
from rnnbench.terminal import say

if TYPE_CHECKING:
    from rnnbench.sweep.session import Sweep


def if_forget_gate(cell: str, bias: float) -> float | None:
    """Return the bias if the cell has a forget gate, else None: ${if_forget_gate:${model.name},1}."""
    from rnnbench.nn.cells import CELLS

    kind = own_options.CELLS.get(cell) or CELLS.get(cell)
    return bias if kind is not None and kind.forget_gate is not None else None


def sized(config: Config) -> Config:
    """Return the configuration with what of the model follows from the task, see `nn.budget.resolved`.

    Raises:
        ConfigError: the budget is below the smallest network, or there is no such task or cell.
    """
    model = config.model
    if model.budget is None and (model.theta is not None or not _reads(model.name, "theta")):
        return config
    from rnnbench.nn.budget import resolved

    return resolved(config)


def _reads(cell: str, key: str) -> bool:
    """Return whether a cell has a key that not all cells have; those of rnnbench are not imported for it."""
    own = own_options.CELLS.get(cell)
    return cell in CELL_KEYS[key] if own is None else key in own.options


def constant_answer(config: Config, split: str) -> dict[str, float]:
    """Return the metrics of a constant answer to a split, see `rnnbench.train.constant`."""
    from rnnbench.train import constant

    return constant.constant_answer(config, split)


def preflight(configs: Iterable[Config], folder: Path, here: bool = True) -> None:
    """Refuse, before anything is made, trials that could not run: data, batch size, store, folder, device.

    Args:
        here: whether the trials train on this machine, which then must have the device.

    Raises:
        ConfigError: names the key, the value and what would do.
    """
    configs = list(configs)
    if here and any(config.fit.device != "cpu" for config in configs):  # before data is downloaded
        from rnnbench.sweep.engine_checks import check_devices

        check_devices(configs)
    light.check(configs, folder)
    from rnnbench.sweep.engine_checks import check_engine

    check_engine(configs, here)


def show_plan(configs: Sequence[Config], max_stack: int | None, elsewhere: bool = False) -> None:
    """Print what a sweep would do, for dry_run=true, see `rnnbench.sweep.dry_run`."""
    from rnnbench.sweep import dry_run

    dry_run.show_plan(configs, max_stack, elsewhere)


def open_sweep(
    folder: Path, config: Config, name: str, *, single: bool, shared: bool = False, elsewhere: bool = False
) -> "AbstractContextManager[Sweep]":
    """Hold a sweep folder while its jobs run, see `rnnbench.sweep.session`."""
    from rnnbench.sweep import session

    return session.open_sweep(folder, config, name, single=single, shared=shared, elsewhere=elsewhere)


def run_jobs(sweep: "Sweep", jobs: Sequence[Job], max_stack: int | None) -> None:
    """Train the jobs whose trials have no finished record yet, and use the records of the others.

    Args:
        max_stack: trials that train together at most; None: as many as gain from it.
    """
    taken = sweep.library.take(sweep, jobs)
    for line in taken.lines():
        say(line)
    if taken.finished:
        say(f"{taken.finished} of {len(jobs)} trials are finished already in {sweep.folder}")
    elif len(jobs) > 1 and taken.todo:
        say(f"{len(jobs)} trials; each has its folder, by number, in {os.path.relpath(sweep.folder)}")
    if taken.todo:
        from rnnbench.sweep.scheduler import train

        train(sweep.recorder, taken.todo, max_stack)
        sweep.library.add(taken.todo)
