"""The only training loop: K trials of equal shapes train as one stack.

`Stack` has three verbs. `admit` takes trials in, `epochs` advances every one of them by an epoch and
yields a report, `stop` takes trials out between epochs. All effects (files, progress, pruning) belong
to whoever consumes the reports. A trial owns its row of every tensor and its random streams, which
are drawn afresh each epoch from (seed, epoch): its numbers do not depend on its neighbours, nor on
whether it was stopped and admitted again.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnbench import tasks
from rnnbench.config import STEPS_PER_EPOCH, Config, Schedule, Select, direction, selection
from rnnbench.kernels import make_compute
from rnnbench.kernels.libraries import alike
from rnnbench.nn import optimisers
from rnnbench.nn.cells import Draw, Noise
from rnnbench.tasks import Goal, Task
from rnnbench.train.evaluation import Answers, Evaluation, by_length, rows


@dataclass(eq=False)
class Slot:
    """One trial of a stack: what its tensors do not say. Epochs count from 1."""

    config: Config
    epoch: int = 0  # epochs done
    best: dict[str, float] = field(default_factory=dict)  # loss and the task's metric at the best epoch
    best_epoch: int = 0
    worse: int = 0  # evaluations since the best one
    factor: float = 1.0  # of the learning rate, lowered by a plateau schedule
    sequences: int = 0  # number of sequences trained on so far
    seconds: float = 0.0  # its share of the stack's time
    diverged: bool = False  # the training loss was not finite

    @property
    def ended(self) -> bool:
        """True if this trial has nothing more to train."""
        fit = self.config.fit
        out_of_patience = fit.patience is not None and self.worse >= fit.patience
        return self.diverged or out_of_patience or self.epoch >= fit.epochs

    @property
    def due(self) -> bool:
        """True if the trial is evaluated after this epoch."""
        fit = self.config.fit
        return self.epoch % fit.evaluate_every == 0 or self.epoch >= fit.epochs

    def judge(self, measured: dict[str, float]) -> bool:
        """Take an evaluation (loss and metric) into account; return True if it is the best so far."""
        fit, chosen = self.config.fit, selection(self.config)
        sign = 1 if direction(chosen) == "maximize" else -1
        better = not self.best or sign * measured[chosen] > sign * self.best[chosen]
        if better:
            self.best, self.best_epoch, self.worse = measured, self.epoch, 0
        else:
            self.worse += 1
            if fit.schedule is Schedule.plateau and self.worse % fit.decay_patience == 0:
                self.factor *= fit.decay
        return better


@dataclass
class Snapshot:
    """A trial outside of a stack, from which it goes on: its slot, its rows (1, ...) of a stack's tensors."""

    slot: Slot
    rows: optimisers.State


@dataclass
class Report:
    """Describes one epoch of a stack."""

    slots: list[Slot]
    metrics: list[dict[str, float]]  # for each slot, by the name that is recorded
    seconds: float  # of the whole stack


@dataclass
class Outcome:
    """What a trial leaves at its end."""

    slot: Slot
    metrics: dict[str, float]  # by the name that is recorded
    weights: Tensor  # (P,) at the best epoch
    # Of the test set at the best epoch, where a class is asked for at the end, or of classes with names:
    confusion: Tensor | None  # (classes, classes) counts, rows the truth
    by_length: Tensor | None  # (lengths, 2) rows of length, accuracy; at the end, where lengths vary
    last: Snapshot | None = None  # after its last epoch


