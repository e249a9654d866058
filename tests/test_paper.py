"""Laws of tables: what stands in a cell, what is refused, which bytes come out."""

import csv
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_config, sampled
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow_store import DATASET, TAGS, claim, client
from test_plain_text import NAMES, Tags, from_cell, names, read_back, rows_of

from rnnbench.config import Config, ConfigError, Model, conf_folder, flatten, plain, trial_hash
from rnnbench.mlflow_sync.delivery import Delivery
from rnnbench.mlflow_sync.reading import ClientRuns
from rnnbench.mlflow_sync.sql import SqlRuns
from rnnbench.paper.__main__ import main
from rnnbench.paper.aggregate import FilledTable, TableTrial, fill
from rnnbench.paper.definition import Table, find_table, read_table, table_of
from rnnbench.paper.drawing import draw
from rnnbench.paper.figures import STOCK
from rnnbench.paper.figures.pareto import front
from rnnbench.paper.files import texts
from rnnbench.paper.layout import decimals, layout
from rnnbench.paper.long import long
from rnnbench.paper.notes import notes
from rnnbench.paper.numbers import differing
from rnnbench.paper.planning import App
from rnnbench.paper.provenance import provenance
from rnnbench.paper.published import beside, read_published
from rnnbench.reader import Folders, Record, Source, open_source
from rnnbench.record import JobFolder
from rnnbench.record.sweep_folder import job_folders
from rnnbench.render.html import html
from rnnbench.render.latex import _cell, _form, escaped, latex
from rnnbench.render.layout import TextCell
from rnnbench.render.markdown import markdown

SEEDS = (0, 1, 2)
CELLS = ("lstm", "gru", "rnn")
NEED_WEIGHTS = ("gates", "gradient_flow", "memory", "counter")
# Figures of searches, of several tasks, of weights.
NEED_MORE = ("sensitivity", "importances", "critical_difference", *NEED_WEIGHTS)
# By hand: means 0.9, 0.8, 0.5; deviations 0.1, 0, 0.1.
ACCURACIES = {"lstm": (0.8, 0.9, 1.0), "gru": (0.8, 0.8, 0.8), "rnn": (0.4, 0.5, 0.6)}
PARAMETERS = {"lstm": 5110.0, "gru": 5085.0, "rnn": 4951.0}


def config_of(model: str, seed: int, **changes: Any) -> Config:
    config = make_config(model, seed)
    config.fit = replace(config.fit, **changes)
    return config


def planned_of(config: Config) -> TableTrial:
    overrides = [f"model={config.model.name}", f"seed={config.seed}"]
    return TableTrial(trial_hash(config, DATASET["checksum"]), overrides, flatten(plain(config)))


