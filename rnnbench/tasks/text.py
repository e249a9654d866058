"""A text of one's own, read character by character: which one comes next?"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import ConfigError, Text
from rnnbench.tasks.task import Goal, Shape, Task, check_metric

Ids = NDArray[np.int32]


class Characters:
    """Any UTF-8 file: `data=text data.path=FILE`.

        input   t h e _ c a          target   h e _ c a t

    The first part is for training, then come data.val_size and data.test_size characters (null: a
    twentieth of the text each). The vocabulary is that of the training part. Each part is cut into windows
    of data.window steps, whose characters enter one-hot; a minibatch holds one window of each of
    fit.batch_size streams and continues the minibatch before, whose state it takes over without its
    gradient (truncated backpropagation through time). Validation and test are read in as many streams.
    Metric: bpc, bits per character, the mean cross entropy over ln 2. The best constant answer scores the
    entropy of single characters, about 4.2 for English.
    """

    def shape(self, data: Text) -> Shape:
        """The sizes; reads the file.

        Raises:
            ConfigError: as `load`.
        """
        task = self.load(data)
        sizes = {name: len(index) for name, index in task.splits.items()}
        return Shape(data.window, task.outputs, task.outputs, **sizes, goal=Goal.labels, next_step=True)

    def load(self, data: Text) -> Task:
        """The task.

        Raises:
            ConfigError: data.path cannot be read, is not UTF-8 or is too short; a part has a character
                that training has not.
        """
        check_metric(data, "bpc")
        path = Path(data.path).expanduser()
        text, digest = read(data.path, path.stat().st_mtime_ns if path.exists() else 0)
        val, test = (len(text) // 20 if size is None else size for size in (data.val_size, data.test_size))
        train = len(text) - val - test
        if min(train, val, test) < 2:
            raise ConfigError(
                f"data.path={data.path}: {len(text)} characters are too few for training beside "
                f"{val} for validation and {test} for the test (data.val_size, data.test_size)"
            )
        if data.train_size is not None and not 2 <= data.train_size <= train:
            raise ConfigError(
                f"data.train_size={data.train_size}: must be at least 2 and at most {train}, the "
                "characters that are not for validation and test"
            )
        parts = {
            "train": text[:train][: data.train_size],
            "val": text[train : train + val],
            "test": text[-test:],
        }
        vocabulary = {character: k for k, character in enumerate(sorted(set(parts["train"])))}
        windows = {}
        for name, part in parts.items():
            unseen = next((k for k, character in enumerate(part) if character not in vocabulary), None)
            if unseen is not None:
                raise ConfigError(
                    f"data.path={data.path}: the {name} part has {part[unseen]!r} (its character {unseen}), "
                    "which the training part has not; clean the text, or choose another data.val_size and "
                    "data.test_size"
                )
            windows[name] = cut(np.array([vocabulary[c] for c in part], np.int32), data.window)
        ends = np.cumsum([len(inputs) for inputs, _, _ in windows.values()])
        return Task(
            inputs=np.concatenate([inputs for inputs, _, _ in windows.values()]),
            targets=np.concatenate([targets for _, targets, _ in windows.values()]),
            splits={
                name: np.arange(end - len(windows[name][0]), end)
                for name, end in zip(windows, ends.tolist(), strict=True)
            },
            scale=1.0,
            mean=0.0,
            std=1.0,
            outputs=len(vocabulary),
            checksum=digest,
            details={"source": path.name, "vocabulary": "".join(vocabulary)},
            goal=Goal.labels,
            metric="bpc",
            lengths=np.concatenate([lengths for _, _, lengths in windows.values()]),
            tokens=len(vocabulary),
            carried=True,
        )


@lru_cache(maxsize=4)
def read(file: str, changed: int) -> tuple[str, str]:
    """The text of a file, and the sha256 of its bytes; `changed` is when it was written.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        content = Path(file).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"data.path={file}: cannot be read ({error.strerror}); give a UTF-8 file") from None
    try:
        return content.decode("utf-8"), hashlib.sha256(content).hexdigest()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"data.path={file}: is not UTF-8 at byte {error.start}; convert it, for example with iconv"
        ) from None


def cut(ids: Ids, window: int) -> tuple[Ids, Ids, NDArray[np.int64]]:
    """Inputs and targets (n, window) of consecutive windows, and their lengths: the last may be shorter."""
    steps = len(ids) - 1
    count = -(-steps // window)
    padded = np.zeros((2, count * window), np.int32)
    padded[0, :steps], padded[1, :steps] = ids[:-1], ids[1:]
    inputs, targets = padded.reshape(2, count, window)
    lengths = np.full(count, window)
    lengths[-1] = steps - (count - 1) * window
    return inputs, targets, lengths
