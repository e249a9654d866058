"""Laws of stacks on cards, with CPU tensors in their place: which card, how many trials, memory runs out."""

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_config, sampled, small_task
from test_gpu_compute import small

from rnnbench import kernels, tasks
from rnnbench.cluster.dispatch import cut
from rnnbench.cluster.ray import RayLauncher
from rnnbench.cluster.slurm import SlurmLauncher
from rnnbench.cluster.stack_file import SentStack
from rnnbench.config import Config, Kernel
from rnnbench.job_state import JobState
from rnnbench.kernels.compiled import CompiledCompute
from rnnbench.kernels.gpu import cards, compute, memory
from rnnbench.kernels.gpu.compute import GpuCompute
from rnnbench.kernels.gpu.launches import CAPTURING, Launches
from rnnbench.kernels.gpu.linear import LinearScan
from rnnbench.kernels.gpu.minibatch import Minibatch
from rnnbench.kernels.gpu.tiled import TiledScan
from rnnbench.record import read_result
from rnnbench.sweep import dry_run
from rnnbench.sweep.job import Job, identity
from rnnbench.sweep.recorder import Recorder
from rnnbench.sweep.scheduler import JobStack, Scheduler
from rnnbench.sweep.scheduler import train as train_jobs
from rnnbench.tasks import Shape, Task
from rnnbench.train import resources
from rnnbench.train import stack as engine
from rnnbench.train.stack import Stack