def leave(
    folder: Path,
    config: Config,
    accuracy: float,
    status: str = "finished",
    tags: dict[str, str] | None = None,
) -> Path:
    """The record of a trial, as training leaves it."""
    job = JobFolder.start(
        folder,
        name=f"{config.model.name} {config.seed}",
        config=config,
        trial=trial_hash(config, DATASET["checksum"]),
        dataset=DATASET,
        tags=TAGS | {"rnnbench.git_dirty": "false"} | (tags or {}),
    )
    for epoch in (1, 2):
        job.epoch(epoch, {"train/loss": 1 / epoch, "val/accuracy": accuracy - 0.01 * (2 - epoch)})
    final = {"test/accuracy": accuracy, "test/loss": math.inf, "time/train_seconds": 1.5}
    final["parameters/total"] = PARAMETERS[config.model.name]
    job.end(status, final if status == "finished" else {}, error="no luck" if status == "failed" else None)
    (folder / "confusion.csv").write_text("3,1\n0,4\n")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A sweep of three cells under three seeds."""
    sweep = tmp_path / "runs" / "1"
    with claim(sweep, f"sqlite:///{tmp_path}/mlflow.db") as records:
        for number, (model, seed) in enumerate((model, seed) for model in CELLS for seed in SEEDS):
            leave(sweep / str(number), config_of(model, seed), ACCURACIES[model][seed])
        records.end("finished")
    return tmp_path / "runs"


def table(**changes: Any) -> Table:
    return table_of(
        {"title": "A table", "sweep": ["x"], "metrics": ["parameters/total", "test/accuracy"]} | changes
    )


PLANNED = [planned_of(config_of(model, seed)) for model in CELLS for seed in SEEDS]


def filled(runs: Path, planned: list[TableTrial] = PLANNED, **changes: Any) -> FilledTable:
    return fill(table(**changes), planned, open_source(str(runs)))


def test_a_cell_is_the_mean_over_seeds(runs):
    result = filled(runs)
    assert result.rows == [("lstm",), ("gru",), ("rnn",)]
    figure = result.cell(("lstm",), ()).figures["test/accuracy"]
    assert (figure.value, figure.n) == (pytest.approx(0.9), 3)
    assert figure.deviation == pytest.approx(0.1)
    assert markdown(layout(result)) == (
        "**A table**\n\n"
        "| model | parameters | test accuracy |\n"
        "| --- | ---: | ---: |\n"
        "| lstm | 5,110 | **0.9000 ± 0.1000** |\n"
        "| gru | 5,085 | 0.8000 ± 0.0000 |\n"
        "| rnn | 4,951 | 0.5000 ± 0.1000 |\n"
        "\n"
        "n = 3 runs in each cell. Mean over runs with sample standard deviation. Bold: the best. With 3 "
        "runs a cell no p falls below 0.25 (permutation test of the mean difference, paired by seed; before "
        "Holm's correction over 3 comparisons, all pairs of rows since any might have been the best), so it "
        "can tell nothing apart, and nothing is marked; table.csv has the intervals of the differences.\n"
    )


def test_comparisons_are_with_the_best_or_with_the_row_that_is_named(runs):
    by_row = {c.row: c for c in filled(runs).comparisons}
    assert set(by_row) == {("gru",), ("rnn",)}
    assert by_row["rnn",].difference.value == pytest.approx(-0.4)
    assert by_row["rnn",].difference.paired
    # Three pairs of one sign: p = 2/8, which Holm triples, since any of three pairs might have been asked.
    assert by_row["rnn",].p == pytest.approx(0.75)
    assert by_row["rnn",].improvement.value == 0
    assert by_row["gru",].improvement.value == pytest.approx(0.5 / 3)  # three of nine pairs are ties
    named = filled(runs, compare="gru")
    assert {c.reference for c in named.comparisons} == {("gru",)}
    assert (filled(runs).tests, named.tests) == (3, 2)
    assert {c.row: c.p for c in named.comparisons}["rnn",] == pytest.approx(0.5)
    assert filled(runs, compare=None).comparisons == []
    assert filled(runs, compare=None).best  # bold all the same


def test_enough_seeds_tell_cells_apart(tmp_path):
    planned = []
    for model, better in (("lstm", 0.1), ("gru", 0.0)):
        for seed in range(8):
            config = config_of(model, seed)
            leave(tmp_path / model / str(seed), config, 0.8 + better + 0.001 * seed)
            planned.append(planned_of(config))
    (comparison,) = filled(tmp_path, planned).comparisons
    assert comparison.p == pytest.approx(2 / 2**8)
    assert not comparison.alike
    assert "†" not in layout(filled(tmp_path, planned)).rows[1].cells[1].plain()
    for seed in range(8):  # the same on average: now it cannot
        leave(tmp_path / "gru" / str(seed), config_of("gru", seed), 0.907 - 0.001 * seed)
    assert layout(filled(tmp_path, planned)).rows[1].cells[1].plain().endswith("†")


def test_intervals_medians_and_middle_halves(runs):
    for statistic, spread in (
        ("mean", "student"),
        ("median", "bootstrap"),
        ("iqm", "bootstrap"),
        ("mean", "none"),
    ):
        result = filled(runs, statistic=statistic, spread=spread)
        figure = result.cell(("lstm",), ()).figures["test/accuracy"]
        assert figure.value == pytest.approx(0.9)
        assert ("[" in markdown(layout(result))) == (spread != "none")
    student = filled(runs, spread="student").cell(("lstm",), ()).figures["test/accuracy"]
    assert student.low == pytest.approx(0.9 - 4.302652729911275 * 0.1 / math.sqrt(3))  # t(2), 97.5 %
    assert student.high == 1.0  # no accuracy is beyond


def test_one_seed_has_no_interval_and_says_so(runs):
    result = filled(runs, [trial for trial in PLANNED if trial.params["seed"] == 0], spread="student")
    figure = result.cell(("lstm",), ()).figures["test/accuracy"]
    assert (figure.low, figure.high, figure.deviation) == (None, None, None)
    assert "One run alone has no spread and no test." in notes(result)
    assert all(comparison.p is None for comparison in result.comparisons)


def test_tasks_are_summed_over_only_where_the_table_says_so(tmp_path):
    planned = []
    for order, shift in (("rows", 0.0), ("columns", -0.2)):
        for model in ("lstm", "gru"):
            for seed in SEEDS:
                config = config_of(model, seed)
                config.data = replace(config.data, order=order)
                leave(tmp_path / f"{order}{model}{seed}", config, ACCURACIES[model][seed] + shift)
                planned.append(planned_of(config))
    with pytest.raises(
        ConfigError, match=r"data\.order: is rows and columns in one cell \(lstm\).*or in over"
    ):
        filled(tmp_path, planned)
    result = filled(tmp_path, planned, over=["data.order"], statistic="iqm", spread="bootstrap")
    cell = result.cell(("lstm",), ())
    # The middle half of 0.6, 0.7, 0.8, 0.8, 0.9, 1.0: without the lowest and the highest.
    assert cell.figures["test/accuracy"].value == pytest.approx((0.7 + 0.8 + 0.8 + 0.9) / 4)
    assert "over runs and tasks" in markdown(layout(result))
    columns = filled(tmp_path, planned, columns=["data.order"])
    assert columns.columns == [("rows",), ("columns",)]


def two_tasks(folder: Path, gone: tuple[str, ...] = ()) -> list[TableTrial]:
    """Two cells on two tasks under eight seeds, without some runs; lstm is ahead by 0.05 in each pair."""
    planned = []
    for order, shift in (("rows", 0.0), ("columns", -0.4)):
        for model, better in (("lstm", 0.05), ("gru", 0.0)):
            for seed in range(8):
                config = config_of(model, seed)
                config.data = replace(config.data, order=order)
                if not f"{order}{model}{seed}".startswith(gone):
                    leave(folder / f"{order}{model}{seed}", config, 0.8 + shift + better + 0.001 * seed)
                planned.append(planned_of(config))
    return planned


def test_a_task_with_fewer_runs_weighs_the_same(tmp_path):
    """The mean over tasks of each task's mean, whichever run is missing, and its n is shown."""
    planned = two_tasks(tmp_path, ("rowslstm7", "rowslstm6"))
    result = filled(tmp_path, planned, over=["data.order"], spread="bootstrap")
    figure = result.cell(("lstm",), ()).figures["test/accuracy"]
    rows, columns = 0.85 + 0.001 * sum(range(6)) / 6, 0.45 + 0.001 * 3.5
    assert (figure.value, figure.n) == (pytest.approx((rows + columns) / 2), 6)
    assert figure.low < figure.value < figure.high < figure.low + 0.01  # not as wide as the tasks are apart
    assert result.cell(("lstm",), ()).count() == "14, 2 missing"
    assert "Each task weighs the same, also where it has fewer runs." in notes(result)
    (comparison,) = result.comparisons
    assert comparison.difference.paired and comparison.difference.value == pytest.approx(-0.05)
    assert "by the seeds that both have where one lacks some, 14 pairs" in markdown(layout(result))