class Stack:
    """K trials that train together.

    Args:
        config: of any of the trials: they agree in all that `shape_key` holds.
        task: the data, and what is asked of it.
        poll: called between minibatches, a few times a second; what it raises ends the epoch.
    """

    def __init__(self, config: Config, task: Task, poll: Callable[[], None] = lambda: None) -> None:
        self.device = torch.device(config.fit.device)
        self.watched = config.fit.select.value  # the split that chooses the best epoch
        self.task = task
        self.splits = _tensors(task)
        self.folds = {config.data.fold: self.splits}  # without data.folds all trials have fold 0
        self.compute = make_compute(config, task)
        self.network = self.compute.network
        self.evaluation = Evaluation(config, task, self.compute)
        self.poll = poll
        self.slots: list[Slot] = []
        self.state: optimisers.State = {}  # every tensor has a row for each slot

    def fresh(self, config: Config) -> Snapshot:
        """Make the snapshot of a trial before its first epoch."""
        parameters = self.network.start(config.seed)
        hyper = config.optim.hyperparameters | {
            "lr": math.nan,  # each epoch begins by setting it, by the schedule
            "step": 0.0,
            "clip": math.inf if config.fit.clip is None else config.fit.clip,
            "dropout": config.model.dropout,
            "recurrent_dropout": config.model.recurrent_dropout or 0.0,
            "weight_noise": config.model.weight_noise or 0.0,
        }
        rows = {"parameters": parameters, "best": parameters.clone()}
        rows |= {name: torch.zeros_like(parameters) for name in config.optim.memory}
        rows |= {name: torch.tensor([[value]], dtype=torch.float64) for name, value in hyper.items()}
        rows["seed"] = torch.tensor([[config.seed]])
        return Snapshot(Slot(config), rows)

    def admit(self, trials: Sequence[Snapshot]) -> None:
        """Take trials in, fresh or from where they were stopped."""
        rows = [trial.rows for trial in trials] + ([self.state] if self.slots else [])
        self.slots = [trial.slot for trial in trials] + self.slots
        self.state = {name: torch.cat([row[name].to(self.device) for row in rows]) for name in rows[0]}

    def stop(self, slots: Sequence[Slot]) -> list[Snapshot]:
        """Take trials out; what each needs to go on elsewhere."""
        taken = [self.at(slot) for slot in slots]
        stay = [k for k, held in enumerate(self.slots) if not any(held is slot for slot in slots)]
        self.slots = [self.slots[k] for k in stay]
        self.state = {name: rows[stay] for name, rows in self.state.items()}
        return taken

    def at(self, slot: Slot) -> Snapshot:
        """Take a trial's snapshot: views of the stack's rows, valid until the next epoch."""
        k = next(k for k, held in enumerate(self.slots) if held is slot)
        return Snapshot(slot, {name: rows[k : k + 1] for name, rows in self.state.items()})

    def epochs(self) -> Iterator[Report]:
        """Advance every slot by one epoch and report, for as long as there are any.

        What raises in an epoch leaves the stack as it was before it.
        """
        while self.slots:
            yield self._whole_epoch()

    def _whole_epoch(self) -> Report:
        before = (
            {name: rows.clone() for name, rows in self.state.items()},
            [copy(slot) for slot in self.slots],
        )
        try:
            return self._epoch()
        except BaseException:
            self.state = before[0]
            for slot, was in zip(self.slots, before[1], strict=True):
                vars(slot).update(vars(was))
            raise

    def _epoch(self) -> Report:
        started = time.perf_counter()
        K = len(self.slots)
        for row, slot in zip(self.state["lr"], self.slots, strict=True):
            config = slot.config
            row.fill_(optimisers.learning_rate(config.optim.lr, config.fit, slot.epoch, slot.factor))
        order = self._order()  # (K, examples)
        loss, hits, norm = self.compute.train(self.state, order, self._noise(), self.poll).unbind(1)
        found = {f"train/{name}": value for name, value in self.evaluation.of_means(loss, hits).items()}
        metrics = rows(found | {"lr": self.state["lr"][:, 0], "grad_norm": norm})
        for slot, measured in zip(self.slots, metrics, strict=True):
            slot.epoch += 1
            slot.sequences += order.shape[1]
            slot.diverged = not math.isfinite(measured["train/loss"])
        self._judge(metrics)
        seconds = time.perf_counter() - started
        for slot in self.slots:
            slot.seconds += seconds / K
        return Report(list(self.slots), metrics, seconds)

    def _judge(self, metrics: list[dict[str, float]]) -> None:
        """Evaluate the slots that are due, add to their metrics, keep the best parameters."""
        due = [k for k, slot in enumerate(self.slots) if slot.due and not slot.diverged]
        if not due:
            return
        alike: dict[int, list[int]] = {}
        for k in due:
            alike.setdefault(self.slots[k].config.data.fold, []).append(k)
        for places in alike.values():
            of = self.slots[places[0]]
            found = self.measure(self.state["parameters"][places], self.watched, of).metrics
            for k, measured in zip(places, found, strict=True):
                metrics[k] |= {f"{self.watched}/{name}": value for name, value in measured.items()}
                if self.slots[k].judge(measured):
                    self.state["best"][k] = self.state["parameters"][k]

    def _split(self, slot: Slot, name: str) -> Tensor:
        """Return the places of the examples of a split, where the slot's fold validates."""
        data = slot.config.data
        if data.fold not in self.folds:
            self.folds[data.fold] = _tensors(tasks.load(data))
        return self.folds[data.fold][name]

    def measure(self, parameters: Tensor, split: str, of: Slot | None = None) -> Answers:
        """Compute all metrics of parameters (k, P) on a split, and the predictions.

        Args:
            of: a slot with the fold whose split it is; None: that of the stack's task.
        """
        index = self.splits[split] if of is None else self._split(of, split)
        return self.evaluation.measure(parameters, index, self.poll)

    def _order(self) -> Tensor:
        """Order the training examples of each trial's next epoch, (K, examples).

        Shuffled, each trial's in its own order; where data is endless the numbers that come next; of a
        text, minibatch n has the n-th window of each of batch_size streams, so that it continues n - 1.
        """
        train, fit = self.splits["train"], self.slots[0].config.fit
        B, K = fit.batch_size, len(self.slots)
        if self.task.carried:
            length = len(train) // B  # windows that fill no minibatch are left out
            return train[torch.arange(B * length).view(B, length).T.flatten()].expand(K, -1)
        if self.task.make is not None and len(train) == 0:
            size = B * (fit.steps_per_epoch or STEPS_PER_EPOCH)
            return torch.stack(
                [torch.arange(slot.epoch * size, (slot.epoch + 1) * size) for slot in self.slots]
            )
        orders = [torch.randperm(len(train), generator=stream(slot, 1)) for slot in self.slots]
        of_folds = (self._split(slot, "train") for slot in self.slots)
        return torch.stack([split[order] for split, order in zip(of_folds, orders, strict=True)])

    def _noise(self) -> Noise:
        """Draw what this epoch of training needs, each trial from its own streams; rates may differ."""
        model = self.slots[0].config.model
        draw = {
            purpose: partial(self._drawn, [stream(slot, purpose, self.device) for slot in self.slots])
            for purpose in (2, 3, 4, 5)
        }

        def kept(purpose: int, name: str) -> Draw | None:
            """Dropout's factors: 0, or 1 / (1 - rate)."""
            rate = self.state[name].float()
            if not rate.any():
                return None

            def factors(shape: tuple[int, ...], steps: Tensor | None = None) -> Tensor:
                rates = rate.view(-1, *[1] * len(shape))
                return draw[purpose](shape, steps, how=torch.rand).ge_(rates).div_(1 - rates)

            return factors

        def added(shape: tuple[int, ...], steps: Tensor | None = None) -> Tensor:
            return draw[5](shape, steps, how=torch.randn) * self.state["weight_noise"].float()

        return Noise(
            dropout=kept(2, "dropout"),
            recurrent=kept(3, "recurrent_dropout"),
            zoneout=partial(draw[4], how=torch.rand) if model.zoneout else None,
            weights=added if self.state["weight_noise"].any() else None,
        )

    def _drawn(
        self,
        streams: list[torch.Generator],
        shape: tuple[int, ...],
        steps: Tensor | None = None,
        *,
        how: Callable[..., Tensor],
    ) -> Tensor:
        """Draw numbers (K, *shape), each trial's from its own stream, and for so many steps (K,) alone."""
        if steps is None:
            return torch.stack([how(shape, generator=own, device=self.device) for own in streams])
        drawn = torch.zeros(len(streams), *shape, device=self.device)
        for row, own, count in zip(drawn, streams, steps.tolist(), strict=True):
            row[:count] = how((count, *shape[1:]), generator=own, device=self.device)
        return drawn


