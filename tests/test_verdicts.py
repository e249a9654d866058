"""Laws of verdicts: better, worse, equivalent or undecided at a margin; words and seeds that would decide."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept import Kept, kept
from scipy import stats

from rnnbench.config import ConfigError
from rnnbench.paper import statistics
from rnnbench.paper.aggregate import FilledTable, TableTrial, arrange, fill
from rnnbench.paper.claims import claims
from rnnbench.paper.constants import levels
from rnnbench.paper.definition import Table, table_of
from rnnbench.paper.files import texts
from rnnbench.paper.layout import layout
from rnnbench.paper.statistics import (
    Gap,
    Method,
    compare,
    deciding_seeds,
    equivalence,
    gap,
    superiority,
    telling_seeds,
)
from rnnbench.paper.statistics.equivalence import MOST, power_of_difference, power_of_equivalence
from rnnbench.paper.verdict_table import verdict_layout
from rnnbench.paper.verdicts import Verdict, judge
from rnnbench.paper.verification import read_provenance
from rnnbench.reader import Record
from rnnbench.sweep.plan import plan_grid

TASKS = ("digits", "adding", "parity", "copy")
NOISE = np.array([0.3, -0.8, 1.1, -0.4, 0.9, -1.2, 0.1, 0.6, -0.9, 0.3])  # ten seeds: mean 0, deviation 0.76
SIZES = {"lstm": 1000.0, "gru": 750.0}


def table(**changes: Any) -> Table:
    tree = {"title": "Claim", "sweep": ["x"], "columns": ["data.name"], "metrics": ["test/accuracy"]}
    tree["resamples"] = 1000
    return table_of(tree | {"compare": "lstm", "margin": {"test/accuracy": 0.01}} | changes)


def runs_of(gaps: Mapping[str, tuple[float, float]]) -> dict[tuple[str, str], np.ndarray]:
    """lstm at 0.8, and gru: the pairs' differences on each task have this mean and deviation."""
    seeds = 0.8 + 0.002 * np.arange(10.0)
    pairs = NOISE / np.std(NOISE, ddof=1)
    runs = {}
    for task, (difference, deviation) in gaps.items():
        runs["lstm", task] = seeds
        runs["gru", task] = seeds + difference + deviation * pairs
    return runs


KNOWN = {"digits": (0.0005, 0.004), "adding": (0.05, 0.01), "parity": (-0.03, 0.01), "copy": (0.004, 0.02)}


def filled(gaps: Mapping[str, tuple[float, float]] = KNOWN, **changes: Any) -> FilledTable:
    planned, records = kept(runs_of(gaps), sizes=SIZES)
    return fill(table(**changes), planned, Kept(records))


def words(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.word for verdict in verdicts]


def test_each_difference_has_the_verdict_that_is_true_of_it():
    verdicts = judge(filled())
    assert [v.comparison.column for v in verdicts] == [(task,) for task in KNOWN]
    assert words(verdicts) == ["equivalent", "better", "worse", "undecided"]
    assert [v.seeds is None for v in verdicts] == [True, True, True, False]
    assert verdicts[1].effect.value == 1.0 and verdicts[2].effect.value == 0.0


def test_a_task_with_a_decisive_metric_is_judged_by_no_other(tmp_path: Path):
    both = {"metrics": ["test/accuracy", "test/mse"], "tasks": ["data.name"]}
    planned, records = kept(runs_of(KNOWN), sizes=SIZES)
    for record in records:
        record.metrics["test/mse"] = 1 - record.metrics["test/accuracy"]
    margin = {"test/accuracy": 0.01, "test/mse": 0.01}
    free, chosen = (
        fill(table(**both, margin=margin, decisive=one), planned, Kept(records))
        for one in ({}, {"adding": "test/mse"})
    )
    assert [len(judge(result)) for result in (free, chosen)] == [8, 7]
    assert [v.comparison.metric for v in judge(chosen) if v.comparison.column == ("adding",)] == ["test/mse"]
    columns = [column for column in layout(chosen).columns if "adding" in column.group]
    assert [column.metric for column in columns] == ["test/mse"]
    assert "decisive" not in json.loads(texts(free, [], tmp_path)["provenance.json"])["table"]


def test_better_is_lower_where_the_metric_is_an_error():
    metrics = dict.fromkeys(KNOWN, "test/mse")
    planned, records = kept(runs_of(KNOWN), metrics)
    result = fill(table(metrics=["test/mse"], margin={"test/mse": "1%"}), planned, Kept(records))
    verdicts = judge(result)
    assert words(verdicts) == ["equivalent", "worse", "better", "undecided"]
    assert verdicts[0].margin == pytest.approx(0.01 * 0.809)  # a percentage of lstm's figure
    assert verdicts[2].effect.value == 1.0


