"""Times what the sweeper adds to Optuna's ask and tell, on a journal file with a long history."""

import random
import tempfile
import time
from functools import partial
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from rnnbench.search.samplers import sampler_of
from rnnbench.search.space import Space, read_space
from rnnbench.search.storage import open_storage
from rnnbench.search.study import Study, suggest

SPACE = [
    "model=choice(lstm,gru)",
    "model.hidden_size=choice(16,32,64)",
    "optim.lr=tag(log,interval(1e-4,1e-1))",
]


def sweeper_cost(history: int, rounds: int) -> tuple[list[float], list[float]]:
    """Time asking for a trial and telling its value with TPE, in ms: the sweeper and Optuna, in turn.

    Args:
        history: number of trials that the study already has.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parameters, _ = read_space({}, SPACE, OverridesParser.create())
    space = Space(parameters)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"journal:///{folder}/journal.log")
        sampler, pruner = sampler_of({"name": "tpe", "seed": 1}, {}, 1), optuna.pruners.NopPruner()
        study = Study(
            storage,
            "bench",
            identity={"space": []},
            objectives=["value"],
            directions=["maximize"],
            sampler=sampler,
            pruner=pruner,
            n_trials=history + 10**6,
        )
        over: dict[str, Any] = {drawn.name: drawn.over for drawn in space.drawn}
        for _ in range(history):
            drawn = {
                "model": rng.choice(["lstm", "gru"]),
                "model.hidden_size": rng.choice([16, 32, 64]),
                "optim.lr": 10 ** rng.uniform(-4, -1),
            }
            past = optuna.trial.create_trial(params=drawn, distributions=over, value=rng.random())
            study.study.add_trial(past)
        ours, theirs = [], []
        for _ in range(rounds):
            started = time.perf_counter()
            suggestion = study.ask(lambda trial: space.point(partial(suggest, trial), lambda key: None))
            assert suggestion is not None
            record = {"folder": "0", "overrides": [], "epochs": [9], "seconds": 1.0}
            study.tell(suggestion, TrialState.COMPLETE, [0.5], record)
            study.done()
            asked = time.perf_counter()
            trial = study.study.ask()
            for parameter in space.drawn:
                suggest(trial, parameter)
            study.study.tell(trial, 0.5)
            ours.append((asked - started) * 1e3)
            theirs.append((time.perf_counter() - asked) * 1e3)
    return ours, theirs
