"""Laws of tables over folds: folds share training data, so a seed's mean over its folds is one run."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow_store import claim
from scipy import stats
from test_paper import config_of, leave, planned_of, table

from rnnbench.config import Config, ConfigError
from rnnbench.paper.aggregate import FilledTable, fill
from rnnbench.paper.derived import derive
from rnnbench.paper.drawing import draw
from rnnbench.paper.files import texts
from rnnbench.paper.notes import notes
from rnnbench.paper.statistics import compare_folds, mean_of_folds
from rnnbench.paper.verification import verify
from rnnbench.reader import Folders, open_source

LEVELS = {"lstm": 0.9, "gru": 0.8, "rnn": 0.7}
SEED = (0.0, 0.01, -0.02, 0.03, 0.01)  # what a seed, a fold, and both together add
FOLD = (-0.1, 0.02, 0.05)
BOTH = np.random.default_rng(0).normal(0, 0.005, (3, 5, 3)).tolist()
Values = Mapping[tuple[str, int, int | None], float]  # accuracies by cell, seed and fold


def folded(model: str, seed: int, fold: int | None, folds: int = 3) -> Config:
    config = config_of(model, seed)
    if fold is not None:
        config.data = replace(config.data, folds=folds, fold=fold)
    return config


def accuracies(seeds: int) -> dict[tuple[str, int, int | None], float]:
    return {
        (model, s, k): LEVELS[model] + SEED[s] + FOLD[k] + BOTH[m][s][k]
        for m, model in enumerate(LEVELS) for s in range(seeds) for k in range(3)
    }  # fmt: skip


def trained(folder: Path, values: Values, gone: int = 0, **changes: Any) -> FilledTable:
    """The table of trials with these accuracies, of which the last `gone` have no record."""
    planned = [planned_of(folded(*at)) for at in values]
    with claim(folder / "1", "sqlite:///nowhere.db") as records:
        for number, (at, value) in enumerate(list(values.items())[: len(values) - gone]):
            leave(folder / "1" / str(number), folded(*at), value)
        records.end("finished")
    return fill(table(**{"resamples": 100} | changes), planned, open_source(str(folder)))


def test_a_run_is_a_seeds_mean_over_its_folds_and_pairs_are_of_seed_and_fold(tmp_path):
    values = accuracies(5)
    result = trained(tmp_path, values, spread="student")
    runs = {m: np.array([np.mean([values[m, s, k] for k in range(3)]) for s in range(5)]) for m in LEVELS}
    for model, means in runs.items():
        figure = result.cell((model,), ()).figures["test/accuracy"]
        low, high = stats.t.interval(0.95, 4, means.mean(), means.std(ddof=1) / math.sqrt(5))
        assert (figure.value, figure.n) == (pytest.approx(means.mean()), 5)
        assert (figure.low, figure.high) == (pytest.approx(low), pytest.approx(min(high, 1.0)))
    difference = result.comparisons[0].difference
    assert (difference.n, difference.paired) == (5, True)
    assert difference.p == 1 / 16  # all that five seeds can show, where 15 independent pairs would give 1e-4
    said = notes(result)
    assert said[:2] == [
        "n = 5 seeds x 3 folds in each cell.",
        "A run is a seed's mean over its folds, since folds share training data.",
    ]
    assert any("paired by seed and fold" in note for note in said)


def test_folds_that_are_all_alike_tell_nothing_more_than_one(tmp_path):
    plain = {
        (m, s, None): level + SEED[s] + BOTH[n][s][0]
        for n, (m, level) in enumerate(LEVELS.items())
        for s in range(5)
    }
    copies = {(m, s, k): value for (m, s, _), value in plain.items() for k in range(2)}
    one, three = trained(tmp_path / "one", plain), trained(tmp_path / "three", copies)
    assert one.comparisons == three.comparisons
    assert [cell.figures for cell in one.cells.values()] == [cell.figures for cell in three.cells.values()]


def test_of_one_seed_folds_are_runs_with_the_variance_of_what_they_share(tmp_path):
    values = accuracies(1)
    result = trained(tmp_path, values, spread="student")
    a, b = (np.array([values[m, 0, k] for k in range(3)]) for m in ("lstm", "gru"))
    figure = result.cell(("gru",), ()).figures["test/accuracy"]
    half = stats.t.ppf(0.975, 2) * b.std(ddof=1) * math.sqrt(1 / 3 + 1 / 2)
    assert (figure.n, figure.deviation) == (3, pytest.approx(b.std(ddof=1)))
    assert (figure.low, figure.high) == (pytest.approx(b.mean() - half), 1.0)
    found = result.comparisons[0].difference
    t = (b - a).mean() / ((b - a).std(ddof=1) * math.sqrt(1 / 3 + 1 / 2))
    assert (found.value, found.p) == (pytest.approx((b - a).mean()), pytest.approx(2 * stats.t.sf(abs(t), 2)))
    said = " ".join(notes(result))
    assert "n = 1 seed x 3 folds in each cell. A run is a fold; folds share training data" in said
    assert "corrected resampled t-test (Nadeau, Bengio 2003), paired by fold" in said


def test_the_corrected_test_keeps_its_level_where_folds_are_correlated_and_the_naive_one_does_not():
    rng, k, rounds = np.random.default_rng(1), 5, 1500
    shared = rng.normal(0, math.sqrt(1 / k), (rounds, 1))
    differences = shared + rng.normal(0, math.sqrt(1 - 1 / k), (rounds, k))
    zeros = np.zeros(k)
    corrected = [compare_folds(one, zeros, True, k).p or 0.0 for one in differences]
    naive = stats.ttest_1samp(differences, 0, axis=1).pvalue
    assert 0.035 < np.mean(np.array(corrected) < 0.05) < 0.065
    assert np.mean(naive < 0.05) > 0.1


def test_folds_of_no_spread_and_folds_without_pairs():
    same = np.full(3, 0.5)
    assert compare_folds(same, same, True, 3).p == 1.0
    assert compare_folds(same, same + 0.1, True, 3).p == 0.0
    unpaired = compare_folds(same, same + 0.1, False, 3)
    assert (unpaired.value, unpaired.p, unpaired.low) == (pytest.approx(-0.1), None, None)
    assert (mean_of_folds(same[:1], 3, True).low, mean_of_folds(same, 3, False).low) == (None, None)


def test_a_seed_that_lacks_a_fold_is_said_and_compared_on_the_folds_that_both_have(tmp_path):
    values = accuracies(3)  # the last trial is rnn, seed 2, fold 2
    result = trained(tmp_path, values, gone=1, compare="lstm")
    said = " ".join(notes(result))
    assert result.cell(("rnn",), ()).count() == "8 of 3 seeds x 3 folds, 1 missing"
    assert "a seed that lacks some has the mean of the others" in said
    pairs = [
        np.mean([values["rnn", s, k] - values["lstm", s, k] for k in range(3) if (s, k) != (2, 2)])
        for s in range(3)
    ]
    assert result.comparisons[1].difference.value == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("changes", "folds", "message"),
    [
        ({"over": ["data.fold"], "spread": "none"}, 3, "over: a cell always sums over its folds"),
        ({}, 2, r"data\.folds: is 3 and 2 in one cell \(lstm\); name it in rows"),
    ],
)
def test_what_would_mislead_is_refused(tmp_path, changes, folds, message):
    planned = [planned_of(folded("lstm", 0, k)) for k in range(3)]
    planned += [planned_of(folded("lstm", 0, k, folds)) for k in range(folds)]
    with pytest.raises(ConfigError, match=message):
        fill(table(**changes), planned, Folders(tmp_path))


@pytest.mark.parametrize(("seeds", "spread"), [(1, "bootstrap"), (3, "student")])
def test_a_table_over_folds_verifies(tmp_path, seeds, spread):
    figures = {kind: {"kind": kind} for kind in ("box", "profile")}
    result = trained(tmp_path / "runs", accuracies(seeds), spread=spread, figures=figures)
    assert (" The bootstrap has no such correction" in " ".join(notes(result))) == (seeds == 1)
    folder = tmp_path / "out"
    folder.mkdir()
    draw(result, Folders(tmp_path / "runs"), [], folder)
    for name, text in texts(result, [], folder).items():
        (folder / name).write_text(text)
    assert verify(folder, str(tmp_path / "runs"))[0] == []
    assert "0, fold 1 of 3" in (folder / "report.html").read_text()


def test_a_table_of_a_sweeps_folder_has_no_row_a_fold(tmp_path):
    trained(tmp_path, accuracies(2))
    shutil.rmtree(tmp_path / "1" / "4")
    made, planned, source = derive([tmp_path / "1"])
    assert made.rows == ["model.name"]
    counts = [cell.count() for cell in fill(made, planned, source).cells.values()]
    assert counts == ["5 of 2 seeds x 3 folds", "2 seeds x 3 folds", "2 seeds x 3 folds"]
