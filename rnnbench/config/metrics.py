"""Defines the metrics: what each one is, which of them a trial records, which one judges it.

A trial measures the loss, the metric of its task (`data.metric`) and those that `data.metrics` adds. A metric
is one `Metric`; code of one's own enters one by `register_metric` (config.registry). Nothing here needs
torch: metrics are computed by the methods of the tensors that they are given.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rnnbench.config.advice import no_name
from rnnbench.config.refusals import ConfigError
from rnnbench.config.schema import Config, Select

LABELS = ("label", "labels")  # goals (rnnbench.tasks.Goal) that ask for a class
NUMBERS = ("value", "values")  # goals that ask for numbers


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """What is known of a metric by its name: which way is better, its bounds, how it is printed."""

    name: str  # as in val/NAME
    better: Literal["higher", "lower"]
    bounds: tuple[float, float] = (0.0, math.inf)  # what it lies between
    digits: int | None = None  # after the point, where it is printed; None: four that count
    title: str | None = None  # in a table, after "test"; None: a table has the recorded name


@dataclass(frozen=True, kw_only=True)
class Metric(MetricFacts):
    """A number that says how good a trial's answers are.

    It is computed for the K trials of a stack at once, in one of three ways:

        of_means(loss, hits)  from the mean loss and the share of right answers, (K,) each; these are known
                              of each epoch's training, too
        of_confusion(counts)  from confusion matrices (K, classes, classes), whose rows are the truth; of
                              tasks that ask for a class
        of_sums(*totals)      from the totals over all minibatches, (K, ...) each, of sums(logits, y, counts)

    `sums` is given logits (K, outputs, B), or (K, outputs, T, B) where an answer is asked for at every step,
    in float64; y as rnnbench.kernels.losses.measure has it; and counts, (K, B) or (K, T, B), which are 1 for
    answers that count and 0 for padding. It gives a tuple of tensors (K, ...). sums="task" takes the method
    `sums` of the task and sums="optimum" its method `optimum`, and the metric goes with such tasks alone.

    The first follows from what every kernel's evaluation gives, and so does the second of a class at the
    end. Otherwise the torch path evaluates the examples again, whatever kernel trains. Each gives (K,).
    """

    goals: tuple[str, ...]  # what is asked of the sequences that it goes with: values of rnnbench.tasks.Goal
    of_means: Callable[[Any, Any], Any] | None = None
    of_confusion: Callable[[Any], Any] | None = None
    sums: Callable[[Any, Any, Any], tuple[Any, ...]] | Literal["task", "optimum"] | None = None
    of_sums: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        """Refuse a metric that cannot be recorded or computed.

        Raises:
            ConfigError: its name, or the ways in which it is computed, are not as they should be.
        """
        if not re.fullmatch("(?!val_|test_|train_)[a-z][a-z0-9_]*", self.name):
            raise ConfigError(
                f"Metric(name={self.name!r}): must have lower-case letters, digits and _ alone, and "
                "not begin with val_, test_ or train_"
            )
        ways = [self.of_means, self.of_confusion, self.of_sums]
        if sum(way is not None for way in ways) != 1 or (self.sums is None) != (self.of_sums is None):
            raise ConfigError(
                f"Metric(name={self.name!r}): needs of_means, or of_confusion, or both sums and of_sums"
            )
        if self.better not in ("higher", "lower"):
            raise ConfigError(f"Metric(name={self.name!r}): better must be higher or lower")

    @property
    def computed_by(self) -> Any:
        """Return the function that computes it."""
        return self.of_means or self.of_confusion or self.of_sums


def balanced_accuracy(counts: Any) -> Any:
    """Average over the classes that occur the share of their examples that is answered right, (K,).

    As scikit-learn's balanced_accuracy_score.
    """
    examples = counts.sum(2)
    recall = counts.diagonal(dim1=1, dim2=2) / examples.clamp(min=1)
    return recall.sum(1) / (examples > 0).sum(1)


def macro_f1(counts: Any) -> Any:
    """Average F1, 2 TP / (2 TP + FP + FN), over the classes that occur or are answered, (K,).

    As scikit-learn's f1_score(average="macro").
    """
    said_or_true = counts.sum(1) + counts.sum(2)
    f1 = 2 * counts.diagonal(dim1=1, dim2=2) / said_or_true.clamp(min=1)
    return f1.sum(1) / (said_or_true > 0).sum(1)


def absolute_errors(logits: Any, y: Any, counts: Any) -> tuple[Any, ...]:
    """Sum over the answers that count |answer - y|, averaged over the outputs, and 1; (K,) each."""
    return ((logits - y).abs().mean(1) * counts).flatten(1).sum(1), counts.flatten(1).sum(1)


def squares(logits: Any, y: Any, counts: Any) -> tuple[Any, ...]:
    """Sum over the answers that count (answer - y)^2, y^2 and y, (K, outputs) each, and 1, (K,)."""
    weighted = ((logits - y).square(), y.square(), y)
    error, square, total = ((part * counts.unsqueeze(1)).flatten(2).sum(2) for part in weighted)
    return error, square, total, counts.flatten(1).sum(1)


def largest_n(right: Any, words: Any) -> Any:
    """Return the largest n up to which all words are right, (K,); 0 if the first are not.

    Args:
        right: (K, n) number of words of each n that are right
        words: (K, n) number of words of each n; an n without words is passed over
    """
    n = words.new_tensor(range(words.shape[1]))
    unbroken = (right == words).long().cumprod(1) > 0
    return (n * (unbroken & (words > 0))).amax(1)


def word_accuracy(right: Any, words: Any) -> Any:
    """Return the share of words that are right, (K,); arguments as in `largest_n`."""
    return right.sum(1) / words.sum(1)


def length_accuracy(right: Any, asked: Any) -> Any:
    """Average the accuracy of words over their lengths, (K,); a length without words is passed over.

    Args:
        right: (K, n) number of symbols that are right in the answers to words of each length
        asked: (K, n) number of symbols of these answers
    """
    return (right / asked.clamp(min=1)).sum(1) / (asked > 0).sum(1)


def r2(residual: Any, squared: Any, total: Any, answers: Any) -> Any:
    """Average 1 - residual / variance over the outputs, (K,).

    As in scikit-learn's r2_score, an output that is always the same counts 1 if all answers are
    right, else 0.
    """
    spread = squared - total.square() / answers[:, None]
    constant = spread <= 1e-12 * squared  # but for rounding
    share = 1 - residual / spread.masked_fill(constant, 1.0)
    return share.where(~constant, (residual == 0).to(share.dtype)).mean(1)


SHARE = (0.0, 1.0)
METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="loss",
            better="lower",
            goals=(*LABELS, *NUMBERS, "keys"),
            of_means=lambda loss, hits: loss,
        ),
        Metric(
            name="accuracy",  # the share of right answers
            better="higher",
            bounds=SHARE,
            digits=4,
            title="accuracy",
            goals=LABELS,
            of_means=lambda loss, hits: hits,
        ),
        Metric(
            name="mse",
            better="lower",
            title="MSE",
            goals=NUMBERS,
            of_means=lambda loss, hits: loss,
        ),
        Metric(
            name="nll",  # natural logarithms
            better="lower",
            title="NLL",
            goals=(*LABELS, "keys"),
            of_means=lambda loss, hits: loss,
        ),
        Metric(
            name="bpc",  # bits per character
            better="lower",
            goals=("labels",),
            of_means=lambda loss, hits: loss / math.log(2),
        ),
        Metric(
            name="perplexity",  # e to the mean cross entropy of a step
            better="lower",
            bounds=(1.0, math.inf),
            title="perplexity",
            goals=("labels",),
            of_means=lambda loss, hits: loss.exp(),
        ),
        Metric(
            name="balanced_accuracy",
            better="higher",
            bounds=SHARE,
            digits=4,
            title="balanced accuracy",
            goals=LABELS,
            of_confusion=balanced_accuracy,
        ),
        Metric(
            name="macro_f1",
            better="higher",
            bounds=SHARE,
            digits=4,
            title="macro F1",
            goals=LABELS,
            of_confusion=macro_f1,
        ),
        Metric(
            name="mae",
            better="lower",
            title="MAE",
            goals=NUMBERS,
            sums=absolute_errors,
            of_sums=lambda errors, answers: errors / answers,
        ),
        Metric(
            name="r2",
            better="higher",
            bounds=(-math.inf, 1.0),
            digits=4,
            title="R2",
            goals=NUMBERS,
            sums=squares,
            of_sums=r2,
        ),
        Metric(
            name="largest_n",
            better="higher",
            digits=1,
            title="largest n",
            goals=("labels",),
            sums="task",
            of_sums=largest_n,
        ),
        Metric(
            name="length_accuracy",
            better="higher",
            bounds=SHARE,
            digits=4,
            title="accuracy over lengths",
            goals=("labels",),
            sums="task",
            of_sums=length_accuracy,
        ),
        Metric(
            name="word_accuracy",
            better="higher",
            bounds=SHARE,
            digits=4,
            title="words right",
            goals=("labels",),
            sums="task",
            of_sums=word_accuracy,
        ),
        Metric(
            name="excess",  # bits per character above the best that can be said
            better="lower",
            bounds=(-math.inf, math.inf),
            title="excess (bits)",
            goals=("labels",),
            sums="optimum",
            of_sums=lambda nll, best, answers, right, certain: (nll - best) / answers / math.log(2),
        ),
        Metric(
            name="deterministic_accuracy",  # the share of right answers where only one symbol can follow
            better="higher",
            bounds=SHARE,
            digits=4,
            title="deterministic accuracy",
            goals=("labels",),
            sums="optimum",
            of_sums=lambda nll, best, answers, right, certain: right / certain,
        ),
    )
}


OWN_METRICS: dict[str, Metric] = {}  # those that code of one's own has registered; of one name the last one
RECORDED: dict[str, MetricFacts] = {}  # what records say of metrics whose code is not imported here
TAG = "rnnbench.metric."  # of a record; the metric's name follows


def find(name: str, key: str = "data.metrics") -> Metric:
    """Return the metric of this name; of a name that `own_code` has bound, the one that it is bound to.

    Args:
        key: that has this value, for the message.

    Raises:
        ConfigError: there is none.
    """
    bound = getattr(name, "entry", None)  # see registry.Own
    found: Metric | None = METRICS.get(name, OWN_METRICS.get(name)) if bound is None else bound.made
    if found is None:
        raise ConfigError(no_name(key, name, [*METRICS, *OWN_METRICS]))
    return found


def described(config: Config) -> dict[str, str]:
    """Return the tags that tell a reader of the record what the trial's own metrics are."""
    own = [find(name) for name in measured(config) if name not in METRICS]
    return {TAG + m.name: json.dumps([m.better, *m.bounds, m.digits, m.title]) for m in own}


