"""Defines what a table is: a file of the group `table`, typed and checked.

# python -m rnnbench.paper table=NAME
title: LSTM and GRU on the digits
sweep: ["model=lstm,gru", "seed=range(5)"]      # Hydra's overrides: the trials that fill it
rows: [model.name]                              # a row for each value of these keys
columns: []                                     # a group of columns for each value of these
metrics: [parameters/total, test/accuracy]
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from rnnbench.config import ConfigError, conf_folder, heading
from rnnbench.config.advice import either, nearest
from rnnbench.paper.figures import kind_names, load_kind
from rnnbench.paper.margins import check_margins, is_finite, tested
from rnnbench.paper.statistics import RESAMPLES
from rnnbench.sweep.points import as_words

STATISTICS = ("mean", "median", "iqm")
SPREADS = ("deviation", "student", "bootstrap", "none")
TESTS = ("permutation", "wilcoxon")
RANK_TESTS = ("nemenyi", "wilcoxon")  # of a figure critical_difference
FILE_NAME = re.compile(r"\w[\w .-]{0,99}")


@dataclass
class Tuning:
    """Describes rows (or cells) that are each the winner of its own search, all searches of one budget."""

    rows: list[str] = (
        MISSING  # overrides of each row: model=lstm, or of a cell: "model=lstm model.budget=5000"
    )
    search: list[str] = MISSING  # overrides that all searches share: space, sampler
    trials: int = MISSING  # number of trials of each search
    seed: int = 0  # seed of each search's sampler and of its trials
    fresh: str = MISSING  # seeds under which the winners are trained: 101,102,103
    columns: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # names for columns, with overrides of each value, as task: {sum: "data=adding fit.epochs=9"}


@dataclass
class Publication:
    """Selects the rows of published.csv whose values are printed beside ours."""

    key: str = MISSING  # the paper: bai2018
    task: str = ""
    # In place of task, by value of a column, as anbn: anbn_100; other columns have no published figures.
    tasks: dict[str, str] = field(default_factory=dict)
    metric: str = MISSING  # its name in published.csv
    ours: str = MISSING  # the table's metric to compare with
    models: dict[str, str] = field(default_factory=dict)  # our model name: the paper's, where they differ
    caveats: list[str] = field(default_factory=list)  # differences between our protocol and the paper's


@dataclass
class FigureSettings:
    """Keeps the settings of one figure."""

    kind: str = MISSING
    x: str = "parameters/total"  # metric of the x axis, for pareto and scatter
    y: Optional[str] = None  # metric of the y axis; null: the table's last
    parameter: str = "optim.lr"  # hyperparameter of the x axis, for sensitivity
    test: str = "nemenyi"  # of critical_difference: nemenyi, or wilcoxon (signed ranks, Holm's correction)
    example: Optional[int] = None  # of gates: number of the test example; null: the first of the longest
    n: Optional[int] = None  # of counter: how many a the word has; null: twice the largest n of training
    start: bool = False  # of gradient_flow: whether the weights before training are drawn as well
    title: Optional[str] = None


@dataclass
class Table:
    """Declares a table, the figures beside it, and the sweep that fills both."""

    title: str = MISSING
    caption: str = ""
    sweep: list[str] = MISSING
    tuned: Optional[Tuning] = None
    rows: list[str] = field(default_factory=lambda: ["model.name"])
    columns: list[str] = field(default_factory=list)
    over: list[str] = field(
        default_factory=list
    )  # keys besides the seed over which a cell averages: its tasks
    metrics: list[str] = MISSING
    statistic: str = "mean"  # mean, median or iqm (interquartile mean)
    spread: str = "deviation"  # deviation, none, or a 95 % interval: student, bootstrap
    resamples: int = RESAMPLES  # number of bootstrap resamples
    compare: Optional[str] = "best"  # best: the best of a column; a row's label: that row; null: none
    test: str = "permutation"  # permutation or wilcoxon
    margin: dict[str, str] = field(
        default_factory=dict
    )  # by metric, in its units or as 2%: a difference below it counts as none, and each row gets a verdict
    chance: dict[str, str] = field(
        default_factory=dict
    )  # by task, as parity: 0.5: what a constant answer scores, which a verdict takes for nothing learned
    tasks: list[str] = field(
        default_factory=list
    )  # keys of columns (or over) that name a task, of which each has its own metrics; []: all keys name it
    decisive: dict[str, str] = field(
        default_factory=dict
    )  # by task, as anbn: test/largest_n: of several metrics on the test set the one that it is judged by
    labels: dict[str, str] = field(default_factory=dict)  # how keys, values and metrics are printed
    digits: dict[str, int] = field(default_factory=dict)  # decimals by metric
    mixed_protocols: bool = False  # whether trials that watch the test set may stand beside others
    published: Optional[Publication] = None
    figures: dict[str, FigureSettings] = field(default_factory=dict)
    transpose: bool = False  # whether each column becomes a line, and the rows stand side by side
    wide: bool = False  # whether LaTeX sets it across both columns of a page (table*)

    def label(self, key: str) -> str:
        """Return how a key, a value or a metric is printed."""
        return self.labels.get(key, TITLES.get(key) or heading(key) or key)


TITLES = {
    "model.name": "model",
    "model.budget": "budget",
    "model.hidden_size": "hidden size",
    "data.name": "data",
    "parameters/total": "parameters",
    "time/train_seconds": "training seconds",
    "best/epoch": "best epoch",
    "optim.lr": "learning rate",
}


def find_table(name: str, folders: list[Path]) -> Path:
    """Return the file of a table, in the first of the config folders that has it.

    Raises:
        ConfigError: there is none; names those there are.
    """
    places = [*folders, conf_folder()]
    for folder in places:
        if (folder / "table" / f"{name}.yaml").exists():
            return folder / "table" / f"{name}.yaml"
    there = sorted({file.stem for folder in places for file in (folder / "table").glob("*.yaml")})
    near = (
        f"did you mean {either(meant)}?" if (meant := nearest(name, there)) else f"there is {either(there)}"
    )
    raise ConfigError(f"table={name}: there is no such table; {near}")


def read_table(file: Path, folders: Sequence[Path] = ()) -> Table:
    """Read the table that a file describes.

    Args:
        folders: config folders of the user's own, for figures of one's own.

    Raises:
        ConfigError: it is not YAML; a key that tables do not have, or a value that would not do; no sweep.
    """
    try:
        table = table_of(OmegaConf.to_container(OmegaConf.load(file), resolve=True), folders)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise ConfigError(f"{file}:{line}: {error.problem}; correct the YAML") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{file}: {error.full_key}: {str(error).splitlines()[0]}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); give a YAML file") from None
    if not table.sweep and table.tuned is None:
        raise ConfigError(f"{file}: sweep: is empty; name the trials: [model=lstm,gru, seed=range(3)]")
    return table


def table_of(tree: Any, folders: Sequence[Path] = ()) -> Table:
    """Return the table that plain dicts describe, checked.

    Args:
        folders: config folders of the user's own, for figures of one's own.

    Raises:
        ConfigError: names the key whose value would not do.
    """
    if isinstance(tree, dict) and isinstance(tree.get("sweep"), list):
        tree = tree | {"sweep": as_words(tree["sweep"])}
    table: Table = _made(Table, tree, "")
    _check(table, folders)
    return table


def _made(kind: Any, value: Any, key: str) -> Any:
    """Convert a value of plain YAML to the type of a table's field.

    Args:
        kind: the type of the field.
    """
    if get_origin(kind) is Union:  # Optional
        return None if value is None else _made(get_args(kind)[0], value, key)
    if is_dataclass(kind):
        return _object(kind, _dict(value, key), key)
    if get_origin(kind) is dict:
        named = {str(name): held for name, held in _dict(value, key).items()}
        return {name: _made(get_args(kind)[1], held, f"{key}.{name}") for name, held in named.items()}
    if get_origin(kind) is list:
        if not isinstance(value, list):
            like = f"[{value}]" if isinstance(value, str | int | float) else "[..., ...]"
            raise ConfigError(f"{key}: must be a list: {key}: {like}")
        return [_made(get_args(kind)[0], held, key) for held in value]
    if kind is str and isinstance(value, str | int | float):
        return str(value)
    if kind is not str and type(value) is kind:
        return value
    said = {str: "text", bool: "true or false", int: "a whole number"}[kind]
    raise ConfigError(f"{key}: must be {said}, and {value!r} is not")


def _dict(value: Any, key: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        where = f"{key}: must be" if key else "a table is"
        raise ConfigError(f"{where} keys with their values ({key or 'title'}: ...), and {value!r} is not")
    return value


def _object(kind: Any, tree: dict[Any, Any], key: str) -> Any:
    kinds, before = get_type_hints(kind), f"{key}." if key else ""
    for name in tree:
        if name not in kinds:
            near = nearest(str(name), kinds) or list(kinds)
            raise ConfigError(f"{before}{name}: there is no such key; did you mean {either(near)}?")
    made = kind(**{name: _made(kinds[name], value, before + name) for name, value in tree.items()})
    for name in kinds:
        if getattr(made, name) == MISSING:
            raise ConfigError(f"{before}{name}: has no value, and a table needs one")
    return made


def _check(table: Table, folders: Sequence[Path]) -> None:
    """Refuse a table that cannot be made.

    Raises:
        ConfigError: names the key.
    """
    for key, value, choices in (
        ("statistic", table.statistic, STATISTICS),
        ("spread", table.spread, SPREADS),
        ("test", table.test, TESTS),
    ):
        if value not in choices:
            raise ConfigError(f"{key}={value}: must be one of {', '.join(choices)}")
    _check_figures(table, folders)
    _check_keys(table)
    for metric, digits in table.digits.items():
        if not 0 <= digits <= 15:
            raise ConfigError(f"digits.{metric}={digits}: must be from 0 to 15, the digits after the point")
    if not 100 <= table.resamples <= 10_000_000:
        raise ConfigError(f"resamples={table.resamples}: must be from 100 to 10,000,000")
    _check_spread(table)
    _check_margin(table)
    _check_published(table)
    _check_tuned(table)


def _check_figures(table: Table, folders: Sequence[Path]) -> None:
    for name, figure in table.figures.items():
        kind = load_kind(figure.kind, folders)
        if kind is None:
            raise ConfigError(
                f"figures.{name}.kind={figure.kind}: must be one of {', '.join(kind_names(folders))}"
            )
        if not FILE_NAME.fullmatch(name):
            raise ConfigError(
                f"figures.{name}: becomes the name of a file; take letters, digits, dots, dashes and blanks"
            )
        if kind.of_searches and table.tuned is None:
            raise ConfigError(f"figures.{name}.kind={figure.kind}: is of searches, and this table has none")
        for key, value, least in (("example", figure.example, 0), ("n", figure.n, 1)):
            if value is not None and value < least:
                raise ConfigError(f"figures.{name}.{key}={value}: must be at least {least}")
        if figure.test not in RANK_TESTS:
            raise ConfigError(f"figures.{name}.test={figure.test}: must be one of {', '.join(RANK_TESTS)}")


def _check_keys(table: Table) -> None:
    """Refuse keys and metrics that are missing, or named twice."""
    if not table.rows or not table.metrics:
        raise ConfigError("rows, metrics: a table needs at least one of each")
    for keys, names in (("rows, columns, over", _named(table)), ("metrics", table.metrics)):
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{keys}: {twice[0]} is named twice; once is enough")
    for key, what in (("seed", "seeds"), ("data.fold", "folds")):
        if key in table.over:
            raise ConfigError(f"over: a cell always sums over its {what}; name what else it sums over")


def _check_spread(table: Table) -> None:
    """Refuse a spread that the statistic does not have."""
    if table.spread == "student" and (table.statistic != "mean" or table.over):
        raise ConfigError(
            f"spread=student: is the interval of a mean over seeds; with statistic={table.statistic} and "
            f"over={table.over} take bootstrap"
        )
    if table.spread == "deviation" and table.over:
        raise ConfigError(f"spread=deviation: over={table.over} mixes tasks; take bootstrap")


def _check_margin(table: Table) -> None:
    """Refuse margins without a row that was named beforehand, or for what has no test of equivalence."""
    for key in table.tasks:
        if key not in (*table.columns, *table.over):
            there = ", ".join((*table.columns, *table.over)) or "none"
            raise ConfigError(f"tasks: {key} is neither in columns nor in over; of these there is {there}")
    if left := [key for key in table.over if table.tasks and key not in table.tasks]:
        raise ConfigError(f"tasks: {left[0]} is in over, so a task too; name it in tasks or in columns")
    check_margins(table.margin, table.metrics)
    for task, text in table.chance.items():
        if not is_finite(text):
            raise ConfigError(f"chance.{task}={text}: must be a number, what a constant answer scores")
    for task, metric in table.decisive.items():
        if metric not in tested(table.metrics):
            there = ", ".join(tested(table.metrics)) or "none"
            raise ConfigError(f"decisive.{task}={metric}: is none of the metrics that are tested: {there}")
    if table.chance and not table.margin:
        raise ConfigError(
            "chance: belongs to verdicts, and there are none; give a margin: {test/accuracy: 0.01}"
        )
    if table.margin and table.compare in (None, "best"):
        raise ConfigError(
            f"compare={table.compare or 'null'}: with a margin each row is compared with one that is named "
            "beforehand, not by its result; compare: lstm"
        )
    if table.margin and (table.statistic != "mean" or table.over):
        raise ConfigError(
            f"margin: equivalence is tested on the mean difference in a task; instead of statistic="
            f"{table.statistic} and over={table.over} take statistic: mean, and name the tasks in columns"
        )


def _check_published(table: Table) -> None:
    """Refuse published figures that no metric or no column of the table can stand beside."""
    wanted = table.published
    if wanted is None:
        return
    if wanted.ours not in table.metrics:
        raise ConfigError(f"published.ours={wanted.ours}: is none of the table's metrics")
    if bool(wanted.task) == bool(wanted.tasks):
        raise ConfigError(
            "published: needs either task, for all columns, or tasks, by value of a column: "
            "{anbn: anbn_100, dyck1: dyck1_100}"
        )
    if wanted.tasks and not table.columns:
        raise ConfigError("published.tasks: is by value of a column, and the table has no columns; give task")


def _check_tuned(table: Table) -> None:
    """Refuse searches that draw nothing, or that rows and columns do not tell apart."""
    if table.tuned is None:
        return
    if table.tuned.trials < 1 or not table.tuned.rows:
        raise ConfigError("tuned: needs rows, and trials of at least 1")
    for name, values in table.tuned.columns.items():
        if name not in table.columns:
            raise ConfigError(f"tuned.columns.{name}: is none of columns={table.columns}; name it there too")
        if not values:
            raise ConfigError(f"tuned.columns.{name}: has no values; give names with overrides")
    named = {*table.rows, *table.columns}
    if any(named.isdisjoint(override_keys(row.split())) for row in table.tuned.rows):
        raise ConfigError(f"tuned.rows={table.tuned.rows}: rows={table.rows} do not tell them apart")


def _named(table: Table) -> list[str]:
    """Return the configuration keys that make a table's rows, columns and sums."""
    return [*table.rows, *table.columns, *table.over]


def override_keys(overrides: list[str]) -> list[str]:
    """Return the keys that overrides set; for a config group NAME the key NAME.name."""
    keys = [word.partition("=")[0].lstrip("+") for word in overrides]
    return [key if "." in key else f"{key}.name" for key in keys]
