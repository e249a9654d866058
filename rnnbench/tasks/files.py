"""Finds the files of a data set below data.root, and checks every byte of them before use.

A file's sha256 comes from the first of these that has it: `data.sha256`; this package (MNIST, digits); the
list rnnbench.sha256 beside the files, written when they were downloaded. For the other sets, the first
download is checked only by torchvision's md5 of the archive, and the list keeps the digests received, so
that later changes are found. Files without a known digest, which a user has copied there, are checked for
size and format, and the record names them as unverified.
"""

import gzip
import hashlib
import importlib.util
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from rnnbench.config import ConfigError, Data

LIST = "rnnbench.sha256"  # lines of `digest  name`, as sha256sum writes and checks them


@dataclass
class Stored(Data):
    """Settings of a task whose examples are read from published files below data.root."""

    root: str = "${oc.env:RNNBENCH_DATA,./data}"
    download: bool = True
    source: Optional[str] = None  # a base URL in place of the published ones
    sha256: dict[str, str] = field(default_factory=dict)  # file name: digest, in place of ours


@dataclass(frozen=True, kw_only=True)
class Files:
    """Describes published files, with the facts that are known before any of them is read."""

    source: str  # description and authors, for the record
    # The class of torchvision.datasets that has the addresses, or the address of files that are published
    # unpacked; None: the files are in scikit-learn.
    publisher: str | None
    folder: str  # the files' folder below data.root, as torchvision has it
    files: dict[str, int | None]  # file name: unpacked size in bytes; None: not known
    archive: str | None = None  # the archive of all files; None: each is published as its own .gz
    sha256: dict[str, str] = field(default_factory=dict)  # known digests of unpacked files

    @property
    def address(self) -> str | None:
        """Address of the folder where the files are published unpacked; None if they are in archives."""
        return self.publisher if self.publisher and self.publisher.startswith("https://") else None

    def archives(self) -> dict[str, list[str]]:
        """Return the names of the files in each published archive, by archive name."""
        if self.address:
            return {name: [name] for name in self.files}
        return {self.archive: list(self.files)} if self.archive else {f"{n}.gz": [n] for n in self.files}


def place(dataset: Files, data: Stored) -> Path:
    """Return the folder of the files, which need not exist.

    Raises:
        ConfigError: scikit-learn, which carries the digits, is not installed.
    """
    if dataset.publisher is not None:
        return Path(data.root).expanduser() / dataset.folder
    package = importlib.util.find_spec("sklearn")  # importing it would take seconds
    if package is None or package.origin is None:
        raise ConfigError(f"data={data.name}: is read from scikit-learn; pip install scikit-learn")
    return Path(package.origin).parent / dataset.folder


def found_at(folder: Path, name: str) -> Path:
    """Return the path of the file if it exists, else the path with .gz."""
    return folder / name if os.path.isfile(folder / name) else folder / f"{name}.gz"


def absent(dataset: Files, folder: Path) -> list[str]:
    """Return the names of the files that exist neither unpacked nor as .gz."""
    return [name for name in dataset.files if not os.path.isfile(found_at(folder, name))]


def listed(folder: Path) -> dict[str, str]:
    """Return digests by file name, from the list beside the files; {} if there is none."""
    path = folder / LIST
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return {
        name: digest for digest, name in (line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
    }


def contents(dataset: Files, data: Stored) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the contents of the files by name, in the order of `dataset.files`, and facts for the record.

    Raises:
        ConfigError: a file cannot be read, or has the wrong size or digest.
    """
    folder = place(dataset, data)
    known = listed(folder) | dataset.sha256 | data.sha256
    found: dict[str, bytes] = {}
    facts: dict[str, str] = {}
    for name, size in dataset.files.items():
        content = unpacked(dataset, data, found_at(folder, name))
        digest = hashlib.sha256(content).hexdigest()
        wrong = []
        if size is not None and len(content) != size:
            wrong.append(f"has {len(content):,} bytes where {size:,} are expected")
        if digest != known.get(name, digest):
            by = " by data.sha256" if name in data.sha256 else ""
            wrong.append(f"has sha256 {digest} where {known[name]} is expected{by}")
        if wrong:
            raise damaged(dataset, data, found_at(folder, name), " and ".join(wrong))
        found[name] = content
        facts[f"sha256 {name}"] = digest
    if unverified := [name for name in dataset.files if name not in known]:
        facts["unverified"] = ", ".join(unverified)
    return found, facts


def unpacked(dataset: Files, data: Stored, path: Path) -> bytes:
    """Return the bytes of a file, decompressed if it is a .gz."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"data.root={data.root}: {path} cannot be read: {error.strerror}") from None
    try:
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(dataset, data, path, f"cannot be unpacked ({error})") from None


def damaged(dataset: Files, data: Stored, path: Path, what: str) -> ConfigError:
    """Make the error for a file with wrong contents."""
    if dataset.publisher is None:
        return ConfigError(f"data={data.name}: {path} {what}; reinstall scikit-learn")
    return ConfigError(f"data.root={data.root}: {path} {what}; delete it and run again to download it anew")
