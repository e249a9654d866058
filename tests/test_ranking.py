"""Laws of rankings over tasks: ranks, Friedman's test, which rows are told apart, and their diagram."""

from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from kept import Kept, kept
from matplotlib.figure import Figure
from scipy import stats
from test_plain_text import NAMES

from rnnbench.config import ConfigError
from rnnbench.paper.aggregate import FilledTable, arrange, fill
from rnnbench.paper.definition import FigureSettings, Table, table_of
from rnnbench.paper.drawing import draw
from rnnbench.paper.figures import load_kind
from rnnbench.paper.ranked import rank_rows
from rnnbench.paper.sheet import Sheet
from rnnbench.paper.statistics import rank

MODELS = ("lstm", "gru", "rnn", "mgu")
# By hand: gru is the best of each task, mgu the last but one, rnn the last; lstm and gru tie on the first.
SCORES = np.array([[0.9, 0.9, 0.1, 0.5], *[[0.8 + 0.01 * n, 0.9 + 0.01 * n, 0.1, 0.5] for n in range(7)]])


def test_ranks_by_hand():
    found = rank(SCORES)
    assert found.ranks == [(1.5 + 7 * 2) / 8, (1.5 + 7) / 8, 4.0, 3.0]
    assert found.critical == pytest.approx(2.569 * (4 * 5 / (6 * 8)) ** 0.5, abs=1e-3)  # Demsar, Table 5
    # 0.875 and 1.125 lie within 1.66, of all others only 2.0625 - 3.0 and 3.0 - 4.0 do: as Demsar draws it.
    assert sorted(map(sorted, found.alike)) == [[0, 1], [0, 3], [2, 3]]
    tied = rank(np.ones((3, 3)))
    assert (tied.ranks, tied.p, tied.alike) == ([2.0, 2.0, 2.0], 1.0, [[0, 1, 2]])


def test_rows_that_friedman_does_not_tell_apart_are_all_joined():
    scores = np.random.default_rng(3).normal(size=(6, 4))
    found = rank(scores)
    assert found.p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue) and found.p >= 0.05
    assert [sorted(group) for group in found.alike] == [[0, 1, 2, 3]]


def test_groups_are_all_largest_sets_without_a_pair_that_is_told_apart():
    scores = np.random.default_rng(5).normal(size=(20, 7)) + 0.3 * np.arange(7)
    for test in ("nemenyi", "wilcoxon"):
        found = rank(scores, test)
        alike = {pair for pair, p in found.pairs.items() if p >= 0.05}
        sets = [
            set(some)
            for size in range(2, 8)
            for some in combinations(range(7), size)
            if set(combinations(some, 2)) <= alike
        ]
        largest = [one for one in sets if not any(one < other for other in sets)]
        assert sorted(map(sorted, found.alike)) == sorted(map(sorted, largest)) and len(largest) > 1


def test_scikit_posthocs_says_the_same():
    from statsmodels.stats.multitest import multipletests  # here: as above

    scores = np.random.default_rng(0).normal(size=(12, 5)) + 0.5 * np.arange(5)
    nemenyi, wilcoxon = rank(scores), rank(scores, "wilcoxon")
    import scikit_posthocs  # here: seconds that most runs of one test do not need

    theirs = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy()
    assert [nemenyi.pairs[a, b] for a, b in nemenyi.pairs] == pytest.approx(
        [theirs[a, b] for a, b in nemenyi.pairs]
    )
    p = [stats.wilcoxon(scores[:, a], scores[:, b]).pvalue for a, b in wilcoxon.pairs]

    assert list(wilcoxon.pairs.values()) == pytest.approx(multipletests(p, method="holm")[1])
    assert (wilcoxon.critical, nemenyi.ranks) == (None, wilcoxon.ranks)


def table(**changes: Any) -> Table:
    tree = {"title": "Ranks", "sweep": ["x"], "columns": ["data.name"], "metrics": ["test/accuracy"]}
    figures = {"ranks": {"kind": "critical_difference"}}
    return table_of(tree | {"resamples": 100, "compare": None, "figures": figures} | changes)


def cells(models: tuple[str, ...] = MODELS, tasks: int = 8) -> dict[tuple[str, str], list[float]]:
    """Two seeds whose mean is SCORES."""
    return {
        (model, f"task{n}"): [SCORES[n, at] - 0.01, SCORES[n, at] + 0.01]
        for n in range(tasks)
        for at, model in enumerate(models)
    }


def filled(
    runs: dict[tuple[str, str], list[float]], of: dict[str, str] | None = None, **changes: Any
) -> FilledTable:
    planned, records = kept(runs, of)
    return fill(table(**changes), planned, Kept(records))


