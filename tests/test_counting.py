"""Words of counting languages against their definitions, and what counts as right."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.config.metrics import METRICS
from rnnbench.tasks.counting import Blocks, Brackets, Counting, Dyck
from rnnbench.tasks.generated import uniforms
from tests.test_app import run

LANGUAGES = {
    "anbn": lambda data: Blocks(data, letters=2),
    "anbncn": lambda data: Blocks(data, letters=3),
    "dyck1": Dyck,
}


def language(name, longest=6, test_longest=9):
    kind = Brackets if name == "dyck1" else Counting
    return LANGUAGES[name](kind(name, metric="nll", longest=longest, test_longest=test_longest))


def belongs(name, word):
    """Whether a word of the letters 0, 1, 2 is of the language."""
    n = word.count("0")
    if name == "dyck1":
        heights = np.cumsum([1 if symbol == "0" else -1 for symbol in word])
        return set(word) <= {"0", "1"} and (len(word) == 0 or (heights.min() >= 0 and heights[-1] == 0))
    return word == "".join(letter * n for letter in ("012" if name == "anbncn" else "01"))


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(sorted(LANGUAGES)), longest=st.integers(1, 12), seed=st.integers(0, 99))
def test_words_are_those_of_the_language(name, longest, seed):
    sequences = language(name, longest, longest + 1)
    made = sequences.make(uniforms(np.full(50, seed), 0, np.arange(50), sequences.draws))
    end = sequences.letters
    for read, following, length in zip(made.inputs, made.targets, made.lengths, strict=True):
        word = "".join(map(str, following[: length - 1]))
        assert belongs(name, word) and word.count("0") <= longest
        assert following[length - 1] == end
        assert read[0] == end and (read[1:length] == following[: length - 1]).all()
        assert not read[length:].any() and not following[length:].any()


def test_every_n_is_equally_likely_in_training_and_all_are_in_validation_and_test():
    data = Counting("anbn", metric="nll", longest=4, test_longest=9)
    sequences = language("anbn", 4)
    made = sequences.make(uniforms(np.full(5000, 0), 0, np.arange(5000), sequences.draws))
    assert min(np.bincount(made.lengths // 2)) > 900
    task = tasks.load(data)
    found = {split: sorted(task.lengths[index] // 2) for split, index in task.splits.items()}
    assert found == {"train": [], "val": [0, 1, 2, 3, 4], "test": list(range(1, 10))}


def test_brackets_are_all_equally_likely():
    """There are 5 balanced words of three pairs, by Catalan's numbers."""
    sequences = language("dyck1")
    n = np.full(5000, 3)
    words = sequences.of(n, uniforms(n, 0, np.arange(5000), 13)).targets[:, :6]
    counts = Counter(map(bytes, words.astype(np.uint8)))
    assert len(counts) == 5
    assert min(counts.values()) > 900


@pytest.mark.parametrize("name", sorted(LANGUAGES))
def test_what_can_come_next_is_what_words_of_the_language_go_on_with(name):
    sequences = language(name, 4, 5)
    n = np.repeat(np.arange(6), 200)
    T = sequences.steps_of(5)
    made = sequences.of(n, uniforms(n, 0, np.arange(len(n)), T))
    going_on = {}  # by what was read, the symbols that follow in words with n up to 5
    for following, length in zip(made.targets, made.lengths, strict=True):
        for t in range(length):
            going_on.setdefault(tuple(following[:t]), set()).add(int(following[t]))
    y = torch.from_numpy(made.targets).T[None]
    possible = sequences.possible(y)[0].permute(2, 1, 0)  # (words, T, outputs)
    for word, following, length in zip(possible, made.targets, made.lengths, strict=True):
        for t in range(length):
            read = tuple(following[:t])
            if read.count(0) < 5:  # a further a leaves the words that were listed
                assert set(word[t].nonzero().flatten().tolist()) == going_on[read], read


def answered(sequences, wrong_from):
    """Logits that predict what can come next; words from n = wrong_from on may end too early."""
    n = np.arange(1, 8)
    T = sequences.steps_of(7)
    made = sequences.of(n, uniforms(n, 0, n, T))
    y = torch.from_numpy(made.targets).T[None]  # (1, T, B)
    logits = torch.where(sequences.possible(y), 0.0, -20.0).double()
    for k, many in enumerate(n):
        if many >= wrong_from:
            logits[0, -1, made.lengths[k] - 2, k] = 0.0  # # a step before the end
    counts = (torch.arange(T)[:, None] < torch.from_numpy(made.lengths)).double()[None]
    return logits, y, counts


@pytest.mark.parametrize("name", sorted(LANGUAGES))
@pytest.mark.parametrize("wrong_from", [1, 4, 8])
def test_a_word_is_right_where_the_impossible_is_rejected(name, wrong_from):
    sequences = language(name)
    right, words = sequences.sums(*answered(sequences, wrong_from))
    assert right[0].tolist() == [0, *(1.0 * (n < wrong_from) for n in range(1, 8)), 0, 0]
    assert words[0].tolist() == [0, *[1] * 7, 0, 0]
    assert METRICS["largest_n"].of_sums(right, words).tolist() == [wrong_from - 1]
    assert METRICS["word_accuracy"].of_sums(right, words).tolist() == [(wrong_from - 1) / 7]


def test_the_largest_n_ends_at_the_first_word_that_is_wrong():
    right, words = torch.tensor([[1.0, 0, 2, 1, 2], [0.0, 0, 2, 2, 2]]), torch.tensor([[1.0, 0, 2, 2, 2]] * 2)
    assert METRICS["largest_n"].of_sums(right, words).tolist() == [2, 0]


def test_words_are_counted_by_n_in_the_record(tmp_path):
    run(
        tmp_path, "data=anbn", "data.longest=3", "data.test_longest=5", "fit.epochs=1",
        "fit.steps_per_epoch=2", "hydra.run.dir=r/0", "tracking=none",
        "data.metrics=[largest_n,word_accuracy]",
    )  # fmt: skip
    with open(tmp_path / "r/0/by_length.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["length"]) for row in rows] == [1, 2, 3, 4, 5]
    metrics = json.loads((tmp_path / "r/0/result.json").read_text())["metrics"]
    assert metrics["test/largest_n"] == 0  # after two minibatches
    assert metrics["test/word_accuracy"] == np.mean([float(row["accuracy"]) for row in rows])


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (Counting, {"longest": 0}, "data.longest=0"),
        (Counting, {"test_longest": 50}, "data.test_longest=50: must be above data.longest=50"),
        (Counting, {"val_size": 10}, "data.val_size=10: must be null"),
        (Brackets, {"per_length": 0}, "data.per_length=0"),
    ],
)
def test_sizes_are_refused(kind, changes, said):
    with pytest.raises(ConfigError, match=said):
        kind("anbn", metric="nll", **changes).check()


def test_metrics_of_words_are_refused_where_there_are_none():
    from rnnbench.tasks.synthetic import Generated

    with pytest.raises(
        ConfigError,
        match=r"data.metrics=largest_n: does not go with data=copy, which has loss, accuracy, nll",
    ):
        tasks.shape(Generated("copy", metric="nll", metrics=["largest_n"]))
