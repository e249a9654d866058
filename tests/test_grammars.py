"""Strings of small languages against their definitions, and the best prediction against the published one."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import rnnbench
from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.config.metrics import METRICS
from rnnbench.tasks.generated import uniforms
from rnnbench.tasks.grammars import BLOCKS, BRACKETS, Grammar, Strings, strings


def data(language, **changes):
    made = Strings("grammar", metric="bpc", language=Grammar(language), **changes)
    made.check()
    return made


def some(sequences, n=60, seed=0):
    return sequences.make(uniforms(np.full(n, seed), 0, np.arange(n), sequences.draws))


def words(sequences, made):
    """The strings, after checking what is read and asked for."""
    end = sequences.outputs - 1
    for read, following, length in zip(made.inputs, made.targets, made.lengths, strict=True):
        assert following[length - 1] == end and read[0] == end
        assert (read[1:length] == following[: length - 1]).all()
        assert not read[length:].any() and not following[length:].any()
        yield following[: length - 1].tolist()


def belongs(language, word):
    """Whether a word is of the language; n and m of it, or the number of pairs."""
    n, m, *_ = (*(word.count(letter) for letter in range(4)), 0)
    wanted = {
        "anbn": [0] * n + [1] * n,
        "anbncn": [0] * n + [1] * n + [2] * n,
        "anbncndn": [0] * n + [1] * n + [2] * n + [3] * n,
        "anb2n": [0] * n + [1] * 2 * n,
        "anbmcnm": [0] * n + [1] * m + [2] * (n + m),
    }
    if language in wanted:
        assert word == wanted[language] and n > 0
        return (n, m) if language == "anbmcnm" else (n,)
    kinds, opened = BRACKETS[Grammar(language)], []
    for symbol in word:
        if symbol < kinds:
            opened.append(symbol)
        else:
            assert opened.pop() == symbol - kinds
    assert not opened
    return (len(word) // 2,)


@settings(max_examples=40, deadline=None)
@given(
    language=st.sampled_from([one.value for one in Grammar]),
    longest=st.integers(1, 12),
    p=st.floats(0.05, 0.45),
    seed=st.integers(0, 99),
)
def test_strings_are_those_of_the_language(language, longest, p, seed):
    sequences = strings(data(language, longest=longest, p=p))
    made = some(sequences, seed=seed)
    assert made.inputs.shape[1] == sequences.steps
    assert max(max(belongs(language, word)) for word in words(sequences, made)) <= longest


def test_runs_are_geometric_and_brackets_those_of_the_grammar():
    sequences = strings(data("anbmcnm"))
    found = [belongs("anbmcnm", word) for word in words(sequences, some(sequences, 6_000))]
    for part in zip(*found, strict=True):
        counts = np.bincount(np.minimum(part, 12))[1:]
        chance = 0.3 * 0.7 ** np.arange(11)
        assert stats.chisquare(counts, 6_000 * np.append(chance, 1 - chance.sum())).pvalue > 1e-3
    assert abs(np.corrcoef(*zip(*found, strict=True))[0, 1]) < 0.05
    sequences = strings(data("dyck2"))
    short = Counter(map(tuple, words(sequences, some(sequences, 20_000))))
    expected = {(): 0.7, (0, 2): 0.15 * 0.7**2, (1, 3): 0.15 * 0.7**2}
    two = (0, 1, 3, 2), (0, 2, 1, 3), (1, 3, 0, 2), (1, 0, 2, 3)
    expected |= dict.fromkeys(two, 0.15**2 * 0.7**3)
    rest = 1 - sum(expected.values())
    counts = [short[word] for word in expected]
    chances = [*expected.values(), rest]
    assert stats.chisquare([*counts, 20_000 - sum(counts)], 20_000 * np.array(chances)).pvalue > 1e-3


def optimum(sequences, made, logits=None):
    """What the answers' logits, by default all equal, are compared with: sums over the words."""
    y = torch.from_numpy(made.targets).T[None]
    steps = torch.arange(y.shape[1])[:, None]
    counts = (steps < torch.from_numpy(made.lengths)).double()[None]
    if logits is None:
        logits = torch.zeros(1, sequences.outputs, *y.shape[1:], dtype=torch.float64)
    return [part.item() for part in sequences.optimum(logits, y, counts)]


@pytest.mark.parametrize("language", [one.value for one in Grammar])
def test_the_best_prediction_is_the_probability_of_the_string(language):
    """The best of a word is -log p of it, from the grammar's rules; what is certain does not count."""
    sequences = strings(data(language, longest=6, p=0.2))
    made = some(sequences, 80, seed=3)
    letters, best, certain = 0, 0.0, 0
    for word in words(sequences, made):
        numbers = belongs(language, word)
        letters += len(word) + 1
        if Grammar(language) in BRACKETS:
            (pairs,) = numbers
            best -= pairs * math.log(0.2 / sequences.kinds) + (pairs + 1) * math.log(0.8)
        else:
            best -= sum(math.log(0.2) + (n - 1) * math.log(0.8) for n in numbers)
            certain += len(word) + 1 - sum(numbers)
    nll, found, answers, right, sure = optimum(sequences, made)
    assert nll == pytest.approx(letters * math.log(sequences.outputs))
    assert found == pytest.approx(best)
    assert (answers, sure) == (letters, certain)
    assert 0 <= right <= sure


