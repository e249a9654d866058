"""Arithmetic and nested tags against what their docstrings say, read back in plain Python."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rnnbench.config import ConfigError
from rnnbench.tasks.characters import Arithmetic, Sums, Tags, Xml
from rnnbench.tasks.generated import uniforms


def some(sequences, n=40, seed=0):
    return sequences.make(uniforms(np.full(n, seed), 0, np.arange(n), sequences.draws))


def texts(sequences, made):
    """What is read, and what is asked for (_ where nothing is), of each example."""
    for k, (tokens, targets) in enumerate(zip(made.inputs, made.targets, strict=True)):
        length = len(tokens) if made.lengths is None else made.lengths[k]
        assert not tokens[length:].any() and (made.lengths is None or (targets[length:] == -1).all())
        yield ("".join((*sequences.symbols, "_")[c] for c in part[:length]) for part in (tokens, targets))


@settings(max_examples=25, deadline=None)
@given(digits=st.integers(1, 15), distractors=st.integers(0, 4), seed=st.integers(0, 99))
def test_the_answer_is_that_of_the_sum_without_its_letters(digits, distractors, seed):
    sums = Arithmetic(Sums("arithmetic", digits=digits, distractors=distractors))
    for read, asked in texts(sums, some(sums, seed=seed)):
        question, answer = read.split("=")
        assert re.fullmatch(rf"(\d[a-z]{{0,{distractors}}}|[+-][a-z]{{0,{distractors}}})+", question)
        first, sign, second = re.split("([+-])", re.sub("[a-z]", "", question))
        assert (
            first == str(int(first)) and second == str(int(second)) and max(len(first), len(second)) <= digits
        )
        value = int(first) + int(second) if sign == "+" else int(first) - int(second)
        assert asked == "_" * len(question) + f"{value}."
        assert answer == str(value)


def test_sizes_and_letters_of_sums_are_drawn_as_said():
    sums = Arithmetic(Sums("arithmetic", digits=4))
    questions = [read.split("=")[0] for read, _ in texts(sums, some(sums, 8_000))]
    sizes = [len(number) for one in questions for number in re.split("[+-]", re.sub("[a-z]", "", one))]
    assert stats.chisquare(np.bincount(sizes)[1:]).pvalue > 1e-3
    gaps = [len(letters) for one in questions for letters in re.findall("[0-9+-]([a-z]*)", one)]
    expected = len(gaps) * np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    assert stats.chisquare(np.bincount(gaps), expected).pvalue > 1e-3


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 400), letters=st.sampled_from([2, 3, 10]), seed=st.integers(0, 99))
def test_tags_close_in_the_reverse_of_the_order_in_which_they_open(steps, letters, seed):
    xml = Xml(Tags("xml", steps=steps, letters=letters))
    for read, asked in texts(xml, some(xml, seed=seed)):
        text = read + asked[-1]
        assert asked == text[1:]
        opened, since = [], 0
        *whole, last = re.split("(?<=>)", text)
        for tag in whole:
            closes, name = re.fullmatch(rf"<(/?)([a-z]{{2,{letters}}})>", tag).groups()
            since = since + 1 if opened else 1
            assert closes or since <= 50
            assert opened.pop() == name if closes else opened.append(name) is None
        assert re.fullmatch(rf"(<(/?[a-z]{{0,{letters}}})?)?", last)
        assert not last.startswith("</") or opened[-1].startswith(last[2:])


def followed(text):
    """What a reader that knows the open tags would say next, for each character of a text but the first."""
    opened, name, closing = [], "", False
    for before, after in pairwise(text):
        if before == "<":
            name, closing = "", False
            guess = "/" if opened else "a"
        elif before == ">":
            guess = "<"
            if closing:
                opened.pop()
            else:
                opened.append(name)
        else:
            closing = closing or before == "/"
            name += "" if before == "/" else before
            known = opened[-1] + ">" if closing else None
            guess = known[len(name)] if known else ">" if len(name) > 1 else "a"
        yield guess == after


def test_what_a_constant_answer_scores_and_what_can_be_known_of_tags():
    sums, xml = Arithmetic(Sums("arithmetic")), Xml(Tags("xml"))
    for sequences in (sums, xml):
        targets = some(sequences, 20_000).targets
        shares = np.bincount(targets[targets >= 0]) / (targets >= 0).sum()
        assert shares.max() == pytest.approx(sequences.baseline, rel=0.02)
    known = [right for read, asked in texts(xml, some(xml, 1_000)) for right in followed(read + asked[-1])]
    assert np.mean(known) == pytest.approx(0.57, abs=0.01)


def test_half_of_what_follows_an_open_tag_closes_it_until_a_document_has_50_tags():
    xml = Xml(Tags("xml", steps=600))
    closes, _ = xml.nested(np.random.RandomState(0).rand(4_000, 20) < 0.5)
    depth = np.cumsum(np.where(closes, -1, 1), axis=1)
    free = closes[:, 1:][depth[:, :-1] > 0]
    assert stats.binomtest(int(free.sum()), len(free)).pvalue > 1e-3
    closes, names = xml.nested(np.zeros((1, 120), bool))  # never heads
    assert closes[0].tolist() == [False] * 50 + [True] * 50 + [False] * 20
    assert names[0, 50:100].tolist() == list(range(50))[::-1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Sums("arithmetic", digits=0), "data.digits=0"),
        (Sums("arithmetic", digits=16), "data.digits=16: must be at most 15"),
        (Sums("arithmetic", distractors=-1), "data.distractors=-1"),
        (Sums("arithmetic", test_size=0), "data.test_size=0"),
        (Tags("xml", steps=0), "data.steps=0"),
        (Tags("xml", letters=1), "data.letters=1"),
    ],
)
def test_sizes_are_refused(data, said):
    with pytest.raises(ConfigError, match=said):
        data.check()
