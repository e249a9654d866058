"""Checks before anything is made that need torch: device, cell, kernel, memory."""

from collections.abc import Sequence

import torch

from rnnbench import tasks
from rnnbench.config import Config, ConfigError, Kernel
from rnnbench.kernels import choose
from rnnbench.kernels.libraries import check_step
from rnnbench.nn.cells import make_cell
from rnnbench.sweep.preflight import unique
from rnnbench.train.resources import available, row_bytes


def check_engine(configs: Sequence[Config], here: bool) -> None:
    """Refuse a missing device, a cell or kernel that cannot compute a trial, and too little memory.

    Args:
        here: whether the trials train on this machine.

    Raises:
        ConfigError: names the key, the value and what would do.
    """
    for device in {config.fit.device for config in configs if here} - {"cpu"}:
        check_cuda(device)
    for config in unique(configs, lambda c: repr(c.model)):
        make_cell(config.model)
        check_step(config.model)
    different = unique(configs, lambda c: repr((c.model, c.data, c.optim.name, c.fit.device, c.fit.kernel)))
    for config in different if here else ():
        check_memory(config)
    for config in different:  # last: kernels may have to be compiled
        if here or config.fit.kernel is not Kernel.auto:
            choose(config)


def check_memory(config: Config) -> None:
    """Refuse a network whose parameters alone are more than the free memory.

    Raises:
        ConfigError: names the memory that is needed and that is free.
    """
    needed, free = row_bytes(config, tasks.shape(config.data)), available(config.fit.device)
    if needed > free:
        budget = config.model.budget
        given = (
            f"model.hidden_size={config.model.hidden_size}" if budget is None else f"model.budget={budget}"
        )
        raise ConfigError(
            f"{given}: parameters and optimiser take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB "
            f"are free on {config.fit.device}; give a smaller one"
        )


def check_cuda(device: str) -> None:
    """Refuse a CUDA device that torch does not see.

    Raises:
        ConfigError: names the device and the existing ones.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = int(device.partition(":")[2] or 0)
    if number >= count:
        there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(count))])
        raise ConfigError(f"fit.device={device}: torch sees no such device here; there is {there}")
