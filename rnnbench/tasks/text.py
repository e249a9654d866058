"""Reads text character by character, the user's own or a published one; the target is the next character."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Optional

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from rnnbench.config import ConfigError, Data
from rnnbench.config.refusals import at_least
from rnnbench.tasks.download import download
from rnnbench.tasks.files import Files, Stored, absent, contents, found_at, place
from rnnbench.tasks.task import Goal, Shape, Task, check_metric, enter, held

Ids = NDArray[np.int16 | np.int32]


@dataclass
class Windows(Data):
    """Settings of a text that is read in windows; sizes are in characters, null: a twentieth each."""

    window: int = 50  # steps of backpropagation; a window starts from the last state of the one before
    test_size: Optional[int] = None

    def check(self) -> None:
        """Refuse a window or a test below 1; see `Data.check`."""
        super().check()
        at_least(1, ("data.test_size", self.test_size), ("data.window", self.window))

    def called(self) -> str:
        """Return how a message names the text."""
        return f"data={self.name}"


@dataclass
class Text(Windows):
    """Settings of the user's text."""

    path: str = MISSING

    def called(self) -> str:
        """Return how a message names the text."""
        return f"data.path={self.path}"


@dataclass
class PublishedText(Windows, Stored):
    """Settings of a published text, which is read from data.root."""


class Characters:
    """Reads any UTF-8 file: `data=text data.path=FILE`.

        input   t h e _ c a          target   h e _ c a t

    The first part is for training, then come data.val_size and data.test_size characters (null: a
    twentieth of the text each). The vocabulary is that of the training part. Each part is cut into windows
    of data.window steps, whose characters enter one-hot; a minibatch holds one window of each of
    fit.batch_size streams and continues the minibatch before, whose state it takes over without its
    gradient (truncated backpropagation through time). Validation and test have the same number of streams.
    Metric: bpc, bits per character, the mean cross entropy over ln 2. The best constant answer scores the
    entropy of single characters, about 4.2 for English.
    """

    folds: ClassVar[str] = "validates on the characters that follow those of training"

    def shape(self, data: Text) -> Shape:
        """Return the sizes; reads the file.

        Raises:
            ConfigError: as `load`.
        """
        task = self.load(data)
        sizes = {name: len(index) for name, index in task.splits.items()}
        return Shape(data.window, task.outputs, task.outputs, **sizes, goal=Goal.labels, next_step=True)

    @held(files=lambda data: [data.path])
    def load(self, data: Text) -> Task:
        """Return the task.

        Raises:
            ConfigError: data.path cannot be read, is not UTF-8 or is too short; a part has a character
                that the training part does not have.
        """
        check_metric(data, "bpc")
        codes, digest = read(data.path)
        parts = divide(data, codes)
        return text_task(data, parts, identify(parts["train"]), {"source": Path(data.path).name}, digest)


