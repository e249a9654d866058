"""Small image sets in the published layouts, and a server that has them: for the tests of data."""

import dataclasses
import gzip
import hashlib
import io
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rnnbench.tasks import sequences
from rnnbench.tasks.images import DATASETS, Dataset

HERE = Path(__file__).parent
PUBLISHED = [name for name, dataset in DATASETS.items() if dataset.publisher]
ORIGINAL = dict(DATASETS)
TRAIN, TEST = 20, 10


# Small sets in the published layouts


def idx(array: np.ndarray) -> bytes:
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def made_up(name: str) -> dict[str, bytes]:
    """Contents of the files of a set with TRAIN and TEST examples of random pixels."""
    rng = np.random.RandomState(1)
    files = {}
    for i, file in enumerate(ORIGINAL[name].files):
        if name == "cifar10":
            count = TEST if file == "test_batch" else TRAIN // 5
            batch = {
                "batch_label": file,
                "labels": rng.randint(0, 10, count).tolist(),
                "data": rng.randint(0, 256, (count, 3072)).astype(np.uint8),
                "filenames": [f"{n}.png" for n in range(count)],
            }
            files[file] = pickle.dumps(batch, protocol=2)
            continue
        count = TRAIN if i < 2 else TEST
        if "images" in file:
            files[file] = idx(rng.randint(0, 256, (count, 28, 28)).astype(np.uint8))
        elif name == "qmnist":
            files[file] = idx(rng.randint(0, 10, (count, 8)).astype(np.int32))
        else:
            files[file] = idx(rng.randint(0, 10, count).astype(np.uint8))
    return files


def shrunk(name: str) -> Dataset:
    """The set with the made-up files' sizes in place of the published ones."""
    files = {file: len(content) for file, content in made_up(name).items()}
    return dataclasses.replace(ORIGINAL[name], train=TRAIN, test=TEST, files=files, sha256={})


def pack(name: str, folder: Path) -> dict[str, str]:
    """Write the made-up files as archives in the published layout; gives the archives' sha256."""
    files, dataset = made_up(name), ORIGINAL[name]
    if name == "emnist":
        with zipfile.ZipFile(folder / "gzip.zip", "w") as packed:
            packed.writestr("gzip/emnist-balanced-mapping.txt", "0 48")
            for file, content in files.items():
                packed.writestr(f"gzip/{file}.gz", gzip.compress(content))
    elif name == "cifar10":
        with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tape:
            for file, content in {**files, "readme.html": b"<html>"}.items():
                member = tarfile.TarInfo(f"cifar-10-batches-py/{file}")
                member.size = len(content)
                tape.addfile(member, io.BytesIO(content))
    else:
        for file, content in files.items():
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
    return {a: hashlib.sha256((folder / a).read_bytes()).hexdigest() for a in dataset.archives()}


def unpack(name: str, root: Path) -> Path:
    """Write the made-up files where torchvision would have them; gives the folder."""
    folder = root / ORIGINAL[name].folder
    folder.mkdir(parents=True)
    for file, content in made_up(name).items():
        (folder / file).write_bytes(content)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All published sets shrink to TRAIN and TEST examples; nothing is remembered from other tests."""
    for name in PUBLISHED:
        monkeypatch.setitem(DATASETS, name, shrunk(name))
    sequences.examples.cache_clear()


class Server(ThreadingHTTPServer):
    """Serves `folder` on a port of its own; counts what it is asked; `cut` sends half of each file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.cut = folder, list[str](), False
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if self.server.cut else content)

    def log_message(self, format: str, *args) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def leftovers(root: Path) -> list[str]:
    """All files below root but the lock."""
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.name != ".lock")
