"""Cuts series into windows, each of which is answered by the steps that follow it."""

from dataclasses import dataclass

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.tasks.series.answers import numbers
from rnnbench.tasks.series.collection import Array, Collection
from rnnbench.tasks.series.prepare import blocks, check_values, entered, marked, scaling_of
from rnnbench.tasks.series.settings import Missing, Series
from rnnbench.tasks.series.splits import spread
from rnnbench.tasks.task import Goal, Labels, Task


@dataclass(frozen=True)
class Windows:
    """Says which windows there are, and what is asked after each."""

    steps: int
    horizon: int
    stride: int
    channels: list[int]  # those that are asked for


def forecast(data: Series, found: Collection, windows: Windows, source: dict[str, str]) -> Task:
    """Make a task that asks for the next steps after windows of series.

    Of each series the answers of the first four sixths are for training, of the fifth for validation, of the
    last for testing; windows before them may overlap.

    Args:
        data: the settings.
        found: the series.
        windows: which there are.
        source: facts for the record.

    Raises:
        ConfigError: a value is missing and data.missing says nothing; no series is long enough.
    """
    gaps = check_values(data, found)
    scaling = scaling_of(data, found, np.arange(len(found.lengths)), 4 / 6)
    width = len(found.channels) + (gaps.size if data.missing is Missing.mask else 0)
    flat = np.zeros((len(found.values), width), np.float32)
    known = np.ones(len(found.values), bool)  # steps at which all is known that is asked for
    for series, steps in blocks(found):
        flat[steps] = entered(data, found.values[steps], found.lengths[series], scaling, gaps)
        known[steps] = ~np.isnan(np.asarray(found.values[steps])[:, windows.channels]).any(1)
    splits = splits_of(data, found, windows, known)
    first = np.concatenate([*splits.values()])
    ends = np.cumsum([len(part) for part in splits.values()])
    places = {
        part: np.arange(end - len(splits[part]), end) for part, end in zip(splits, ends.tolist(), strict=True)
    }
    inputs = flat[first[:, None] + np.arange(windows.steps)]
    answers = flat[first[:, None] + windows.steps + np.arange(windows.horizon)][:, :, windows.channels]
    targets = answers.reshape(len(first), -1)
    details = source | {"answers": "of each series four sixths train, one validates, the last tests"}
    asked = {}
    if data.standardise:
        means, sds = (part[windows.channels] for part in (scaling.mean, scaling.sd))
        asked = {"target means": numbers(means), "target sds": numbers(sds)}
    return Task(
        inputs=inputs,
        targets=targets,
        splits=places,
        outputs=targets.shape[1],
        checksum=found.digest(),
        details=details | scaling.details | marked(data, gaps) | asked,
        goal=Goal.value,
        metric=data.metric,
    )


def splits_of(data: Series, found: Collection, windows: Windows, known: Array) -> dict[str, Labels]:
    """Return where the windows of each split begin.

    Raises:
        ConfigError: a split has none.
    """
    W, H = windows.steps, windows.horizon
    starts: dict[str, list[Labels]] = {"train": [], "val": [], "test": []}
    unknown = np.concatenate([[0], np.cumsum(~known)])
    for begin, length in zip(found.starts.tolist(), found.lengths.tolist(), strict=True):
        sixth = length // 6
        edges = (0, length - 2 * sixth, length - sixth, length)
        for part, low, high in zip(starts, edges[:-1], edges[1:], strict=True):
            first = np.arange(max(low - W, 0), high - W - H + 1, windows.stride) + begin
            whole = unknown[first + W + H] == unknown[first + W]
            starts[part].append(first[whole])
    splits = {part: np.concatenate(firsts).astype(np.int64) for part, firsts in starts.items()}
    for part, firsts in splits.items():
        if not firsts.size:
            longest = int(found.lengths.argmax())
            raise ConfigError(
                f"{found.place(longest)}: begins the longest series, {found.lengths[longest]:,} steps; too "
                f"short for data.window={W} and data.horizon={H} in {part}, which has a sixth of the steps "
                "or, for training, four: lower them"
            )
    if data.train_size is not None:
        if data.train_size > len(splits["train"]):
            raise ConfigError(
                f"data.train_size={data.train_size}: must be at most {len(splits['train'])}, the windows for "
                "training"
            )
        splits["train"] = splits["train"][spread(len(splits["train"]), data.train_size)]
    return splits
