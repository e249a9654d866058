"""Reads the limits that a container, a batch system or systemd sets: control groups of versions 1 and 2.

psutil reports the machine without these limits. A limit may be set in the process's own group or in any group
above it, and the tightest one holds. A file that is missing or cannot be read sets no limit.

Every function takes the root of the file tree that it reads.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
ESCAPE = re.compile(r"\\([0-7]{3})")  # a space in mountinfo is \040


def memory(root: Path = ROOT) -> list[int]:
    """Return the bytes that each limit on memory leaves: its size, less what is used and cannot be freed."""
    left = []
    for version, group in groups("memory", root):
        names = ("memory.max", "memory.current") if version == 2 else (
            "memory.limit_in_bytes", "memory.usage_in_bytes")  # fmt: skip
        limit, used = (_number(group / name) for name in names)
        if limit is not None:
            file_pages = "inactive_file" if version == 2 else "total_inactive_file"
            cached = re.search(rf"^{file_pages} (\d+)", _read(group / "memory.stat"), re.MULTILINE)
            left.append(max(0, limit - max(0, (used or 0) - (int(cached[1]) if cached else 0))))
    return left


def cores(root: Path = ROOT) -> int:
    """Return how many cores this process may use: its affinity, or the tightest quota, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for version, group in groups("cpu", root):
        if version == 2:
            quota, period = (*_read(group / "cpu.max").split(), "", "")[:2]
        else:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0:
            allowed = min(allowed, max(1, -(-int(quota) // int(period))))
    return allowed


def groups(controller: str, root: Path = ROOT) -> Iterator[tuple[int, Path]]:
    """Find the control groups of this process, each with its version: its own, then those above it.

    Looks at all hierarchies that may have the controller.
    """
    paths = list(_own_paths(controller, root))
    for version, inner, mount in _mounts(controller, root):
        for kind, path in paths:
            if kind != version:
                continue
            # The mount shows only the part below `inner`, and a namespace may show the group as /../x.
            below = PurePosixPath(path)
            try:
                below = below.relative_to(inner)
            except ValueError:
                below = PurePosixPath() if inner != "/" else PurePosixPath(*below.parts[1:])
            parts = [part for part in below.parts if part != ".."]
            if len(parts) != len(below.parts):  # the group is outside of the mount: only the top is visible
                parts = []
            for depth in range(len(parts), -1, -1):
                yield version, root / mount.lstrip("/") / Path(*parts[:depth])


def _own_paths(controller: str, root: Path) -> Iterator[tuple[int, str]]:
    """Read version and path of this process's groups from /proc/self/cgroup."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            yield 2, path
        elif controller in names.split(","):
            yield 1, path


def _mounts(controller: str, root: Path) -> Iterator[tuple[int, str, str]]:
    """Read version, inner path and place of the mounted hierarchies; if none is listed, the usual places."""
    found = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if len(words) < 5 or len(kind) < 3:
            continue
        inner, mount = (ESCAPE.sub(lambda code: chr(int(code[1], 8)), word) for word in words[3:5])
        if kind[0] == "cgroup2":
            found.append((2, inner, mount))
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            found.append((1, inner, mount))
    usual = [(2, "/", "/sys/fs/cgroup"), (1, "/", f"/sys/fs/cgroup/{controller}")]
    yield from found or usual


def _number(file: Path) -> int | None:
    text = _read(file).strip()
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
