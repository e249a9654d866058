"""The laws of cards that hold on a machine without one: what is refused, said, recorded, and carried over."""

import dataclasses
from threading import Event, Thread

import hydra
import pytest
import torch
from conftest import make_config, small_task

from rnnbench.config import ConfigError, Kernel, Precision, conf_folder
from rnnbench.kernels import choose, cudnn, on_card, slower
from rnnbench.kernels.gpu import cards
from rnnbench.kernels.gpu.cards import Card
from rnnbench.kernels.precision import TorchPrecision
from rnnbench.record import read_result
from rnnbench.sweep import launcher
from rnnbench.sweep.compose import compose_words
from rnnbench.sweep.dry_run import computed_by
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder, resumed
from rnnbench.sweep.stages import preflight
from rnnbench.train.snapshot import Unusable, load, save
from rnnbench.train.stack import Stack, shape_key

H100 = Card("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30, "570.86.15")
T4 = Card("Tesla T4", (7, 5), 15 * 2**30, "570.86.15")
P100 = Card("Tesla P100-PCIE-16GB", (6, 0), 16 * 2**30, None)


@pytest.fixture
def machine(monkeypatch):
    """Set what this machine seems to have: cards, free memory on each, Triton."""

    def set_up(*found, free=10 * 2**30, broken=None, triton="3.9.0"):
        monkeypatch.setattr(cards, "count", lambda: len(found))
        monkeypatch.setattr(cards, "card", lambda device: found[int(device.partition(":")[2] or 0)])
        monkeypatch.setattr(cards, "free", lambda device: free)
        monkeypatch.setattr(cards, "broken", lambda device: broken)
        monkeypatch.setattr(cards, "triton_version", lambda: triton)

    return set_up


def refusal(words, tmp_path):
    """Return the message that a command is refused with, before anything is made."""
    launcher.register()
    with (
        hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"),
        pytest.raises(ConfigError) as refused,
    ):
        preflight([launcher.task_config(compose_words(words.split()))], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What torch says where it sees no card, and what the command says.
UNSEEN = {
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU\nand installed": (
        "there is no NVIDIA driver on this machine; install one if it has a card, or take fit.device=cpu"
    ),
    "The NVIDIA driver on your system is too old (found version 11040). Please update": (
        "the NVIDIA driver is too old: it runs CUDA 11.4, and torch 2.15.0 has CUDA 13.2; install a newer "
        "driver, or a torch for CUDA 11.4, or take fit.device=cpu"
    ),
    "No CUDA GPUs are available": (
        "no card can be used (No CUDA GPUs are available); nvidia-smi tells more, or take fit.device=cpu"
    ),
}


@pytest.mark.parametrize("said", UNSEEN, ids=lambda said: said[:30])
def test_no_card_is_refused_with_the_reason(said, machine, monkeypatch, tmp_path):
    def init():
        raise RuntimeError(said)

    machine()
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert refusal("fit.device=cuda", tmp_path) == f"fit.device=cuda: {UNSEEN[said]}"


def test_a_card_is_looked_for_before_data(machine, tmp_path):
    """Nothing is downloaded for what cannot be trained."""
    machine()
    words = "fit.device=cuda data=mnist data.root=/no/such data.download=false"
    assert refusal(words, tmp_path).startswith("fit.device=cuda: ")


def test_cards_that_are_hidden_and_a_torch_without_cuda_are_told_apart(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        said = f"CUDA_VISIBLE_DEVICES={value} hides all cards; unset it"
        assert said in refusal("fit.device=cuda", tmp_path)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    message = refusal("fit.device=cuda:1", tmp_path)
    assert message.startswith("fit.device=cuda:1: torch 2.") and "is built without CUDA; install" in message


# What a machine has, a command, and words of the message that refuses it.
REFUSED = {
    "a card that is not there": (
        [H100, H100], {}, "fit.device=cuda:7", "fit.device=cuda:7: torch sees no such device here; there is "
        "cpu, cuda:0, cuda:1",
    ),
    "a card that does not compute": (
        [P100], {"broken": "P100, does not compute (no kernel image)"}, "fit.device=cuda",
        "fit.device=cuda: cuda:0, P100, does not compute (no kernel image); take another card, in "
        "CUDA_VISIBLE_DEVICES if there are several, or fit.device=cpu",
    ),
    "tf32 on a card without": (
        [H100, T4], {}, "fit.device=cuda fit.precision=tf32",
        "fit.precision=tf32: Tesla T4 (compute capability 7.5) has no TF32, which needs 8.0; take "
        "fit.precision=float32",
    ),
    "too little memory": (
        [T4], {"free": 2**27}, "fit.device=cuda model.hidden_size=500 fit.batch_size=1000 fit.kernel=torch",
        "model.hidden_size=500: a trial takes about ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_card_cannot_do_is_refused(case, machine, tmp_path):
    found, more, words, message = REFUSED[case]
    machine(*found, **more)
    said = refusal(words, tmp_path)
    assert said.startswith(message)
    if "memory" in case:
        assert said.endswith(
            "GiB with its data, and 0.1 of 15.0 GiB are free on cuda, Tesla T4 (compute capability 7.5); "
            "give a smaller one, or a smaller fit.batch_size than 1000"
        )


def test_a_card_of_another_precision_has_other_stacks():
    config = make_config(fit__device="cuda")
    other = make_config(fit__device="cuda", fit__precision=Precision.tf32)
    assert shape_key(config) != shape_key(other)


def test_the_record_and_the_terminal_name_card_driver_and_precision(machine, monkeypatch):
    machine(H100, P100)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert cards.tags("cuda:0", "tf32") == {
        "rnnbench.card": "NVIDIA H100 80GB HBM3",
        "rnnbench.card_number": "0",
        "rnnbench.capability": "9.0",
        "rnnbench.driver": "570.86.15",
        "rnnbench.precision": "tf32",
        "rnnbench.version.cuda": "13.2",
        "rnnbench.version.triton": "3.9.0",
    }
    assert "rnnbench.driver" not in cards.tags("cuda:1", "float32")  # not found out
    assert cards.tags("cpu", "float32") == {}
    config = make_config(fit__device="cuda:0", fit__kernel=Kernel.torch)
    shown = "torch on cuda:0, NVIDIA H100 80GB HBM3 (compute capability 9.0), in float32"
    assert computed_by(config) == shown
    assert on_card(make_config()) == ""


def test_a_trial_that_was_to_train_on_a_card_elsewhere_fails_with_a_record(machine, tmp_path):
    machine()
    config = make_config(fit__device="cuda")
    job = Job("a", config, tmp_path / "a", identity(config))
    Recorder().fail(job, "its stack was lost")
    tags = read_result(job.folder)["tags"]
    assert (tags["rnnbench.device"], tags["rnnbench.kernel"]) == ("cuda", "triton")
    assert "rnnbench.card" not in tags


def test_kernels_that_are_not_there_fall_back_with_a_line_or_are_refused(machine, tmp_path):
    for found, triton, why in (
        ([H100], None, "fit.device=cuda: Triton, which compiles kernels for cards, is not installed"),
        ([P100], "3.9.0", f"fit.device=cuda: {P100} is too old for Triton, which needs 7.0"),
    ):
        machine(*found, triton=triton)
        config = make_config(fit__device="cuda")
        assert (choose(config), slower(config)) == (Kernel.torch, f"{why}: training on the slower torch path")
        said = refusal("fit.device=cuda fit.kernel=compiled", tmp_path)
        assert said == f"fit.kernel=compiled: {why}; take fit.kernel=auto, which trains on the torch path"
    machine(H100, triton=None)
    said = refusal("fit.device=cuda fit.precision=tf32x3", tmp_path)
    assert said.startswith("fit.precision=tf32x3: fit.device=cuda: Triton, ")
    assert said.endswith(", and the torch path does not have it; take float32 or tf32")
    assert not cudnn.supports(make_config(fit__device="cuda", fit__precision=Precision.tf32x3))


def test_the_version_of_the_driver_is_asked_for_without_harm():
    assert cards.driver() is None or cards.driver()[0].isdigit()


def saved(tmp_path, made_by):
    """Return a stack, and leave the snapshot of its trial in a folder."""
    stack = Stack(make_config("gru"), small_task())
    stack.admit([stack.fresh(make_config("gru"))])
    next(stack.epochs())
    save(tmp_path, stack.at(stack.slots[0]), made_by)
    return stack


CPU = {"trial": "a", "device": "cpu", "kernel": "compiled avx2"}
ON_CARD = {"trial": "a", "device": "Tesla T4", "kernel": "triton sm_75"}
ON_ANOTHER = {"trial": "a", "device": "NVIDIA H100 80GB HBM3", "kernel": "triton sm_90"}


@pytest.mark.parametrize("one, other", [(CPU, ON_CARD), (ON_CARD, CPU), (ON_CARD, ON_ANOTHER)])
def test_a_trial_moves_between_the_cpu_and_cards(one, other, tmp_path):
    stack = saved(tmp_path, one)
    fresh = stack.fresh(make_config("gru"))
    found = load(tmp_path, fresh, other)
    assert found.slot.epoch == 1
    assert all(torch.equal(row, stack.state[name]) for name, row in found.rows.items())
    with pytest.raises(Unusable, match="another trial"):
        load(tmp_path, fresh, other | {"trial": "b"})
    with pytest.raises(Unusable, match="another kernel"):
        load(tmp_path, fresh, one | {"kernel": "torch"})


def test_a_file_with_tensors_of_a_card_is_read_without_one(tmp_path, monkeypatch):
    """The device of a tensor is a word in the file: here it is written as that of a card."""
    from rnnbench.train import snapshot

    stack = saved(tmp_path, CPU)
    held = torch.load(tmp_path / snapshot.FILE, weights_only=True)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(held, tmp_path / snapshot.FILE)
    monkeypatch.undo()
    assert b"cuda:0" in (tmp_path / snapshot.FILE).read_bytes()
    found = load(tmp_path, stack.fresh(make_config("gru")), CPU)
    assert torch.equal(found.rows["parameters"], stack.state["parameters"])


def test_a_record_says_where_its_first_epochs_were_trained():
    first = {"rnnbench.device": "cpu", "rnnbench.kernel": "compiled avx2"}
    second = {"rnnbench.device": "cuda:0", "rnnbench.card": "Tesla T4", "rnnbench.kernel": "triton sm_75"}
    moved = resumed(first, second, 3)
    assert moved == {"rnnbench.resumed": "3", "rnnbench.moved": "to epoch 3 on cpu with compiled avx2"}
    there = resumed(
        second | moved, second | {"rnnbench.device": "cuda:1"}, 5
    )  # another card of the same kind
    assert there == {"rnnbench.resumed": "3 5", "rnnbench.moved": moved["rnnbench.moved"]}
    back = resumed(second | there, first, 8)
    assert back["rnnbench.moved"].endswith("avx2; to epoch 8 on Tesla T4 with triton sm_75")
    assert resumed(first, first, 4) == {"rnnbench.resumed": "4"}
    assert resumed({}, first, 4) == {"rnnbench.resumed": "4"}


@pytest.fixture
def torchs_setting():
    """Give torch's settings back afterwards."""
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True


def settings():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_torch_computes_in_the_precision_that_is_asked_for(torchs_setting):
    """Torch's default has cuDNN's layers in TF32."""
    precision, fit = TorchPrecision(), make_config(fit__device="cuda").fit
    with precision.of(make_config().fit):
        assert settings() == (False, True)  # on the CPU nothing is set
    for wanted, tf32 in ((Precision.tf32, True), (Precision.float32, False)):
        with precision.of(dataclasses.replace(fit, precision=wanted)):
            assert settings() == (tf32, tf32)


def test_stacks_of_two_precisions_take_turns(torchs_setting):
    precision, fit = TorchPrecision(), make_config(fit__device="cuda").fit
    entered, seen = Event(), []

    def other() -> None:
        entered.set()
        with precision.of(dataclasses.replace(fit, precision=Precision.tf32)):
            seen.append(settings())

    thread = Thread(target=other)
    with precision.of(fit), precision.of(fit):  # two of the same at a time
        thread.start()
        entered.wait()
        assert settings() == (False, False) and not seen
    thread.join()
    assert seen == [(True, True)]