def test_a_cell_that_lacks_a_task_is_not_compared(tmp_path):
    planned = two_tasks(tmp_path, ("columnslstm",))
    result = filled(tmp_path, planned, over=["data.order"], spread="bootstrap")
    assert result.cell(("lstm",), ()).figures["test/accuracy"].value == pytest.approx(0.8535)
    assert (result.best, result.comparisons) == (set(), [])
    assert "Not compared, since a task has no run: lstm." in notes(result)


def test_failed_pruned_and_missing_trials_are_shown(runs):
    failed, missing, pruned = (job_folders(runs / "1")[n] for n in (0, 4, 6))
    leave(failed, config_of("lstm", 0), 0.0, "failed")
    shutil.rmtree(missing)
    leave(pruned, config_of("rnn", 0), 0.0, "pruned")
    result = filled(runs)
    assert [result.cell(row, ()).count() for row in result.rows] == [
        "2, 1 failed",
        "2, 1 missing",
        "2, 1 pruned",
    ]
    assert "| 2, 1 failed |" in markdown(layout(result))
    assert "The number of runs differs between cells: see n." in notes(result)
    # lstm has seeds 1 and 2, gru 0 and 2: not paired.
    assert not any(c.difference.paired for c in result.comparisons if c.row == ("gru",))


def test_of_a_trial_that_was_run_twice_the_newest_finished_run_counts(runs):
    again = leave(runs / "2" / "0", config_of("lstm", 0), 0.5)
    result = filled(runs)
    assert result.cell(("lstm",), ()).values("test/accuracy")[(), 0] == 0.5
    old = json.loads((runs / "1" / "0" / "result.json").read_text())["job"]
    assert result.superseded == [old]
    leave(again, config_of("lstm", 0), 0.0, "failed")
    assert filled(runs).cell(("lstm",), ()).values("test/accuracy")[(), 0] == 0.8


def test_protocols_are_not_mixed(tmp_path):
    planned = []
    for model, select in (("lstm", "val"), ("gru", "test")):
        config = config_of(model, 0)
        config.fit = replace(config.fit, select=type(config.fit.select)(select))
        leave(tmp_path / model, config, 0.9)
        planned.append(planned_of(config))
    with pytest.raises(ConfigError, match=r"fit\.select: some trials choose their epoch on the test set"):
        filled(tmp_path, planned)
    result = filled(tmp_path, planned, mixed_protocols=True)
    assert "Chosen by watching the test set: these accuracies are optimistic." in notes(result)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["test/f1"]}, r"metrics: no run has test/f1; there is .*test/accuracy, test/loss"),
        ({"rows": ["model.nam"]}, r"rows, columns, over: model\.nam is no key of the trial"),
        ({"rows": ["data.name"]}, r"model\.name: is lstm and gru in one cell"),
        ({"compare": "mgu"}, r"compare=mgu: must be best or one of the rows: lstm, gru, rnn"),
        ({"statistic": "mode"}, r"statistic=mode: must be one of mean, median, iqm"),
        ({"spread": "range"}, r"spread=range: must be one of"),
        ({"test": "t"}, r"test=t: must be one of permutation, wilcoxon"),
        ({"rows": []}, r"rows, metrics: a table needs at least one of each"),
        ({"statistic": "median", "spread": "student"}, r"spread=student: is the interval of a mean"),
        ({"over": ["data.name"]}, r"spread=deviation: over=.* mixes tasks; take bootstrap"),
        (
            {"figures": {"a": {"kind": "pie"}}},
            r"figures\.a\.kind=pie: must be one of box, confusion, counter, critical_diff",
        ),
        (
            {"figures": {"a": {"kind": "importances"}}},
            r"figures\.a\.kind=importances: is of searches",
        ),
        (
            {"published": {"key": "x", "task": "x", "metric": "x", "ours": "x"}},
            r"published\.ours=x: is none of the table's metrics",
        ),
        (
            {"published": {"key": "bai2018", "metric": "accuracy", "ours": "test/accuracy"}},
            r"published: needs either task, for all columns, or tasks, by value of a column",
        ),
        (
            {"published": {"key": "x", "tasks": {"a": "x"}, "metric": "x", "ours": "test/accuracy"}},
            r"published\.tasks: is by value of a column, and the table has no columns; give task",
        ),
        (
            {
                "columns": ["seed"],
                "published": {"key": "x", "tasks": {"gnu": "x"}, "metric": "x", "ours": "test/accuracy"},
            },
            r"published\.tasks\.gnu=x: no column has this value; there is 0, 1, 2",
        ),
        (
            {"tuned": {"rows": ["optim=sgd"], "search": [], "trials": 1, "fresh": "1"}},
            r"tuned\.rows=.*: rows=.* do not tell them apart",
        ),
    ],
)
def test_what_would_mislead_is_refused(runs, changes, message):
    with pytest.raises(ConfigError, match=message):
        filled(runs, **changes)


