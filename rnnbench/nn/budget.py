"""Finds what of a model follows from the task: the hidden size of a budget, the window model.theta."""

from bisect import bisect_left
from dataclasses import replace

from rnnbench import tasks
from rnnbench.config import Config, ConfigError, Model
from rnnbench.nn.cells import class_of
from rnnbench.nn.network import Network


def resolved(config: Config) -> Config:
    """Return the configuration with the hidden size that model.budget gives, and model.theta.

    A cell that has model.theta gets the number of steps of the longest training sequence where it is null.

    Raises:
        ConfigError: the budget is below the smallest network, or there is no such task or cell.
    """
    shape, model = tasks.shape(config.data), config.model
    if model.budget is not None:
        model = replace(model, hidden_size=hidden_size(model, shape.input_size, shape.outputs))
    if model.theta is None and "theta" in class_of(model.name).options:
        model = replace(model, theta=float(shape.steps))
    return replace(config, model=model)


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
