"""Laws of the engine: a stack equals its singles, trials do not mix, stopping changes nothing."""

import copy
import math

import pytest
import torch
from conftest import make_config, small_task

from rnnbench.config import AdamW, Readout, RMSprop, Schedule, Select, Sgd
from rnnbench.kernels.compiled import instruction_sets
from rnnbench.nn.cells import CELLS
from rnnbench.nn.network import Network, to_torch
from rnnbench.tasks import load
from rnnbench.train.stack import Stack, conclude, shape_key


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def kernel(request, monkeypatch):
    """Every law holds on both paths: with the compiled kernels, and as where they could not be built."""
    if request.param == "torch":
        monkeypatch.setattr("rnnbench.kernels.libraries.find", lambda model: "no compiled kernels")
    elif not instruction_sets():
        pytest.skip("no compiled kernels: no C compiler was there")
    return request.param


def run(configs, task=None):
    """Train configs as one stack; for each, its reports by epoch, and its outcome (None: diverged)."""
    task = task or small_task()
    stack = Stack(configs[0], task)
    trials = [stack.fresh(config) for config in configs]
    stack.admit(trials)
    history = {id(trial.slot): [] for trial in trials}
    outcomes = {}
    for report in stack.epochs():
        for slot, metrics in zip(report.slots, report.metrics, strict=True):
            history[id(slot)].append(metrics)
        ended = [slot for slot in report.slots if slot.ended]
        outcomes |= {id(outcome.slot): outcome for outcome in conclude(stack, ended)}
    return [(history[id(trial.slot)], outcomes.get(id(trial.slot))) for trial in trials]


def assert_same(one, other, tolerance=1e-6):
    (history, outcome), (history2, outcome2) = one, other
    assert len(history) == len(history2)
    for metrics, metrics2 in zip(history, history2, strict=True):
        assert metrics == pytest.approx(metrics2, abs=tolerance, rel=tolerance)
    for name in set(outcome.metrics) - {"time/train_seconds", "time/sequences_per_second"}:
        assert outcome.metrics[name] == pytest.approx(outcome2.metrics[name], abs=tolerance, rel=tolerance)
    torch.testing.assert_close(outcome.weights, outcome2.weights, atol=tolerance, rtol=tolerance)


VARIED = {
    "lstm": [make_config(seed=s, optim__lr=lr) for s, lr in ((0, 0.01), (1, 0.03), (1, 0.001))],
    "gru": [make_config("gru", s, fit__clip=clip) for s, clip in ((3, None), (4, 0.1), (3, 5.0))],
    "rnn sgd": [
        make_config("rnn", 0, optim=Sgd(lr=0.05, momentum=m, weight_decay=w))
        for m, w in ((0.0, 0.0), (0.9, 0.1), (0.5, 0.0))
    ],
    "bidirectional two layers with dropout": [
        make_config("lstm", s, model__num_layers=2, model__bidirectional=True, model__dropout=p)
        for s, p in ((0, 0.0), (1, 0.5), (0, 0.3))
    ],
    "mean readout rmsprop": [
        make_config("gru", s, optim=RMSprop(), model__readout=Readout.mean) for s in (7, 8)
    ],
    "schedules": [
        make_config("lstm", 0, fit__schedule=schedule, fit__decay_every=1, fit__decay_patience=1)
        for schedule in Schedule
    ],
    "noise of every kind": [
        make_config("lstm", s, model__recurrent_dropout=p, model__weight_noise=n, model__zoneout=0.1)
        for s, p, n in ((0, 0.2, 0.05), (1, 0.1, 0.2), (0, 0.5, 0.05))
    ],
    "different lengths": [make_config("gru", 0, optim=AdamW(), fit__epochs=e) for e in (1, 4, 2)],
}


@pytest.mark.parametrize("kind", VARIED)
def test_a_stack_equals_its_singles(kind):
    configs = VARIED[kind]
    assert len({shape_key(config) for config in configs}) == 1
    for together, alone in zip(run(configs), [run([config])[0] for config in configs], strict=True):
        assert_same(together, alone)


def test_folds_train_in_one_stack_as_alone():
    """The first and the second of five folds of the digits validate on 287 examples, the third on 288."""
    same = {"data__folds": 5, "data__metrics": ["macro_f1"], "data__train_size": 64, "fit__epochs": 2}
    configs = [make_config("gru", s, data__fold=k, **same) for s, k in ((0, 0), (1, 1), (0, 2), (0, 1))]
    assert len({shape_key(config) for config in configs}) == 1
    whole = [shape_key(make_config(data__folds=5, data__fold=k)) for k in range(3)]
    assert whole[0] == whole[1] != whole[2]
    together = run(configs, load(configs[0].data))
    for config, one in zip(configs, together, strict=True):
        assert_same(one, run([config], load(config.data))[0])
    assert together[0][0] != together[3][0]


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_trains_in_a_stack_as_alone(name):
    configs = [make_config(name, seed, fit__epochs=1, model__num_layers=2) for seed in (0, 1)]
    for together, alone in zip(run(configs), [run([config])[0] for config in configs], strict=True):
        assert_same(together, alone)


@pytest.mark.parametrize("option", ["recurrent_dropout", "weight_noise", "zoneout", "layer_norm"])
def test_who_has_an_option_does_not_train_with_who_has_not(option):
    """A kernel may be chosen for the others that does not know it."""
    value = True if option == "layer_norm" else 0.3
    without, having = make_config(), make_config(**{f"model__{option}": value})
    assert shape_key(without) != shape_key(having)
    assert run([without])[0][0] != run([having])[0][0]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = (run([make_config(seed=s)])[0] for s in (0, 0, 1))
    assert torch.equal(first[1].weights, again[1].weights)
    assert first[0] == again[0]
    assert not torch.equal(first[1].weights, other[1].weights)


