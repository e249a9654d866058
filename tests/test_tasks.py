"""Laws of the data: splits, orders, checksums; every byte is checked; downloads happen once and whole."""

import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnbench.config import ConfigError, Fill, Images, Order
from rnnbench.tasks import load, sequences, shape
from rnnbench.tasks.images import DATASETS, Dataset, read_idx

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


# Splits and orders


@given(
    val=st.none() | st.integers(0, 1436),
    train=st.none() | st.integers(1, 1437),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_disjoint_and_cover(val: int | None, train: int | None, seed: int) -> None:
    data = Images("digits", val_size=val, train_size=train, split_seed=seed)
    room = 1437 - (240 if val is None else val)
    if train is not None and train > room:
        with pytest.raises(ConfigError, match=f"data.train_size={train}.*at most {room}"):
            shape(data)
        return
    splits = load(data).splits
    every = np.concatenate(list(splits.values()))
    assert len(set(every)) == len(every)
    assert set(every) <= set(range(1797))
    assert {name: len(index) for name, index in splits.items()} == {
        "train": room if train is None else train,
        "val": 1437 - room,
        "test": 360,
    }
    sizes = shape(data)
    assert (sizes.train, sizes.val, sizes.test) == tuple(len(splits[k]) for k in ("train", "val", "test"))
    whole = load(dataclasses.replace(data, train_size=None)).splits
    assert (whole["train"][: len(splits["train"])] == splits["train"]).all()
    assert (whole["val"] == splits["val"]).all()


@pytest.mark.parametrize("fill", [None, Fill.noise])
def test_steps_after_the_image(fill):
    plain, later = load(Images("digits")), load(Images("digits", delay=5, fill=fill))
    assert np.array_equal(later.inputs[:, :8], plain.inputs)
    after = later.inputs[:, 8:]
    assert after.shape == (1797, 5, 8)
    assert after.max() == (16 if fill is Fill.noise else 0)
    assert shape(Images("digits", delay=5)).steps == 13
    assert later.checksum == plain.checksum  # of the images; the delay is in the trial's configuration


def test_the_split_seed_moves_validation_and_never_test() -> None:
    first, second = (load(Images("digits", split_seed=seed)).splits for seed in (0, 1))
    assert set(first["val"]) != set(second["val"])
    assert (first["test"] == second["test"]).all()


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("name", DATASETS)
def test_shape_agrees_with_what_is_loaded(name: str, order: Order, tmp_path: Path, small: None) -> None:
    if name != "digits":
        unpack(name, tmp_path)
    data = Images(name, root=str(tmp_path), order=order, download=False)
    task, sizes = load(data), shape(data)
    assert task.inputs.shape == (sizes.train + sizes.val + sizes.test, sizes.steps, sizes.input_size)
    assert task.inputs.dtype == np.uint8 and task.inputs.flags.c_contiguous
    assert task.targets.shape == task.inputs.shape[:1] and task.targets.dtype == np.int64
    assert task.outputs == sizes.outputs > task.targets.max()
    assert 0.9 < task.inputs.max() * task.scale <= 1
    assert load(data).inputs is task.inputs  # hundreds of trials share one copy


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_orders_are_views_of_the_same_images(name: str, tmp_path: Path, small: None) -> None:
    if name != "digits":
        unpack(name, tmp_path)
    tasks_by = {order: load(Images(name, root=str(tmp_path), order=order)) for order in Order}
    height, width, channels = DATASETS[name].size
    images = {o: t.inputs.reshape(-1, height, width, channels) for o, t in tasks_by.items()}
    rows = images[Order.rows]
    assert (images[Order.pixels] == rows).all()
    columns = tasks_by[Order.columns].inputs.reshape(-1, width, height, channels)
    assert (columns == rows.transpose(0, 2, 1, 3)).all()
    # One bijection of the steps, the same for every example.
    moved = sequences.permutation(DATASETS[name])
    assert sorted(moved) == list(range(height * width))
    back = np.argsort(moved)
    assert (tasks_by[Order.permuted].inputs[:, back] == tasks_by[Order.pixels].inputs).all()
    assert (moved != np.arange(height * width)).any()
    assert len({task.checksum for task in tasks_by.values()}) == 1


def test_the_permutation_is_the_same_for_ever() -> None:
    digest = load(Images("digits", order=Order.permuted)).details["permutation"]
    assert digest == "d282de6dfcc9d9fafa19369241d05bc12c9fce798ee820c11692e78f9e8e73f7"
    moved = sequences.permutation(DATASETS["mnist"]).astype("<i8").tobytes()
    expected = "fe62e3fef305ce16e55f08cd0056a8b237e12af6c9523ff3fb35395f6ec55222"
    assert hashlib.sha256(moved).hexdigest() == expected


def test_the_digits_are_the_known_ones() -> None:
    task = load(Images("digits"))
    assert task.inputs.max() == 16
    # The test examples, and with them every number ever reported on them, stay.
    assert np.bincount(task.targets[task.splits["test"]]).sum() == 360
    assert task.checksum == load(Images("digits", split_seed=3, train_size=5)).checksum
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = sorted((*x.ravel().tolist(), y) for x, y in zip(task.inputs, task.targets.tolist(), strict=True))
    assert ours == sorted((*map(int, x), int(y)) for x, y in zip(theirs.data, theirs.target, strict=True))


def test_nothing_slow_is_imported_to_read_the_digits() -> None:
    script = (
        "import sys; from rnnbench import tasks, config; tasks.load(config.Images('digits'));"
        "print(*({'torch', 'torchvision', 'sklearn', 'pandas', 'scipy', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE.parent, capture_output=True, text=True)
    assert done.stdout.split() == [] and done.returncode == 0, done.stderr


# The real MNIST


def test_real_mnist(mnist_root: Path) -> None:
    task = load(Images("mnist", root=str(mnist_root), val_size=0, download=False))
    assert task.targets[0] == 5
    assert 33.3 < task.inputs[:60_000].mean() < 33.4
    assert [len(task.splits[name]) for name in ("train", "val", "test")] == [60_000, 0, 10_000]
    assert "unverified" not in task.details


def test_real_mnist_downloaded(mnist_root: Path, server: Server, tmp_path: Path) -> None:
    digests = {}
    for name in DATASETS["mnist"].files:
        content = gzip.compress((mnist_root / "MNIST/raw" / name).read_bytes(), compresslevel=1)
        (server.folder / f"{name}.gz").write_bytes(content)
        digests[f"{name}.gz"] = hashlib.sha256(content).hexdigest()
    task = load(Images("mnist", root=str(tmp_path / "new"), source=server.url, sha256=digests))
    there = load(Images("mnist", root=str(mnist_root), download=False))
    assert task.checksum == there.checksum
    assert task.details == there.details


def test_damage_to_mnist_is_found_by_our_own_digests(mnist_root: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in DATASETS["mnist"].files:
        (raw / name).symlink_to(mnist_root / "MNIST/raw" / name)
    labels = (raw / "t10k-labels-idx1-ubyte").read_bytes()
    (raw / "t10k-labels-idx1-ubyte").unlink()
    (raw / "t10k-labels-idx1-ubyte").write_bytes(labels[:-1] + b"\1")
    with pytest.raises(ConfigError, match=r"t10k-labels-idx1-ubyte has sha256 .* where ff7bcfd4.* delete it"):
        load(Images("mnist", root=str(tmp_path)))


# Downloads


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_download_is_checked_listed_and_not_repeated(
    name: str, server: Server, tmp_path: Path, small: None
) -> None:
    root = tmp_path / "new" / "data"
    digests = pack(name, server.folder)
    data = Images(name, root=str(root), source=server.url.rstrip("/"), sha256=digests)
    task = load(data)
    assert sorted(server.asked) == sorted(f"/{archive}" for archive in digests)
    assert leftovers(root) == sorted([*DATASETS[name].files, "rnnbench.sha256"])
    assert "unverified" not in task.details

    # Later neither network nor the digests of the archives are needed,
    sequences.examples.cache_clear()
    offline = Images(name, root=str(root), download=False)
    assert load(offline).checksum == task.checksum
    # a file that was removed comes back alone (as far as it is published alone),
    folder = root / DATASETS[name].folder
    removed = list(DATASETS[name].files)[-1]
    (folder / removed).unlink()
    sequences.examples.cache_clear()
    assert load(data).checksum == task.checksum
    assert len(server.asked) == len(digests) + 1
    # and any change is found.
    content = bytearray((folder / removed).read_bytes())
    content[-1] ^= 1
    (folder / removed).write_bytes(content)
    sequences.examples.cache_clear()
    with pytest.raises(ConfigError, match=f"{removed} has sha256 .* is expected; delete it and run again"):
        load(offline)


def test_what_was_decoded_is_what_was_published(tmp_path: Path, small: None) -> None:
    for name in PUBLISHED:
        unpack(name, tmp_path)
        task = load(Images(name, root=str(tmp_path), download=False))
        files = made_up(name)
        if name == "cifar10":
            batch = pickle.loads(files["data_batch_2"])
            red = task.inputs[4].reshape(32, 32, 3)[..., 0]
            assert (red.ravel() == batch["data"][0][:1024]).all()
            assert task.targets[4] == batch["labels"][0]
            continue
        images, labels, test_images, test_labels = map(read_idx, files.values())
        if name == "emnist":
            images, test_images = images.swapaxes(1, 2), test_images.swapaxes(1, 2)
        if name == "qmnist":
            labels, test_labels = labels[:, 0], test_labels[:, 0]
        assert (task.inputs == np.concatenate([images, test_images])).all()
        assert (task.targets == np.concatenate([labels, test_labels])).all()
        assert task.details["unverified"] == ", ".join(files)  # copied in, and no digest is known


def test_torchvision_knows_every_archive() -> None:
    from rnnbench.tasks.download import publication

    for name in PUBLISHED:
        published = publication(DATASETS[name])
        assert published.keys() == DATASETS[name].archives().keys()
        for mirrors, md5 in published.values():
            assert len(md5) == 32
            assert mirrors and all(m.startswith("http") and m.endswith("/") for m in mirrors)


def test_torchvision_reads_the_layout_that_we_write(server: Server, tmp_path: Path, small: None) -> None:
    from torchvision import datasets

    for name, more in (("kmnist", {}), ("qmnist", {}), ("emnist", {"split": "balanced"})):
        digests = pack(name, server.folder)
        ours = load(Images(name, root=str(tmp_path), source=server.url, sha256=digests))
        theirs = getattr(datasets, DATASETS[name].publisher)(str(tmp_path), train=False, **more)
        images = theirs.data.numpy()
        assert (ours.inputs[TRAIN:] == (images.swapaxes(1, 2) if name == "emnist" else images)).all()
        targets = theirs.targets.numpy().reshape(TEST, -1)[:, 0]
        assert (ours.targets[TRAIN:] == targets).all()


def test_md5_of_torchvision_guards_a_source_without_digests(
    server: Server, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    pack("kmnist", server.folder)
    data = Images("kmnist", root=str(tmp_path / "new"), source=server.url)
    with pytest.raises(
        ConfigError, match=r"md5 [0-9a-f]{32} where bdb82020997e1d708af4cf47b453dcf7 is expected"
    ):
        load(data)
    assert leftovers(tmp_path / "new") == []
    right = [
        (archive, hashlib.md5((server.folder / archive).read_bytes()).hexdigest())
        for archive in DATASETS["kmnist"].archives()
    ]
    monkeypatch.setattr(datasets.KMNIST, "resources", right)
    assert "unverified" not in load(data).details


def test_the_next_mirror_is_asked(
    server: Server, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    digests = pack("fashion_mnist", server.folder)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/", server.url])
    data = Images("fashion_mnist", root=str(tmp_path / "new"), sha256=digests)
    assert len(load(data).targets) == TRAIN + TEST


@pytest.mark.parametrize("name", ["kmnist", "emnist", "cifar10"])
def test_a_download_that_breaks_off_leaves_nothing(
    name: str, server: Server, tmp_path: Path, small: None
) -> None:
    digests = pack(name, server.folder)
    data = Images(name, root=str(tmp_path / "new"), source=server.url, sha256=digests)
    server.cut = True
    with pytest.raises(ConfigError, match=r"broke off after [\d,]+ of [\d,]+ bytes.*data=digits"):
        load(data)
    assert leftovers(tmp_path / "new") == []
    server.cut = False
    assert len(load(data).targets) == TRAIN + TEST


def test_wrong_digests_leave_nothing(server: Server, tmp_path: Path, small: None) -> None:
    digests = pack("qmnist", server.folder)
    root = tmp_path / "new"
    for name in ("qmnist-train-labels-idx2-int.gz", "qmnist-train-labels-idx2-int"):
        with pytest.raises(ConfigError, match=f"{name}.*{digests.get(name, '')}.*{'0' * 64}"):
            load(Images("qmnist", root=str(root), source=server.url, sha256={**digests, name: "0" * 64}))
        assert leftovers(root) == []


def test_files_of_another_size_leave_nothing(server: Server, tmp_path: Path) -> None:
    digests = pack("kmnist", server.folder)
    with pytest.raises(ConfigError, match=r"came has 7,856 bytes, not 7,840,016"):
        load(Images("kmnist", root=str(tmp_path / "new"), source=server.url, sha256=digests))
    assert leftovers(tmp_path / "new") == []


@pytest.mark.parametrize("name", ["kmnist", "emnist", "cifar10"])
def test_an_archive_of_something_else(name: str, server: Server, tmp_path: Path, small: None) -> None:
    digests = {}
    for archive in DATASETS[name].archives():
        (server.folder / archive).write_bytes(b"<html>not found</html>")
        digests[archive] = hashlib.sha256(b"<html>not found</html>").hexdigest()
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        load(Images(name, root=str(tmp_path / "new"), source=server.url, sha256=digests))
    assert leftovers(tmp_path / "new") == []


def test_two_processes_download_once(server: Server, tmp_path: Path) -> None:
    digests = pack("kmnist", server.folder)
    script = (
        "import sys, json; sys.path[:0] = ['tests']; import test_tasks as t\n"
        "t.DATASETS['kmnist'] = t.shrunk('kmnist')\n"
        "root, source, digests = sys.argv[1:]\n"
        "print(t.load(t.Images('kmnist', root=root, source=source, sha256=json.loads(digests))).checksum)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "new"), server.url, json.dumps(digests)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(arguments, cwd=HERE.parent, **pipes) for _ in range(3)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1
    assert sorted(server.asked) == sorted(f"/{archive}" for archive in digests)


def test_what_a_killed_download_left_is_cleared(server: Server, tmp_path: Path, small: None) -> None:
    digests = pack("kmnist", server.folder)
    left = tmp_path / "new/KMNIST/raw/.download"
    left.mkdir(parents=True)
    (left / "train-images-idx3-ubyte.gz").write_bytes(b"half")
    load(Images("kmnist", root=str(tmp_path / "new"), source=server.url, sha256=digests))
    assert not left.exists()


# Refusals


def test_no_network_says_what_was_sought_and_what_would_do(tmp_path: Path, small: None) -> None:
    data = Images("mnist", root=str(tmp_path / "new"), source="http://127.0.0.1:9")
    with pytest.raises(ConfigError) as refused:
        load(data)
    for part in (
        f"data.root={tmp_path}/new",
        f"{tmp_path}/new/MNIST/raw",
        *DATASETS["mnist"].files,
        "http://127.0.0.1:9/",
        "refused",
        "RNNBENCH_DATA",
        "data=digits",
    ):
        assert part in str(refused.value)
    assert leftovers(tmp_path) == []


def test_not_found_at_the_source(server: Server, tmp_path: Path, small: None) -> None:
    with pytest.raises(ConfigError, match=r"gzip\.zip answers 404"):
        load(Images("emnist", root=str(tmp_path / "new"), source=server.url))


def test_download_off_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.download=false.*copy these files"):
        load(Images("mnist", root=str(tmp_path / "new"), download=False))
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.root=.*file: has no mnist"):
        load(Images("mnist", root=str(tmp_path / "file")))


def test_a_truncated_file_is_named_with_its_sizes(tmp_path: Path, small: None) -> None:
    folder = unpack("kmnist", tmp_path)
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=f"{file} has 1,000 bytes where 15,696 are expected; delete"):
        load(Images("kmnist", root=str(tmp_path)))


def test_packed_files_will_do_and_damaged_ones_are_named(tmp_path: Path, small: None) -> None:
    folder = unpack("kmnist", tmp_path)
    checksum = load(Images("kmnist", root=str(tmp_path))).checksum
    for file in list(folder.iterdir()):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    sequences.examples.cache_clear()
    assert load(Images("kmnist", root=str(tmp_path))).checksum == checksum
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:500])
    sequences.examples.cache_clear()
    with pytest.raises(ConfigError, match=f"{file} cannot be unpacked"):
        load(Images("kmnist", root=str(tmp_path)))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, small: None) -> None:
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    folder = unpack("cifar10", tmp_path)
    for content, reason in (
        (pickle.dumps({"data": Evil()}), "asks for _?io.open"),
        (b"", "Ran out of input"),
        (pickle.dumps([1]), "data_batch_3 is not a CIFAR batch"),
        (
            pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 99]}),
            "labels from 0 to 99",
        ),
        (pickle.dumps({"data": np.zeros((4, 3072)), "labels": [0, 1, 2, 3]}), "type float64"),
        (pickle.dumps({"data": np.zeros((4, 3000), np.uint8), "labels": [0, 1, 2, 3]}), "reshape"),
    ):
        (folder / "data_batch_3").write_bytes(content)
        object.__setattr__(DATASETS["cifar10"], "files", dict.fromkeys(DATASETS["cifar10"].files))
        with pytest.raises(ConfigError, match=reason):
            load(Images("cifar10", root=str(tmp_path)))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "mnits"}, "data.name=mnits: must be one of digits, mnist, "),
        ({"val_size": 1437}, "data.val_size=1437: .* below 1437"),
        ({"val_size": -1}, "data.val_size=-1"),
        ({"train_size": 1198}, "data.train_size=1198: .* at most 1197"),
        ({"train_size": 0}, "data.train_size=0: must be at least 1"),
        ({"source": "nowhere"}, "data.source=nowhere: must start with http://"),
        ({"source": "http:///x"}, "data.source=http:///x"),
        ({"sha256": {"digit.csv": "0" * 64}}, "data.sha256.digit.csv: .* digits.csv"),
        ({"sha256": {"digits.csv": "abc"}}, "data.sha256.digits.csv=abc: must be 64"),
    ],
)
def test_what_cannot_be_is_refused_before_a_file_is_read(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape(Images(**{"name": "digits", "root": "/nowhere", **change}))


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="password") as refused:
        shape(Images("mnist", root="x", source="http://me:secret@host/"))
    assert "secret" not in str(refused.value)


def test_a_torchvision_of_another_torch_is_explained(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        "from rnnbench import tasks, config\n"
        f"try: tasks.load(config.Images('mnist', root={str(tmp_path / 'new')!r}))\n"
        "except config.ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE.parent, capture_output=True, text=True)
    assert "pip install --force-reinstall torch torchvision" in done.stdout, done.stderr