@pytest.mark.parametrize(
    ("language", "longest", "published"),
    [
        ("anbn", 14, 0.2582),
        ("anbncn", 14, 0.1722),
        ("anbncndn", 14, 0.1292),
        ("anb2n", 14, 0.1722),
        ("anbmcnm", 20, 0.2694),
        ("dyck1", None, 0.882),
        ("dyck2", None, 1.180),
    ],
)
def test_the_best_of_the_test_is_the_published_one(language, longest, published):
    """As stats/tacl_stats.json of the authors' code has it; of brackets theirs are other draws."""
    settings = data(language, longest=longest, **({"test_size": 8_000} if longest is None else {}))
    sequences = strings(settings)
    made = sequences.test(settings)
    asked = np.arange(made.targets.shape[1])[:, None] < made.lengths
    best = sequences.best(torch.from_numpy(made.targets).T[None])[0].numpy()[asked].mean()
    assert best / math.log(2) == pytest.approx(published, abs=1e-4 if longest else 0.02)


def test_the_test_has_one_string_of_each_n_above_training():
    for language, blocks in BLOCKS.items():
        settings = data(language.value, longest=4, test_longest=9)
        sequences = strings(settings)
        found = [belongs(language.value, word) for word in words(sequences, sequences.test(settings))]
        above = range(5, 10)
        assert found == [(n,) for n in above] if len(blocks) == 1 else [(n, m) for n in above for m in above]


def test_a_network_that_predicts_the_best_has_no_excess():
    sequences = strings(data("anbmcnm", longest=8))
    made = some(sequences)
    y = torch.from_numpy(made.targets).T[None]
    logits = torch.full((1, 4, *y.shape[1:]), -1e9, dtype=torch.float64)
    logits.scatter_(1, y.unsqueeze(1), -sequences.best(y).unsqueeze(1).double())
    after = y[:, :-1]
    other = torch.where(y[:, 1:] == after, torch.where(after == 0, 1, 2), after)  # what could follow as well
    odds = torch.where(y[:, 1:] == after, math.log(0.3), math.log(0.7)).double()
    odds = odds.where(after < 2, -1e9)
    logits[:, :, 1:] = (
        logits[:, :, 1:]
        .scatter(1, other.unsqueeze(1), odds.unsqueeze(1))
        .where((after < 2).unsqueeze(1), logits[:, :, 1:])
    )
    sums = [torch.tensor([part]) for part in optimum(sequences, made, logits)]
    assert METRICS["excess"].of_sums(*sums).item() == pytest.approx(0, abs=1e-9)
    assert METRICS["deterministic_accuracy"].of_sums(*sums).item() == 1


def test_excess_and_bits_are_recorded_and_differ_by_the_best(tmp_path):
    words = ["data=grammar", "data.longest=4", "data.test_longest=8", "fit.epochs=1", "tracking=none"]
    measured = "data.metrics=[excess,deterministic_accuracy]"
    metrics = rnnbench.run(*words, measured, folder=str(tmp_path / "job"))["metrics"]
    settings = data("anbn", longest=4, test_longest=8)
    sequences = strings(settings)
    _, best, answers, *_ = optimum(sequences, sequences.test(settings))
    assert metrics["test/bpc"] - metrics["test/excess"] == pytest.approx(
        best / answers / math.log(2), rel=1e-5
    )
    assert 0 <= metrics["test/deterministic_accuracy"] <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"p": 0.0}, "data.p=0.0: must be above 0 and below 1"),
        (
            {"language": "dyck1", "p": 0.5},
            "data.p=0.5: must be above 0 and below 0.5: brackets would not end",
        ),
        ({"longest": 0}, "data.longest=0"),
        ({"test_longest": 20}, "data.test_longest=20: must be above 20, the largest n of training"),
        ({"language": "dyck2", "test_longest": 90}, "data.test_longest=90: must be null: test brackets"),
        ({"test_size": 9}, "data.test_size=9: must be null: the test has each n above"),
        (
            {"language": "dyck1", "metrics": ["deterministic_accuracy"]},
            "data.metrics=deterministic_accuracy: does not go with data.language=dyck1",
        ),
    ],
)
def test_sizes_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        data(changes.pop("language", "anbn"), **changes)


def test_the_optimum_is_refused_where_it_is_not_known():
    from rnnbench.tasks.synthetic import Generated

    with pytest.raises(ConfigError, match=r"data.metrics=excess: does not go with data=copy"):
        tasks.shape(Generated("copy", metric="nll", metrics=["excess"]))
