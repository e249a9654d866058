"""Downloading the files of a set, once, and putting them in place only when they are right.

Of images, torchvision.datasets says where each archive is published and its md5; we fetch it. (Its own
downloader waits without limit for a silent server, shows progress where there is no terminal, falls back
from https to http, and does not say what it found.)
"""

import gzip
import hashlib
import http.client
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import IO

from rnnbench.config import ConfigError
from rnnbench.tasks.files import LIST, Files, Stored, absent, listed, place

SILENCE = 10.0  # seconds without a byte after which a server counts as dead


class Failed(Exception):
    """An archive could not be had from one place; the message says why."""


def download(dataset: Files, data: Stored) -> None:
    """Fetch the files that are absent below data.root; of several processes that ask, one does.

    Raises:
        ConfigError: data.download is off; nothing or something else came; data.root cannot be written to.
    """
    from filelock import FileLock

    folder = place(dataset, data)
    if dataset.publisher is None:
        raise ConfigError(
            f"data={data.name}: {folder} lacks {', '.join(dataset.files)}; reinstall scikit-learn"
        )
    if not data.download:
        raise refusal(dataset, data, "data.download=false")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if absent(dataset, folder):  # else another process was quicker
                new = folder / ".download"
                shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
                new.mkdir()
                try:
                    fetch(dataset, data, new)
                finally:
                    shutil.rmtree(new)
    except OSError as error:
        raise ConfigError(
            f"data.root={data.root}: has no {data.name}, and it cannot be put there ({error}); use a folder "
            "that can be written to, or one that has the data"
        ) from None


def fetch(dataset: Files, data: Stored, new: Path) -> None:
    """Fetch, check and unpack into the folder `new` what is absent, then move it in place."""
    folder = place(dataset, data)
    names = set(absent(dataset, folder))
    archives = [archive for archive, files in dataset.archives().items() if names & set(files)]
    if data.source is not None and data.sha256.keys() >= set(archives):
        published = dict.fromkeys(archives, ([""], ""))  # nothing that torchvision would have to say
    else:
        published = publication(dataset)
    for archive in archives:
        mirrors, md5 = published[archive]
        if data.source is not None:
            mirrors = [data.source.rstrip("/") + "/"]
        known = dataset.sha256 | data.sha256  # of a file that is published as it is
        kind, digest = ("sha256", known[archive]) if archive in known else ("md5", md5)
        failures = []
        for mirror in mirrors:
            try:
                receive(mirror + archive, new / archive, kind, digest)
                unpack(new / archive, names & set(dataset.archives()[archive]))
                break
            except Failed as failure:
                failures.append(f"{mirror}{archive} {failure}")
        else:
            raise refusal(dataset, data, "; ".join(failures))
        if archive not in names:
            (new / archive).unlink()

    came = {}
    wanted = dataset.sha256 | data.sha256
    for name in sorted(names):
        content = (new / name).read_bytes()
        came[name] = digest = hashlib.sha256(content).hexdigest()
        if digest != wanted.get(name, digest):
            raise refusal(dataset, data, f"the {name} that came has sha256 {digest}, not {wanted[name]}")
        size = dataset.files[name] or len(content)
        if len(content) != size:
            raise refusal(dataset, data, f"the {name} that came has {len(content):,} bytes, not {size:,}")
    # The list first: a file never stands there without its digest.
    lines = [f"{digest}  {name}\n" for name, digest in sorted((listed(folder) | came).items())]
    (new / LIST).write_text("".join(lines))
    for name in (LIST, *came):
        (new / name).replace(folder / name)


