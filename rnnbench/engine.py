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
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rnnbench import optim
from rnnbench.config import Config, Schedule, Select, direction, selection
from rnnbench.kernels import make_compute
from rnnbench.network import Drop
from rnnbench.tasks import Task


@dataclass
class Slot:
    """One trial of a stack: what its tensors do not say. Epochs count from 1."""

    config: Config
    epoch: int = 0  # epochs done
    best: dict[str, float] = field(default_factory=dict)  # loss and accuracy at the best epoch
    best_epoch: int = 0
    worse: int = 0  # evaluations since the best one
    factor: float = 1.0  # what a plateau schedule has come down to
    seconds: float = 0.0  # its share of the stack's time
    diverged: bool = False  # the training loss was not finite

    @property
    def ended(self) -> bool:
        """Whether this trial has nothing more to train."""
        fit = self.config.fit
        out_of_patience = fit.patience is not None and self.worse >= fit.patience
        return self.diverged or out_of_patience or self.epoch >= fit.epochs

    @property
    def due(self) -> bool:
        """Whether this epoch is one after which the trial is evaluated."""
        fit = self.config.fit
        return self.epoch % fit.evaluate_every == 0 or self.epoch >= fit.epochs

    def judge(self, measured: dict[str, float]) -> bool:
        """Take an evaluation (loss, accuracy) into account; whether it is the best so far."""
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
class Checkpoint:
    """A trial outside of a stack: its slot, and its rows (1, ...) of the stack's tensors."""

    slot: Slot
    rows: optim.State


@dataclass
class Report:
    """One epoch of a stack."""

    slots: list[Slot]
    metrics: list[dict[str, float]]  # for each slot, by the name that is recorded
    seconds: float  # of the whole stack


