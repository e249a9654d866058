"""Finds the hidden size at which a network's number of parameters comes nearest to a budget."""

from bisect import bisect_left
from dataclasses import replace

from rnnbench import tasks
from rnnbench.config import Config, ConfigError, Model
from rnnbench.nn.network import Network


def resolved(config: Config) -> Config:
    """Return the configuration with the hidden size that model.budget gives.

    Raises:
        ConfigError: the budget is below the smallest network, or there is no such task or cell.
    """
    shape = tasks.shape(config.data)
    sized = hidden_size(config.model, shape.input_size, shape.outputs)
    return replace(config, model=replace(config.model, hidden_size=sized))


def hidden_size(model: Model, input_size: int, outputs: int) -> int:
    """Return the hidden size whose total parameter count is nearest to model.budget, the smaller of two.

    Raises:
        ConfigError: the budget is below the count at hidden size 1.
    """
    budget = model.budget
    assert budget is not None

    def count(H: int) -> int:
        return Network(replace(model, hidden_size=H), input_size, outputs).count()

    least = count(1)
    if budget < least:
        raise ConfigError(
            f"model.budget={budget}: {model.name} has {least} parameters at hidden size 1 on this task; "
            "must be at least that"
        )
    # The count rises with H, by more than 1 each time.
    above = bisect_left(range(budget + 1), budget, lo=1, key=count)  # the first of at least the budget
    return min((max(1, above - 1), above), key=lambda H: abs(count(H) - budget))