def test_a_table_file_is_refused_by_its_name(tmp_path):
    with pytest.raises(
        ConfigError, match=r"table=zzzzzzz: there is no such table; there is adding50, .*digits"
    ):
        find_table("zzzzzzz", [])
    with pytest.raises(ConfigError, match=r"table=digit: there is no such table; did you mean digits\?"):
        find_table("digit", [])
    file = tmp_path / "bad.yaml"
    file.write_bytes(b"title: \xff")
    with pytest.raises(ConfigError, match=r"bad\.yaml: cannot be read \('utf-8' codec"):
        read_table(file)
    file.write_text("title: x\nmetrics: [m]\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: sweep: has no value, and a table needs one"):
        read_table(file)


# A line more in a table file, or one in place of that key's, and what is said of it.
MISTAKES = {
    "row: [x]": "row: there is no such key; did you mean rows?",
    "statistc: mean": "statistc: there is no such key; did you mean statistic?",
    "figures: {f: {kindd: box}}": "figures.f.kindd: there is no such key; did you mean kind?",
    "figures: {f: box}": "figures.f: must be keys with their values",
    "figures: {f: {x: a}}": "figures.f.kind: has no value",
    "figures: {../f: {kind: box}}": "figures.../f: becomes the name of a file",
    "rows: model.name": "rows: must be a list: rows: [model.name]",
    "rows: {a: b}": "rows: must be a list",
    "rows: [model.name, model.name]": "rows, columns, over: model.name is named twice",
    "columns: [model.name]": "rows, columns, over: model.name is named twice",
    "over: [seed]\nspread: none": "over: a cell always sums over its seeds",
    "sweep: []": "sweep: is empty; name the trials",
    "sweep: [{seed: 1}]": "sweep: must be text, and {'seed': 1} is not",
    "metrics: [a, a]": "metrics: a is named twice",
    "metrics: [null]": "metrics: must be text, and None is not",
    "statistic: [mean]": "statistic: must be text",
    "wide: maybe": "wide: must be true or false, and 'maybe' is not",
    "labels: [a]": "labels: must be keys with their values",
    "digits: {m: x}": "digits.m: must be a whole number",
    "digits: {m: true}": "digits.m: must be a whole number",
    "digits: {m: -1}": "digits.m=-1: must be from 0 to 15",
    "tuned: {rows: [a], search: [], trials: 0, fresh: 1}": "tuned: needs rows, and trials of at least 1",
    "tuned: {rows: [model=a], search: [], trials: 1, fresh: 1, columns: {size: {small: x=1}}}": (
        "tuned.columns.size: is none of columns=[]; name it there too"
    ),
    "columns: [size]\ntuned: {rows: [model=a], search: [], trials: 1, fresh: 1, columns: {size: {}}}": (
        "tuned.columns.size: has no values; give names with overrides"
    ),
    "decisive: {a: n}": "decisive.a=n: is none of the metrics that are tested: m",
    "caption: ${nope}": "caption: Interpolation key 'nope' not found",
    "caption: [x": ":5: expected ',' or ']'",
    "wide: true\nwide: false": "found duplicate key wide",
}


@pytest.mark.parametrize("line, message", MISTAKES.items(), ids=MISTAKES.keys())
def test_a_mistake_in_a_table_file_is_named_with_its_key(tmp_path, line, message):
    lines = {"title": "title: x", "sweep": "sweep: [a]", "metrics": "metrics: [m]"}
    file = tmp_path / "bad.yaml"
    file.write_text("\n".join((lines | {line.partition(":")[0]: line}).values()) + "\n")
    with pytest.raises(ConfigError) as error:
        read_table(file)
    assert message in str(error.value) and str(error.value).startswith(str(file))


@pytest.mark.parametrize("text", ["", "3", "- a", "text", "null"])
def test_what_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_table(tmp_path / "bad.yaml")


def test_a_mistake_in_a_table_is_found_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(App, "points", lambda *_: PLANNED)
    monkeypatch.setattr(App, "run", lambda *_: pytest.fail("it trains"))
    (tmp_path / "table").mkdir()
    for line, message in {
        "compare: mgu": "compare=mgu: must be best or one of the rows: lstm, gru, rnn",
        "rows: [model.nam]": "model.nam is no key of the trial model=lstm seed=0; did you mean model.name",
        "rows: [data.name]": "model.name: is lstm and gru in one cell",
        "published: {key: x, task: x, metric: x, ours: test/accuracy}": "published.key=x: is not known",
    }.items():
        (tmp_path / "table" / "mine.yaml").write_text(
            f"title: x\nsweep: [a]\nmetrics: [test/accuracy]\n{line}"
        )
        monkeypatch.setattr("sys.argv", ["paper", "--config-dir=.", "table=mine"])
        with pytest.raises(SystemExit) as error:
            main()
        assert message in str(error.value)


DIVERGED = [(0.5, math.nan), (math.nan,), (math.nan, math.inf)]


