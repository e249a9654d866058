"""Each made-up task against a reference in plain Python, written as its docstring reads; its baseline."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.tasks.generated import uniforms
from rnnbench.tasks.languages import LANGUAGES, Language, Vocabulary
from rnnbench.tasks.synthetic import Adding, CopyMemory, Generated, Markers, TemporalOrder, integers
from tests.test_app import run


def some(sequences, n=200, seed=0):
    return sequences.make(uniforms(np.full(n, seed), 0, np.arange(n), sequences.draws))


@settings(max_examples=20, deadline=None)
@given(
    T=st.integers(2, 60),
    low=st.sampled_from([0.0, -1.0]),
    markers=st.sampled_from(Markers),
    seed=st.integers(0, 9),
)
def test_adding(T, low, markers, seed):
    made = some(Adding(Generated("adding", steps=T, low=low, markers=markers)))
    for steps, (target,) in zip(made.inputs, made.targets, strict=True):
        marked = [t for t, (_, marker) in enumerate(steps) if marker == 1]
        assert len(marked) == 2
        assert set(steps[:, 1]) <= {0.0, 1.0}
        if markers is Markers.halves:
            assert marked[0] < T // 2 <= marked[1]
        assert target == pytest.approx(sum(steps[t, 0] for t in marked), abs=1e-6)
        assert low <= steps[:, 0].min() and steps[:, 0].max() <= 1


def test_every_pair_of_steps_is_marked_when_anywhere_is_asked_for():
    made = some(Adding(Generated("adding", steps=4, markers=Markers.anywhere)), 2000)
    pairs = [tuple(np.flatnonzero(steps[:, 1])) for steps in made.inputs]
    counts = [pairs.count((a, b)) for a in range(4) for b in range(a + 1, 4)]
    assert sum(counts) == 2000
    assert min(counts) > 250


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_the_baseline_of_adding(low):
    adding = Adding(Generated("adding", low=low))
    sums = some(adding, 20_000).targets
    assert np.mean((sums - (1 + low)) ** 2) == pytest.approx(adding.baseline, rel=0.05)


@given(T=st.integers(1, 40))
def test_copy_memory(T):
    made = some(CopyMemory(Generated("copy", steps=T)), 5)
    for steps, target in zip(made.inputs[:, :, 0], made.targets, strict=True):
        numbers = list(steps[:10])
        assert set(numbers) <= set(range(1, 9))
        assert list(steps) == numbers + [0] * (T - 1) + [9] * 11
        assert list(target) == [0] * (T + 10) + numbers


def test_the_baseline_of_copying():
    """Sure of 0 where 0 is due, and of nothing among eight numbers: 10 ln 8 over T + 20 answers."""
    assert CopyMemory(Generated("copy", steps=1000)).baseline == pytest.approx(10 * math.log(8) / 1020)


@given(T=st.integers(10, 60))
def test_temporal_order(T):
    made = some(TemporalOrder(Generated("temporal_order", steps=T)), 20)
    for tokens, answer in zip(made.inputs, made.targets, strict=True):
        first, second = [t for t, symbol in enumerate(tokens) if symbol in (4, 5)]
        assert T // 10 <= first < 2 * T // 10 and 5 * T // 10 <= second < 6 * T // 10
        assert answer == 2 * (tokens[first] - 4) + (tokens[second] - 4)
        assert (tokens[0], tokens[-1]) == (6, 7)
        others = [symbol for t, symbol in enumerate(tokens) if t not in (0, T - 1, first, second)]
        assert set(others) <= {0, 1, 2, 3}


def answer_of(language, word):
    """The answer as one would work it out on paper."""
    if language == "parity":
        return list(word).count(1) % 2
    if language == "even_pairs":
        return sum(a != b for a, b in itertools.pairwise(word)) % 2
    if language == "cycle_navigation":
        return sum({0: 0, 1: 1, 2: -1}[move] for move in word) % 5
    signs = {5: "+", 6: "-", 7: "*"}
    return eval("".join(signs.get(symbol, str(symbol)) for symbol in word)) % 5


@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=20, deadline=None)
@given(longest=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_language(language, longest, seed):
    vocabulary = Vocabulary(LANGUAGES[language](), Language(language, longest=longest))
    made = some(vocabulary, 30, seed)
    for tokens, answer, length in zip(made.inputs, made.targets, made.lengths, strict=True):
        word = [int(symbol) for symbol in tokens[:length]]
        assert 1 <= length <= longest
        assert not tokens[length:].any()
        assert answer == answer_of(language, word)
        if language == "modular_arithmetic":
            assert length % 2 == 1
            assert all((symbol < 5) == (t % 2 == 0) for t, symbol in enumerate(word))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_test_has_every_longer_length_and_a_constant_answer_scores_the_baseline(language):
    data = Language(language, longest=10, test_longest=60, per_length=40)
    task = tasks.load(data)
    test = task.splits["test"]
    lengths = task.lengths[test]
    odd = language == "modular_arithmetic"
    assert set(lengths) == set(range(11, 61, 2) if odd else range(11, 61))
    assert len(test) == tasks.shape(data).test == 50 * 40
    assert task.lengths[task.splits["val"]].max() <= 10
    share = max(np.bincount(task.targets[test])) / len(test)
    assert share == pytest.approx(LANGUAGES[language].baseline, abs=0.06)


def test_accuracy_by_length_is_recorded_and_drawn(store, tmp_path):
    run(
        tmp_path, "data=parity", "data.test_longest=60", "fit.epochs=1", "fit.steps_per_epoch=5",
        "hydra.run.dir=r/0", f"tracking.uri={store}",
        "tracking.artifacts=[by_length,curves,confusion]",
    )  # fmt: skip
    with open(tmp_path / "r/0/by_length.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["length"]) for row in rows] == list(range(41, 61))
    metrics = json.loads((tmp_path / "r/0/result.json").read_text())["metrics"]
    assert np.mean([float(row["accuracy"]) for row in rows]) == pytest.approx(metrics["test/accuracy"])
    drawn = {path.name for path in (tmp_path).rglob("*.png")}
    assert {"by_length.png", "curves.png", "confusion.png"} <= drawn


def test_integers_are_all_equally_likely():
    drawn = integers(np.linspace(0, 1, 6000, endpoint=False), 2, 5)
    assert np.bincount(drawn).tolist() == [0, 0, 2000, 2000, 2000]


@pytest.mark.parametrize(
    "data",
    [
        Generated("adding", metric="mse", steps=1),
        Generated("temporal_order", steps=9),
        Generated("adding", metric="nll"),
    ],
)
def test_what_cannot_be_is_refused(data):
    with pytest.raises(ConfigError, match=r"data.steps=|judged by mse"):
        tasks.shape(data)