def test_a_difference_that_is_found_below_the_margin_is_equivalent():
    (verdict,) = judge(filled({"digits": (0.004, 0.001)}))
    assert verdict.comparison.p < 0.05 and verdict.word == "equivalent"


def test_the_number_of_seeds_that_would_decide_is_that_of_the_recorded_spread():
    """One comparison, undecided with ten seeds: at d = 0.004 and a deviation of 0.02 the margin decides."""
    (verdict,) = judge(filled({"copy": (0.004, 0.02)}))
    assert verdict.word == "undecided"
    found = Gap(0.004, 0.02, 10, True)
    assert verdict.seeds == deciding_seeds(found, 0.01, 0.05, 0.05)
    enough, fewer = (
        power_of_equivalence(found, n, 0.01, 0.05) + power_of_difference(found, n, 0.05)
        for n in (verdict.seeds, verdict.seeds - 1)
    )
    assert enough >= 0.8 > fewer
    # Where others are undecided too, Holm leaves less of the level, and more seeds are needed.
    both = judge(filled({"copy": (0.004, 0.02), "parity": (0.0, 0.02)}))
    assert both[0].seeds > verdict.seeds


def test_no_spread_and_one_run():
    (same,) = judge(filled({"digits": (0.0, 0.0)}))
    assert (same.word, same.p, same.telling) == ("equivalent", 0.0, 6)  # 2 / 2**6 is the first p below 0.05
    planned, records = kept({("lstm", "digits"): [0.9], ("gru", "digits"): [0.9]})
    (one,) = judge(fill(table(), planned, Kept(records)))
    assert (one.word, one.p, one.seeds, one.telling) == ("undecided", None, None, None)
    assert "one run has no spread" in claims(fill(table(), planned, Kept(records)), [one])[0]


def test_the_paragraph_says_what_holds_and_where():
    result = filled()
    verdicts = judge(result)
    (said,) = claims(result, verdicts)
    assert said == (
        "gru against lstm, with 0.75 times the parameters. With fewer parameters gru does about as well on 2 "
        "of 4 tasks: better by more than the margin on adding; equivalent within the margin on digits. It "
        "does not on 1: worse by more than the margin on parity. It is open on 1: undecided on copy: "
        f"{verdicts[3].seeds} seeds would decide."
    )
    (all_hold,) = claims(alike := filled({"digits": (0.0, 0.004), "adding": (0.05, 0.01)}), judge(alike))
    assert "With fewer parameters gru does about as well on all 2 tasks: better" in all_hold
    (none,) = claims(worse := filled({"digits": (-0.1, 0.004), "copy": (-0.05, 0.004)}), judge(worse))
    assert "gru does about as well on none of 2 tasks. It does not on all 2 tasks: worse" in none


def test_settings_stand_apart_and_a_task_without_runs_is_said():
    planned, records = [], []
    for budget, size in ((5000, 990.0), (20000, 1300.0)):
        for one, many in zip(
            (planned, records),
            kept(runs_of(KNOWN), sizes=SIZES | {"gru": size}, model__budget=budget),
            strict=True,
        ):
            one += many
    lost = [r for r in records if not (r.params["model.budget"] == 5000 and r.trial.startswith("gru copy"))]
    changes = {"columns": ["model.budget", "data.name"], "tasks": ["data.name"]}
    result = fill(table(**changes), planned, Kept(lost))
    small, large = claims(result, judge(result))
    assert small.startswith("gru against lstm at budget 5000, with 0.99 times the parameters. With about as")
    assert "not compared for want of runs on copy." in small
    assert "With about as many parameters gru does about as well on 2 of 4 tasks: better" in small
    assert "It does not on 1: worse" in small and "It is open on 1: not compared" in small
    assert "With more parameters" in large and large.startswith("gru against lstm at budget 20000")
    shown = verdict_layout(result, judge(result))
    assert [column.title for column in shown.columns][:2] == ["budget", "model"]
    assert [row.label for row in shown.rows] == ["digits", "adding", "parity", *KNOWN]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": {"test/f1": 0.1}}, r"margin\.test/f1: is none of the table's metrics: test/accuracy"),
        (
            {"margin": {"best/val_accuracy": 0.1}, "metrics": ["best/val_accuracy", "test/accuracy"]},
            r"margin\.best/val_accuracy: its differences are not tested; .*: test/accuracy",
        ),
        ({"margin": {"test/accuracy": 0}}, r"margin\.test/accuracy=0: must be a number above 0"),
        ({"margin": {"test/accuracy": "a lot"}}, r"margin\.test/accuracy=a lot: must be a number above 0"),
        ({"margin": {"test/accuracy": "nan%"}}, r"margin\.test/accuracy=nan%: must be a number above 0"),
        ({"chance": {"parity": "half"}}, r"chance\.parity=half: must be a number"),
        ({"chance": {"parity": 0.5}, "margin": {}}, r"chance: belongs to verdicts, and there are none"),
        ({"compare": "best"}, r"compare=best: with a margin each row is compared with one that is named"),
        ({"statistic": "median"}, r"margin: equivalence is tested on the mean difference in a task"),
        ({"over": ["seed"]}, r"over: a cell always sums over its seeds"),
        ({"tasks": ["data.order"]}, r"tasks: data\.order is neither in columns nor in over; .* data\.name"),
    ],
)
def test_a_margin_that_cannot_be_judged_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        table(**changes)