@dataclass(frozen=True, eq=False)  # each is itself alone, also as a key of the cache
class TextSet:
    """Reads a published text, as `Characters` reads one's own; its vocabulary is that of the whole text."""

    files: Files
    characters: int
    vocabulary: int
    folds: ClassVar[str] = Characters.folds

    def shape(self, data: PublishedText) -> Shape:
        """Return the sizes, which need no file.

        Raises:
            ConfigError: the text is too short for data.val_size, data.test_size and data.train_size.
        """
        check_metric(data, "bpc")
        sizes = {
            name: -(-(end - start - 1) // data.window)
            for name, (start, end) in bounds(data, self.characters).items()
        }
        return Shape(data.window, self.vocabulary, self.vocabulary, **sizes, goal=Goal.labels, next_step=True)

    @held(files=lambda data: files_of(data))
    def load(self, data: PublishedText) -> Task:
        """Return the task; its file is checked, and downloaded if it is missing.

        Raises:
            ConfigError: the file is damaged or cannot be downloaded, or as `shape`.
        """
        check_metric(data, "bpc")
        if absent(self.files, place(self.files, data)):
            download(self.files, data)
        found, facts = contents(self.files, data)
        (content,) = found.values()
        codes = points(content)
        facts = {"source": self.files.source, **facts}
        return text_task(
            data, divide(data, codes), identify(codes), facts, hashlib.sha256(content).hexdigest()
        )


def files_of(data: PublishedText) -> list[str]:
    """Return the paths of a published text's files, which need not exist."""
    files = SETS[data.name].files
    return [str(found_at(place(files, data), name)) for name in files.files]


def text_task(
    data: Windows,
    parts: dict[str, NDArray[np.uint32]],
    identified: tuple[str, Ids],
    facts: dict[str, str],
    digest: str,
) -> Task:
    """Make the task of a text's parts, each (n,), and its vocabulary; see `identify`.

    Raises:
        ConfigError: a part has a character that is not in the vocabulary.
    """
    vocabulary, ids = identified
    windows = {name: cut(_known(data, name, part, ids), data.window) for name, part in parts.items()}
    inputs, targets, lengths = map(np.concatenate, zip(*windows.values(), strict=True))
    ends = np.cumsum([len(rows) for rows, _, _ in windows.values()]).tolist()
    starts = [0, *ends[:-1]]
    return Task(
        inputs=inputs,
        targets=targets,
        splits={n: np.arange(i, j) for n, i, j in zip(windows, starts, ends, strict=True)},
        outputs=len(vocabulary),
        checksum=digest,
        details={**facts, "vocabulary": vocabulary},
        goal=Goal.labels,
        metric="bpc",
        lengths=lengths,
        tokens=len(vocabulary),
        carried=True,
    )


def bounds(data: Windows, characters: int) -> dict[str, tuple[int, int]]:
    """Return where training, validation and test begin and end in a text.

    Raises:
        ConfigError: there are too few characters.
    """
    val, test = (characters // 20 if size is None else size for size in (data.val_size, data.test_size))
    train = characters - val - test
    if min(train, val, test) < 2:
        raise ConfigError(
            f"{data.called()}: {characters} characters are too few for training beside "
            f"{val} for validation and {test} for the test (data.val_size, data.test_size)"
        )
    if data.train_size is not None and not 2 <= data.train_size <= train:
        raise ConfigError(
            f"data.train_size={data.train_size}: must be at least 2 and at most {train}, the "
            "characters that are not for validation and test"
        )
    kept = train if data.train_size is None else data.train_size
    return {"train": (0, kept), "val": (train, train + val), "test": (characters - test, characters)}


def divide(data: Windows, codes: NDArray[np.uint32]) -> dict[str, NDArray[np.uint32]]:
    """Divide the characters of a text (n,) into those of training, validation and test.

    Raises:
        ConfigError: there are too few characters.
    """
    return {name: codes[start:end] for name, (start, end) in bounds(data, len(codes)).items()}


def _known(data: Windows, name: str, part: NDArray[np.uint32], ids: Ids) -> Ids:
    """Return the index in the vocabulary of each character of a part.

    Raises:
        ConfigError: names the first character that the training part does not have.
    """
    tokens = ids[part]
    if (tokens < 0).any():
        unseen = int(np.argmax(tokens < 0))
        raise ConfigError(
            f"{data.called()}: the {name} part has {chr(part[unseen])!r} (its character "
            f"{unseen}), which the training part does not have; clean the text, or choose another "
            "data.val_size and data.test_size"
        )
    return tokens


def read(file: str) -> tuple[NDArray[np.uint32], str]:
    """Return the characters of a file as code points (n,), and the sha256 of its bytes.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = Path(file).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"data.path={file}: cannot be read ({error.strerror}); give a UTF-8 file") from None
    try:
        codes = points(content)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"data.path={file}: is not UTF-8 at byte {error.start}; convert it, for example with iconv"
        ) from None
    return codes, hashlib.sha256(content).hexdigest()


def points(content: bytes) -> NDArray[np.uint32]:
    """Return the code points (n,) of UTF-8 bytes.

    Raises:
        UnicodeDecodeError: they are not UTF-8.
    """
    return np.frombuffer(content.decode("utf-8").encode("utf-32-le"), np.uint32)


def identify(codes: NDArray[np.uint32]) -> tuple[str, Ids]:
    """Return the vocabulary of a text in order of code points, and each code point's index in it, or -1."""
    seen = np.zeros(sys.maxunicode + 1, bool)
    seen[codes] = True
    points = np.flatnonzero(seen)
    ids: Ids = np.full(len(seen), -1, np.int16 if len(points) < 2**15 else np.int32)
    ids[points] = np.arange(len(points))
    return "".join(map(chr, points)), ids


def cut(ids: Ids, window: int) -> tuple[Ids, Ids, NDArray[np.int64]]:
    """Cut a text into windows: inputs and targets (n, window), lengths (n,); the last may be shorter."""
    steps = len(ids) - 1
    count = -(-steps // window)
    padded = np.zeros((2, count * window), ids.dtype)
    padded[0, :steps], padded[1, :steps] = ids[:-1], ids[1:]
    inputs, targets = padded.reshape(2, count, window)
    lengths = np.full(count, window)
    lengths[-1] = steps - (count - 1) * window
    return inputs, targets, lengths


SETS = {
    "tiny_shakespeare": TextSet(
        Files(
            source="plays of Shakespeare, 1,115,394 characters, as distributed by karpathy/char-rnn",
            publisher=(
                "https://raw.githubusercontent.com/karpathy/char-rnn/"
                "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/"
            ),
            folder="tiny_shakespeare",
            files={"input.txt": 1_115_394},
            sha256={"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
        ),
        characters=1_115_394,
        vocabulary=65,
    ),
}
enter("text", Characters(), Text)
for _name, _set in SETS.items():
    enter(_name, _set, PublishedText)
