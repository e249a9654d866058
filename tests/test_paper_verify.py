"""Laws of verification: an edited digit, a lost run and a damaged file are found, and nothing else is."""

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow_store import DATASET, TAGS
from test_paper import PLANNED, config_of, leave, planned_of, runs, write_out

from rnnbench.config import ConfigError
from rnnbench.paper.numbers import same
from rnnbench.paper.verification import verify

__all__ = ["runs"]  # a fixture


def test_verify_finds_an_edited_digit_and_a_missing_run(runs, tmp_path):
    folder = write_out(runs, tmp_path / "out" / "name")
    assert verify(folder, str(runs)) == ([], [])
    for name in ("table.md", "table.tex", "table.csv", "table.html", "report.html"):
        good = (folder / name).read_text()
        (folder / name).write_text(good.replace("0.9000", "0.9100", 1).replace("0.9,", "0.91,", 1))
        faults, _ = verify(folder, str(runs))
        assert len(faults) == 1
        assert faults[0].startswith(f"{name}, line ") and "; the records give " in faults[0]
        (folder / name).write_text(good)
    (folder / "table.md").rename(folder / "gone")
    assert verify(folder, str(runs))[0] == ["table.md: is not there"]
    (folder / "gone").rename(folder / "table.md")
    shutil.rmtree(runs / "1" / "4")
    faults, _ = verify(folder, str(runs))
    assert any(fault.startswith("missing: run ") and "model=gru seed=1" in fault for fault in faults)
    with pytest.raises(ConfigError, match=r"has no provenance\.json"):
        verify(runs, str(runs))


def test_a_table_with_failed_and_pruned_runs_verifies_also_when_they_were_run_again(runs, tmp_path):
    leave(runs / "1" / "0", config_of("lstm", 0), 0.0, "failed")
    leave(runs / "1" / "7", config_of("rnn", 1), 0.0, "pruned")
    shutil.rmtree(runs / "1" / "8")
    folder = write_out(runs, tmp_path / "out" / "name")
    assert "2, 1 failed" in (folder / "table.md").read_text()
    assert verify(folder, str(runs)) == ([], [])
    leave(runs / "2" / "0", config_of("lstm", 0), 0.5)
    assert verify(folder, str(runs)) == ([], [])


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value of a JSON tree, of lists to the first."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    return [(*path, key) for key, _ in inner] + [way for key, v in inner for way in places(v, (*path, key))]


def test_a_damaged_provenance_is_named_or_differs(runs, tmp_path):
    """Whatever stands in place of whatever it holds, `verify` says something, and never raises a bug."""
    folder = write_out(runs, tmp_path / "out" / "name")
    file = folder / "provenance.json"
    good = file.read_text()
    ways = [way for way in places(json.loads(good)) if way[:3] != ("trials", 0, "params") or len(way) == 3]
    damaged: list[str] = ["", "[]", "3", "null", "NaN", "{}"]
    for way in ways:
        for value in (None, 3, "x", [1], {"a": 1}, ...):
            tree = part = json.loads(good)
            for key in way[:-1]:
                part = part[key]
            if value is ... and isinstance(part, dict):
                del part[way[-1]]
            else:
                part[way[-1]] = None if value is ... else value
            damaged.append(json.dumps(tree))
    for text in damaged:
        file.write_text(text)
        try:
            faults, doubts = verify(folder, str(runs))
        except ConfigError as error:
            assert str(error)
        else:
            assert (
                faults or doubts or json.loads(text) | {"versions": 0} == json.loads(good) | {"versions": 0}
            )


V1 = Path(__file__).parent / "tables" / "v1"  # what version 1 of the renderers wrote, and its job folders


def test_a_table_of_an_earlier_version_still_verifies():
    assert "versions" not in json.loads((V1 / "table" / "provenance.json").read_text())
    faults, doubts = verify(V1 / "table", str(V1 / "runs"))
    assert faults == []
    assert doubts[0].startswith(
        "its marks, intervals and p were computed by an earlier version of the statistics"
    )


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("table.md", "0.8900", "0.8901"),
        ("table.md", "5,085", "5,086"),
        ("table.md", "0.0620", "0.0920"),
        ("table.html", "-0.1720", "-0.1620"),
        ("table.tex", "0.7400", "0.7401"),
        ("table.tex", "5110", "5111"),
        ("table.csv", "0.89,", "0.88,"),
        ("report.html", "0.8900", "0.8910"),
        ("provenance.json", '"test/accuracy": "0.8"', '"test/accuracy": "0.9"'),
        ("provenance.json", "cccc", "dddd"),
    ],
)
def test_an_edited_digit_in_a_table_of_an_earlier_version_is_found(file, old, new, tmp_path):
    shutil.copytree(V1 / "table", tmp_path / "table")
    text = (tmp_path / "table" / file).read_text()
    assert old in text
    (tmp_path / "table" / file).write_text(text.replace(old, new, 1))
    (fault,) = verify(tmp_path / "table", str(V1 / "runs"))[0]
    assert fault.startswith(file)


