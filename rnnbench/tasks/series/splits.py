"""Divides examples so that every part has each class in its share."""

import dataclasses

import numpy as np

from rnnbench.config import Data
from rnnbench.tasks.task import Labels, split_sizes


def stratified(data: Data, classes: Labels, val: int) -> dict[str, Labels]:
    """Return which examples are for training and validation, as `divided` does, by shares of each class.

    The examples are permuted under data.split_seed and put in order of their classes; of these every
    n/val-th is for validation, or under data.folds every one whose place is the fold modulo their number.
    In every part a class has its share, rounded up or down.

    Args:
        data: the settings.
        classes: (n,) class of each example.
        val: number of validation examples by default.

    Raises:
        ConfigError: there are too few examples.
    """
    n = len(classes)
    train, val = split_sizes(data, n, val)
    drawn = np.random.RandomState(data.split_seed).permutation(n).astype(np.int64)
    drawn = drawn[np.argsort(classes[drawn], kind="stable")]
    if data.folds is None:
        chosen = spread(n, val)
    else:
        chosen = np.arange(data.fold, n, data.folds)
        val = len(chosen)
        train = split_sizes(dataclasses.replace(data, folds=None, fold=0, val_size=val), n, val)[0]
    rest = np.delete(drawn, chosen)
    return {"train": rest[spread(len(rest), train)], "val": drawn[chosen]}


def spread(n: int, count: int) -> Labels:
    """Return `count` places among n that lie evenly."""
    return (2 * np.arange(count, dtype=np.int64) + 1) * n // (2 * max(count, 1))
