"""Judges a trial by constraints on its number of parameters, which is known before it trains."""

from collections.abc import Sequence

from rnnbench import tasks
from rnnbench.config import Config
from rnnbench.nn.network import Network
from rnnbench.search.constraints import Constraint, excesses

PARTS = {"parameters/total": "", "parameters/recurrent": "rnn", "parameters/head": "head"}


def broken_by(constraints: Sequence[Constraint], config: Config) -> dict[str, float]:
    """Return by how much a trial's number of parameters exceeds each constraint on it; {} if it keeps all."""
    if not any(each.metric in PARTS for each in constraints):
        return {}
    shape = tasks.shape(config.data)
    network = Network(config.model, shape.input_size, shape.outputs)
    found = excesses(constraints, {name: network.count(part) for name, part in PARTS.items()})
    return found if any(excess > 0 for excess in found.values()) else {}
