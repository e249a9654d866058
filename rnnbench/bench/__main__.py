"""python -m rnnbench.bench: how fast this machine is, side by side with the tutorial's loop.

Four questions, each answered in alternation in one process run, as ratios with their spread: how many
trial-epochs a second the harness makes beside the same recipe written with torch.nn and a DataLoader;
how long the command takes to its first epoch beside `import torch`; what the harness itself costs a
trial of a sweep beside Hydra's own sweeper and launcher; what the search costs a trial beside Optuna.
"""

import argparse
import csv
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from rnnbench.bench.bound import CARDS, Load, bound, card_of
from rnnbench.bench.cells import CellRow, cell_rows, step_operations
from rnnbench.bench.data import KINDS as DATA
from rnnbench.bench.data import DataRow, data_rows
from rnnbench.bench.gpu import HEADER as GPU_HEADER
from rnnbench.bench.gpu import configured, gpu_rows, pixels
from rnnbench.bench.harness import image_task
from rnnbench.bench.launcher import launcher_cost
from rnnbench.bench.load import long_sweep
from rnnbench.bench.loops import LAYERS, harness, operations, products_per_second, tutorial_loop
from rnnbench.bench.measure import in_turn, spread
from rnnbench.bench.records import delivery_times, table_times
from rnnbench.bench.reuse import reuse_times
from rnnbench.bench.scan import scan_times
from rnnbench.bench.search import sweeper_cost
from rnnbench.bench.startup import first_epoch, import_torch
from rnnbench.bench.traffic import KINDS, SLEEP, storage_of, traffic
from rnnbench.config import Config, Kernel, Model, Precision
from rnnbench.kernels.compiled import cores, instruction_sets
from rnnbench.kernels.gpu import cards
from rnnbench.nn.cells import CELLS
from rnnbench.sweep.engine_checks import check_cuda, check_precision
from rnnbench.sweep.launcher import refusals
from rnnbench.tasks import Task
from rnnbench.terminal import say, show_table

PRECISIONS = [precision.value for precision in Precision]


@dataclass
class Row:
    """Keeps, for each round, a contestant's trial-epochs a second and their ratio to the tutorial's loop."""

    model: str
    hidden_size: int
    kernel: str
    K: int
    rates: list[float]
    ratios: list[float]
    ceiling: float  # trial-epochs a second if all time were matrix products at the machine's speed


def compare(model: str, hidden_size: int, stacks: list[int], rounds: int) -> list[Row]:
    """Time the tutorial's loop, that loop with its images in memory, and stacks of the harness, in turn.

    The loops run with all cores, torch's default, and with one thread, which is faster while other processes
    use cores; the faster of both counts in each round.
    """
    threads = sorted({cores(), 1}, reverse=True)
    named = {"tutorial's loop": True, "torch.nn alone": False}
    loops = [tutorial_loop(model, hidden_size, n, loader) for loader in named.values() for n in threads]
    kernels = [Kernel.torch]
    if instruction_sets():
        kernels.append(Kernel.compiled)
    ours = [(kernel, K) for kernel in kernels for K in stacks]
    stacked = [harness(model, hidden_size, K, kernel) for kernel, K in ours]
    figures = in_turn([*loops, *stacked], rounds)
    seconds = [
        (name, 1, [min(each) for each in zip(*figures[at : at + len(threads)], strict=True)])
        for name, at in zip(named, range(0, len(loops), len(threads)), strict=True)
    ]
    seconds += [(kernel.value, K, row) for (kernel, K), row in zip(ours, figures[len(loops) :], strict=True)]
    loop = seconds[0][2]
    ceiling = products_per_second() / operations(model, hidden_size)
    return [
        Row(model, hidden_size, kernel, K, [1 / s for s in own],
            [theirs / mine for theirs, mine in zip(loop, own, strict=True)], ceiling)
        for kernel, K, own in seconds
    ]  # fmt: skip


