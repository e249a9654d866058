"""Makes tasks of generated sequences: each example is a function of (seed, number of the example).

Training data can therefore be endless without being stored, a trial's examples depend on its seed alone,
and any of them can be made again. Validation examples are drawn under data.split_seed, test examples
under a seed of their own that never changes: these two are the same for all trials.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rnnbench.config import ConfigError
from rnnbench.tasks.task import Examples, Goal, Labels, Shape, Task, check_metric, held

Uniforms = NDArray[np.float64]

TRAIN, VAL, TEST = range(3)  # purposes, each with its own random stream
HELD_OUT = 1_000  # validation examples if data.val_size is null

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[Any]) -> NDArray[Any]:
    """Apply the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    z = z ^ (z >> np.uint64(30))
    z *= np.uint64(0xBF58476D1CE4E5B9)  # in place from here on: new arrays would take most of the time
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniforms(seed: Labels, purpose: int, number: Labels, draws: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1), (n, draws), for the examples `number` (n,) of the seeds `seed` (n,).

    The generator is counter-based: splitmix64 starts at a hash of (seed, purpose), and is read from position
    number * draws on.
    """
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64
        key = _mix(seed.astype(np.uint64) + GOLDEN)
        start = _mix(key + np.uint64(purpose + 1) * GOLDEN)
        position = number.astype(np.uint64)[:, None] * np.uint64(draws) + np.arange(
            1, draws + 1, dtype=np.uint64
        )
        position *= GOLDEN
        position += start[:, None]
        bits = _mix(position)
    bits >>= np.uint64(11)
    u = bits.astype(np.float64)
    u *= 2.0**-53
    return u


def integers(u: Uniforms, low: int | NDArray[Any], high: int | NDArray[Any]) -> NDArray[np.int64]:
    """Turn uniforms in [0, 1) into whole numbers from low to high - 1, all equally likely."""
    drawn: NDArray[np.int64] = (low + np.floor(u * (np.asarray(high) - low))).astype(np.int64)
    return drawn


class Sequences(Protocol):
    """Describes sequences whose examples are made from uniform numbers.

    An optional method `loss(logits, y)` replaces the loss of the goal, and an optional `sums(logits, y,
    counts)` gives what the task's own metric is computed from, and so does `optimum`; see `Task`. An
    attribute `summed` names the metrics that `sums` is for, if these are not all that take it from a task.
    """

    goal: Goal
    metric: str
    steps: int  # T of the longest training example
    input_size: int
    outputs: int
    draws: int  # number of uniforms for an example

    def make(self, u: NDArray[np.float64]) -> Examples:
        """Make n examples from u (n, draws) in [0, 1)."""
        ...


@dataclass(frozen=True)
class Made:
    """A task that generates its training examples on demand: endless, or data.train_size of them.

    Args:
        build: makes the sequences for a `data` node.
        source: description and authors of the sequences, for the record.
    """

    build: Callable[[Any], Sequences]
    source: str
    folds: ClassVar[str] = "generates its validation examples beside those of training"

    def shape(self, data: Any) -> Shape:
        """Return the sizes.

        Raises:
            ConfigError: the sequences refuse a value.
        """
        sequences = self.build(data)
        needs = ("steps", "input_size", "outputs", "draws", "goal", "metric")
        if lacking := [name for name in needs if not hasattr(sequences, name)]:
            raise ConfigError(f"data.name={data.name}: {self.source} lacks {', '.join(lacking)}")
        check_metric(data, sequences.metric)
        val = self.val_size(data)
        if data.train_size is not None and data.train_size < 1:
            raise ConfigError(f"data.train_size={data.train_size}: must be at least 1; null for endless data")
        test = len(self.test_numbers(data))
        return Shape(
            *(sequences.steps, sequences.input_size, sequences.outputs, data.train_size or 0, val, test),
            goal=sequences.goal,
            test_steps=getattr(data, "test_longest", None),
        )

    @held()
    def load(self, data: Any) -> Task:
        """Return the task: validation and test examples are made here, training examples later.

        Raises:
            ConfigError: as `shape`.
        """
        shape, sequences = self.shape(data), self.build(data)
        held_out = joined(self.val(sequences, data), self.test(sequences, data))
        digest = hashlib.sha256(np.ascontiguousarray(held_out.inputs).data)
        digest.update(np.ascontiguousarray(held_out.targets).data)
        return Task(
            inputs=held_out.inputs,
            targets=held_out.targets,
            splits={
                "train": np.arange(shape.train),
                "val": np.arange(shape.val),
                "test": np.arange(shape.val, shape.val + shape.test),
            },
            outputs=shape.outputs,
            checksum=digest.hexdigest(),
            details={"source": self.source},
            goal=shape.goal,
            metric=sequences.metric,
            lengths=held_out.lengths,
            tokens=sequences.input_size if held_out.inputs.ndim == 2 else None,
            make=sequences.make,
            draws=sequences.draws,
            loss=getattr(sequences, "loss", None),
            sums=getattr(sequences, "sums", None),
            optimum=getattr(sequences, "optimum", None),
        )

    def val_size(self, data: Any) -> int:
        """Return the number of validation examples."""
        return HELD_OUT if data.val_size is None else data.val_size

    def val(self, sequences: Any, data: Any) -> Examples:
        """Make the validation examples."""
        numbers = np.arange(self.val_size(data))
        seeds = np.full(len(numbers), data.split_seed)
        examples: Examples = sequences.make(uniforms(seeds, VAL, numbers, sequences.draws))
        return examples

    def test_numbers(self, data: Any) -> Labels:
        """Return the numbers of the test examples."""
        return np.arange(getattr(data, "test_size", HELD_OUT))

    def test(self, sequences: Any, data: Any) -> Examples:
        """Make the test examples."""
        numbers = self.test_numbers(data)
        examples: Examples = sequences.make(uniforms(np.zeros_like(numbers), TEST, numbers, sequences.draws))
        return examples


def joined(first: Examples, second: Examples) -> Examples:
    """Concatenate examples; where they have lengths, the shorter sequences are padded with zeros."""
    if first.lengths is None or second.lengths is None:
        return Examples(
            np.concatenate([first.inputs, second.inputs]), np.concatenate([first.targets, second.targets])
        )
    T = max(first.inputs.shape[1], second.inputs.shape[1])
    inputs = np.concatenate([padded(part.inputs, T) for part in (first, second)])
    per_step = first.targets.ndim > 1 and first.targets.shape[1] == first.inputs.shape[1]
    targets = [padded(part.targets, T) if per_step else part.targets for part in (first, second)]
    return Examples(inputs, np.concatenate(targets), np.concatenate([first.lengths, second.lengths]))


def padded(values: NDArray[Any], T: int) -> NDArray[Any]:
    """Pad values (n, t, ...) with zeros after the last step, to T steps."""
    return np.pad(values, [(0, 0), (0, T - values.shape[1]), *[(0, 0)] * (values.ndim - 2)])
