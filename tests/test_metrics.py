"""The metrics: their values are scikit-learn's; one that is added is measured, printed and chosen by."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import make_config, small_task
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    r2_score,
)

from rnnbench.config import (
    ConfigError,
    Kernel,
    bounds,
    direction,
    final_metrics,
    heading,
    objective,
    selection,
)
from rnnbench.config.metrics import METRICS, OWN_METRICS, Metric, described, find, remember, short
from rnnbench.kernels import torch_evaluation
from rnnbench.tasks import Goal, Task
from rnnbench.terminal import number
from rnnbench.train.evaluation import confusion
from rnnbench.train.stack import Stack, conclude


def trained(task: Task, seeds: int = 3, **changes) -> tuple[Stack, torch.Tensor]:
    """A stack of trials after an epoch, and the indices of the test examples."""
    configs = [make_config(seed=seed, **changes) for seed in range(seeds)]
    stack = Stack(configs[0], task)
    stack.admit([stack.fresh(config) for config in configs])
    next(stack.epochs())
    return stack, torch.from_numpy(task.splits["test"])


@pytest.mark.parametrize("kernel", [Kernel.torch, Kernel.compiled])
def test_metrics_of_classes_are_those_of_scikit_learn(kernel):
    task = small_task(200, classes=5)
    task.targets[task.splits["test"][:30]] = 1  # classes are not equally frequent, and one does not occur
    task.targets[task.targets == 4] = 0
    names = ["balanced_accuracy", "macro_f1"]
    stack, index = trained(task, data__metrics=names, fit__kernel=kernel)
    found = stack.measure(stack.state["parameters"], "test")
    truth = task.targets[index]
    for measured, said in zip(found.metrics, found.predictions.numpy(), strict=True):
        assert list(measured) == ["loss", "accuracy", *names]
        assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
        assert measured["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
        assert measured["accuracy"] == (truth == said).mean()


@pytest.mark.parametrize("kernel", [Kernel.torch, Kernel.compiled])
def test_metrics_of_classes_at_every_step_are_those_of_scikit_learn(kernel):
    """Over the steps that count alone; and the confusion matrix of classes with names has them."""
    lengths = 1 + np.arange(200) % 5
    labels = np.random.RandomState(0).choice([-1, 0, 0, 1, 2], (200, 5))
    labels[:, 0] = labels[:, 0].clip(0)
    task = dataclasses.replace(small_task(200), targets=labels, goal=Goal.labels, lengths=lengths)
    task = dataclasses.replace(task, classes=("a", "b", "c"))
    names = ["balanced_accuracy", "macro_f1"]
    stack, index = trained(task, data__metrics=names, fit__kernel=kernel)
    found = stack.measure(stack.state["parameters"], "test").metrics
    evaluation = torch_evaluation(stack.slots[0].config, task, stack.compute)
    ((places, logits, _),) = evaluation._outputs(stack.state["parameters"], index, lambda: None)
    counts = (labels[index[places]] >= 0) & (np.arange(5) < lengths[index[places]][:, None])
    truth, outcomes = labels[index[places]][counts], conclude(stack, list(stack.slots))
    for measured, answers, outcome in zip(found, logits.argmax(1).mT.numpy(), outcomes, strict=True):
        said = answers[counts]
        assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
        assert measured["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
        assert measured["accuracy"] == pytest.approx((truth == said).mean())
        assert outcome.confusion.tolist() == confusion_matrix(truth, said).tolist()
        assert outcome.by_length is None


def test_perplexity_is_that_of_the_mean_cross_entropy_of_a_step():
    task = small_task(60, T=5, classes=3)
    labels = np.random.RandomState(0).randint(0, 3, (60, 5))
    task = dataclasses.replace(task, targets=labels, goal=Goal.labels)
    stack, _ = trained(task, data__metrics=["perplexity"], fit__kernel=Kernel.torch)
    for measured in stack.measure(stack.state["parameters"], "test").metrics:
        assert measured["perplexity"] == pytest.approx(np.exp(measured["loss"]))
        assert 1 < measured["perplexity"] < 6


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("lengths", [None, 1 + np.arange(300) % 5])
@pytest.mark.parametrize("goal", [Goal.value, Goal.values])
def test_metrics_of_numbers_are_those_of_scikit_learn(outputs, lengths, goal):
    task = small_task(300, T=5)
    steps = (5,) if goal.every_step else ()
    targets = np.random.RandomState(0).normal(5.0, 2.0, (300, *steps, outputs)).astype(np.float32)
    task = dataclasses.replace(
        task, targets=targets, outputs=outputs, goal=goal, metric="mse", lengths=lengths
    )
    changes = {"data__metric": "mse", "data__metrics": ["mae", "r2"], "fit__kernel": Kernel.torch}
    stack, index = trained(task, **changes)
    found = stack.measure(stack.state["parameters"], "test").metrics
    evaluation = torch_evaluation(stack.slots[0].config, task, stack.compute)
    ((places, logits, _),) = evaluation._outputs(stack.state["parameters"], index, lambda: None)
    answers = logits.detach().movedim(1, -1).movedim(-2, 1).double().numpy()  # (K, examples, ..., outputs)
    truth = targets[index[places]]
    if goal.every_step and lengths is not None:
        counts = np.arange(5) < lengths[index[places]][:, None]
        truth, answers = truth[counts], answers[:, counts]
    for measured, said in zip(found, answers.reshape(3, -1, outputs), strict=True):
        assert measured["mae"] == pytest.approx(mean_absolute_error(truth.reshape(-1, outputs), said))
        assert measured["r2"] == pytest.approx(r2_score(truth.reshape(-1, outputs), said))
        assert measured["mse"] == measured["loss"]


def test_r2_of_an_output_that_never_varies():
    """As scikit-learn: 1 where the answers are right, 0 where they are not."""
    metric = METRICS["r2"]
    y = torch.full((1, 1, 7), 0.1, dtype=torch.float64)
    for answers, expected in ((y, 1.0), (y + 1, 0.0)):
        assert metric.of_sums(*metric.sums(answers, y, torch.ones(1, 7).double())).item() == expected


def test_confusion_matrices_of_a_stack_are_those_of_its_trials():
    task = small_task()
    index = torch.from_numpy(task.splits["test"])
    predictions = torch.from_numpy(np.random.RandomState(0).randint(0, 3, (4, len(index))))
    together = confusion(task, predictions, index)
    for alone, counts in zip(predictions, together, strict=True):
        assert (confusion(task, alone[None], index)[0] == counts).all()
        assert counts.sum() == len(index)
        pairs = list(zip(task.targets[index].tolist(), alone.tolist(), strict=True))
        assert counts[2, 1] == pairs.count((2, 1))


def test_a_metric_that_is_added_is_recorded_and_chooses_the_best_epoch():
    config = make_config(data__metrics=["macro_f1"], fit__epochs=4)
    config.objective = "val/macro_f1"
    assert (objective(config), selection(config)) == ("best/val_macro_f1", "macro_f1")
    assert {"best/val_macro_f1", "test/macro_f1"} <= set(final_metrics(config))
    stack = Stack(config, small_task())
    stack.admit([stack.fresh(config)])
    curve = [report.metrics[0]["val/macro_f1"] for _, report in zip(range(4), stack.epochs(), strict=False)]
    (outcome,) = conclude(stack, list(stack.slots))
    assert outcome.metrics["best/val_macro_f1"] == max(curve)
    assert outcome.metrics["best/epoch"] == curve.index(max(curve)) + 1
    assert set(final_metrics(config)) == outcome.metrics.keys()


def test_measuring_more_changes_no_number():
    plain, more = (
        next(trained(small_task(), data__metrics=names)[0].epochs()) for names in (None, ["macro_f1"])
    )
    for before, after in zip(plain.metrics, more.metrics, strict=True):
        assert before == {name: value for name, value in after.items() if "macro_f1" not in name}


@pytest.mark.parametrize("name", METRICS)
def test_what_is_known_of_a_metric_is_known_of_every_number_that_is_recorded_of_it(name):
    metric = METRICS[name]
    for recorded in (f"train/{name}", f"val/{name}", f"best/val_{name}", f"best/test_{name}", f"test/{name}"):
        assert short(recorded) == name
        assert direction(recorded) == ("maximize" if metric.better == "higher" else "minimize")
        assert bounds(recorded) == metric.bounds
    if metric.title is not None:
        assert heading(f"test/{name}") == f"test {metric.title}"
    assert number(f"test/{name}", 0.5) == ("0.5" if metric.digits is None else f"{0.5:.{metric.digits}f}")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"name": "Kappa"}, "lower-case letters"),
        ({"name": "val_kappa"}, "not begin with"),
        ({"of_means": min}, "needs of_means, or of_confusion"),
        ({"of_confusion": None}, "needs of_means, or of_confusion"),
        ({"better": "up"}, "better must be higher or lower"),
    ],
)
def test_a_metric_that_cannot_be_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Metric(**{"name": "kappa", "better": "higher", "goals": ("label",), "of_confusion": max, **given})


def test_a_name_that_no_metric_has_is_refused():
    with pytest.raises(ConfigError, match=r"data.metrics=macro_f2: must be one of .*data.metrics=macro_f1"):
        find("macro_f2")


def test_a_reader_without_the_code_of_a_metric_has_what_the_record_says_of_it(monkeypatch):
    """Direction, bounds, digits and heading; a damaged tag is passed over."""
    kappa = Metric(
        name="kappa",
        better="higher",
        bounds=(-1.0, 1.0),
        digits=3,
        title="kappa",
        goals=("label",),
        of_confusion=max,
    )
    monkeypatch.setitem(OWN_METRICS, "kappa", kappa)
    tags = described(make_config(data__metrics=["macro_f1", "kappa"]))
    assert tags.keys() == {"rnnbench.metric.kappa"}
    monkeypatch.delitem(OWN_METRICS, "kappa")
    monkeypatch.setattr("rnnbench.config.metrics.RECORDED", {})
    for damaged in (
        "",
        "[1]",
        '["up", 0, 1, 4, "x"]',
        '["higher", 0, 1, 4.5, "x"]',
        '["higher", "a", 1, 4, "x"]',
    ):
        remember({"rnnbench.metric.kappa": damaged})
        assert direction("test/kappa") == "minimize"
    remember(tags)
    assert direction("best/val_kappa") == "maximize" and bounds("test/kappa") == (-1.0, 1.0)
    assert heading("test/kappa") == "test kappa" and number("val/kappa", 0.5) == "0.500"
