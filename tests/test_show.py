"""Laws of the table at the end: seeds are averaged over, what varied is named, failures are counted."""

import pytest

from rnnbench.show import compare, mean_sd


def result(model: str, seed: int, accuracy: float, status: str = "finished", **params: object) -> dict:
    metrics = {
        "best/val_accuracy": accuracy,
        "test/accuracy": accuracy - 0.1,
        "parameters/total": 1234.0,
        "time/train_seconds": 2.0,
    }
    return {
        "status": status,
        "params": {"model.name": model, "seed": seed, "tracking.uri": None, "optim.lr": 0.1} | params,
        "metrics": metrics if status == "finished" else {},
    }


def test_mean_and_deviation_by_hand():
    assert mean_sd([0.8, 0.9, 1.0], "val/accuracy") == "0.9000 ± 0.1000"
    assert mean_sd([0.8], "val/accuracy") == "0.8000"  # one seed has no deviation
    assert mean_sd([], "val/accuracy") == ""
    assert mean_sd([0.000053, 0.000055], "test/mse") == "5.4e-05 ± 1.414e-06"


def test_seeds_share_a_row_and_failures_are_counted():
    table = compare([result("lstm", 0, 0.8), result("lstm", 1, 0.9), result("gru", 0, 0.0, "failed")])
    assert table.heading == ["model", "parameters", "val accuracy", "test accuracy", "seconds", "seeds"]
    assert table.rows[0] == ["lstm", "1,234", "0.8500 ± 0.0707", "0.7500 ± 0.0707", "2.0 ± 0.0", "2"]
    assert table.rows[1] == ["gru", "", "", "", "", "0, 1 failed"]


def test_each_task_has_its_own_metric():
    table = compare([result("lstm", 0, 0.8), result("gru", 0, 8.5, **{"data.metric": "nll"})])
    assert table.heading == ["model", "parameters", "val accuracy", "test accuracy", "seconds", "seeds"]


@pytest.mark.parametrize(("key", "columns"), [("optim.lr", 1), ("tracking.uri", 0), ("data.root", 0)])
def test_what_varied_is_a_column_unless_it_says_where(key, columns):
    table = compare([result("lstm", 0, 0.8, **{key: "one"}), result("lstm", 1, 0.9, **{key: "other"})])
    assert table.heading.count(key) == columns
    assert len(table.rows) == 1 + columns
