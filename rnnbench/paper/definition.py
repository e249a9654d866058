"""What a table is: a file of the group `table`, typed and checked.

# python -m rnnbench.paper table=NAME
title: LSTM and GRU on the digits
sweep: ["model=lstm,gru", "seed=range(5)"]      # Hydra's overrides: the trials that fill it
rows: [model.name]                              # a row for each value of these keys
columns: []                                     # a group of columns for each value of these
metrics: [parameters/total, test/accuracy]
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rnnbench.config import ConfigError, conf_folder

STATISTICS = ("mean", "median", "iqm")
SPREADS = ("deviation", "student", "bootstrap", "none")
TESTS = ("permutation", "wilcoxon")
KINDS = ("curves", "pareto", "scatter", "box", "violin", "sensitivity", "importances", "confusion", "profile")


@dataclass
class Tuned:
    """Each row (or cell) the winner of its own search, all under one budget, trained under fresh seeds."""

    rows: list[str] = MISSING  # overrides each: model=lstm, or for a cell "model=lstm model.budget=5000"
    search: list[str] = MISSING  # overrides of the search that all share: its space, its sampler
    trials: int = MISSING  # that each search draws
    seed: int = 0  # of the searches: of their sampler, and what their trials are trained under
    fresh: str = MISSING  # the seeds that the winners are trained under: 101,102,103


@dataclass
class Published:
    """Published figures that stand beside ours: those of published.csv with these columns."""

    key: str = MISSING  # the paper: bai2018
    task: str = MISSING
    metric: str = MISSING  # its name there
    ours: str = MISSING  # the metric of the table that it is compared with
    models: dict[str, str] = field(default_factory=dict)  # our name to theirs, where they differ
    caveats: list[str] = field(default_factory=list)  # what makes ours and theirs different things


@dataclass
class FigureOf:
    """A figure of the table's trials."""

    kind: str = MISSING
    x: str = "parameters/total"  # of pareto and scatter
    y: Optional[str] = None  # a metric; null: the table's last
    parameter: str = "optim.lr"  # of sensitivity
    title: Optional[str] = None


@dataclass
class Table:
    """A table, the figures beside it, and the sweep that fills both."""

    title: str = MISSING
    caption: str = ""
    sweep: list[str] = MISSING
    tuned: Optional[Tuned] = None
    rows: list[str] = field(default_factory=lambda: ["model.name"])
    columns: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)  # keys besides the seed that a cell sums up: its tasks
    metrics: list[str] = MISSING
    statistic: str = "mean"  # mean, median or iqm (of the middle half)
    spread: str = "deviation"  # or the 95 % interval by student or bootstrap; none
    compare: Optional[str] = "best"  # with the best of a column, with the row of this label; null: not
    test: str = "permutation"  # or wilcoxon
    labels: dict[str, str] = field(default_factory=dict)  # how keys, values and metrics are printed
    digits: dict[str, int] = field(default_factory=dict)  # decimals of a metric
    mixed_protocols: bool = False  # whether trials that watch the test set may stand beside others
    published: Optional[Published] = None
    figures: dict[str, FigureOf] = field(default_factory=dict)
    wide: bool = False  # in LaTeX over both columns of a page: table*

    def label(self, key: str) -> str:
        """How a key, a value or a metric is printed."""
        return self.labels.get(key, TITLES.get(key, key))


TITLES = {
    "model.name": "model",
    "model.budget": "budget",
    "model.hidden_size": "hidden size",
    "data.name": "data",
    "parameters/total": "parameters",
    "time/train_seconds": "training seconds",
    "val/accuracy": "validation accuracy",
    "best/val_accuracy": "best validation accuracy",
    "best/test_accuracy": "test accuracy (best epoch, watched)",
    "test/accuracy": "test accuracy",
    "test/mse": "test MSE",
    "test/nll": "test NLL",
    "best/val_nll": "best validation NLL",
    "best/val_mse": "best validation MSE",
    "best/epoch": "best epoch",
    "optim.lr": "learning rate",
}


def find_table(name: str, folders: list[Path]) -> Path:
    """The file of a table, in the first of the config folders that has it.

    Raises:
        ConfigError: there is none; names those there are.
    """
    places = [*folders, conf_folder()]
    for folder in places:
        if (folder / "table" / f"{name}.yaml").exists():
            return folder / "table" / f"{name}.yaml"
    there = sorted({file.stem for folder in places for file in (folder / "table").glob("*.yaml")})
    raise ConfigError(f"table={name}: there is no such table; there is {', '.join(there)}")


def read_table(file: Path) -> Table:
    """The table that a file describes.

    Raises:
        ConfigError: a key that tables do not have, or a value that would not do.
    """
    try:
        return table_of(OmegaConf.to_container(OmegaConf.load(file), resolve=True))
    except (ConfigError, OmegaConfBaseException) as error:
        raise ConfigError(f"{file}: {str(error).splitlines()[0]}") from None


def table_of(tree: Any) -> Table:
    """The table that plain dicts describe, checked.

    Raises:
        ConfigError, OmegaConfBaseException: see `read_table`.
    """
    typed = OmegaConf.merge(OmegaConf.structured(Table), tree)
    try:
        table = OmegaConf.to_object(typed)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: has no value, and a table needs one") from None
    assert isinstance(table, Table)
    _check(table)
    return table


def _check(table: Table) -> None:
    for key, value, choices in (
        ("statistic", table.statistic, STATISTICS),
        ("spread", table.spread, SPREADS),
        ("test", table.test, TESTS),
        *((f"figures.{name}.kind", figure.kind, KINDS) for name, figure in table.figures.items()),
    ):
        if value not in choices:
            raise ConfigError(f"{key}={value}: must be one of {', '.join(choices)}")
    if not table.rows or not table.metrics:
        raise ConfigError("rows, metrics: a table needs at least one of each")
    if table.spread == "student" and (table.statistic != "mean" or table.over):
        raise ConfigError(
            f"spread=student: is the interval of a mean over seeds; with statistic={table.statistic} and "
            f"over={table.over} take bootstrap"
        )
    if table.spread == "deviation" and table.over:
        raise ConfigError(f"spread=deviation: over={table.over} mixes tasks; take bootstrap")
    if table.published is not None and table.published.ours not in table.metrics:
        raise ConfigError(f"published.ours={table.published.ours}: is none of the table's metrics")
    kinds = {figure.kind for figure in table.figures.values()}
    if table.tuned is None and kinds & {"sensitivity", "importances"}:
        raise ConfigError("figures: sensitivity and importances are of searches, and this table has none")
    named = {*table.rows, *table.columns}
    if table.tuned is not None and any(named.isdisjoint(_keys(row.split())) for row in table.tuned.rows):
        raise ConfigError(f"tuned.rows={table.tuned.rows}: rows={table.rows} do not tell them apart")


def _keys(overrides: list[str]) -> list[str]:
    """The keys that overrides set, a group's by its name."""
    keys = [word.partition("=")[0].lstrip("+") for word in overrides]
    return [key if "." in key else f"{key}.name" for key in keys]
