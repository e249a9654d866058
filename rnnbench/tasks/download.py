"""Downloads the files of a data set once, and moves them into place only when their digests are right.

For images, torchvision.datasets has each archive's address and md5. Its downloader is not used: it waits
without limit for a server that sends nothing, shows progress without a terminal, falls back from https to
http, and does not say what it received.
"""

import gzip
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from rnnbench.config import ConfigError
from rnnbench.tasks.files import LIST, Files, Stored, absent, listed, place
from rnnbench.tasks.task import terminal

SILENCE = 10.0  # seconds without a byte after which a download fails
LARGEST = 4 << 30  # bytes: more than any known archive or file has
# The one address of torchvision without https, and the authors' own address, which has https.
ELSEWHERE = {
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
    )
}


class Failed(Exception):
    """An archive could not be downloaded from one address; the message says why."""


class SameSecurity(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to another scheme."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("https://", f"{req.type}://")):
            raise Failed(f"leads from {req.type} to {newurl.partition(':')[0]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


OPENER = urllib.request.build_opener(SameSecurity)


def download(dataset: Files, data: Stored) -> None:
    """Download the files that are missing below data.root; of several processes only one does, under a lock.

    Raises:
        ConfigError: data.download is off, the download fails or has other bytes, or data.root is read-only.
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
            if absent(dataset, folder):  # another process may have downloaded them meanwhile
                new = folder / ".download"
                shutil.rmtree(new, ignore_errors=True)  # left by a process that was killed
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
    """Download, check and unpack missing files into the folder `new`, then move them into place."""
    folder = place(dataset, data)
    names = set(absent(dataset, folder))
    archives = [archive for archive, files in dataset.archives().items() if names & set(files)]
    if data.source is not None and data.sha256.keys() >= set(archives):
        published = dict.fromkeys(archives, ([""], ""))  # the address is known without torchvision
    else:
        published = publication(dataset)
    for archive in archives:
        mirrors, md5 = published[archive]
        if data.source is not None:
            mirrors = [data.source.rstrip("/") + "/"]
        known = dataset.sha256 | data.sha256  # digests of files that are published unpacked
        kind, digest = ("sha256", known[archive]) if archive in known else ("md5", md5)
        failures = []
        for mirror in mirrors:
            try:
                receive(mirror + archive, new / archive, kind, digest)
                inside = names & set(dataset.archives()[archive])
                unpack(new / archive, {name: dataset.files[name] for name in inside})
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
    # The list is moved first, so that no file ever lacks its digest.
    lines = [f"{digest}  {name}\n" for name, digest in sorted((listed(folder) | came).items())]
    (new / LIST).write_text("".join(lines), encoding="utf-8")
    for name in (LIST, *came):
        (new / name).replace(folder / name)


def publication(dataset: Files) -> dict[str, tuple[list[str], str]]:
    """Return, by archive name, the addresses where it is published (https, without the name) and its md5.

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
            mirrors = [secure(address) for address in publisher.mirrors]
            return {archive: (mirrors, md5) for archive, md5 in publisher.resources}
    split = [(*url.rpartition("/"), md5) for url, md5 in resources]
    return {archive: ([base + "/"], md5) for base, _, archive, md5 in split}


def secure(address: str) -> str:
    """Return the address with https; torchvision names some with http."""
    return ELSEWHERE.get(address, address.replace("http://", "https://", 1))


def receive(url: str, path: Path, kind: str, wanted: str) -> None:
    """Download one archive to `path`, showing progress on a terminal.

    Raises:
        Failed: the server does not answer or refuses, or the md5 or sha256 (`kind`) is not `wanted`.
    """
    from rich.progress import wrap_file  # imported late, since most runs download nothing

    screen = terminal()
    plain = f" (not https: taken only if its {kind} is {wanted})" if url.startswith("http://") else ""
    screen.complain(f"downloading {url}{plain}")
    request = urllib.request.Request(url, headers={"User-Agent": "rnnbench"})
    try:
        with OPENER.open(request, timeout=SILENCE) as response, path.open("wb") as file:
            length = int(response.headers.get("Content-Length", 0))
            disable = not screen.err.is_terminal
            with wrap_file(
                response, length, description="", console=screen.err, transient=True, disable=disable
            ) as reader:
                copy(reader, file, LARGEST)
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


def unpack(archive: Path, sizes: dict[str, int | None]) -> None:
    """Write the files that `sizes` names (None: size not known) beside their archive, and nothing else of it.

    Raises:
        Failed: the archive is damaged, lacks a file, or holds a file that is larger than it should be.
    """
    if archive.name in sizes:  # a file that is published unpacked
        return
    try:
        if archive.suffix == ".zip":  # EMNIST: gzip/NAME.gz
            with zipfile.ZipFile(archive) as packed:
                for name, size in sizes.items():
                    with packed.open(f"gzip/{name}.gz") as member:
                        gunzip(member, archive.with_name(name), size)
        elif archive.suffixes[-2:] == [".tar", ".gz"]:  # CIFAR-10: cifar-10-batches-py/NAME
            with tarfile.open(archive) as tape:
                for name, size in sizes.items():
                    batch = tape.extractfile(f"cifar-10-batches-py/{name}")
                    if batch is None:
                        raise KeyError(f"{name} is not a file")
                    with batch, archive.with_name(name).open("wb") as file:
                        copy(batch, file, size)
        else:
            with archive.open("rb") as stream:
                gunzip(stream, archive.with_suffix(""), sizes.get(archive.stem))
    except (KeyError, EOFError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        raise Failed(f"cannot be unpacked: {error}") from None


def gunzip(packed: IO[bytes], path: Path, size: int | None) -> None:
    """Decompress a gzip stream into a file, of at most `size` bytes; raise as `copy` does."""
    with gzip.open(packed) as reader, path.open("wb") as file:
        copy(reader, file, size)


def copy(reader: Any, file: IO[bytes], size: int | None) -> None:
    """Copy at most `size` bytes from a reader.

    Raises:
        Failed: there are more bytes; a small archive can unpack to more than a disk holds.
    """
    left = LARGEST if size is None else size
    while chunk := reader.read(1 << 20):
        left -= len(chunk)
        if left < 0:
            raise Failed(
                f"holds more than {LARGEST if size is None else size:,} bytes in {Path(file.name).name}"
            )
        file.write(chunk)


def refusal(dataset: Files, data: Stored, why: str) -> ConfigError:
    """Make the error for missing files that cannot be downloaded, with the place where they may be put."""
    folder = place(dataset, data)
    return ConfigError(
        f"data.root={data.root}: {folder} lacks {', '.join(absent(dataset, folder))}, and they were not "
        f"downloaded: {why}. Without a network: copy these files there, "
        f"or set data.root or RNNBENCH_DATA to a folder that has {dataset.folder}, or use data=digits, "
        "which needs no download"
    )
