"""Makes tasks of image sets: the label of a sequence of rows, columns or pixels, kept as bytes.

All permutations here are those of numpy's RandomState, whose stream for a seed never changes.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import ClassVar, Optional
from urllib.parse import urlsplit

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.config.refusals import at_least, finite, positive, refuse
from rnnbench.config.secrets import check_secret
from rnnbench.tasks.download import download
from rnnbench.tasks.files import Stored, absent, contents, damaged, place
from rnnbench.tasks.images import DATASETS, Dataset
from rnnbench.tasks.task import Bytes, Labels, Shape, Task, check_metric, divided, enter, split_sizes

PERMUTATION_SEED = 0  # seed of data.order=permuted, one permutation for each number of pixels; never changes
NOISE_SEED = 0  # seed of data.fill=noise


class Order(Enum):
    """Names the part of an image that is a step."""

    rows = "rows"  # an image is a sequence of its rows
    columns = "columns"
    pixels = "pixels"  # one pixel a step, row by row
    permuted = "permuted"  # pixels under one fixed permutation


class Fill(Enum):
    """Names the contents of the steps of data.delay."""

    zeros = "zeros"
    noise = "noise"  # bytes drawn uniformly, the same for every trial


@dataclass
class Images(Stored):
    """Settings of labelled images. val_size=null: a sixth of the images outside the test set."""

    order: Order = Order.rows
    delay: Optional[int] = None  # steps between the image and the answer
    fill: Optional[Fill] = None  # contents of these steps; null: zeros
    mean: float = 0.5  # inputs enter as (value - mean) / std, value in [0, 1]
    std: float = 0.5

    def check(self) -> None:
        """Refuse a delay, fill, mean or std outside its range; see `Data.check`."""
        super().check()
        at_least(1, ("data.delay", self.delay))
        positive(("data.std", self.std))
        finite(("data.mean", self.mean))
        if self.fill is not None and self.delay is None:
            refuse("data.fill", self.fill, "fills the steps of data.delay, and there are none")


@dataclass(frozen=True)
class ImageSet:
    """The labelled images of DATASETS[name]; metric: accuracy.

    One example of `mnist`, a 5, as rows: 28 steps of 28 values in [0, 1], then `data.delay` steps of zeros
    or noise, and the label 5. A constant answer scores the share of the commonest class (mnist: 0.1135).
    """

    name: str
    folds: ClassVar[bool] = True
    same_examples: ClassVar[bool] = True

    def shape(self, data: Images) -> Shape:
        """Return the sizes, without reading a file.

        Raises:
            ConfigError: there are too few examples for the sizes; or data.source or data.sha256 is wrong.
        """
        dataset = DATASETS[self.name]
        check_metric(data, "accuracy")
        check_source(data, dataset)
        train, val = split_sizes(data, dataset.train, round(dataset.train / 6))
        height, width, channels = dataset.size
        steps = {Order.rows: height, Order.columns: width}.get(data.order, height * width)
        input_size = height * width * channels // steps
        return Shape(steps + (data.delay or 0), input_size, dataset.classes, train, val, dataset.test)

    def load(self, data: Images) -> Task:
        """Return the task; its files are read once in a process, checked, and downloaded if they are missing.

        The test examples are the published ones (digits: a fixed choice). The others are permuted under
        data.split_seed, see `divided`.

        Raises:
            ConfigError: as `shape`; or files are damaged, or absent and cannot be downloaded.
        """
        sizes = self.shape(data)
        dataset = DATASETS[self.name]
        inputs, targets, digest, details = examples(
            name=data.name,
            order=data.order,
            root=data.root,
            may_download=data.download,
            source=data.source,
            sha256=frozenset(data.sha256.items()),
            delay=data.delay or 0,
            fill=data.fill or Fill.zeros,
        )
        return Task(
            inputs=inputs,
            targets=targets,
            splits={
                **divided(data, dataset.train, sizes.val),
                "test": np.arange(dataset.train, dataset.train + dataset.test, dtype=np.int64),
            },
            scale=1 / dataset.white,
            mean=data.mean,
            std=data.std,
            outputs=dataset.classes,
            checksum=digest,
            details=details,
        )


def check_source(data: Images, dataset: Dataset) -> None:
    """Refuse a data.source that is not a URL, and a data.sha256 of an unknown file or in a wrong format."""
    if data.source is not None:
        check_secret("data.source", data.source)
        url = urlsplit(data.source)
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


@lru_cache(maxsize=8)  # keeps the orders of a sweep; splits and sizes share an entry
def examples(
    *,
    name: str,
    order: Order,
    root: str,
    may_download: bool,
    source: str | None,
    sha256: frozenset[tuple[str, str]],
    delay: int,
    fill: Fill,
) -> tuple[Bytes, Labels, str, dict[str, str]]:
    """Return inputs (N, steps, input_size), targets (N,), checksum and details of a task before its split.

    Raises:
        ConfigError: files are damaged, or absent and cannot be downloaded.
    """
    data = Images(name, root=root, download=may_download, source=source, sha256=dict(sha256))
    dataset = DATASETS[name]
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
    inputs = delayed(sequence(dataset, images, order), delay, fill, dataset.white)
    return inputs, targets, checksum(images, targets), details


def expect(dataset: Dataset, images: Bytes, targets: Labels) -> None:
    """Raise ValueError unless number, shape and type of images and labels are those of the dataset."""
    shape = (dataset.train + dataset.test, *dataset.size)
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError(f"images of shape {images.shape} and type {images.dtype} where {shape} is expected")
    if targets.shape != shape[:1]:
        raise ValueError(f"{len(targets)} labels for {len(images)} images")
    if not 0 <= targets.min() <= targets.max() < dataset.classes:
        raise ValueError(f"labels from {targets.min()} to {targets.max()} for {dataset.classes} classes")


def permutation(dataset: Dataset) -> Labels:
    """Return the permutation (height * width,) for order=permuted: its entry t is the pixel of step t."""
    height, width, _ = dataset.size
    return np.random.RandomState(PERMUTATION_SEED).permutation(height * width).astype(np.int64)


def sequence(dataset: Dataset, images: Bytes, order: Order) -> Bytes:
    """Turn images (N, height, width, channels) into sequences (N, steps, input_size).

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


def delayed(inputs: Bytes, delay: int, fill: Fill, white: int) -> Bytes:
    """Append `delay` steps of zeros, or of uniform bytes up to `white`, to sequences (N, T, input)."""
    if delay == 0:
        return inputs
    steps = inputs.shape[1]
    longer = np.zeros((len(inputs), steps + delay, inputs.shape[2]), np.uint8)
    longer[:, :steps] = inputs
    if fill is Fill.noise:
        draw = np.random.RandomState(NOISE_SEED)
        for after in longer[:, steps:]:  # one by one: numpy draws numbers of eight bytes
            after[...] = draw.randint(0, white + 1, after.shape)
    return longer


def checksum(images: Bytes, targets: Labels) -> str:
    """Return the sha256 of the images' bytes (all examples, row by row) and the labels as 8-byte integers.

    It depends on the examples alone, not on order, split, folder or file format.
    """
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(targets.astype("<i8").tobytes())
    return digest.hexdigest()


for _name in DATASETS:
    enter(_name, ImageSet(_name), Images)