@dataclass
class Outcome:
    """What a trial leaves at its end."""

    slot: Slot
    metrics: dict[str, float]  # by the name that is recorded
    weights: Tensor  # (P,) at the best epoch
    confusion: Tensor  # (classes, classes) counts, rows the truth; test set, at the best epoch


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
        self.classes = task.classes
        self.targets = torch.from_numpy(task.targets)  # (N,)
        self.splits = {name: torch.from_numpy(index) for name, index in task.splits.items()}
        self.compute = make_compute(config, task)
        self.network = self.compute.network
        self.poll = poll
        self.slots: list[Slot] = []
        self.state: optim.State = {}  # every tensor has a row for each slot

    def fresh(self, config: Config) -> Checkpoint:
        """A trial before its first epoch."""
        parameters = self.network.start(config.seed)
        hyper = optim.hyperparameters(config.optim) | {
            "lr": config.optim.lr,
            "step": 0.0,
            "clip": math.inf if config.fit.clip is None else config.fit.clip,
            "dropout": config.model.dropout,
        }
        rows = {"parameters": parameters, "best": parameters.clone()}
        rows |= {name: torch.zeros_like(parameters) for name in optim.memory(config.optim)}
        rows |= {name: torch.tensor([[value]], dtype=torch.float64) for name, value in hyper.items()}
        return Checkpoint(Slot(config), rows)

    def admit(self, trials: Sequence[Checkpoint]) -> None:
        """Take trials in, fresh or from where they were stopped."""
        rows = [trial.rows for trial in trials] + ([self.state] if self.slots else [])
        self.slots = [trial.slot for trial in trials] + self.slots
        self.state = {name: torch.cat([row[name].to(self.device) for row in rows]) for name in rows[0]}

    def stop(self, slots: Sequence[Slot]) -> list[Checkpoint]:
        """Take trials out; what each needs to go on elsewhere."""
        where = [next(k for k, held in enumerate(self.slots) if held is slot) for slot in slots]
        stay = [k for k in range(len(self.slots)) if k not in where]
        taken = [
            Checkpoint(self.slots[k], {n: rows[k : k + 1] for n, rows in self.state.items()}) for k in where
        ]
        self.slots = [self.slots[k] for k in stay]
        self.state = {name: rows[stay] for name, rows in self.state.items()}
        return taken

    def epochs(self) -> Iterator[Report]:
        """Advance every slot by one epoch and report, for as long as there are any."""
        while self.slots:
            yield self._epoch()

    def _epoch(self) -> Report:
        started = time.perf_counter()
        K = len(self.slots)
        for row, slot in zip(self.state["lr"], self.slots, strict=True):
            config = slot.config
            row.fill_(optim.learning_rate(config.optim.lr, config.fit, slot.epoch, slot.factor))
        drop = self._dropout() if self.state["dropout"].any() else None
        order = self._shuffled()  # (K, examples)
        totals = self.compute.train(self.state, order, drop, self.poll)
        loss_, accuracy, norm_ = (totals / order.shape[1]).T.tolist()
        metrics = [
            {"train/loss": loss_[k], "train/accuracy": accuracy[k], "lr": float(self.state["lr"][k]),
             "grad_norm": norm_[k]}
            for k in range(K)
        ]  # fmt: skip
        for slot, measured in zip(self.slots, metrics, strict=True):
            slot.epoch += 1
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
        loss, accuracy, _ = self.evaluate(self.state["parameters"][due], self.watched)
        for k, loss_k, accuracy_k in zip(due, loss.tolist(), accuracy.tolist(), strict=True):
            metrics[k] |= {f"{self.watched}/loss": loss_k, f"{self.watched}/accuracy": accuracy_k}
            if self.slots[k].judge({"loss": loss_k, "accuracy": accuracy_k}):
                self.state["best"][k] = self.state["parameters"][k]

    def evaluate(self, parameters: Tensor, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss (k,), accuracy (k,) and predictions (k, examples) of parameters (k, P)."""
        return self.compute.evaluate(parameters, self.splits[split])

    def _shuffled(self) -> Tensor:
        """The training examples in each trial's own order of this epoch, (K, examples)."""
        train = self.splits["train"]
        orders = [train[torch.randperm(len(train), generator=stream(slot, 1))] for slot in self.slots]
        return torch.stack(orders)

    def _dropout(self) -> Drop:
        """Draws each trial's dropout factors from its own stream of this epoch."""
        streams = [stream(slot, 2, self.device) for slot in self.slots]
        rate = self.state["dropout"].float().view(-1, 1, 1, 1)

        def drop(shape: tuple[int, ...]) -> Tensor:
            noise = torch.stack([torch.rand(shape, generator=g, device=self.device) for g in streams])
            return (noise >= rate) / (1 - rate)

        return drop


def conclude(stack: Stack, slots: Sequence[Slot]) -> list[Outcome]:
    """Stop trials and take their final figures at the best epoch; here the test set is read, once.

    Trials that diverged have none: they are stopped and left out.
    """
    ended = [trial for trial in stack.stop(slots) if not trial.slot.diverged]
    if not ended:
        return []
    best = torch.cat([trial.rows["best"] for trial in ended])
    loss, accuracy, predictions = stack.evaluate(best, "test")
    truth = stack.targets[stack.splits["test"]]
    outcomes = []
    for k, trial in enumerate(ended):
        slot, watched = trial.slot, stack.watched
        metrics = {f"best/{watched}_{name}": value for name, value in slot.best.items()}
        metrics["best/epoch"] = slot.best_epoch
        if slot.config.fit.select is Select.val:
            metrics |= {"test/loss": float(loss[k]), "test/accuracy": float(accuracy[k])}
        metrics |= {
            "parameters/total": stack.network.count(),
            "parameters/recurrent": stack.network.count("rnn"),
            "parameters/head": stack.network.count("head"),
            "time/train_seconds": slot.seconds,
            "time/sequences_per_second": slot.epoch * len(stack.splits["train"]) / slot.seconds,
        }
        pairs = truth * stack.classes + predictions[k].cpu()
        confusion = torch.bincount(pairs, minlength=stack.classes**2).view(stack.classes, -1)
        outcomes.append(Outcome(slot, metrics, best[k].cpu(), confusion))
    return outcomes


def stream(slot: Slot, purpose: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each (seed, epoch, purpose)."""
    words = np.random.SeedSequence((slot.config.seed, slot.epoch, purpose)).generate_state(2)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def shape_key(config: Config) -> tuple[object, ...]:
    """What the trials of one stack have in common: whatever fixes a shape, an equation or the data."""
    model, data, fit = config.model, config.data, config.fit
    return (
        *(model.name, model.hidden_size, model.num_layers, model.bidirectional, model.readout),
        *(model.forget_bias, model.nonlinearity),
        *(type(config.optim).__name__, getattr(config.optim, "nesterov", None)),
        *(data.name, data.root, data.order, data.train_size, data.val_size, data.split_seed),
        *(data.mean, data.std),
        *(fit.batch_size, fit.select, fit.device, fit.kernel),
    )
