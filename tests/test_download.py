"""Laws of the files: every byte is checked; downloads happen once and whole."""

import gzip
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rnnbench.config import ConfigError
from rnnbench.tasks import load, sequences
from rnnbench.tasks.images import DATASETS, read_idx
from rnnbench.tasks.sequences import Images
from tests.published_files import HERE, PUBLISHED, TEST, TRAIN, Server, leftovers, made_up, pack, unpack


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
            assert mirrors and all(m.startswith("https://") and m.endswith("/") for m in mirrors)


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
    mirrors = ["http://127.0.0.1:9/", server.url]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", mirrors)
    monkeypatch.setattr("rnnbench.tasks.download.secure", lambda address: address)
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
        "import sys, json; import tests.published_files as p, tests.test_download as t\n"
        "t.DATASETS['kmnist'] = p.shrunk('kmnist')\n"
        "root, source, digests = sys.argv[1:]\n"
        "print(t.load(t.Images('kmnist', root=root, source=source, sha256=json.loads(digests))).checksum)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "new"), server.url, json.dumps(digests)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(arguments, cwd=HERE.parent, **pipes) for _ in range(3)]
    said = [process.communicate(timeout=300) for process in processes]
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