def test_rows_that_learn_nothing_are_not_called_equivalent():
    same = {"parity": (0.0, 0.004), "digits": (0.0, 0.004), "adding": (0.05, 0.004)}
    chance = {"parity": 0.81, "adding": 0.81}  # lstm has 0.809; gru is beyond on adding
    verdicts = judge(result := filled(same, chance=chance))
    assert words(verdicts) == ["at chance", "equivalent", "better"]
    (said,) = claims(result, verdicts)
    assert said.endswith("It is open on 1: neither beats a constant answer on parity.")
    assert any(note.startswith("At chance: ") for note in verdict_layout(result, verdicts).notes)


def test_chance_is_what_a_constant_answer_scores_where_nothing_else_is_stated():
    planned = [
        TableTrial(one["trial"], one["overrides"], one["params"])
        for one in plan_grid(["data=parity", "data.longest=4", "data.test_longest=8", "model=lstm,gru"])
    ]
    records = [
        Record(t.trial, t.trial, t.trial, "finished", 0, 0, None, None, {"test/accuracy": 0.5}, {}, None,
               t.params, Path(t.trial))
        for t in planned
    ]  # fmt: skip
    found = levels(fill(table(), planned, Kept(records)))
    assert found.keys() == {"parity"} and 0.5 <= float(found["parity"]) < 0.7
    assert levels(fill(table(chance={"parity": 0.7}), planned, Kept(records))) == {}
    assert levels(fill(table(margin={}), planned, Kept(records))) == {}


def test_folds_of_one_seed_have_no_verdict():
    planned = []
    for fold in range(3):
        runs = {(model, "digits"): [0.9] for model in ("lstm", "gru")}
        planned += kept(runs, data__folds=3, data__fold=fold)[0]
    with pytest.raises(
        ConfigError, match="margin: the folds of one seed are not independent runs; add seeds"
    ):
        arrange(table(), planned)


def test_verdicts_are_in_every_file_and_verified(tmp_path: Path):
    result = filled()
    folder = tmp_path / "claim"
    folder.mkdir()
    files = texts(result, [], folder)
    (said,) = claims(result, judge(result))
    assert all(said in files[name] for name in ("report.md", "verdicts.md", "verdicts.tex", "report.html"))
    assert "| adding | gru | **better** |  | +0.0500 [" in files["verdicts.md"]
    assert "<h2>Verdicts</h2>" in files["report.html"]
    page = files["report.html"]
    assert page.index(said) < page.index("<h2>All numbers</h2>")
    lines = list(csv.DictReader(files["table.csv"].splitlines()))
    assert {line["data.name"]: line["verdict"] for line in lines if line["model.name"] == "gru"} == {
        "digits": "equivalent", "adding": "better", "parity": "worse", "copy": "undecided"
    }  # fmt: skip
    declared = json.loads(files["provenance.json"])["table"]
    assert declared["margin"] == {"test/accuracy": "0.01"} and "tasks" not in declared
    for name, text in files.items():
        (folder / name).write_text(text)
    known = read_provenance(folder / "provenance.json")
    _, records = kept(runs_of(KNOWN), sizes=SIZES)
    assert texts(fill(known.table, known.planned, Kept(records)), [], folder) == files


def test_a_table_without_a_margin_has_no_verdicts(tmp_path):
    result = filled(margin={}, compare="best")
    files = texts(result, [], tmp_path)
    assert not [name for name in files if "verdict" in name or name == "report.md"]
    assert "Verdicts" not in files["report.html"]
    assert {"margin", "tasks"}.isdisjoint(json.loads(files["provenance.json"])["table"])
    assert "verdict" not in files["table.csv"]