def remember(tags: Mapping[str, str]) -> None:
    """Keep what the tags of a record say of metrics that this process does not have; see `described`.

    A tag that is damaged is passed over: the metric is then printed as any number, and lower is better.
    """
    for tag, text in tags.items():
        if not tag.startswith(TAG):
            continue
        try:
            better, low, high, digits, title = json.loads(text)
            bounds = (float(low), float(high))
        except (ValueError, TypeError):
            continue
        sound = digits is None or (isinstance(digits, int) and 0 <= digits <= 12)
        if better in ("higher", "lower") and sound and isinstance(title, str | None):
            name = tag.removeprefix(TAG)
            RECORDED[name] = MetricFacts(name=name, better=better, bounds=bounds, digits=digits, title=title)


def _known(name: str) -> MetricFacts | None:
    return METRICS.get(name) or OWN_METRICS.get(name) or RECORDED.get(name)


def short(recorded: str) -> str:
    """Return the metric's name in that of a recorded number: `accuracy` of best/val_accuracy."""
    return re.sub("^(val|test)_", "", recorded.rpartition("/")[2])


def direction(recorded: str) -> str:
    """Return `maximize` or `minimize`, by the name of a recorded number."""
    metric = _known(short(recorded))
    higher = metric is not None and metric.better == "higher"
    return "maximize" if higher or recorded.endswith("per_second") else "minimize"


