"""Describes the image sets, and decodes their files into images and labels."""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnbench.tasks.files import Files
from rnnbench.tasks.task import Bytes, Labels

DIGITS_SEED = 0  # fixes the test examples of digits; never changes


@dataclass(frozen=True, kw_only=True)
class Dataset(Files):
    """Describes a set of labelled images, with the facts that are known before any of its files is read.

    One example of `mnist`, a 5: an image of height 28 and width 28, a byte a pixel, and the label 5.
    As a sequence of rows that is 28 steps of 28 values in [0, 1].
    """

    decode: Callable[
        [dict[str, bytes]], tuple[Bytes, Labels]
    ]  # turns the files' contents into images, labels
    size: tuple[int, int, int]  # height, width, channels
    classes: int
    train: int  # published training examples (validation is taken from these); they come first
    test: int
    white: int = 255  # the byte that means 1


def read_idx(content: bytes) -> NDArray[Any]:
    """Decode the idx format: two zeros, type, dimensions, their sizes, values, all big-endian.

    Raises:
        ValueError: the content is not in this format, or is cut short.
    """
    types: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 12: np.dtype(">i4")}
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in types:
        raise ValueError("it is not an idx file of bytes or integers")
    rank = content[3]
    sizes = np.frombuffer(content, np.dtype(">u4"), rank, offset=4)
    values: NDArray[Any] = np.frombuffer(content, types[content[2]], offset=4 + 4 * rank)
    return values.reshape(sizes.tolist())


def decode_idx(contents: dict[str, bytes], transposed: bool = False) -> tuple[Bytes, Labels]:
    """Decode four idx files (images, labels, test images, test labels) to images (N, h, w, 1), labels (N,).

    Labels with more than one column (QMNIST also has the writer) have the class in the first.
    """
    images, labels, test_images, test_labels = map(read_idx, contents.values())
    x = np.concatenate([images, test_images])[..., None]
    y = np.concatenate([labels, test_labels]).astype(np.int64)
    if transposed:
        x = np.ascontiguousarray(x.swapaxes(1, 2))
    return x, y.reshape(len(y), -1)[:, 0]


def decode_digits(contents: dict[str, bytes]) -> tuple[Bytes, Labels]:
    """Decode lines of 64 grey levels (0..16) and a label to images (1797, 8, 8, 1) and labels (1797,).

    No test set is published; the last 360 images of a fixed permutation are used.
    """
    table = np.loadtxt(io.BytesIO(contents["digits.csv"]), dtype=np.uint8, delimiter=",")
    table = table[np.random.RandomState(DIGITS_SEED).permutation(len(table))]
    return table[:, :64].reshape(-1, 8, 8, 1), table[:, 64].astype(np.int64)


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings and numpy arrays; anything that could run code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            # The module of this function differs between versions of numpy.
            "_reconstruct": np.empty(0).__reduce__()[0],
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if module.split(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):  # Python 3 pickles bytes so for Python 2
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs")


def decode_cifar(contents: dict[str, bytes]) -> tuple[Bytes, Labels]:
    """Decode CIFAR's Python batches to images (N, 32, 32, 3) and labels (N,)."""
    images, labels = [], []
    for name, content in contents.items():
        try:
            batch = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
            images.append(np.asarray(batch["data"]).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(batch["labels"], np.int64))
        except (pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{name} is not a CIFAR batch, {error}") from None
    return np.ascontiguousarray(np.concatenate(images).transpose(0, 2, 3, 1)), np.concatenate(labels)


def like_mnist(
    source: str,
    publisher: str,
    *,
    train: int = 60_000,
    test: int = 10_000,
    classes: int = 10,
    prefixes: tuple[str, str] = ("train", "t10k"),
    columns: int | None = None,  # columns of integer labels; None: one byte a label
    transposed: bool = False,
    **more: Any,
) -> Dataset:
    """Describe a set of 28 by 28 grey images in four idx files named like MNIST's, with other prefixes."""
    kind = "idx1-ubyte" if columns is None else "idx2-int"
    label = (8, 1) if columns is None else (12, 4 * columns)  # bytes of the header, and of each label
    files: dict[str, int | None] = {}
    for prefix, count in zip(prefixes, (train, test), strict=True):
        files[f"{prefix}-images-idx3-ubyte"] = 16 + 28 * 28 * count
        files[f"{prefix}-labels-{kind}"] = label[0] + label[1] * count
    return Dataset(
        source=source,
        publisher=publisher,
        folder=f"{publisher}/raw",
        files=files,
        decode=partial(decode_idx, transposed=transposed),
        size=(28, 28, 1),
        classes=classes,
        train=train,
        test=test,
        **more,
    )


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        source="Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998; UCI, CC BY 4.0), "
        "the part that scikit-learn carries",
        publisher=None,
        folder="datasets/data",  # inside scikit-learn's package
        files={"digits.csv": 264_712},
        decode=decode_digits,
        size=(8, 8, 1),
        classes=10,
        train=1_437,
        test=360,
        white=16,
        sha256={"digits.csv": "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"},
    ),
    "mnist": like_mnist(
        "MNIST (LeCun, Cortes, Burges)",
        "MNIST",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion_mnist": like_mnist("Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT)", "FashionMNIST"),
    "kmnist": like_mnist("Kuzushiji-MNIST (Clanuwat et al. 2018; CC BY-SA 4.0)", "KMNIST"),
    # EMNIST is published with height and width exchanged, as torchvision reads it; here they are as seen.
    "emnist": like_mnist(
        "EMNIST balanced (Cohen, Afshar, Tapson, van Schaik 2017), from NIST Special Database 19",
        "EMNIST",
        train=112_800,
        test=18_800,
        classes=47,
        prefixes=("emnist-balanced-train", "emnist-balanced-test"),
        transposed=True,
        archive="gzip.zip",
    ),
    "qmnist": like_mnist(
        "QMNIST (Yadav, Bottou 2019)",
        "QMNIST",
        test=60_000,
        prefixes=("qmnist-train", "qmnist-test"),
        columns=8,
    ),
    "cifar10": Dataset(
        source="CIFAR-10 (Krizhevsky 2009)",
        publisher="CIFAR10",
        folder="cifar-10-batches-py",
        files=dict.fromkeys([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]),
        decode=decode_cifar,
        size=(32, 32, 3),
        classes=10,
        train=50_000,
        test=10_000,
        archive="cifar-10-python.tar.gz",
    ),
}