@pytest.mark.parametrize("values", sampled(DIVERGED, DIVERGED[:1]), ids=str)
def test_every_figure_is_drawn_whatever_has_diverged(tmp_path, values):
    planned = []
    for model in ("lstm", "gru"):
        for seed, value in enumerate(values if model == "lstm" else (math.nan,)):
            leave(tmp_path / model / str(seed), config_of(model, seed), value)
            planned.append(planned_of(config_of(model, seed)))
    kinds = {kind: {"kind": kind} for kind in ("pareto", "scatter", "box", "violin", "profile")}
    result = filled(tmp_path, planned, figures=kinds)
    assert len(draw(result, Folders(tmp_path), [], tmp_path)) == 3 * len(kinds)


def test_no_records_are_refused(tmp_path, runs):
    with pytest.raises(ConfigError, match=r"source=.*nowhere: no such folder"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(
        ConfigError, match=r"source=sqlite:////none\.db: cannot be read \(there is no /none\.db\)"
    ):
        open_source("sqlite:////none.db")
    with pytest.raises(ConfigError, match="no trial of this table is recorded and finished"):
        filled(runs, [planned_of(config_of("lstm", 99))])


def sources(runs: Path, uri: str) -> list[Source]:
    return [Folders(runs), SqlRuns(uri), ClientRuns(uri)]


def same_bytes(runs: Path, uri: str, tmp_path: Path) -> None:
    """Whatever the records are read from, the same files come out."""
    definition = table(figures={"curves": {"kind": "curves"}, "confusion": {"kind": "confusion"}})
    made = []
    for number, source in enumerate(sources(runs, uri)):
        folder = tmp_path / f"out{number}" / "name"
        folder.mkdir(parents=True)
        result = fill(definition, PLANNED, source)
        drawn = draw(result, source, [], folder)
        made.append(texts(result, [], folder) | {file.name: file.read_bytes() for file in drawn})
    assert made[0].keys() >= {"table.tex", "report.html", "curves.pdf", "curves.svg", "confusion.png"}
    for other in made[1:]:
        assert [name for name in other if other[name] != made[0][name]] == []
    found = [source.find([trial.trial for trial in PLANNED]) for source in sources(runs, uri)]
    assert found[0] == found[1] == found[2]
    assert found[0][0].metrics["test/loss"] == math.inf


def test_folders_sql_and_search_runs_give_the_same_bytes(runs, store, tmp_path):
    Delivery(runs / "1").deliver(job_folders(runs / "1"))
    same_bytes(runs, f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


def redirect(sweep: Path, uri: str) -> None:
    """Deliver a sweep to another store."""
    info = json.loads((sweep / "sweep.json").read_text())
    info["tracking"]["uri"] = uri
    (sweep / "sweep.json").write_text(json.dumps(info))
    Delivery(sweep).deliver(job_folders(sweep))


@pytest.mark.slow  # as SQLite does, which is tried above
def test_postgresql_gives_the_same_bytes(runs, postgresql, tmp_path):
    uri = postgresql.replace("/postgres?", "/mlflow?")
    redirect(runs / "1", uri)
    assert isinstance(open_source(uri), SqlRuns)
    same_bytes(runs, uri, tmp_path)


def test_a_deleted_run_does_not_count(runs, store):
    Delivery(runs / "1").deliver(job_folders(runs / "1"))
    found = open_source(store).find([PLANNED[0].trial])
    client(store).delete_run(found[0].run_id)
    assert open_source(store).find([PLANNED[0].trial]) == []


def write_out(runs: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    result = filled(runs, **changes)
    draw(result, Folders(runs), [], folder)
    for name, text in texts(result, [], folder).items():
        (folder / name).write_text(text)
    return folder


def test_published_figures_stand_beside_ours(runs):
    with_theirs = {"key": "bai2018", "task": "seq_mnist", "metric": "accuracy", "ours": "test/accuracy"}
    result = filled(runs, published=with_theirs | {"caveats": ["Theirs are other runs."]})
    theirs = beside(result)
    read = {("lstm",): "0.872", ("gru",): "0.962", ("rnn",): "0.215"}
    assert theirs is not None and theirs.values == {(): read}
    text = markdown(layout(result))
    assert "| 0.872 | +0.0280 |" in text and "| 0.962 | -0.1620 |" in text
    assert "Bai, Kolter, Koltun 2018 (arXiv 1803.01271), Table 1. Theirs are other runs." in text
    with pytest.raises(ConfigError, match=r"published\.task=mnist: is not known; there is .*seq_mnist"):
        layout(filled(runs, published=with_theirs | {"task": "mnist"}))
    renamed = filled(runs, published=with_theirs | {"models": {"rnn": "gru"}})
    assert beside(renamed).values[()]["rnn",] == "0.962"


def test_published_figures_of_several_tasks_stand_by_column(runs):
    """Columns without a task have no published figures, and tables that name one task are as before."""
    theirs = {"key": "bai2018", "metric": "accuracy", "ours": "test/accuracy"}
    tasks = {"0": "seq_mnist", "1": "permuted_mnist"}
    result = filled(runs, columns=["seed"], published=theirs | {"tasks": tasks})
    assert {column: values["lstm",] for column, values in beside(result).values.items()} == {
        (0,): "0.872",
        (1,): "0.857",
    }
    groups = [column.group for column in layout(result).columns if column.title == "published"]
    assert groups == ["seed 0", "seed 1"]
    assert provenance(result, [])["table"]["published"]["tasks"] == tasks
    one = filled(runs, published=theirs | {"task": "seq_mnist"})
    assert "tasks" not in provenance(one, [])["table"]["published"]
    with pytest.raises(ConfigError, match=r"published\.tasks\.0=mnist: is not known; there is .*seq_mnist"):
        layout(filled(runs, columns=["seed"], published=theirs | {"tasks": {"0": "mnist"}}))


def test_published_figures_are_those_that_we_were_given():
    given = Path(__file__).parents[2] / "shared" / "published" / "results.csv"
    if not given.exists():
        pytest.skip("the published figures are not here")
    ours = (conf_folder().parent / "rnnbench" / "paper" / "published.csv").read_text()
    assert ours.startswith(given.read_text())  # figures that were read in other sources follow
    assert len(read_published()) == len(ours.splitlines()) - 1


def test_long_csv_has_all_digits(runs):
    lines = long(filled(runs)).splitlines()
    assert lines[0].startswith(
        "model.name,metric,n,other,mean,deviation,low,high,best,compared_with,difference"
    )
    assert lines[2].startswith("lstm,test/accuracy,3,,0.9,0.09999999999999")
    assert all(line.count(",") == lines[0].count(",") for line in lines)


def test_decimals_follow_the_metric(runs):
    result = filled(runs, metrics=["parameters/total", "test/accuracy", "train/loss", "time/train_seconds"])
    found = [decimals(result, metric) for metric in result.table.metrics]
    assert found == [0, 4, 4, 1]
    assert decimals(filled(runs, digits={"test/accuracy": 2}), "test/accuracy") == 2


def test_a_name_is_one_cell_in_every_file_and_can_be_read_back(tmp_path):
    planned = []
    for number, name in enumerate(NAMES):
        config = config_of("lstm", 0)
        config.model.name = name
        PARAMETERS[name] = 5000.0
        leave(tmp_path / str(number), config, 0.5)
        planned.append(planned_of(config))
    result = filled(tmp_path, planned, title=NAMES[0], compare=None, labels={"test/accuracy": "|a|<b>"})
    files = texts(result, [], tmp_path / "name")
    lines = list(csv.reader(files["table.csv"].splitlines()))
    assert {len(line) for line in lines} == {len(lines[0])}
    assert [from_cell(line[0]) for line in lines[1::2]] == NAMES
    body = "\n".join(line for line in files["table.md"].splitlines() if line.startswith("| "))
    rows = rows_of(body.replace("**0.5000**", "0.5000"))
    assert rows[0] == ["model", "parameters", "|a|<b>"]
    assert [read_back(row[0]) for row in rows[1:]] == [name.strip(" ") for name in NAMES]
    for file in ("table.html", "report.html"):
        page = Tags(files[file])
        assert not {"img", "a", "iframe", "svg", "code", "lstm"} & {tag for tag, _ in page.found}
        assert [tag for tag, _ in page.found].count("script") == (file == "report.html")
        assert not {name for _, names in page.found for name in names if name.startswith("on")}
    assert files["table.tex"].count(r" \\" + "\n") == len(NAMES) + 1
    for file, text in files.items():
        assert not {char for char in text if not char.isprintable()} - {"\n"}, file


def test_a_table_in_latex_has_a_label_and_says_nothing_of_files(runs, tmp_path):
    text = latex(layout(filled(runs)), "my table_1")
    assert r"\label{tab:my-table-1}" in text and r"\begin{table}" in text
    shutil.rmtree(runs / "1" / "4")  # now the number of runs differs
    for changes in ({}, {"metrics": ["time/train_seconds", "test/accuracy"]}, {"spread": "bootstrap"}):
        text = latex(layout(filled(runs, **changes)), "x").partition(r"\begin")[2]
        assert ".csv" not in text and "see n" not in text
        assert "runs differs between cells." in text
    wide = texts(filled(runs, wide=True), [], tmp_path)["table.tex"]
    assert r"\begin{table*}" in wide and r"\end{table*}" in wide


def test_parameters_that_are_the_same_in_every_group_stand_once(tmp_path):
    planned = []
    for batch in (8, 16):
        for model in CELLS:
            config = config_of(model, 0, batch_size=batch)
            leave(tmp_path / f"{batch}{model}", config, 0.9)
            planned.append(planned_of(config))
    result = filled(tmp_path, planned, columns=["fit.batch_size"])
    shown = layout(result)
    assert [(h.group != "", h.title) for h in shown.columns] == [
        (False, "parameters"),
        (True, "test accuracy"),
        (True, "test accuracy"),
    ]
    assert [row.cells[0].value for row in shown.rows] == ["5,110", "5,085", "4,951"]
    assert r"\cmidrule(lr){2-" not in latex(shown, "x")
    other = result.cells[("lstm",), (16,)].figures  # another count there: it stands in each group
    other["parameters/total"] = replace(other["parameters/total"], value=6000.0)
    assert [h.title for h in layout(result).columns] == ["parameters", "test accuracy"] * 2


def test_powers_of_ten_are_aligned():
    tiny = [TextCell("1.25e-07", deviation="2.5e-08"), TextCell("-0.0310", deviation="1e-03")]
    assert _form([one.value for one in tiny]) == "-1.4e-1"
    assert _cell(tiny[0], 2) == r"1.25e-7 & {$\pm$\,}2.5e-8"
    assert r"[$1.2\times10^{-7}$, 0.1]" in _cell(TextCell("0.1", interval="[1.2e-07, 0.1]"), 2)


@given(names)
def test_no_name_acts_in_latex(name):
    text = escaped(name)
    assert text.isascii() and text.isprintable()
    bare = re.sub(r"\$(?:\^[23]|-|\^?\\[a-z]+|\\[A-Z][a-z]+|\^\\circ)\$", "", text)  # our own formulae
    bare = re.sub(r"\\(?:[&%$#_{}]|[a-zA-Z]+|[`'^~=.\"])", "", bare)
    assert not set(bare) & set("\\%#&_^~$")
    assert bare.count("{") == bare.count("}")
    assert re.sub(r"\\(?:texttt|text[a-z]+)", "", text).count("\\input") == 0
    assert text[:1] not in ("[", "*")


def test_latex_escapes_what_it_would_misread(runs):
    assert escaped("5 % of a_b & {c} ± †") == r"5 \% of a\_b \& \{c\} $\pm$ $^\dagger$"
    assert texts(filled(runs), [], Path("x"))["table.tex"].count(r"\\") == 4


def test_the_page_needs_no_network(runs, tmp_path):
    folder = write_out(runs, tmp_path / "out" / "name", figures={"curves": {"kind": "curves"}})
    page = texts(filled(runs, figures={"curves": {"kind": "curves"}}), [], folder)["report.html"]
    for outside in ('src="http', 'href="http', "url(http", "@import"):
        assert outside not in page
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert html(layout(filled(runs))) in page


ALONE = [kind for kind in STOCK if kind not in NEED_MORE]


@pytest.mark.parametrize("kind", sampled(ALONE, ["curves", "confusion"]))
def test_every_figure_is_drawn_the_same_twice(kind, runs, tmp_path):
    result = filled(runs, figures={kind: {"kind": kind}})
    a, b = (
        draw(result, Folders(runs), [], tmp_path)
        and [file.read_bytes() for file in sorted(tmp_path.glob(f"{kind}.*"))]
        for _ in "ab"
    )
    assert len(a) == 3 and a == b


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12),
    st.sampled_from([1, -1]),
)
def test_the_front_is_what_no_other_point_beats(points, sign):
    kept = front([(float(x), float(y)) for x, y in points], sign)

    def beaten(point):
        return any(x <= point[0] and sign * y >= sign * point[1] and (x, y) != point for x, y in points)

    assert set(kept) == {(x, y) for x, y in points if not beaten((x, y))}


@pytest.mark.parametrize("file", sorted((conf_folder() / "table").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_table_that_ships_is_one(file):
    definition = read_table(file)
    assert definition.title and definition.metrics
    assert Model(definition.rows[0].removeprefix("model."))
    first, second = file.read_text().splitlines()[:2]
    assert first.startswith(f"# python -m rnnbench.paper table={file.stem}")
    assert second.startswith("# Expected: ")


def test_a_metric_that_some_runs_lack_is_said(runs):
    for seed in (0, 1):
        file = runs / "1" / str(seed) / "result.json"
        result = json.loads(file.read_text())
        del result["metrics"]["time/train_seconds"]
        file.write_text(json.dumps(result))
    result = filled(runs, metrics=["time/train_seconds", "test/accuracy"])
    assert "Not every run has training seconds: table.csv has its n." in notes(result)
    assert long(result).splitlines()[1].startswith("lstm,time/train_seconds,1,")


def test_an_earlier_table_may_have_rounded_a_half_the_other_way():
    """Means of k/10000 over ten runs are halves of the fourth digit, which the order of the sum decided."""
    now = "| a | b |\n| --- | ---: |\n| lstm | 0.9714 |\n"
    was = now.replace("0.9714", "0.9713")
    assert differing("table.md", was, now, False, [0.97135]) == []
    assert len(differing("table.md", was, now, False, [0.97136])) == 1
    assert len(differing("table.md", was.replace("0.9713", "0.9712"), now, False, [0.97135])) == 1


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["mean", "median", "iqm"]),
    st.sampled_from(["permutation", "wilcoxon"]),
    st.sampled_from(["best", "gru"]),
    st.sampled_from(["test/accuracy", "test/loss"]),
    st.integers(0, 3),
)
def test_bold_is_never_what_the_test_finds_worse(seed, statistic, test, compare, metric, gone):
    """Skewed runs, on which means, medians and ranks disagree, and runs that only one row has."""
    rng = np.random.default_rng(seed)
    ours = rng.integers(900, 910, 10) / 1000
    theirs = ours - 0.002 + 0.1 * (rng.random(10) < 0.15) - 0.0005 * rng.random(10)
    values = {"lstm": ours, "gru": theirs[: 10 - gone]}
    source = Memory(values, metric)
    planned = [planned_of(config_of(m, n)) for m, some in values.items() for n in range(len(some))]
    result = fill(
        table(metrics=[metric], statistic=statistic, spread="bootstrap", test=test, compare=compare),
        planned,
        source,
    )
    sign = 1 if metric == "test/accuracy" else -1
    for c in result.comparisons:
        significant = c.p is not None and c.p < 0.05
        worse = sign * c.difference.sign < 0
        row, reference = ((at, (), metric) in result.best for at in (c.row, c.reference))
        if significant and not c.alike:  # marked as different
            assert (row, reference) == (not worse, worse)


class Memory(Source):
    """Records in memory."""

    name = "memory"

    def __init__(self, values: Mapping[str, Sequence[float]], metric: str) -> None:
        self.values, self.metric = values, metric

    def find(self, trials):
        wanted = set(trials)
        return [
            record
            for model, values in self.values.items()
            for seed, value in enumerate(values)
            if (record := self.record(model, seed, float(value))).trial in wanted
        ]

    def record(self, model: str, seed: int, value: float) -> Record:
        trial = planned_of(config_of(model, seed)).trial
        facts = dict.fromkeys(("run_id", "parent", "error", "ended")) | {"metrics": {self.metric: value}}
        return Record(trial=trial, job=f"{model}{seed}", name=model, status="finished", started=seed,
                      tags={}, params={}, folder=Path(), **facts)  # fmt: skip

    all = of_study = searches = curve = None


def of_memory(
    metric: str = "test/accuracy", changes: Mapping[str, Any] | None = None, **values: list[float]
) -> FilledTable:
    planned = [planned_of(config_of(m, n)) for m, some in values.items() for n in range(len(some))]
    return fill(table(metrics=[metric], **(changes or {})), planned, Memory(values, metric))


def test_equal_means_are_bold_together():
    """Other values, the same sum of counts out of 360: the floats' means differ in the last bit."""
    result = of_memory(
        lstm=[340 / 360, 347 / 360, 352 / 360], gru=[341 / 360, 345 / 360, 353 / 360], rnn=[0.1] * 3
    )
    assert result.best == {(("lstm",), (), "test/accuracy"), (("gru",), (), "test/accuracy")}


def test_a_run_that_diverged_is_left_out_and_said():
    result = of_memory("test/loss", lstm=[0.2, math.nan, 0.4], gru=[0.5, 0.6, 0.7], rnn=[math.inf] * 3)
    assert result.cell(("lstm",), ()).figures["test/loss"].value == pytest.approx(0.3)
    assert result.best == {(("lstm",), (), "test/loss")}
    said = "Left out, since not finite (diverged): test/loss of 1 of 3 runs of lstm; test/loss of 3 of 3 runs"
    assert f"{said} of rnn." in notes(result)
    assert layout(result).rows[2].cells[0].plain() == "not finite"
    assert long(result).splitlines()[1].startswith("lstm,test/loss,2,1 not finite,")
    (comparison,) = result.comparisons
    assert (comparison.difference.paired, comparison.difference.n) == (True, 2)


def test_one_failed_run_keeps_the_pairs_of_the_others():
    """Pairs differ by 0.01, seeds by far more: only paired can the two be told apart."""
    ours = [0.5 + 0.04 * seed for seed in range(10)]
    result = of_memory(lstm=ours, gru=[value - 0.01 for value in ours[:9]])
    (comparison,) = result.comparisons
    assert (comparison.difference.paired, comparison.difference.n) == (True, 9)
    assert comparison.p == pytest.approx(2 / 2**9)
    assert "by the seeds that both have where one lacks some, 9 pairs" in " ".join(notes(result))


def test_tiny_figures_are_in_powers_of_ten():
    result = of_memory("test/loss", lstm=[1.2e-7, 1.4e-7], gru=[0.00123, 0.00125], rnn=[0.0, 0.0])
    assert [row.cells[0].plain() for row in layout(result).rows] == [
        "1.30e-07 ± 1.41e-08", "0.001240 ± 1.41e-05", "0.000000 ± 0.000000"]  # fmt: skip
    flat = of_memory(lstm=[0.9, 0.90002], gru=[0.8, 0.8])
    assert [row.cells[0].plain() for row in layout(flat).rows] == ["0.9000 ± 1.41e-05", "0.8000 ± 0.0000"]


def test_few_runs_of_a_bootstrap_are_said():
    narrow = "the bootstrap's interval is too narrow"
    for n, said in ((3, True), (10, False)):
        values = [0.9 + 0.001 * k for k in range(n)]
        assert (narrow in " ".join(notes(of_memory(changes={"spread": "bootstrap"}, lstm=values)))) == said
        assert narrow not in " ".join(notes(of_memory(changes={"spread": "student"}, lstm=values)))


def test_what_chose_the_epoch_is_not_tested_beside_the_result(runs):
    """Three comparisons of three rows, whether the validation metric stands beside or not."""
    alone, beside_it = filled(runs), filled(runs, metrics=["val/accuracy", "test/accuracy"])
    assert alone.tests == beside_it.tests == 3
    assert [c.p for c in beside_it.comparisons if c.metric == "test/accuracy"] == [
        c.p for c in alone.comparisons
    ]
    assert {c.p for c in beside_it.comparisons if c.metric == "val/accuracy"} == {None}
    assert "Not tested, since results on the test set are: validation accuracy." in notes(beside_it)
    assert filled(runs, metrics=["val/accuracy"]).tests == 3


def test_a_trial_counts_once_however_often_it_is_planned(runs):
    twice = filled(runs, [*PLANNED, *PLANNED])
    assert twice.cell(("lstm",), ()).count() == "3"
    shutil.rmtree(runs / "1" / "0")
    assert filled(runs, [*PLANNED, *PLANNED]).cell(("lstm",), ()).count() == "2, 1 missing"


def test_a_published_metric_of_the_other_direction_is_refused(runs):
    theirs = {"key": "bai2018", "task": "seq_mnist", "metric": "accuracy", "ours": "test/loss"}
    with pytest.raises(
        ConfigError, match=r"published\.ours=test/loss: is better lower, and the published accuracy"
    ):
        layout(filled(runs, metrics=["val/accuracy", "test/loss"], published=theirs))