H100 = cards.Card("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30, "570.86.15", 132)


class Computed(CompiledCompute):
    """The compiled kernels in the place of those of a card: a trial has the same bits in any stack."""

    full: str | None = None  # the device that has room for two trials alone
    sizes: list[tuple[str, int]]  # of the stacks that were trained, with their devices

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.device = config.fit.device

    def train(self, state, order, noise, poll):
        self.sizes.append((self.device, len(order)))
        if self.device == self.full and len(order) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().train(state, order, noise, poll)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cards, whose tensors are on the CPU."""

    def set_up(count: int, kind: type = Computed, free: int = 2**36) -> None:
        names = [f"cpu:{n}" for n in range(count)]
        monkeypatch.setattr(resources, "devices", lambda device: names if device == "cuda" else [device])
        monkeypatch.setattr(cards, "count", lambda: count)
        monkeypatch.setattr(cards, "card", lambda device: H100)
        monkeypatch.setattr(cards, "free", lambda device: free)
        monkeypatch.setattr(engine, "make_compute", kind)
        monkeypatch.setattr(Computed, "sizes", [], raising=False)

    return set_up


def jobs_of(folder: Path, models: str = "gru", count: int = 5, **changes) -> list[Job]:
    changes |= {"fit__epochs": 2, "data__train_size": 64, "fit__device": "cuda"}
    configs = [make_config(model, seed, **changes) for model in models.split() for seed in range(count)]
    return [Job(f"{n}", c, folder / str(n), identity(c)) for n, c in enumerate(configs)]


def figures_of(jobs: list[Job]) -> list[dict[str, float]]:
    assert {(job.state, job.error) for job in jobs} == {(JobState.finished, None)}
    metrics = [read_result(job.folder)["metrics"] for job in jobs]
    return [{name: value for name, value in each.items() if "time" not in name} for each in metrics]


@pytest.mark.parametrize("models", sampled(["gru", "gru lstm", "gru lstm rnn"], ["gru", "gru lstm"]))
def test_stacks_on_two_cards_have_the_numbers_of_one_to_the_bit(models, machine, tmp_path):
    machine(1)
    whole = jobs_of(tmp_path / "one", models)
    train_jobs(Recorder(), whole, None)
    machine(2)
    jobs = jobs_of(tmp_path / "two", models)
    train_jobs(Recorder(), jobs, None)
    assert figures_of(jobs) == figures_of(whole)
    assert {job.device for job in jobs} == {"cpu:0", "cpu:1"}
    for job in jobs:
        tags = read_result(job.folder)["tags"]
        assert (tags["rnnbench.device"], f"cpu:{tags['rnnbench.card_number']}") == ("cuda", job.device)
    kinds = len(models.split())
    widths = {size for _, size in Computed.sizes}
    assert widths == ({5} if kinds == 2 else {2, 3})  # of two kinds each card gets one


def test_a_search_gives_the_next_trial_to_the_card_with_the_fewest(machine, tmp_path):
    machine(2)
    jobs, recorder = jobs_of(tmp_path / "searched"), Recorder()
    scheduler, ended = Scheduler(recorder, None), []
    with recorder.progress("best/val_accuracy", 5, 10):
        for job in jobs:
            scheduler.add([job])
        while scheduler.stacks:
            scheduler.round(ended.extend)
    assert len(ended) == 5 and set(Computed.sizes) == {("cpu:0", 3), ("cpu:1", 2)}
    whole = jobs_of(tmp_path / "whole")
    train_jobs(Recorder(), whole, 5)
    assert figures_of(jobs) == figures_of(whole)


def test_a_card_that_runs_out_of_memory_trains_in_halves_and_the_other_does_not(
    machine, monkeypatch, tmp_path, capsys
):
    machine(2)
    monkeypatch.setattr(Computed, "full", "cpu:1")
    jobs = jobs_of(tmp_path, count=6)
    train_jobs(Recorder(), jobs, None)
    sizes = {
        device: {size for name, size in Computed.sizes if name == device} for device in ("cpu:0", "cpu:1")
    }
    assert sizes == {"cpu:0": {3}, "cpu:1": {3, 2, 1}}
    assert "a stack of 3 stopped" in capsys.readouterr().err
    figures_of(jobs)


def test_a_stack_keeps_its_kernel_where_another_is_found_to_be_the_faster_for_a_trial_alone(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(kernels, "_FASTER", {})
    monkeypatch.setattr(kernels, "_ALONE", set())
    jobs = jobs_of(tmp_path, count=2, fit__kernel=Kernel.fastest)
    recorder = Recorder()
    stack = JobStack(recorder, ["cpu"], lambda: None)
    stack.width, stack.waiting = 2, list(jobs)
    with recorder.progress("best/val_accuracy", 2, 4):
        stack.epoch()
        trained_with = kernels.kernel_name(jobs[0].placed)
        kernels.take(jobs[0].config.on("cpu"), Kernel.cudnn)  # as a stack on another card does
        stack.settle()
        stack.run()
    assert kernels.kernel_name(jobs[0].placed) == trained_with != "cudnn"
    assert {read_result(job.folder)["tags"]["rnnbench.kernel"] for job in jobs} == {trained_with}


def test_fit_device_names_one_card_or_all_that_are_seen(monkeypatch):
    for count, all_of_them in ((2, ["cuda:0", "cuda:1"]), (1, ["cuda:0"]), (0, ["cuda"])):
        monkeypatch.setattr(cards, "count", lambda count=count: count)
        assert resources.devices("cuda") == all_of_them
        assert (resources.devices("cuda:1"), resources.devices("cpu")) == (["cuda:1"], ["cpu"])


def no_room() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def broken_capture(launch) -> None:
    """Fail as a capture does whose launches find no room: torch raises another error where it ends it."""
    try:
        no_room()
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize("place", sampled(["arrays", "capture", "replay"], ["capture"]))
def test_no_room_on_a_card_ends_in_halves_that_begin_when_the_memory_is_free(
    place, machine, monkeypatch, tmp_path, capsys
):
    machine(1, GpuCompute)
    jobs = jobs_of(tmp_path, "rnn", count=2)
    task = tasks.load(jobs[0].config.data)
    few = replace(task, splits={name: index[:16] for name, index in task.splits.items()})
    monkeypatch.setattr(tasks, "load", lambda data: few)
    made, left = [], []  # minibatches that train, and how many earlier ones were there when one was made
    really, failing = Minibatch.__init__, [True]

    def init(self, network, goal, graph, examples, **given):
        really(self, network, goal, graph, examples, **given)
        if given["training"] and not examples.inputs.is_meta:
            left.append(sum(each() is not None for each in made))
            made.append(weakref.ref(self))
            if place == "arrays" and failing:
                failing.clear()
                no_room()

    def capture(launch):
        if not failing:
            return launch
        failing.clear()
        return broken_capture(launch) if place == "capture" else no_room

    monkeypatch.setattr(Minibatch, "__init__", init)
    if place != "arrays":
        monkeypatch.setattr(compute, "Launches", lambda device, what: Launches(device, what, capture))
    train_jobs(Recorder(), jobs, None)
    figures_of(jobs)
    assert "a stack of 2 stopped" in capsys.readouterr().err
    assert left[:2] == [0, 0]


def test_no_graph_is_captured_on_a_card_while_the_memory_of_another_is_given_back(monkeypatch):
    """torch gives back that of all cards at once, and ends where one captures."""
    held = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(CAPTURING.locked()))
    resources.give_back(torch.OutOfMemoryError(), "cuda:1")
    assert held == [True] and not CAPTURING.locked()


def bytes_held() -> int:
    """Count the bytes of all tensors that are there."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is torch.Tensor and not each.is_meta]
    found = [each.untyped_storage() for each in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


@pytest.mark.parametrize("case", sampled([("gru", 6), ("gru", 40), ("mingru", 6)], [("gru", 40)]), ids=str)
def test_the_bytes_of_a_trial_on_a_card_are_counted_from_its_shapes(case, machine):
    model, hidden_size = case
    machine(1, GpuCompute)
    taken = []
    for seeds in ((0,), (0, 1, 2)):
        task, configs = small(seeds)
        for config in configs:
            config.model.name, config.model.hidden_size = model, hidden_size
        stack, before = Stack(configs[0], task), bytes_held()
        stack.admit([stack.fresh(config) for config in configs])
        training = compute.Training(stack.compute, stack.state, (len(seeds), True, False))
        training.order.fill(stack._order())
        count, T = len(task.splits["val"]), task.inputs.shape[1]
        size = compute.at_once(stack.network, count, T)
        measuring = stack.compute.minibatch(stack.compute.stored, len(seeds), size, training=False)
        for minibatch in (training.minibatch, measuring):
            for scan, (layer,) in zip(minibatch.scans, minibatch.layers, strict=True):
                if isinstance(scan, TiledScan):  # which makes arrays of its own when it runs
                    scan._scratch(layer), scan._d_states(layer), scan._kept(layer, minibatch.training)
                if isinstance(scan, LinearScan):
                    scan._kept(layer, minibatch.training)
        taken.append(bytes_held() - before)
        del training, measuring, minibatch, scan, layer
    splits = (len(task.splits[name]) for name in ("train", "val", "test"))
    shape = Shape(T, task.input_size, task.outputs, *splits, task.goal)
    each = (taken[1] - taken[0]) / 2
    configs[0].fit.device = "cuda"
    assert each <= resources.trial_bytes(configs[0], shape) <= 2 * each


def test_the_bytes_of_an_evaluation_are_counted_with_what_launches_hand_on():
    config, task = make_config("gru", model__hidden_size=40), small_task(20)
    ours, before = GpuCompute(config, task), bytes_held()
    measuring = ours.minibatch(ours.stored, 1, 16, training=False)
    (scan,), ((layer,),) = measuring.scans, measuring.layers
    scan._scratch(layer), scan._d_states(layer), scan._kept(layer, training=False)
    counted = memory.minibatch_bytes(
        ours.network, task.goal, ours.graph, task.inputs.shape[1], 16, carried=False, training=False
    )
    assert bytes_held() - before <= counted


def test_a_stack_on_a_card_is_as_large_as_gain_and_memory_allow(machine):
    machine(1, free=75 * 2**30)
    shape = Shape(28, 28, 10, 55_000, 5_000, 10_000)

    def places(H: int, B: int, most: int | None = None) -> int:
        config = make_config("lstm", fit__device="cuda", fit__batch_size=B, model__hidden_size=H)
        return resources.places(config, shape, most)

    assert places(10, 32) == 132 * resources.WAVES == 4224
    assert places(10, 128) == 1056
    assert places(10, 32, 7) == 7
    assert places(10, 32, 10_000) == 10_000
    assert 1 < places(512, 128) < 1056
    machine(1, free=2**20)
    assert places(10, 32) == 1


def sent(folder: Path, device: str) -> SentStack:
    job = jobs_of(folder, count=1)[0]
    job.config.fit.device = device
    return SentStack.write(folder, "sweep", [job], max_stack=None, search=None)


def test_a_stack_that_is_sent_to_slurm_asks_for_one_card_where_it_needs_one(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    usual = {"timeout_min": 1, "cpus_per_task": 1, "array_parallelism": 1, "mem_gb": 1, "partition": None,
             "account": None, "setup": [], "additional_parameters": {}}  # fmt: skip
    for given, device, asked in (
        (None, "cuda", ["1"]), (None, "cuda:0", ["1"]), (None, "cpu", []), (2, "cuda", ["2"]),
    ):  # fmt: skip
        launcher = SlurmLauncher(None, 1, "slurm", 1, gpus_per_node=given, **usual)
        number = launcher.cards([sent(tmp_path, "cpu"), sent(tmp_path, device)])
        executor = launcher._executor(tmp_path / "s", "name", number)._executor
        text = executor._make_submission_file_text("true", "uid").splitlines()
        assert [line.partition("=")[2] for line in text if "--gpus-per-node" in line] == asked


def test_a_stack_that_is_sent_to_ray_asks_for_one_card_where_it_needs_one(tmp_path):
    pytest.importorskip("ray")
    asked = []

    class Remote:
        """A remote function of Ray that keeps its options and runs nothing."""

        def options(self, **given):
            asked.append(given)
            return self

        def remote(self, file):
            return file

    for given in (None, 0.5):
        launcher = RayLauncher(None, 1, None, 2, given)
        launcher.task = Remote()
        launcher.submit([sent(tmp_path, "cuda"), sent(tmp_path, "cpu")])
    assert asked == [{"num_cpus": 2, "num_gpus": cards} for cards in (1, 0, 0.5, 0.5)]


def test_a_cluster_gets_stacks_that_fill_a_card(tmp_path):
    jobs = jobs_of(tmp_path, count=1, fit__batch_size=32) * 600
    assert [len(part) for part in cut(jobs, None)] == [200, 200, 200]
    assert len(cut(jobs, 100)) == 6


def test_a_dry_run_says_cards_stacks_and_memory_with_a_card_or_without(machine, monkeypatch, capsys):
    machine(2)
    monkeypatch.setattr(dry_run, "measure", lambda config, shape, width: 2.0)
    configs = [make_config("gru", seed, fit__device="cuda") for seed in range(8)]
    dry_run.show_plan(configs, None)
    said = " ".join(capsys.readouterr().out.split())
    assert "2 stacks of up to 4, about " in said and " MiB, " in said and "triton sm_90 on cuda" in said
    assert "in all on 2 cards side by side" in said
    machine(0)
    monkeypatch.setattr(dry_run, "measure", None)
    dry_run.show_plan(configs, 3, elsewhere=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "3 stacks of up to 3, about " in said and "compiled on a card, in float32" in said
    assert "the time is not estimated, since there is no card here" in said


def test_a_dry_run_counts_the_time_of_the_card_that_takes_longest(machine, monkeypatch, capsys):
    machine(2)
    monkeypatch.setattr(dry_run, "measure", lambda config, shape, width: 2.0)
    for count, total in ((1, "40 s"), (2, "40 s"), (6, "2 min")):  # 20 epochs of 2 s a stack
        configs = [make_config("gru", seed, fit__device="cuda", fit__epochs=20) for seed in range(count)]
        dry_run.show_plan(configs, 1)
        assert f"about {total} in all" in " ".join(capsys.readouterr().out.split())


def test_a_dry_run_of_stacks_for_a_cluster_needs_no_card_here(machine, monkeypatch, tmp_path, here):
    pytest.importorskip("submitit")
    machine(0)
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    out, _ = here("-m", "model=lstm,gru", "fit.device=cuda", "dry_run=true", "hydra/launcher=slurm")
    assert "2 trials in 2 kinds of stacks" in out and "the time is not estimated" in " ".join(out.split())


def test_training_says_its_card_and_how_large_its_stacks_may_be(machine, tmp_path, capsys):
    machine(1)
    train_jobs(Recorder(), jobs_of(tmp_path, count=2), 3)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "training with triton sm_90 on cpu:0, NVIDIA H100 80GB HBM3 (compute capability 9.0), in float32"
        in said
    )
    assert ": up to 3 trials a stack, for which " in said
