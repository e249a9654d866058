"""Answers that are read after a word, against plain Python that reads as the docstrings do."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.config.metrics import METRICS
from rnnbench.tasks import TASKS
from rnnbench.tasks.counting import Counting
from rnnbench.tasks.expressions import CLOSE, EQUALS, MINUS, OPEN, PLUS, TIMES
from rnnbench.tasks.generated import uniforms
from rnnbench.tasks.languages import Language

LETTERS = {n: str(n) for n in range(5)}
LETTERS |= {PLUS: "+", MINUS: "-", OPEN: "(", CLOSE: ")", TIMES: "*", EQUALS: "="}


def stack_after(word):
    given = next((t for t, symbol in enumerate(word) if symbol > 1), len(word))
    stack = list(word[:given])
    for symbol in word[given:]:
        if symbol == 2:
            del stack[-1:]
        else:
            stack.append(symbol - 3)
    return [*stack[::-1], 2]


def binary(word):
    return sum(bit << place for place, bit in enumerate(word))


def written(number):
    return [*(number >> place & 1 for place in range(max(1, number.bit_length()))), 2]


def of_two(combine):
    def answer(word):
        if len(word) <= 2:
            return written(binary(word))
        at = word.index(2)
        return written(combine(binary(word[:at]), binary(word[at + 1 :])))

    return answer


def missing(word):
    if len(word) == 1:
        return [1]
    half, at = len(word) // 2, word.index(2)
    return [word[(at + half) % (2 * half)]]


def root(word):
    bits = (len(word) + 1) // 2
    number = math.isqrt(int("".join(map(str, word)), 2))
    return [int(bit) for bit in f"{number:0{bits}b}"]


def text(word):
    return "".join(LETTERS[symbol] for symbol in word)


def value(expression):
    assert re.fullmatch(r"[-+*()0-4]+", expression)
    return eval(expression.replace("--", "- -")) % 5


ANSWERS = {
    "reverse_string": lambda word: word[::-1],
    "duplicate_string": lambda word: word * 2,
    "odds_first": lambda word: word[1::2] + word[::2],
    "bucket_sort": sorted,
    "missing_duplicate_string": missing,
    "stack_manipulation": stack_after,
    "binary_addition": of_two(lambda a, b: a + b),
    "binary_multiplication": of_two(lambda a, b: a * b),
    "compute_sqrt": root,
    "modular_arithmetic_brackets": lambda word: [value(text(word))],
}


def sequences_of(name, longest, test_longest=None):
    return TASKS[name].build(
        Language(name, metric="length_accuracy", longest=longest, test_longest=test_longest or longest + 1)
    )


def examples(name, n, seed=0):
    """Words of these lengths, with their answers: pairs of lists."""
    sequences = sequences_of(name, max(n))
    draws = sequences.of_words.draws(max(n))
    u = uniforms(np.full(len(n), seed), 0, np.arange(len(n)), draws)
    made = sequences.of(np.array(n), u, sequences.steps_of(max(n)))
    empty = sequences.of_words.symbols
    for size, read, asked, length in zip(n, made.inputs, made.targets, made.lengths, strict=True):
        answer = asked[size:length].tolist()
        assert (asked[:size] == -1).all() and (asked[length:] == -1).all() and min(answer) >= 0
        assert (read[size:length] == empty).all() and not read[length:].any()
        assert read[:size].max() < empty and max(answer) < sequences.outputs
        yield read[:size].tolist(), answer


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(ANSWERS)),
    n=st.lists(st.integers(1, 70), min_size=1, max_size=30),
    seed=st.integers(0, 999),
)
def test_answers_are_those_of_plain_python(name, n, seed):
    for word, answer in examples(name, n, seed):
        assert answer == ANSWERS[name](word), word


@settings(max_examples=20, deadline=None)
@given(n=st.lists(st.integers(1, 50), min_size=1, max_size=30), seed=st.integers(0, 999))
def test_an_equation_holds_with_its_answer(n, seed):
    for word, (digit,) in examples("solve_equation", n, seed):
        if len(word) < 3:
            assert (word, digit) == ([0] * len(word), 0)
            continue
        expression, result = text(word).replace("*", "x").split("=")
        assert expression.count("x") == 1
        assert value(expression.replace("x", str(digit))) == int(result)


def test_words_are_drawn_uniformly():
    counts = {
        "binary_addition": Counter(binary(w) for w, _ in examples("binary_addition", [2] * 3000)),
        "compute_sqrt": Counter(binary(w[::-1]) for w, _ in examples("compute_sqrt", [3] * 7000)),
        "brackets": Counter(text(w)[2] for w, _ in examples("modular_arithmetic_brackets", [6] * 2000)),
    }
    assert set(counts["binary_addition"]) == {0, 1, 2} and min(counts["binary_addition"].values()) > 850
    assert set(counts["compute_sqrt"]) == set(range(1, 8)) and min(counts["compute_sqrt"].values()) > 850
    # (d+-d) or (-d+d): the first part has one or two symbols.
    first = sum(counts["brackets"][letter] for letter in "+-*")
    assert 900 < first < 1100


def test_lengths_weigh_alike():
    data = Language("reverse_string", metric="length_accuracy", longest=2, test_longest=4, per_length=3)
    task = tasks.load(data)
    index = task.splits["test"]
    assert tasks.shape(data).test == len(index) == 6
    y = torch.from_numpy(task.targets[index]).T[None]  # (1, T, B)
    counts = (y >= 0).double()
    logits = torch.nn.functional.one_hot(y.clamp(min=0), 2).movedim(-1, 1).double()
    assert METRICS["length_accuracy"].of_sums(*task.sums(logits, y, counts)).tolist() == [1.0]
    logits[..., 0] = 1 - logits[..., 0]  # all symbols of one of the three words of 3 are wrong
    right, asked = task.sums(logits, y, counts)
    assert (right[0].tolist(), asked[0].tolist()) == ([0, 0, 0, 6, 12], [0, 0, 0, 9, 12])
    assert METRICS["length_accuracy"].of_sums(right, asked).tolist() == [pytest.approx((2 / 3 + 1) / 2)]


@pytest.mark.parametrize("name", [*sorted(ANSWERS), "solve_equation"])
def test_validation_has_all_lengths_and_the_test_the_longer_ones(name):
    data = Language(name, metric="length_accuracy", longest=5, test_longest=8, per_length=2)
    task, shape = tasks.load(data), tasks.shape(data)
    words = (task.targets >= 0).argmax(1)
    assert set(words[task.splits["val"]]) == {1, 2, 3, 4, 5}
    assert sorted(words[task.splits["test"]]) == [6, 6, 7, 7, 8, 8]
    assert task.inputs.shape[1] == shape.test_steps


@pytest.mark.parametrize(
    ("data", "metric"),
    [
        (Language("bucket_sort", metric="length_accuracy"), "word_accuracy"),
        (Counting("anbn", metric="nll"), "length_accuracy"),
    ],
)
def test_a_metric_of_other_sums_is_refused(data, metric):
    data.metrics = [metric]
    with pytest.raises(ConfigError, match=f"data.metrics={metric}: does not go with data={data.name}"):
        tasks.shape(data)


def test_parts_of_an_expression_have_all_lengths_and_operators_alike():
    words = [text(word) for word, _ in examples("modular_arithmetic_brackets", [7] * 6000)]
    shapes = Counter(re.sub(r"\d", "d", word) for word in words)
    parts = (("d", "(d)"), ("-d", "-d"), ("(d)", "d"))
    assert sorted(shapes) == sorted(f"({a}{o}{b})" for a, b in parts for o in "+-*")
    assert stats.chisquare(list(shapes.values())).pvalue > 1e-3


def test_a_product_is_0_more_often_than_anything_else():
    data = Language("modular_arithmetic_brackets", metric="length_accuracy", test_longest=140, per_length=50)
    task = tasks.load(data)
    answers = task.targets[task.splits["test"]].max(1)
    assert (answers == 0).mean() == pytest.approx(0.31, abs=0.025)
