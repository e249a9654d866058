"""Checks before anything is made that need torch: device, cell, kernel, memory."""

from collections.abc import Sequence

from rnnbench import tasks
from rnnbench.config import Config, ConfigError, Kernel, Precision
from rnnbench.kernels import choose
from rnnbench.kernels.gpu import cards
from rnnbench.kernels.libraries import check_step
from rnnbench.nn.cells import make_cell
from rnnbench.sweep.preflight import unique
from rnnbench.train.resources import available, data_bytes, devices, row_bytes, trial_bytes


def check_devices(configs: Sequence[Config]) -> None:
    """Refuse cards that torch does not see, or that do not compute.

    Raises:
        ConfigError: names the device, why it cannot be used, and what would do.
    """
    for device in {config.fit.device for config in configs} - {"cpu"}:
        check_cuda(device)


def check_engine(configs: Sequence[Config], here: bool) -> None:
    """Refuse a precision, cell or kernel that cannot compute a trial, and too little memory.

    Args:
        here: whether the trials train on this machine.

    Raises:
        ConfigError: names the key, the value and what would do.
    """
    for config in unique(configs, lambda c: repr(c.model)):
        make_cell(config.model)
        check_step(config.model)
    for config in unique(configs, lambda c: repr((c.fit.device, c.fit.precision))) if here else ():
        check_precision(config)
    different = unique(configs, _computed)
    for config in different if here else ():
        check_memory(config)
    for config in different:  # last: kernels may have to be compiled
        if here or config.fit.kernel is not Kernel.auto:
            choose(config)
    on_cards = [config for config in configs if here and config.fit.device != "cpu"]
    for config in unique(on_cards, lambda c: f"{_computed(c)} {c.fit.batch_size}"):
        check_room(config)


def _computed(config: Config) -> str:
    """Return in words what a trial's kernel and memory depend on, without its batch size."""
    fit = config.fit
    return repr((config.model, config.data, config.optim.name, fit.device, fit.kernel, fit.precision))


def check_memory(config: Config) -> None:
    """Refuse a network whose parameters alone are more than the free memory.

    Raises:
        ConfigError: names the memory that is needed and that is free.
    """
    needed, free = row_bytes(config, tasks.shape(config.data)), available(config.fit.device)
    if needed > free:
        raise ConfigError(
            f"{_size(config)}: parameters and optimiser take {gib(needed)} GiB, and {gib(free)} GiB are free "
            f"on {config.fit.device}; give a smaller one"
        )


def check_room(config: Config) -> None:
    """Refuse a trial that alone needs more than a card's free memory, by an estimate from its shapes.

    Raises:
        ConfigError: names the memory that is needed and that is free.
    """
    device, shape = config.fit.device, tasks.shape(config.data)
    needed, free = trial_bytes(config, shape) + data_bytes(shape), available(device)
    if needed > free:
        card = cards.card(device)
        raise ConfigError(
            f"{_size(config)}: a trial takes about {gib(needed)} GiB with its data, and {gib(free)} of "
            f"{gib(card.memory)} GiB are free on {device}, {card}; give a smaller one, or a smaller "
            f"fit.batch_size than {config.fit.batch_size}"
        )


def gib(size: float) -> str:
    """Return a number of bytes in GiB, as text."""
    return f"{size / 2**30:,.1f}"


def _size(config: Config) -> str:
    """Return the key and value that decide how large a network is."""
    budget = config.model.budget
    return f"model.hidden_size={config.model.hidden_size}" if budget is None else f"model.budget={budget}"


def check_cuda(device: str) -> None:
    """Refuse a card that torch does not see, or that does not compute.

    Raises:
        ConfigError: names the device, why it cannot be used, and what would do.
    """
    count = cards.count()
    if not count:
        raise ConfigError(f"fit.device={device}: {cards.missing()}, or take fit.device=cpu")
    if int(device.partition(":")[2] or 0) >= count:
        there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(count))])
        raise ConfigError(f"fit.device={device}: torch sees no such device here; there is {there}")
    for each in devices(device):
        if why := cards.broken(each):
            raise ConfigError(
                f"fit.device={device}: {each}, {why}; take another card, in CUDA_VISIBLE_DEVICES if there "
                "are several, or fit.device=cpu"
            )


def check_precision(config: Config) -> None:
    """Refuse TF32 on a card that does not have it.

    Raises:
        ConfigError: names the precision, the card and what would do.
    """
    fit = config.fit
    for device in devices(fit.device) if fit.precision is not Precision.float32 else ():
        if why := cards.without_tf32(device):
            raise ConfigError(f"fit.precision={fit.precision.value}: {why}; take fit.precision=float32")
