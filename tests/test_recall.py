"""Recall, selective copying and word problems against what their docstrings say, in plain Python."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rnnbench.config import ConfigError
from rnnbench.tasks.generated import uniforms
from rnnbench.tasks.groups import Group, GroupWords, WordProblem, products
from rnnbench.tasks.recall import AssociativeRecall, Pairs, Selective, SelectiveCopy, distinct


def some(sequences, n=60, seed=0):
    return sequences.make(uniforms(np.full(n, seed), 0, np.arange(n), sequences.draws))


@settings(max_examples=25, deadline=None)
@given(pairs=st.integers(1, 6), longer=st.integers(0, 9), many=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_value_of_each_key_is_asked_for_once(pairs, longer, many, seed):
    data = Pairs("mqar", steps=4 * pairs + 2 * longer, pairs=pairs, vocabulary=2 * (pairs + many))
    data.check()
    made = some(AssociativeRecall(data), seed=seed)
    half = data.vocabulary // 2
    for tokens, targets in zip(made.inputs.tolist(), made.targets.tolist(), strict=True):
        context = tokens[: 2 * pairs]
        value = dict(zip(context[::2], context[1::2], strict=True))
        assert len(value) == len(set(value.values())) == pairs
        assert all(1 <= key < half <= answer < 2 * half for key, answer in value.items())
        asked = {t: answer for t, answer in enumerate(targets) if answer >= 0}
        assert sorted(tokens[t] for t in asked) == sorted(value)
        assert all(
            t >= 2 * pairs and t % 2 == 0 and value[tokens[t]] == answer for t, answer in asked.items()
        )


def test_the_gaps_follow_the_power_law_and_the_order_of_keys_is_free():
    sequences = AssociativeRecall(Pairs("mqar", steps=24, pairs=1, vocabulary=10, power=0.5))
    made = some(sequences, 20_000)
    place = (made.targets >= 0).argmax(1) // 2 - 1
    expected = np.arange(1, 12) ** -0.5
    found = np.bincount(place, minlength=11)
    assert stats.chisquare(found, expected / expected.sum() * len(place)).pvalue > 1e-3


def test_distinct_numbers_are_distinct_and_each_order_is_equally_likely():
    drawn = distinct(np.random.RandomState(0).rand(12_000, 3), 4)
    orders = list(permutations(range(4), 3))
    found = [(drawn == order).all(1).sum() for order in orders]
    assert sum(found) == 12_000
    assert stats.chisquare(found).pvalue > 1e-3


@settings(max_examples=25, deadline=None)
@given(memory=st.integers(1, 6), longer=st.integers(0, 20), many=st.integers(1, 9), seed=st.integers(0, 99))
def test_selective_copying(memory, longer, many, seed):
    data = Selective("selective_copy", steps=memory + longer, memory=memory, vocabulary=many + 2)
    data.check()
    made = some(SelectiveCopy(data), seed=seed)
    for tokens, targets in zip(made.inputs.tolist(), made.targets.tolist(), strict=True):
        first, last = tokens[: data.steps], tokens[data.steps :]
        symbols = [symbol for symbol in first if symbol]
        assert len(symbols) == memory and max(symbols) <= many
        assert last == [many + 1] * memory
        assert targets == [-1] * data.steps + symbols


@pytest.mark.parametrize("group", Group)
def test_a_word_problem_is_of_a_group(group):
    table = products(group)
    n = len(table)
    assert n == {Group.z60: 60, Group.a5: 60, Group.s5: 120}[group]
    assert (table[0] == np.arange(n)).all() and (table[:, 0] == np.arange(n)).all()
    assert all(len(set(row)) == n for row in table) and all(len(set(row)) == n for row in table.T)
    a, b, c = np.random.RandomState(0).randint(0, n, (3, 500))
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()
    assert (table == table.T).all() == (group is Group.z60)
    made = some(WordProblem(GroupWords("word_problem", group=group, steps=6)))
    assert (made.targets[:, 0] == made.inputs[:, 0]).all()
    for t, (before, after) in enumerate(pairwise(made.targets.T)):
        assert (table[before, made.inputs[:, t + 1]] == after).all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Pairs("mqar", steps=14), "data.steps=14: must be even and at least 16"),
        (Pairs("mqar", steps=17), "data.steps=17: must be even"),
        (Pairs("mqar", vocabulary=8), "data.vocabulary=8: must be even and at least 10"),
        (Pairs("mqar", power=0.0), "data.power=0.0"),
        (Selective("selective_copy", steps=7), "data.steps=7: must be at least data.memory=8"),
        (Selective("selective_copy", vocabulary=2), "data.vocabulary=2"),
        (GroupWords("word_problem", steps=0), "data.steps=0"),
    ],
)
def test_sizes_are_refused(data, said):
    with pytest.raises(ConfigError, match=said):
        data.check()
