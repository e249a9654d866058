"""Gives a trained network values as a file has them, and its answers their units, by what its record says."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.tasks.series.collection import Array
from rnnbench.tasks.series.prepare import MARKED, Scaling, entered, unit
from rnnbench.tasks.series.settings import Missing, Series
from rnnbench.tasks.task import Labels


@dataclass(frozen=True)
class Entering:
    """Keeps how values entered a network while it was trained."""

    data: Series
    scaling: Scaling
    gaps: Labels  # channels that may have missing values


def recorded(
    data: Series, details: Mapping[str, str], width: int, own: tuple[float, float] = (0.0, 1.0)
) -> Entering:
    """Return how values entered the network of a record.

    Args:
        data: the settings.
        details: of the data, from the record.
        width: inputs of the network.
        own: mean and standard deviation where data.standardise is false.

    Raises:
        ConfigError: the record does not say it.
    """
    marked = known(details, MARKED).astype(np.int64) if data.missing is Missing.mask else np.zeros(0, int)
    channels = width - len(marked)
    scaling = Scaling(np.full(channels, own[0]), np.full(channels, own[1]))
    if data.standardise:
        mean, sd = known(details, "channel means"), known(details, "channel sds")
        scaling = Scaling(mean, unit(mean, sd))
    return Entering(data, scaling, np.arange(channels) if data.missing is Missing.forward else marked)


def known(details: Mapping[str, str], key: str) -> Array:
    """Return numbers of a record.

    Raises:
        ConfigError: it does not have them.
    """
    if key not in details:
        raise ConfigError(
            f"examples: the record does not have the {key} of its training examples, so values as in the "
            "file cannot enter as they did then; train it again, or evaluate() it"
        )
    return np.array(details[key].split(), np.float64)


def enter(how: Entering, examples: Array, lengths: Labels) -> Array:
    """Return examples as they enter the network, (B, T, inputs) float32.

    Args:
        how: they enter.
        examples: (B, T, channels) values as in the file, nan where one is missing.
        lengths: (B,) steps that count.

    Raises:
        ConfigError: they have another number of channels; or a value is missing in a channel that had all.
    """
    (B, T, C), channels = examples.shape, len(how.scaling.mean)
    if channels != C:
        raise ConfigError(
            f"examples: expected (B, T, channels) = (B, T, {channels}), values as in the file, got "
            f"{examples.shape}"
        )
    missing = (np.isnan(examples) & (np.arange(T) < lengths[:, None])[..., None]).any((0, 1))
    if (odd := np.setdiff1d(np.flatnonzero(missing), how.gaps)).size:
        raise ConfigError(
            f"examples: nan in channel {odd[0]}, which no training example had there; give a number"
        )
    values = entered(how.data, examples.reshape(-1, C), np.full(B, T), how.scaling, how.gaps)
    return values.reshape(B, T, -1)


def in_units(details: Mapping[str, str], answers: Array) -> Array:
    """Return numbers (..., outputs) that a network gave in the units of the file."""
    mean, sd = known(details, "target means"), known(details, "target sds")
    times = answers.shape[-1] // len(mean)  # of a forecast: the steps that are asked for
    found: Array = answers * np.tile(sd, times) + np.tile(mean, times)
    return found
