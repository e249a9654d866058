"""Tasks: images as sequences to be classified, held as bytes, split once for training and honest tests.

`shape` answers what a task will be from facts alone; `load` reads, checks and if need be downloads it.
Neither needs torch, so that bad data is refused before anything slow is imported.

All permutations here are those of numpy's RandomState, whose stream for a seed never changes.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import numpy as np

from rnnbench.config import ConfigError, Data, Order
from rnnbench.tasks.download import download
from rnnbench.tasks.files import absent, contents, damaged, place
from rnnbench.tasks.images import TASKS, Bytes, Dataset, Labels

__all__ = ["TASKS", "Dataset", "Shape", "Task", "load", "shape"]

PERMUTATION_SEED = 0  # of data.order=permuted: one permutation for each number of pixels, for ever


@dataclass(frozen=True)
class Shape:
    """The sizes of a task."""

    steps: int
    input_size: int
    classes: int
    train: int  # examples in each split
    val: int
    test: int


@dataclass(frozen=True)
class Task:
    """Examples and how they are split. A byte b enters a network as (b * scale - mean) / std."""

    inputs: Bytes  # (N, steps, input_size) of all splits
    targets: Labels  # (N,) classes
    splits: dict[str, Labels]  # train, val, test: indices into the N examples
    scale: float  # the largest byte times this is 1
    mean: float
    std: float
    classes: int
    checksum: str  # sha256 of images and labels, see `checksum`; order, split and place do not change it
    details: dict[str, str]  # for the record: source, digests of the files, digest of the permutation


def shape(data: Data) -> Shape:
    """The sizes of the task that `load` would give, without reading a file.

    Raises:
        ConfigError: an unknown data.name; sizes that the examples are too few for; a data.split_seed,
            data.source or data.sha256 that cannot be used.
    """
    if data.name not in TASKS:
        raise ConfigError(f"data.name={data.name}: must be one of {', '.join(TASKS)}")
    dataset = TASKS[data.name]
    check_source(data, dataset)
    if not 0 <= data.split_seed < 2**32:
        raise ConfigError(f"data.split_seed={data.split_seed}: must be at least 0 and below 2**32")
    val = round(dataset.train / 6) if data.val_size is None else data.val_size
    left = dataset.train - val
    if val < 0 or left < 1:
        raise ConfigError(
            f"data.val_size={val}: must be at least 0 and below {dataset.train}, the examples of "
            f"data={data.name} that are not for testing"
        )
    train = left if data.train_size is None else data.train_size
    if not 1 <= train <= left:
        raise ConfigError(
            f"data.train_size={train}: must be at least 1 and at most {left}, what data={data.name} has "
            f"for training beside data.val_size={val}"
        )
    height, width, channels = dataset.size
    steps = {Order.rows: height, Order.columns: width}.get(data.order, height * width)
    return Shape(steps, height * width * channels // steps, dataset.classes, train, val, dataset.test)


def check_source(data: Data, dataset: Dataset) -> None:
    """Refuse a data.source that no file can come from, and a data.sha256 that would check nothing."""
    if data.source is not None:
        url = urlsplit(data.source)
        if url.password:
            raise ConfigError("data.source: a password in it would be written to disk with every config")
        if url.scheme not in ("http", "https", "file") or not (url.hostname or url.scheme == "file"):
            raise ConfigError(f"data.source={data.source}: must start with http://, https:// or file://")
    known = [*dataset.files, *dataset.archives()] if dataset.publisher else [*dataset.files]
    for name, digest in data.sha256.items():
        if name not in known:
            raise ConfigError(
                f"data.sha256.{name}: data={data.name} has no such file, but {', '.join(known)}"
            )
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ConfigError(f"data.sha256.{name}={digest}: must be 64 digits of 0-9 and a-f")


def load(data: Data) -> Task:
    """The task, its files read once in a process, checked, and downloaded where they are absent.

    The test examples are the published ones (digits: a fixed choice). Of the others, a permutation
    under data.split_seed has first the validation examples, then data.train_size for training.

    Raises:
        ConfigError: as `shape`; also where files are absent and cannot be had, or are damaged.
    """
    sizes = shape(data)
    dataset = TASKS[data.name]
    inputs, targets, digest, details = examples(
        data.name, data.order, data.root, data.download, data.source, frozenset(data.sha256.items())
    )
    drawn = np.random.RandomState(data.split_seed).permutation(dataset.train).astype(np.int64)
    return Task(
        inputs=inputs,
        targets=targets,
        splits={
            "train": drawn[sizes.val : sizes.val + sizes.train],
            "val": drawn[: sizes.val],
            "test": np.arange(dataset.train, dataset.train + dataset.test, dtype=np.int64),
        },
        scale=1 / dataset.white,
        mean=data.mean,
        std=data.std,
        classes=dataset.classes,
        checksum=digest,
        details=details,
    )


@lru_cache(maxsize=8)  # a sweep over orders keeps each; one over splits and sizes shares one entry
def examples(
    name: str,
    order: Order,
    root: str,
    may_download: bool,
    source: str | None,
    sha256: frozenset[tuple[str, str]],
) -> tuple[Bytes, Labels, str, dict[str, str]]:
    """Inputs (N, steps, input_size), targets (N,), checksum and details: a task before it is split.

    Raises:
        ConfigError: files are absent and cannot be had, or are damaged.
    """
    data = Data(name, root, order, download=may_download, source=source, sha256=dict(sha256))
    dataset = TASKS[name]
    if absent(dataset, place(dataset, data)):
        download(dataset, data)
    found, facts = contents(dataset, data)
    try:
        images, targets = dataset.decode(found)
        expect(dataset, images, targets)
    except ValueError as error:
        raise damaged(dataset, data, place(dataset, data), f"holds what cannot be used: {error}") from None
    details = {"source": dataset.source, **facts}
    if order is Order.permuted:
        details["permutation"] = hashlib.sha256(permutation(dataset).astype("<i8").tobytes()).hexdigest()
    return sequence(dataset, images, order), targets, checksum(images, targets), details


def expect(dataset: Dataset, images: Bytes, targets: Labels) -> None:
    """Raises ValueError where images and labels are not as many, as large, or of the kind they should be."""
    shape = (dataset.train + dataset.test, *dataset.size)
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"images of shape {images.shape} and type {images.dtype} where {shape} is expected")
    if targets.shape != shape[:1]:
        raise ValueError(f"{len(targets)} labels for {len(images)} images")
    if not 0 <= targets.min() <= targets.max() < dataset.classes:
        raise ValueError(f"labels from {targets.min()} to {targets.max()} for {dataset.classes} classes")


def permutation(dataset: Dataset) -> Labels:
    """Of the pixels, (height * width,), for order=permuted: step t shows the pixel that stands at t here."""
    height, width, _ = dataset.size
    return np.random.RandomState(PERMUTATION_SEED).permutation(height * width).astype(np.int64)


def sequence(dataset: Dataset, images: Bytes, order: Order) -> Bytes:
    """Images (N, height, width, channels) as sequences (N, steps, input_size).

    rows: height steps from the top, each the row's pixels from the left, a pixel's channels side by side
    (CIFAR-10: 32 steps of 96 = 32 x (red, green, blue)); columns: width steps from the left;
    pixels: height * width steps of the channels, row by row; permuted: these under `permutation`.
    """
    height, width, channels = dataset.size
    match order:
        case Order.rows:
            steps = images.reshape(-1, height, width * channels)
        case Order.columns:
            steps = images.swapaxes(1, 2).reshape(-1, width, height * channels)
        case Order.pixels:
            steps = images.reshape(-1, height * width, channels)
        case Order.permuted:
            steps = np.take(images.reshape(-1, height * width, channels), permutation(dataset), axis=1)
    return np.ascontiguousarray(steps)


def checksum(images: Bytes, targets: Labels) -> str:
    """sha256 of the images' bytes (all examples, row by row) and then of the labels as 8-byte integers.

    It depends on the examples alone, not on order, split or place, nor on how the files pack them.
    """
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(targets.astype("<i8").tobytes())
    return digest.hexdigest()