def conclude(stack: Stack, slots: Sequence[Slot]) -> list[Outcome]:
    """Stop trials and take their final figures at the best epoch; here the test set is read, once.

    Trials that diverged have none: they are stopped and left out.
    """
    ended = [stack.at(slot) for slot in slots if not slot.diverged]
    if not ended:
        stack.stop(slots)
        return []
    best = torch.cat([trial.rows["best"] for trial in ended])
    found = stack.measure(best, "test")
    matrices = None
    if stack.task.goal is Goal.label or stack.task.classes:
        matrices = stack.evaluation.confusion(best, stack.splits["test"], found.predictions, stack.poll)
    stack.stop(slots)  # last: what raises leaves them where they are
    outcomes = []
    for k, trial in enumerate(ended):
        slot, watched = trial.slot, stack.watched
        metrics = {f"best/{watched}_{name}": value for name, value in slot.best.items()}
        metrics["best/epoch"] = slot.best_epoch
        if slot.config.fit.select is Select.val:
            metrics |= {f"test/{name}": value for name, value in found.metrics[k].items()}
        metrics |= {
            "parameters/total": stack.network.count(),
            "parameters/recurrent": stack.network.count("rnn"),
            "parameters/head": stack.network.count("head"),
            "time/train_seconds": slot.seconds,
            "time/sequences_per_second": slot.sequences / slot.seconds,
        }
        counts = None if matrices is None else matrices[k]
        lengths = by_length(stack.task, found, k)
        outcomes.append(Outcome(slot, metrics, best[k].cpu(), counts, lengths, trial))
    return outcomes


def _tensors(task: Task) -> dict[str, Tensor]:
    """Return the places of the examples of each split."""
    return {name: torch.from_numpy(index) for name, index in task.splits.items()}


def stream(slot: Slot, purpose: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator of random numbers for each (seed, epoch, purpose)."""
    words = np.random.SeedSequence((slot.config.seed, slot.epoch, purpose)).generate_state(2)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def shape_key(config: Config) -> tuple[object, ...]:
    """Return what the trials of one stack have in common: whatever fixes a shape, an equation or the data.

    Folds with equally many training examples share a stack, where the examples enter the network alike in
    all of them: each trial has an order of its own in any case.
    """
    data, size = config.data, None
    if data.folds is not None and tasks.same_examples(data):
        data, size = replace(data, fold=0), tasks.shape(data).train
    model, optim, fit = config.model, config.optim, config.fit
    model = alike(model)
    same: dict[str, Any] = dict.fromkeys(("lr", *optim.hyperparameters), 0.0)
    optim = replace(optim, **same)
    return (
        *(repr(model), repr(optim), repr(data), size),
        *(fit.batch_size, fit.steps_per_epoch, fit.select, fit.device, fit.kernel, fit.precision),
    )