def table(rows: list[Row]) -> Table:
    """Build the table for the terminal."""
    shown = Table(
        title="Trial-epochs a second, training and test; median [min, max]", box=box.SIMPLE_HEAD,
        caption="of ceiling: of what the machine's own matrix products would give",
    )  # fmt: skip
    for name in ("model", "hidden size", "path", "stack", "trial-epochs/s", "times the loop", "of ceiling"):
        shown.add_column(name, no_wrap=True)
    for row, next_ in zip(rows, [*rows[1:], None], strict=True):
        share = statistics.median(row.rates) / row.ceiling
        shown.add_row(
            *(row.model, str(row.hidden_size), row.kernel, str(row.K)),
            *(spread(row.rates, 3), spread(row.ratios, 1), f"{share:.0%}"),
            end_section=next_ is None or next_.kernel == rows[0].kernel,
        )
    return shown


def save(rows: list[Row], folder: Path) -> None:
    """Write speed.csv with every round, and speed.svg."""
    header = ["model", "hidden_size", "path", "stack", "round", "rate", "ratio", "ceiling"]
    lines = [
        [row.model, row.hidden_size, row.kernel, row.K, number, rate, ratio, row.ceiling]
        for row in rows
        for number, (rate, ratio) in enumerate(zip(row.rates, row.ratios, strict=True))
    ]
    write(folder / "speed.csv", header, lines)
    picture(rows, folder / "speed.svg")