def test_equivalence_is_two_one_sided_tests():
    """By hand: pairs' differences 0, 1, 2 and a margin of 3: t = (3 - 1) / (1 / sqrt(3)) with 2 degrees."""
    ours, theirs = np.array([1.0, 2.0, 3.0]), np.ones(3)
    assert equivalence(ours, theirs, True, 3.0) == pytest.approx(stats.t.sf(2 * 3**0.5, 2))
    assert equivalence(np.array([1.0]), np.ones(1), True, 3.0) is None
    assert equivalence(np.ones(3), np.zeros(3), True, 1.0) == 1.0  # at the margin is not below it
    assert gap(np.array([1.0, np.nan, 3.0]), np.zeros(3), True) == Gap(2.0, 2**0.5, 2, True)


def test_statsmodels_says_the_same():
    from statsmodels.stats import power, weightstats  # here: a second that most runs of one test do not need

    a, b = np.random.default_rng(0).normal([[0.0], [0.3]], 1.0, (2, 9))
    assert equivalence(a, b, True, 0.8) == pytest.approx(weightstats.ttost_paired(a, b, -0.8, 0.8)[0])
    found = equivalence(a, b[:7], False, 0.8)
    assert found == pytest.approx(weightstats.ttost_ind(a, b[:7], -0.8, 0.8, usevar="unequal")[0])
    for size in (0.3, 0.5, 0.7):
        needed = power.TTestPower().solve_power(size, alpha=0.05, power=0.8)
        assert telling_seeds(Gap(0.0, 1.0, 5, True), size, 0.05) == np.ceil(needed)
        needed = power.TTestIndPower().solve_power(size, alpha=0.05, power=0.8)
        assert telling_seeds(Gap(0.0, 2**0.5, 5, False, 2.0), size, 0.05) == np.ceil(needed)
    assert power_of_difference(Gap(0.4, 1.0, 5, True), 30, 0.05) == pytest.approx(
        power.TTestPower().power(0.4, 30, 0.05),
        abs=1e-4,  # which counts the wrong way round too
    )
    assert telling_seeds(Gap(0.0, 1.0, 5, True), 1e-3, 0.05) == MOST + 1


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n", [5, 10, 30])
def test_equivalence_is_rarely_claimed_at_the_margins_edge(n, paired):
    """Of 2,000 samples whose true difference is the margin, no more than 5 % are called equivalent."""
    rng = np.random.default_rng(n)
    found = [
        equivalence(*rng.normal([[0.5], [0.0]], [[0.3], [0.2]], (2, n)), paired, 0.5) for _ in range(2_000)
    ]
    assert np.mean(np.array(found) < 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 2_000) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("test", ["permutation", "wilcoxon"])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("difference", "level"), [(0.0, 0.05), (0.2, 0.05), (0.6, 0.01)])
def test_the_number_of_seeds_decides_in_the_stated_share(difference, level, paired, test):
    """Of 200 samples of so many seeds, about 80 % show the difference or that it is below the margin."""
    scatter = 1.0 if paired else 2**0.5
    n = deciding_seeds(
        Gap(difference, scatter, 5, paired, 1.0 if paired else 2.0), 0.5, level, level, test=test
    )
    rng = np.random.default_rng(7)
    decided = 0
    for _ in range(200):
        a, b = rng.normal(0.0, scatter / 2**0.5, (2, n))
        p = compare(a + difference, b, paired, Method(test)).p
        same = equivalence(a + difference, b, paired, 0.5)
        decided += p < level or same < level
    assert 0.72 <= decided / 200 <= 0.94, (n, decided)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("n", [5, 10])
def test_newcombes_interval_covers_the_true_superiority(n, shift):
    rng = np.random.default_rng(n)
    true = stats.norm.cdf(shift / 2**0.5)
    found = [superiority(rng.normal(shift, 1.0, n), rng.normal(0.0, 1.0, n)) for _ in range(2_000)]
    assert 0.93 <= np.mean([one.low <= true <= one.high for one in found]) <= 0.99


def test_superiority_is_mann_and_whitneys_statistic_with_newcombes_interval():
    a, b = np.random.default_rng(1).normal([[0.5], [0.0]], 1.0, (2, 8))
    found = superiority(a, b)
    assert found.value == pytest.approx(stats.mannwhitneyu(a, b).statistic / 64)
    assert found.value == statistics.improvement(a, b).value
    for end in (found.low, found.high):  # both ends solve the score equation
        spread = end * (1 - end) * (1 + 7 * ((1 - end) / (2 - end) + end / (1 + end))) / 64
        assert (found.value - end) ** 2 == pytest.approx(1.959964**2 * spread)
    apart = superiority(np.arange(5.0) + 9, np.arange(5.0))
    assert (apart.value, apart.high) == (1.0, 1.0) and 0.5 < apart.low < 0.8  # the bootstrap's would be 1
    mirrored = superiority(np.arange(5.0), np.arange(5.0) + 9)
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1 - apart.low))
    assert superiority(np.array([1.0]), np.array([0.0])).low is None