def test_a_trial_that_diverges_ends_alone():
    wild = make_config("rnn", 1, optim=Sgd(lr=1e38, momentum=0.0))
    calm = make_config("rnn", 0, optim=Sgd(lr=0.05, momentum=0.0))
    (history, outcome), neighbour = run([wild, calm])
    assert outcome is None
    assert not math.isfinite(history[-1]["train/loss"])
    assert_same(neighbour, run([calm])[0])


@pytest.mark.parametrize("optim", [Sgd(lr=0.05), AdamW(), RMSprop()], ids=lambda optim: optim.name)
def test_stopping_and_admitting_again_changes_nothing(optim):
    config = make_config("gru", 5, optim=optim, model__num_layers=2, model__dropout=0.4, fit__epochs=4)
    whole = run([config])[0]
    stack = Stack(config, small_task())
    stack.admit([stack.fresh(copy.deepcopy(config)), stack.fresh(make_config("gru", 9, optim=optim,
                 model__num_layers=2, fit__epochs=4))])  # fmt: skip
    reports = stack.epochs()
    history = [next(reports).metrics[0], next(reports).metrics[0]]
    (checkpoint,) = stack.stop(stack.slots[:1])
    elsewhere = Stack(config, small_task())
    elsewhere.admit([checkpoint])
    for report in elsewhere.epochs():
        history += report.metrics
        outcomes = conclude(elsewhere, [slot for slot in report.slots if slot.ended])
    assert_same((history, outcomes[0]), whole)


def test_a_freed_place_can_be_filled():
    config = make_config(fit__epochs=2)
    late = make_config(seed=1, fit__epochs=2)
    stack = Stack(config, small_task())
    stack.admit([stack.fresh(config), stack.fresh(make_config(seed=2, fit__epochs=4))])
    history = []
    for report in stack.epochs():
        for slot, metrics in zip(report.slots, report.metrics, strict=True):
            if slot.config is late:
                history.append(metrics)
        ended = [slot for slot in report.slots if slot.ended]
        outcomes = {outcome.slot.config.seed: outcome for outcome in conclude(stack, ended)}
        if 0 in outcomes:
            stack.admit([stack.fresh(late)])
        if 1 in outcomes:
            assert_same((history, outcomes[1]), run([late])[0])
            break
    else:
        pytest.fail("the late trial never ended")


def test_patience_stops_and_the_best_epoch_is_kept():
    config = make_config(fit__epochs=50, fit__patience=2, optim__lr=0.2)
    history, outcome = run([config])[0]
    accuracies = [metrics["val/accuracy"] for metrics in history]
    best = accuracies.index(max(accuracies)) + 1
    assert outcome.metrics["best/epoch"] == best
    assert len(history) == best + 2
    assert outcome.metrics["best/val_accuracy"] == max(accuracies)
    assert outcome.metrics["best/val_loss"] == history[best - 1]["val/loss"]


def test_evaluation_interval_and_the_last_epoch():
    history, _ = run([make_config(fit__epochs=5, fit__evaluate_every=2)])[0]
    assert ["val/loss" in metrics for metrics in history] == [False, True, False, True, True]


def test_the_test_set_is_not_read_before_the_end(monkeypatch):
    read = []
    measure = Stack.measure
    monkeypatch.setattr(Stack, "measure", lambda *args: read.append(args[2]) or measure(*args))
    run([make_config()])
    assert read == ["val"] * 3 + ["test"]


def test_final_figures_are_those_of_the_best_weights():
    task = small_task()
    config = make_config(fit__epochs=8)
    _, outcome = run([config], task)[0]
    network = Network(config.model, 4, 3)
    module = to_torch(network, outcome.weights)
    x = (torch.from_numpy(task.inputs[task.splits["test"]]).float() / 255 - 0.5) / 0.5
    y = torch.from_numpy(task.targets[task.splits["test"]])
    logits = module(x)
    assert outcome.metrics["test/accuracy"] == pytest.approx((logits.argmax(1) == y).double().mean().item())
    loss = torch.nn.functional.cross_entropy(logits, y).item()
    assert outcome.metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert outcome.confusion.sum(1).tolist() == torch.bincount(y, minlength=3).tolist()
    assert outcome.confusion.diag().sum() == (logits.argmax(1) == y).sum()


def test_the_tutorials_protocol_watches_the_test_set():
    history, outcome = run([make_config(fit__select=Select.test)])[0]
    assert all("test/accuracy" in metrics and "val/accuracy" not in metrics for metrics in history)
    assert outcome.metrics["best/test_accuracy"] == max(metrics["test/accuracy"] for metrics in history)
    assert "test/accuracy" not in outcome.metrics


@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
def test_one_epoch_is_that_of_a_plain_torch_loop(model):
    """The same start, order, loss and updates written with torch.nn and torch.optim."""
    task = small_task()
    config = make_config(model, 3, optim=Sgd(lr=0.1, momentum=0.9), fit__epochs=1, fit__clip=0.5)
    stack = Stack(config, task)
    trial = stack.fresh(config)
    stack.admit([trial])
    order = stack._order()[0]
    module = to_torch(stack.network, trial.rows["parameters"][0])
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    x = (torch.from_numpy(task.inputs).float() / 255 - 0.5) / 0.5
    y = torch.from_numpy(task.targets)
    for index in order.split(8):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(x[index]), y[index]).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimiser.step()
    next(stack.epochs())
    for name, weight in stack.network.views(stack.state["parameters"]).items():
        torch.testing.assert_close(weight[0], module.state_dict()[name], atol=1e-5, rtol=1e-5)