def write(file: Path, header: list[str], lines: Iterable[list[Any]]) -> None:
    """Write a table of figures, and say where."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *lines])
    say(f"saved: {os.path.relpath(file)}")


def picture(rows: list[Row], file: Path) -> None:
    """Draw speed relative to the tutorial's loop: a dot a stack by model and size, a line min to max."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    matplotlib.rcParams |= {"svg.hashsalt": "rnnbench", "svg.fonttype": "none", "font.size": 9}
    models = list(dict.fromkeys(row.model for row in rows))
    sizes = sorted({row.hidden_size for row in rows})
    figure, axes = pyplot.subplots(1, len(models), figsize=(4 * len(models), 2.8), sharey=True, squeeze=False)
    shades = {"torch": "#d08020", "compiled": "#2060a0"}
    stacks = sorted({row.K for row in rows})
    for axis, model in zip(axes[0], models, strict=True):
        for row in rows:
            if row.model != model or row.kernel not in shades:
                continue
            middle = statistics.median(row.ratios)
            x = sizes.index(row.hidden_size) + 0.24 * (stacks.index(row.K) - (len(stacks) - 1) / 2)
            error = [[middle - min(row.ratios)], [max(row.ratios) - middle]]
            axis.errorbar(x, middle, error, fmt="o", color=shades[row.kernel], markersize=4)
            axis.annotate(
                str(row.K), (x, middle), (4, 0), textcoords="offset points", fontsize=6, va="center"
            )
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(
            yscale="log",
            xlim=(-0.5, len(sizes) - 0.5),
            xticks=range(len(sizes)),
            xticklabels=sizes,
            xlabel="hidden size",
            title=model,
        )
        axis.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"], minor=False)
    axes[0][0].set_ylabel("times the tutorial's loop")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=color, label=f"{name}, trials in a stack")
        for name, color in shades.items()
    ]
    axes[0][0].legend(handles=handles, fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def show_cells(options: argparse.Namespace) -> None:
    """Print and save what training every cell costs, compiled and on the torch path."""
    sizes, stacks = options.hidden or ([10] if options.quick else [10, 32, 128]), options.stacks or [1, 16]
    say_machine()
    names = ("hidden size", "stack", "cell", "kernel", "times the torch path", "times lstm, an operation")
    say(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    rows: list[CellRow] = []
    for row in cell_rows(options.cells or list(CELLS), sizes, stacks, rounds=2 if options.quick else 3):
        say(f"| {' | '.join(row.cells)} |")
        rows.append(row)
    header = ["cell", "hidden_size", "stack", "operations", "round", "torch", "compiled", "lstm"]
    lines = [
        [row.cell, row.hidden_size, row.K, step_operations(row.cell, row.hidden_size), number, *seconds]
        for row in rows
        for number, seconds in enumerate(zip_longest(row.torch, row.compiled, row.lstm))
    ]
    write(options.out / "cells.csv", header, lines)


def show_data(options: argparse.Namespace) -> None:
    """Print and save how fast lstm and gru train on each kind of data beside a loop of torch.nn."""
    say_machine()
    names = ("data", "model", "path", "stack", "minibatches of a trial/s", "times the loop")
    say(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    rows: list[DataRow] = []
    for row in data_rows(options.data or list(DATA), options.stacks or [1, 16], 2 if options.quick else 5):
        say(f"| {' | '.join(row.cells)} |")
        rows.append(row)
    header = ["data", "model", "path", "stack", "round", "rate", "ratio"]
    lines = [
        [row.data, row.model, row.kernel, row.K, number, *figures]
        for row in rows
        for number, figures in enumerate(zip(row.rates, row.ratios, strict=True))
    ]
    write(options.out / "data.csv", header, lines)


def show_scans(_: argparse.Namespace) -> None:
    """Print how the cost of long sequences grows with and without a scan."""
    cases = [(H, T) for H in (8, 64) for T in (512, 4096)]
    table = Table("batch 32", *(f"hidden {H}, T = {T:,}" for H, T in cases), box=box.SIMPLE_HEAD)
    measured = [scan_times(T, H, rounds=7 if T < 1000 else 3) for H, T in cases]
    for name in measured[0]:
        table.add_row(name, *(f"{spread([1e3 * t for t in times[name]], 0)} ms" for times in measured))
    say("forward and backward pass of a layer, one thread")
    show_table(table)


def show_records(_: argparse.Namespace) -> None:
    """Print how long a table of 10,000 runs takes."""
    for where, seconds in table_times(10_000, rounds=3).items():
        say(f"a table of 10,000 runs from {where}: {spread(seconds, 1)} s")


def show_delivery(_: argparse.Namespace) -> None:
    """Print how long a sweep's delivery to MLflow takes with the means over seeds, beside without them."""
    for seeds in (3, 5):
        without, whole = delivery_times(seeds, trials=30, epochs=20, rounds=5)
        ratios = [b / a for a, b in zip(without, whole, strict=True)]
        say(f"30 trials of 20 epochs, {seeds} seeds of each configuration: {spread(whole, 2)} s to SQLite, "
            f"{spread(ratios, 3)} times that without means")  # fmt: skip


def show_traffic(options: argparse.Namespace) -> None:
    """Print how long searches ask and tell on each storage, as a table in Markdown."""
    workers, trials = options.workers, options.trials
    say(f"{workers} sweepers, {trials:,} trials that sleep {SLEEP:g} s, TPE; ms: median, 95th percentile")
    names = ("storage", "trials, each once", "wall", "trials/s", "ask, ms", "tell, ms", "a worker, MB")
    say(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    for kind in KINDS:
        with storage_of(kind) as url:
            say(f"| {kind} | {' | '.join(traffic(url, workers, trials).row)} |")


def show_load(_: argparse.Namespace) -> None:
    """Print time and memory of early and late trials in a sweep of 5,000."""
    load = long_sweep(5000)
    say(f"{load.finished:,} of {load.trials:,} trials finished, {load.minutes:.1f} min with MLflow in SQLite")
    say(f"a trial, records included: {load.early:.0f} ms at first, {load.late:.0f} ms at last")
    say(
        f"memory: {load.memory_early:.0f} MiB after 500 trials, {load.memory_late:.0f} MiB at most after that"
    )


def show_reuse(_: argparse.Namespace) -> None:
    """Print the time of a sweep of 5,000 trials of which 4,900 are recorded, beside that of training them."""
    times = reuse_times(5000, 4900)
    say(f"{times.known:,} trials trained: {times.trained:.0f} s, records and MLflow in SQLite included")
    say(f"{times.trials:,} trials, {times.known:,} of them reused: {times.reused:.0f} s, the same included")
    say(f"their index: {times.built:.2f} s to build, {times.looked:.3f} s to read and compare with folders")


def show_gpu(options: argparse.Namespace) -> None:
    """Print and save how fast stacks train on a GPU beside runs of torch.nn one after the other."""
    precisions = [Precision(name) for name in options.precision]
    sizes = options.hidden or ([10] if options.quick else [10, 32, 128, 512])
    models = [Model(name, size, LAYERS) for size in sizes for name in ("lstm", "gru")]
    configs = [configured(model, options.device, each) for model in models for each in precisions]
    print_gpu(options, configs, image_task(), [1, 16, 64, 512])


def show_pixels(options: argparse.Namespace) -> None:
    """Print and save how fast 16 seeds of pixel-by-pixel MNIST train beside one run of cuDNN."""
    options.device = "cuda" if options.device == "cpu" else options.device
    cases = [pixels(options.device, Precision(name)) for name in options.precision]
    print_gpu(options, [config for configs, _ in cases for config in configs], cases[0][1], [16])


def print_gpu(options: argparse.Namespace, configs: list[Config], task: Task, stacks: list[int]) -> None:
    """Measure stacks of each configuration, print each as it is measured, and save every round."""
    with refusals():
        check_cuda(options.device)
        for config in configs:
            check_precision(config)
    card = card_of(options.device)
    say(f"torch {torch.__version__}, {torch.cuda.get_device_name(options.device)}")
    say(f"| {' | '.join(GPU_HEADER)} |\n|{' --- |' * len(GPU_HEADER)}")
    lines: list[list[Any]] = []
    for row in gpu_rows(configs, task, options.stacks or stacks, 2 if options.quick else 5, card):
        if isinstance(row, str):
            say(row)
            continue
        say(f"| {' | '.join(row.cells)} |")
        lines += [
            [*row.cells[:5], number, *seconds, row.least]
            for number, seconds in enumerate(zip(row.stack, row.serial, strict=True))
        ]
    header = ["hidden_size", "model", "precision", "kernel", "stack", "round", "seconds", "cudnn", "bound"]
    write(options.out / "gpu.csv", header, lines)


def show_bound(options: argparse.Namespace) -> None:
    """Print what minibatches cost on a card at least, reckoned from counted operations and bytes."""
    card = CARDS[options.card]
    say(f"reckoned, not measured: {card.name}, {card.bandwidth / 1e12:.2f} TB/s, float32 "
        f"{card.float32 / 1e12:.1f} and TF32 {card.tf32 / 1e12:.0f} TFLOP/s by its data sheet")  # fmt: skip
    names = ["hidden size", "model", "stack", "GFLOP", "MB", *(f"{name}, ms" for name in PRECISIONS)]
    say(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    for size in options.hidden or [10, 32, 128, 512]:
        for name in ("lstm", "gru"):
            for K in options.stacks or [1, 16, 64, 512]:
                least = [bound(Load(Model(name, size, LAYERS), K), card, each) for each in PRECISIONS]
                counts = f"{least[0].operations / 1e9:,.1f} | {least[0].bytes / 1e6:,.0f}"
                figures = " | ".join(f"{1e3 * each.seconds:.3f}" for each in least)
                say(f"| {size} | {name} | {K} | {counts} | {figures} |")


def show_check(options: argparse.Namespace) -> None:
    """Check the generated kernels on a card, or in Triton's interpreter; exit code 1 if one fails."""
    device = "cuda" if options.device == "cpu" else options.device
    interpreted = options.interpreter or not cards.count()
    if interpreted:
        why = "" if options.interpreter else f"{cards.missing()}: "
        say(f"{why}Triton's interpreter runs a part of the checks on the CPU")
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is made
    else:
        with refusals():
            check_cuda(device)
        say(f"torch {torch.__version__}, Triton {cards.triton_version()}, {cards.card(device)}")
    if cards.triton_version() is None:
        raise SystemExit("error: Triton is not installed; the generated kernels need it")
    from rnnbench.bench.gpu_check import checks, gates_again, report, sample

    failed = report(sample("cpu") if interpreted else checks(device))
    for hidden_size in () if interpreted else (10, 32):
        kept, again = gates_again(hidden_size, device)
        say(f"256 lstm of {hidden_size} units, 28 steps: {kept:.3f} ms where gates are kept, {again:.3f} ms "
            f"where they are computed again: {again / kept:.2f} times")  # fmt: skip
    if failed:
        raise SystemExit(1)


PARTS = {"cells": show_cells, "data": show_data, "scan": show_scans, "records": show_records}
PARTS |= {"load": show_load, "traffic": show_traffic, "pixels": show_pixels, "gpu-bound": show_bound}
PARTS |= {"reuse": show_reuse, "delivery": show_delivery, "gpu-check": show_check}


def main() -> None:
    """Measure, print and save."""
    options = read_arguments()
    if options.part:
        return PARTS[options.part](options)
    if options.device != "cpu":
        return show_gpu(options)
    show_speed(options)
    if not (options.quick or options.hidden or options.stacks):
        show_costs()  # costs do not depend on models and sizes


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m rnnbench.bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=list(PARTS), help="only this: what every cell "
                        "costs, compiled and on the torch path; how fast each kind of data trains beside a "
                        "loop of torch.nn; what a scan over time saves; how long a table of 10,000 runs "
                        "takes; whether a sweep of 5,000 trials "
                        "stays as it began; how many sweepers the storages of searches carry; how fast 784 "
                        "steps of MNIST's pixels train on a GPU; what a minibatch costs on a GPU at least, "
                        "reckoned without one; whether the generated kernels are right on a GPU")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="hidden size 10, few rounds: under a minute")
    parser.add_argument("--hidden", type=int, nargs="+", help="hidden sizes instead of all")
    parser.add_argument("--stacks", type=int, nargs="+", help="stacks instead of all")
    parser.add_argument(
        "--cells", nargs="+", choices=list(CELLS), metavar="CELL", help="of cells: only these"
    )
    parser.add_argument("--data", nargs="+", choices=list(DATA), help="of data: only these kinds")
    parser.add_argument("--device", default="cpu", help="cuda: stacks on a GPU beside runs of torch.nn")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"], help="on a GPU")
    parser.add_argument("--card", choices=list(CARDS), default="h100", help="of gpu-bound")
    parser.add_argument("--interpreter", action="store_true", help="of gpu-check: a part of it on the CPU")
    parser.add_argument("--out", type=Path, default=Path("multirun/bench"), help="folder for .csv, .svg")
    parser.add_argument("--workers", type=int, default=32, help="of traffic: sweeper processes")
    parser.add_argument("--trials", type=int, default=2000, help="of traffic: of the study they share")
    return parser.parse_args()


def say_machine() -> None:
    """Print what figures are measured on."""
    sets = ", ".join(instruction_sets()) or "none"
    say(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {cores()} cores, "
        f"compiled kernels: {sets}; the machine's load shows in the spread")  # fmt: skip


def show_speed(options: argparse.Namespace) -> None:
    """Measure and save how fast stacks train beside the tutorial's loop."""
    quick = options.quick
    say_machine()
    say(f"matrix products: {products_per_second() / 1e9:,.0f} GFLOP/s")
    rows = []
    for hidden_size in options.hidden or ([10] if quick else [10, 32, 128]):
        for model in ("lstm", "gru"):
            rows += compare(model, hidden_size, options.stacks or [1, 16, 64], rounds=2 if quick else 3)
            say(f"  {model}, hidden size {hidden_size}: measured")
    show_table(table(rows))
    save(rows, options.out)
    say(f"saved: {os.path.relpath(options.out)}/speed.svg")


def show_costs() -> None:
    """Measure what a command, a trial of a sweep and a trial of a search cost beside their training."""
    torch_seconds, epoch_seconds = in_turn([import_torch, first_epoch], rounds=3)
    ratios = [a / b for a, b in zip(epoch_seconds, torch_seconds, strict=True)]
    say(
        f"command to first epoch on digits: {spread(epoch_seconds, 1)} s, `import torch` "
        f"{spread(torch_seconds, 1)} s, ratio {spread(ratios, 2)}"
    )
    say("a trial of a sweep of 500 beside its training, ms to its last record, and to the command's end:")
    for cost in launcher_cost(500, rounds=1):
        say(f"  {cost.what}: {spread(cost.recorded, 0)}; {spread(cost.ended, 0)}")
    ours, theirs = sweeper_cost(1000, rounds=40)
    beyond = [a - b for a, b in zip(ours, theirs, strict=True)]
    say(
        f"a trial of a search (TPE, journal file, 1,000 trials of history): {spread(ours, 1)} ms, "
        f"Optuna's own ask and tell {spread(theirs, 1)} ms, beyond them {spread(beyond, 1)} ms"
    )


if __name__ == "__main__":
    main()
