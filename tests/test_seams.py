"""What adding a thing costs: each is added here in a temporary folder, by touching just its own files."""

from pathlib import Path

import rnnbench
from tests.test_app import run

# A storage for studies: one file

STORAGE = '''"""Keeps studies in the memory of this process, under a name."""

from optuna.storages import InMemoryStorage

from rnnbench.search.storages.kind import StorageKind

KEPT = {}


class Shelf(StorageKind):
    scheme = "shelf"
    form = "shelf://NAME"

    def open(self):
        return KEPT.setdefault(self.url, InMemoryStorage())
'''


def test_a_storage_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text(STORAGE)
    run(
        tmp_path,
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.storage=shelf://x", "hydra.sweeper.n_trials=2"),
        *("rnnbench_import=shelf.py", "optim.lr=interval(0.001,0.1)", "data=digits", "tracking=none"),
        *("hydra.sweeper.study_name=kept", "fit.epochs=1", "model.hidden_size=2"),
    )
    done = rnnbench.records(tmp_path / "multirun")
    assert len(done) == 2 and set(done["rnnbench.study"]) == {"kept"}