def test_a_table_of_the_statistics_before_resamples_were_its_own_verifies(runs, tmp_path):
    """Version 2 drew 2,000, whatever a table of today would draw, and pooled all runs for a median."""
    for number, changes in enumerate(({}, {"statistic": "median", "over": ["data.order"]})):
        folder = write_out(runs, tmp_path / str(number), spread="bootstrap", resamples=2000, **changes)
        file = folder / "provenance.json"
        facts = json.loads(file.read_text())
        assert facts["versions"]["statistics"] == 4
        facts["versions"]["statistics"] = 2
        del facts["table"]["resamples"]
        file.write_text(json.dumps(facts))
        faults, doubts = verify(folder, str(runs))
        assert faults == []
        assert ["figures were computed by an earlier version" in doubt for doubt in doubts] == [True] * number
        lines = (folder / "table.csv").read_text().splitlines()
        low = lines[2].split(",")[6]
        (folder / "table.csv").write_text("\n".join(lines).replace(low, low[:-3] + "555", 1) + "\n")
        assert [fault[:9] for fault in verify(folder, str(runs))[0]] == ["table.csv"] * (1 - number)


@given(st.floats(-1e6, 1e6), st.integers(0, 8), st.integers(0, 8))
def test_a_number_is_the_same_whatever_the_digits_that_it_is_printed_with(value, some, others):
    short, long = (f"{value:.{digits}f}" for digits in sorted((some, others)))
    assert same(short, long)
    assert not same(short, str(Decimal(short) + Decimal(1).scaleb(-min(some, others))))  # its last digit


def test_verify_counts_the_runs_of_the_table_not_later_ones(runs, tmp_path):
    folder = write_out(runs, tmp_path / "out" / "name")
    leave(runs / "2" / "0", config_of("lstm", 0), 0.1)
    assert verify(folder, str(runs)) == ([], [])


def test_doubts_are_warnings(runs, tmp_path):
    leave(
        runs / "1" / "0",
        config_of("lstm", 0),
        0.8,
        tags={"rnnbench.kernel": "x", "rnnbench.git_dirty": "true"},
    )
    folder = write_out(runs, tmp_path / "out" / "name")
    faults, doubts = verify(folder, str(runs))
    assert faults == []
    assert doubts == ["1 of 9 runs: the code differed from its commit", "the runs differ in kernel: torch, x"]


def test_provenance_names_every_run(runs, tmp_path):
    facts = json.loads((write_out(runs, tmp_path / "out" / "name") / "provenance.json").read_text())
    assert len(facts["trials"]) == 9
    first = facts["trials"][0]
    assert (first["row"], first["seed"], first["trial"]) == (["lstm"], 0, PLANNED[0].trial)
    assert first["commit"] == TAGS["rnnbench.git_commit"] and first["dirty"] is False
    assert first["data_checksum"] == DATASET["checksum"]
    assert first["rerun"] == "python -m rnnbench model=lstm seed=0"
    assert first["metrics"]["test/accuracy"] == "0.8"
    assert str(tmp_path) not in json.dumps(facts)  # the same on every machine


def test_p_of_random_permutations_is_not_compared_with_that_of_all(tmp_path):
    """Version 3 tried all permutations of 13 pairs, and random ones of 14."""
    for seeds in (13, 14):
        configs = [config_of(model, seed) for model in ("lstm", "gru") for seed in range(seeds)]
        runs = tmp_path / str(seeds)
        for number, config in enumerate(configs):
            leave(runs / "1" / str(number), config, 0.9 + number / 1000)
        folder = write_out(runs, tmp_path / "out" / str(seeds), planned=[*map(planned_of, configs)])
        file = folder / "provenance.json"
        file.write_text(file.read_text().replace('"statistics": 4', '"statistics": 3'))
        faults, doubts = verify(folder, str(runs))
        assert faults == []
        assert any("p were computed by an earlier version" in doubt for doubt in doubts) == (seeds == 14)
