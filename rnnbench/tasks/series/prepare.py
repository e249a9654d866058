"""Makes a task of series: missing values, standardisation, splits, padding, class weights."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.tasks.series.answers import asked, numbers, warn_of_classes
from rnnbench.tasks.series.collection import BLOCK, Array, Collection
from rnnbench.tasks.series.settings import Missing, Series
from rnnbench.tasks.series.splits import spread, stratified
from rnnbench.tasks.task import Labels, Task, divided, terminal

MARKED = "channels with missing values"  # numbers from 0 on, in the record of data.missing=mask
TEST_SEED = 0  # draws the test examples if none are published
UNSCALED = 10.0  # a root mean square of a channel above this, or below its inverse, is named


@dataclass(frozen=True)
class Scaling:
    """Keeps what is known of each channel from the training examples: (channels,) each."""

    mean: Array
    sd: Array
    details: dict[str, str] = field(default_factory=dict)  # for the record


def task_of(data: Series, found: Collection, source: dict[str, str]) -> Task:
    """Make a task of series and what is asked of them.

    Args:
        data: the settings.
        found: the series.
        source: facts for the record.

    Raises:
        ConfigError: a value is missing and data.missing says nothing; a class has one example.
    """
    gaps = check_values(data, found)
    splits, how = split(data, found)
    warn_of_classes(found, splits)
    scaling = scaling_of(data, found, splits["train"])
    T = int(found.lengths.max())
    answers = asked(data, found, splits["train"], T)
    return Task(
        inputs=padded(data, found, scaling, gaps, T),
        targets=answers.targets,
        splits=splits,
        outputs=answers.outputs,
        checksum=found.digest(),
        details=source | how | scaling.details | marked(data, gaps) | answers.details,
        goal=answers.goal,
        metric=data.metric,
        lengths=None if (found.lengths == found.lengths[0]).all() else found.lengths,
        classes=tuple(found.classes),
        weights=answers.weights,
    )


def blocks(found: Collection) -> Iterator[tuple[slice, slice]]:
    """Yield some series at a time: their places among the series, and those of their values."""
    ends = np.cumsum(found.lengths)
    first = 0
    while first < len(ends):
        begin = int(ends[first] - found.lengths[first])
        last = int(np.searchsorted(ends, begin + BLOCK // found.values.shape[1], side="right"))
        last = max(last, first + 1)
        yield slice(first, last), slice(begin, int(ends[last - 1]))
        first = last


def check_values(data: Series, found: Collection) -> Labels:
    """Return the channels that have missing values.

    Raises:
        ConfigError: a value is infinite, or missing and data.missing says nothing; names file and row.
    """
    gaps = np.zeros(len(found.channels), bool)
    for _, steps in blocks(found):
        values = np.asarray(found.values[steps])
        bad = np.isinf(values) if data.missing else ~np.isfinite(values)
        if bad.any():
            step, channel = (int(part[0]) for part in bad.nonzero())
            infinite = np.isinf(values[step, channel])
            raise ConfigError(
                f"{found.place_of_step(steps.start + step)} has "
                + ("an infinite value" if infinite else "no value")
                + f" in channel {found.channels[channel]}; "
                + ("correct it" if infinite else "data.missing=mask or data.missing=forward reads it")
            )
        gaps |= np.isnan(values).any(0)
    return np.flatnonzero(gaps)


def split(data: Series, found: Collection) -> tuple[dict[str, Labels], dict[str, str]]:
    """Return the indices of each split, and how the test set was made, for the record.

    Raises:
        ConfigError: there are too few series, or a class has too few to be divided.
    """
    parts, how = dict(found.parts), {}
    pool = parts.pop("train")
    by_class = bool(found.classes) and data.stratified and not found.every_step
    if "test" not in parts:
        sixth = len(pool) // 6
        if sixth < 1:
            raise ConfigError(
                f"{found.files[0]}: has {len(pool)} series, too few to be split; give at least 6"
            )
        drawn = pool[np.random.RandomState(TEST_SEED).permutation(len(pool))]
        if by_class and found.answers is not None:
            check_classes(found, pool)
            drawn = drawn[np.argsort(found.answers[drawn], kind="stable")]
            at = spread(len(drawn), sixth)
        else:
            at = np.arange(sixth)
        parts["test"], pool = drawn[at], np.sort(np.delete(drawn, at))
        how["test"] = "a sixth of the series, set aside under a fixed seed"
    if "val" in parts:
        for key, value in (("val_size", data.val_size), ("folds", data.folds)):
            if value is not None:
                raise ConfigError(f"data.{key}={value}: {found.files[0]} has validation series; use null")
    share = 0 if "val" in parts else round(len(pool) / 6)
    if by_class and found.answers is not None and "val" not in parts and data.val_size != 0:
        check_classes(found, pool)
        chosen = stratified(data, found.answers[pool], share)
    else:
        chosen = divided(data, len(pool), share)
    return {part: pool[index] for part, index in chosen.items()} | parts, how


def check_classes(found: Collection, pool: Labels) -> None:
    """Refuse a class with one example, which cannot be in two parts."""
    assert found.answers is not None
    counts = np.bincount(found.answers[pool], minlength=len(found.classes))
    if (alone := np.flatnonzero(counts == 1)).size:
        one = pool[found.answers[pool] == alone[0]][0]
        raise ConfigError(
            f"{found.place(int(one))}: is the only example of class {found.classes[alone[0]]} that is not "
            "for testing, so that training and validation cannot both have it; leave the class out, or "
            "data.stratified=false"
        )


def scaling_of(
    data: Series, found: Collection, train: Labels, share: float = 1.0, own: tuple[float, float] = (0.0, 1.0)
) -> Scaling:
    """Return mean and standard deviation of each channel over the training examples; `own` if not wanted.

    Args:
        data: the settings.
        found: the series.
        train: those that train.
        share: of each of them, from its beginning.
        own: mean and standard deviation where data.standardise is false.

    Raises:
        ConfigError: a channel has no value in any training example.
    """
    chosen = np.zeros(len(found.lengths), np.int64)
    chosen[train] = np.ceil(found.lengths[train] * share)
    C = len(found.channels)
    count, total, square = np.zeros(C), np.zeros(C), np.zeros(C)
    low, high = np.full(C, np.inf), np.full(C, -np.inf)
    for values in chosen_values(found, chosen):
        count += (~np.isnan(values)).sum(0)
        total += np.nansum(values, 0)
        low, high = np.fmin(low, np.fmin.reduce(values, 0)), np.fmax(high, np.fmax.reduce(values, 0))
    if (empty := np.flatnonzero(count == 0)).size:
        raise ConfigError(
            f"{found.files[0]}: channel {found.channels[empty[0]]} has no value in any training example; "
            "leave it out"
        )
    mean = total / count
    for values in chosen_values(found, chosen):
        square += np.nansum((values - mean) ** 2, 0)
    sd = np.sqrt(square / count)
    if not data.standardise:
        ranges = (np.stack([low, high, mean]) - own[0]) / own[1]
        name_unscaled(found, ranges, sd / own[1])
        return Scaling(np.full(C, own[0]), np.full(C, own[1]))
    details = {"channel means": numbers(mean), "channel sds": numbers(sd)}
    return Scaling(mean, unit(mean, sd), details)


def unit(mean: Array, sd: Array) -> Array:
    """Return the standard deviation that each channel is divided by, 1 for those that never vary."""
    return np.where(sd <= 1e-12 * np.maximum(abs(mean), 1e-300), 1.0, sd)


def marked(data: Series, gaps: Labels) -> dict[str, str]:
    """Return for the record which channels have one beside them that says where values are missing."""
    return {MARKED: " ".join(map(str, gaps))} if data.missing is Missing.mask else {}


def chosen_values(found: Collection, chosen: Labels) -> Iterator[Array]:
    """Yield the values (steps, channels) of the first steps of each series, so many as `chosen` (N,) says."""
    for series, steps in blocks(found):
        lengths = found.lengths[series]
        within = np.arange(steps.stop - steps.start) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield np.asarray(found.values[steps], np.float64)[within < np.repeat(chosen[series], lengths)]


def name_unscaled(found: Collection, ranges: Array, sd: Array) -> None:
    """Say in a line which channels enter with values that networks train badly on.

    Args:
        found: the series.
        ranges: (3, channels) lowest and highest value and mean of each over the training examples.
        sd: (channels,) their standard deviation.
    """
    low, high, mean = ranges
    size = np.hypot(mean, sd)
    small = np.maximum(-low, high) < 1 / UNSCALED
    offset = (abs(mean) > UNSCALED * sd) & (abs(mean) > 1)
    far = np.flatnonzero(((size > UNSCALED) | small | offset) & (sd > 0))
    if far.size:
        worst = far[np.abs(np.log(size[far])).argmax()]
        terminal().warn(
            f"{found.files[0]}: {len(far)} of {len(size)} channels enter unscaled, such as "
            f"{found.channels[worst]} with values of about {size[worst]:.3g}, from {low[worst]:.3g} to "
            f"{high[worst]:.3g}; networks train far better on values of about 1: data.standardise=true"
        )


def entered(data: Series, values: Array, lengths: Labels, scaling: Scaling, gaps: Labels) -> Array:
    """Return values (steps, channels) of whole series as they enter the network, float32."""
    values = (np.asarray(values, np.float64) - scaling.mean) / scaling.sd
    missing = np.isnan(values[:, gaps])
    if gaps.size and data.missing is Missing.forward:
        step = np.arange(len(values))[:, None]
        last = np.maximum.accumulate(np.where(np.isnan(values), -1, step), axis=0)
        begin = np.repeat(np.cumsum(lengths) - lengths, lengths)[:, None]
        values = np.where(last >= begin, np.take_along_axis(values, np.maximum(last, 0), 0), np.nan)
    elif gaps.size:
        values = np.concatenate([values, missing], 1)
    return np.nan_to_num(values, nan=0.0).astype(np.float32)


def padded(data: Series, found: Collection, scaling: Scaling, gaps: Labels, T: int) -> Array:
    """Return inputs (N, T, channels) with 0 beyond the lengths."""
    width = len(found.channels) + (gaps.size if data.missing is Missing.mask else 0)
    inputs = np.zeros((len(found.lengths), T, width), np.float32)
    for series, steps in blocks(found):
        lengths = found.lengths[series]
        counts = np.arange(T) < lengths[:, None]
        inputs[series][counts] = entered(data, found.values[steps], lengths, scaling, gaps)
    return inputs