def drawn(result: FilledTable, test: str = "nemenyi") -> Any:
    kind = load_kind("critical_difference")
    assert kind is not None
    figure = Figure(figsize=(3.4, 2.5), layout="constrained")
    kind.draw(figure, Sheet(result, Kept([]), [], FigureSettings("critical_difference", test=test)))
    return figure


def test_tasks_are_columns_or_summed_over():
    for changes in ({}, {"columns": [], "over": ["data.name"], "spread": "bootstrap"}):
        (found,) = rank_rows(filled(cells(), **changes), FigureSettings("critical_difference"))
        assert found.ranking.ranks == rank(SCORES).ranks
        assert found.tasks == [f"task{n}" for n in range(8)]


def test_an_error_ranks_the_other_way():
    errors = {at: [1 - value for value in values] for at, values in cells().items()}
    metrics = {f"task{n}": "test/mse" for n in range(8)}
    (found,) = rank_rows(filled(errors, metrics, metrics=["test/mse"]), FigureSettings("critical_difference"))
    assert found.ranking.ranks == rank(SCORES).ranks
    # Some tasks by their error, others by their accuracy: each by the metric that it has.
    mixed = {at: values if at[1] == "task0" else errors[at] for at, values in cells().items()}
    metrics["task0"] = "test/accuracy"
    both = filled(mixed, metrics, metrics=["test/accuracy", "test/mse"])
    (found,) = rank_rows(both, FigureSettings("critical_difference"))
    assert found.ranking.ranks == rank(SCORES).ranks
    with pytest.raises(ConfigError, match=r"test=wilcoxon ranks differences of one unit.*take test: nemenyi"):
        rank_rows(both, FigureSettings("critical_difference", test="wilcoxon"))


def test_the_diagram_names_rows_tests_and_the_critical_difference():
    text = "".join(part.get_text() for part in drawn(filled(cells())).axes[0].texts)
    assert all(
        f"{model} {value:.2f}" in text for model, value in zip(MODELS, rank(SCORES).ranks, strict=True)
    )
    assert "CD = 1.66" in text and "Friedman over 8 tasks: χ²(3) = " in text and "Nemenyi" in text
    ranks = drawn(filled(cells()), "wilcoxon").axes[0]
    text = "".join(part.get_text() for part in ranks.texts)
    assert "Wilcoxon's signed ranks, Holm's correction" in text and "CD" not in text


def test_names_stand_for_themselves_and_bytes_are_the_same_each_time(tmp_path):
    names = [r"$\frac{1}{$ <b>", *NAMES[:5]]
    runs = {(name, f"task{n}"): [0.1 * n + 0.01 * len(name)] for name in names for n in range(3)}
    result = filled(runs)
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        draw(result, Kept([]), [], folder)
    svg = (tmp_path / "a" / "ranks.svg").read_text(encoding="utf-8")
    assert r"$\frac{1}{$ <b>" in "".join(ElementTree.fromstring(svg).itertext())
    for form in ("svg", "pdf", "png"):
        assert (tmp_path / "a" / f"ranks.{form}").read_bytes() == (
            tmp_path / "b" / f"ranks.{form}"
        ).read_bytes()


def test_settings_have_panels_of_their_own():
    planned, records = [], []
    for budget in (1, 2):
        more = kept(cells(), model__budget=budget)
        planned, records = planned + more[0], records + more[1]
    changes = {"columns": ["model.budget", "data.name"], "tasks": ["data.name"]}
    figure = drawn(fill(table(**changes), planned, Kept(records)))
    assert [axes.get_title() for axes in figure.axes] == ["budget 1", "budget 2"]


def test_what_cannot_be_ranked_is_refused_before_anything_is_trained():
    for runs, message in (
        (cells(MODELS[:2]), r"ranks take three rows or more, and there is 2; add to rows"),
        (cells(tasks=1), r"ranks are over two tasks or more, and there is one; .* in columns"),
    ):
        with pytest.raises(ConfigError, match=f"figures: critical_difference: {message}"):
            arrange(table(), kept(runs)[0])
    with pytest.raises(
        ConfigError, match=r"critical_difference: of parameters/total none is better or worse"
    ):
        arrange(table(metrics=["parameters/total"]), kept(cells())[0])


def test_a_row_that_lacks_a_task_is_named():
    runs = cells()
    planned, records = kept(runs)
    gone = [r for r in records if (r.params["model.name"], r.params["data.name"]) != ("gru", "task3")]
    with pytest.raises(ConfigError, match=r"every row on every task, and gru has no run on task3; train"):
        drawn(fill(table(), planned, Kept(gone)))


def test_a_diagram_has_one_of_two_tests():
    with pytest.raises(ConfigError, match=r"figures\.a\.test=t: must be one of nemenyi, wilcoxon"):
        table(figures={"a": {"kind": "critical_difference", "test": "t"}})