def bounds(recorded: str) -> tuple[float, float]:
    """Return what a recorded number lies between, by its name; what is no metric is not negative."""
    metric = _known(short(recorded))
    return (0.0, math.inf) if metric is None else metric.bounds


def digits(recorded: str) -> int | None:
    """Return how many digits after the point a recorded number is printed with, if the metric fixes it."""
    metric = _known(short(recorded))
    return None if metric is None else metric.digits


def heading(recorded: str) -> str | None:
    """Return what a table calls a recorded number, if that is a metric with a title."""
    metric = _known(short(recorded))
    if metric is None or metric.title is None:
        return None
    forms = {
        "val/": "validation {}",
        "best/val_": "best validation {}",
        "best/test_": "test {} (best epoch, watched)",
        "test/": "test {}",
    }
    form = forms.get(recorded.removesuffix(metric.name))
    return None if form is None else form.format(metric.title)


def on_test(recorded: str) -> bool:
    """Return whether a recorded number was measured on the test set."""
    return recorded.startswith(("test/", "best/test_"))


def measured(config: Config) -> list[str]:
    """Return the names of the metrics that a trial measures: that of its task, the added ones, the loss."""
    return [config.data.metric, *(config.data.metrics or []), "loss"]


def measured_by(params: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics that a recorded trial has measured besides the loss.

    Args:
        params: of its record, by dotted key.
    """
    added = params.get("data.metrics")
    return [params.get("data.metric", "accuracy"), *(added if isinstance(added, list) else [])]


def final_metrics(config: Config) -> list[str]:
    """Return the names of the numbers that a finished trial records once (those of epochs aside)."""
    split, names = config.fit.select.value, measured(config)
    final = [*(f"best/{split}_{name}" for name in names), "best/epoch"]
    if config.fit.select is Select.val:
        final += [f"test/{name}" for name in names]
    return [
        *final,
        "parameters/total",
        "parameters/recurrent",
        "parameters/head",
        "time/train_seconds",
        "time/sequences_per_second",
    ]


def objective(config: Config) -> str:
    """Return the final number that a trial is judged by; `val/loss` asks for the one of the best epoch."""
    split = config.fit.select.value
    return at_best(config.objective or f"{split}/{config.data.metric}", config)


def at_best(name: str, config: Config) -> str:
    """Return the name under which a number is final: best/val_loss for val/loss; others keep theirs."""
    return f"best/{name.replace('/', '_')}" if name in per_epoch(config) else name


def per_epoch(config: Config) -> list[str]:
    """Return the names of the numbers that are measured after an epoch, on the split that is watched."""
    return [f"{config.fit.select.value}/{name}" for name in measured(config)]


def selection(config: Config) -> str:
    """Return the name of the metric that chooses the best epoch, on the split `fit.select`."""
    best = f"best/{config.fit.select.value}_"
    chosen = objective(config)
    return short(chosen) if chosen.startswith(best) and chosen != "best/epoch" else config.data.metric
