"""Draws pictures of a job for MLflow, without a display: learning curves, confusion matrix."""

from pathlib import Path

from rnnbench.record.job_folder import read_classes, read_confusion, read_lengths, read_metrics, read_result
from rnnbench.system.plain_text import drawn


def curves(job: Path, file: Path) -> Path:
    """Draw loss and the task's metric over epochs, one line a split, as a PNG."""
    from matplotlib.figure import Figure

    rows, result = read_metrics(job), read_result(job)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(drawn(result["name"], 90), parse_math=False)
    metric = result["params"].get("data.metric", "accuracy")
    for axes, what in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for split in ("train", "val", "test"):
            name = f"{split}/{what}"
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 30 else None)
        axes.set(xlabel="epoch", ylabel=what)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(file, dpi=120)
    return file


def by_length(job: Path, file: Path) -> Path:
    """Draw the test accuracy by length from by_length.csv, and the greatest length of training, as a PNG.

    Each length has few examples, so the line is the mean over 20 bands of lengths; each dot is one length.
    """
    from matplotlib.figure import Figure

    points = read_lengths(job)
    result = read_result(job)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), ".", ms=2, alpha=0.3, color="tab:gray")
    width = -(-len(points) // 20)
    bands = [points[start : start + width] for start in range(0, len(points), width)]
    means = [[sum(column) / len(band) for column in zip(*band, strict=True)] for band in bands]
    axes.plot(*zip(*means, strict=True), marker="o", ms=3)
    if longest := result["params"].get("data.longest"):
        axes.axvline(longest, color="black", lw=1, ls=":")
    axes.set(xlabel="length", ylabel="test accuracy", ylim=(-0.02, 1.02))
    axes.set_title(drawn(result["name"], 70), parse_math=False)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    return file


def confusion(job: Path, file: Path) -> Path:
    """Draw the confusion matrix of confusion.csv, counts (true class, predicted class), as a PNG."""
    from matplotlib.figure import Figure

    counts = read_confusion(job)
    size = len(counts)
    figure = Figure(figsize=(max(4.0, 0.45 * size), max(4.0, 0.45 * size)), layout="constrained")
    axes = figure.subplots()
    # The colour is the share of the row, so that rare classes are visible too; the cells show the counts.
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true, row in enumerate(counts):
        for predicted, count in enumerate(row):
            if count:
                colour = "white" if shares[true][predicted] > 0.5 else "black"
                axes.text(predicted, true, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(drawn(read_result(job)["name"], 40, 4), parse_math=False, fontsize=9)
    names = [drawn(name, 20, 1) for name in read_classes(job)]
    upright = max(map(len, names)) > 3
    axes.set_xticks(range(size), names, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(range(size), names, parse_math=False)
    figure.savefig(file, dpi=120)
    return file
