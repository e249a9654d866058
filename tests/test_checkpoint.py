"""Laws of stopping: an epoch is whole or never was, a checkpoint is this trial's or is not used."""

import copy
from contextlib import suppress

import pytest
import torch
from conftest import make_config, small_task
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rnnbench.config import AdamW, Kernel, RMSprop, Schedule, Sgd
from rnnbench.train import snapshot as checkpoint
from rnnbench.train.snapshot import Unusable, load, save
from rnnbench.train.stack import Stack, conclude

MADE_BY = {"trial": "0123456789abcdef", "kernel": "torch"}


class Interrupt(Exception):
    """What a poll raises here."""


def trained(stack: Stack) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Train a stack of one to its end: the metrics of each epoch, the final ones."""
    history = []
    for report in stack.epochs():
        history += report.metrics
        for outcome in conclude(stack, [slot for slot in report.slots if slot.ended]):
            final = {name: value for name, value in outcome.metrics.items() if "time" not in name}
            return history, final
    raise AssertionError("no trial ended")


@pytest.mark.parametrize("kernel", [Kernel.auto, Kernel.torch], ids=lambda kernel: kernel.value)
@settings(max_examples=15, deadline=None)
@given(
    stops=st.sets(st.integers(1, 40), max_size=6), optim=st.sampled_from([Sgd(lr=0.05), AdamW(), RMSprop()])
)
@example(stops=set(range(1, 41)), optim=Sgd(lr=0.05))
def test_an_epoch_that_is_interrupted_never_was(kernel, stops, optim):
    """Wherever a poll raises, in training or evaluation, the same epoch then comes out as if it had not."""
    config = make_config(
        "gru", optim=optim, model__num_layers=2, model__dropout=0.3, fit__epochs=4, fit__kernel=kernel,
        fit__schedule=Schedule.plateau, fit__decay_patience=1, fit__evaluate_every=2,
    )  # fmt: skip
    whole = Stack(config, small_task())
    whole.admit([whole.fresh(copy.deepcopy(config))])
    polled = 0

    def poll() -> None:
        nonlocal polled
        polled += 1
        if polled in stops:
            raise Interrupt

    stack = Stack(config, small_task(), poll)
    stack.admit([stack.fresh(config)])
    history = []
    while stack.slots:
        with suppress(Interrupt):
            if not stack.slots[0].ended:  # else its test was interrupted, and is read again
                history += next(stack.epochs()).metrics
            outcomes = conclude(stack, [slot for slot in stack.slots if slot.ended])
    final = {name: value for name, value in outcomes[0].metrics.items() if "time" not in name}
    assert (history, final) == trained(whole)


@pytest.mark.parametrize("optim", [Sgd(lr=0.05), AdamW(), RMSprop()], ids=lambda optim: optim.name)
def test_a_trial_goes_on_from_its_file(optim, tmp_path):
    config = make_config("lstm", 3, optim=optim, fit__epochs=5, fit__patience=4)
    whole = Stack(config, small_task())
    whole.admit([whole.fresh(copy.deepcopy(config))])
    stack = Stack(config, small_task())
    stack.admit([stack.fresh(make_config("lstm", 9, optim=optim)), stack.fresh(config)])
    reports = stack.epochs()
    history = [next(reports).metrics[1], next(reports).metrics[1]]
    save(tmp_path, stack.at(stack.slots[1]), MADE_BY)
    next(reports)  # what comes after it leaves the file alone
    elsewhere = Stack(config, small_task())
    elsewhere.admit([load(tmp_path, elsewhere.fresh(config), MADE_BY)])
    later, final = trained(elsewhere)
    assert (history + later, final) == trained(whole)


@pytest.fixture
def saved(tmp_path):
    """A stack and the folder with the checkpoint of its trial after an epoch."""
    config = make_config("gru")
    stack = Stack(config, small_task())
    stack.admit([stack.fresh(config)])
    next(stack.epochs())
    save(tmp_path, stack.at(stack.slots[0]), MADE_BY)
    return stack, tmp_path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_checkpoint_that_is_cut_short_is_unusable(saved, share):
    stack, folder = saved
    file = folder / checkpoint.FILE
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(Unusable, match="cannot be read"):
        load(folder, stack.fresh(make_config("gru")), MADE_BY)


def test_a_flipped_bit_is_found(saved):
    """torch.load itself would take the weights as they are."""
    stack, folder = saved
    file = folder / checkpoint.FILE
    whole = bytearray(file.read_bytes())
    weights = stack.state["parameters"].numpy().tobytes()
    whole[whole.index(weights) + len(weights) // 2] ^= 1
    file.write_bytes(whole)
    torch.load(file, weights_only=True)
    with pytest.raises(Unusable, match="checksum"):
        load(folder, stack.fresh(make_config("gru")), MADE_BY)


@pytest.mark.parametrize(
    ("made_by", "model", "message"),
    [
        ({"trial": "f" * 16, "kernel": "torch"}, "gru", "another trial"),
        ({"trial": "0123456789abcdef", "kernel": "compiled avx2"}, "gru", "another kernel"),
        (MADE_BY, "lstm", "another version"),
    ],
)
def test_a_checkpoint_of_another_is_unusable(saved, made_by, model, message):
    _, folder = saved
    fresh = Stack(make_config(model), small_task()).fresh(make_config(model))
    with pytest.raises(Unusable, match=message):
        load(folder, fresh, made_by)


def test_a_checkpoint_runs_nothing(tmp_path):
    """It is read as data: a pickle that would run something is refused."""
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return ran.touch, ()

    torch.save({"made_by": MADE_BY, "slot": Evil(), "rows": {}, "sha256": ""}, tmp_path / checkpoint.FILE)
    stack = Stack(make_config(), small_task())
    with pytest.raises(Unusable):
        load(tmp_path, stack.fresh(make_config()), MADE_BY)
    assert not ran.exists()