def publication(dataset: Files) -> dict[str, tuple[list[str], str]]:
    """Archive name: the addresses it is published under (the name left off), and its md5.

    Raises:
        ConfigError: torchvision and torch do not match.
    """
    if dataset.address:
        return {archive: ([dataset.address], "") for archive in dataset.archives()}
    try:
        from torchvision import datasets
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        raise ConfigError(
            "torchvision, which knows where data is published, was built for another torch than the one "
            "installed (operator torchvision::nms does not exist); install both from one place: "
            "pip install --force-reinstall torch torchvision"
        ) from None
    assert dataset.publisher is not None
    publisher = getattr(datasets, dataset.publisher)
    match dataset.publisher:
        case "CIFAR10":
            resources = [(publisher.url, publisher.tgz_md5)]
        case "EMNIST":
            resources = [(publisher.url, publisher.md5)]
        case "QMNIST":
            resources = [*publisher.resources["train"], *publisher.resources["test"]]
        case _:
            return {archive: (publisher.mirrors, md5) for archive, md5 in publisher.resources}
    split = [(*url.rpartition("/"), md5) for url, md5 in resources]
    return {archive: ([base + "/"], md5) for base, _, archive, md5 in split}


def receive(url: str, path: Path, kind: str, wanted: str) -> None:
    """Download one archive to `path`, showing progress on a terminal.

    Raises:
        Failed: there is no answer, a refusal, or other bytes than those with this md5 or sha256 (`kind`).
    """
    from rich.console import Console
    from rich.progress import wrap_file

    print(f"downloading {url}", file=sys.stderr)
    console = Console(stderr=True)
    request = urllib.request.Request(url, headers={"User-Agent": "rnnbench"})
    try:
        with urllib.request.urlopen(request, timeout=SILENCE) as response, path.open("wb") as file:
            length = int(response.headers.get("Content-Length", 0))
            disable = not console.is_terminal
            with wrap_file(
                response, length, description="", console=console, transient=True, disable=disable
            ) as reader:
                shutil.copyfileobj(reader, file)
    except urllib.error.HTTPError as error:
        raise Failed(f"answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise Failed(f"cannot be reached: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"broke off: {error!r}") from None
    size = path.stat().st_size
    if size < length:
        raise Failed(f"broke off after {size:,} of {length:,} bytes")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != wanted:
        raise Failed(f"has {size:,} bytes of {kind} {found} where {wanted} is expected")


def unpack(archive: Path, names: set[str]) -> None:
    """Write those of the files `names` that an archive holds beside it; nothing else in it is touched.

    Raises:
        Failed: it is damaged, or lacks a file.
    """
    if archive.name in names:  # published as it is
        return
    try:
        if archive.suffix == ".zip":  # EMNIST: gzip/NAME.gz
            with zipfile.ZipFile(archive) as packed:
                for name in names:
                    with packed.open(f"gzip/{name}.gz") as member:
                        gunzip(member, archive.with_name(name))
        elif archive.suffixes[-2:] == [".tar", ".gz"]:  # CIFAR-10: cifar-10-batches-py/NAME
            with tarfile.open(archive) as tape:
                for name in names:
                    batch = tape.extractfile(f"cifar-10-batches-py/{name}")
                    if batch is None:
                        raise KeyError(f"{name} is not a file")
                    with batch, archive.with_name(name).open("wb") as file:
                        shutil.copyfileobj(batch, file)
        else:
            with archive.open("rb") as stream:
                gunzip(stream, archive.with_suffix(""))
    except (KeyError, EOFError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        raise Failed(f"cannot be unpacked: {error}") from None


def gunzip(packed: IO[bytes], path: Path) -> None:
    """Write what a gzip stream holds."""
    with gzip.open(packed) as reader, path.open("wb") as file:
        shutil.copyfileobj(reader, file)


def refusal(dataset: Files, data: Stored, why: str) -> ConfigError:
    """What to say when files are absent and cannot be had: what was sought where, and what would do."""
    folder = place(dataset, data)
    return ConfigError(
        f"data.root={data.root}: {folder} lacks {', '.join(absent(dataset, folder))}, and they were not "
        f"downloaded: {why}. Without a network: copy these files there, "
        f"or set data.root or RNNBENCH_DATA to a folder that has {dataset.folder}, or use data=digits, "
        "which needs no download"
    )
