"""Laws of music, text and tasks in memory: what is read is asked; each mistake has its message."""

import dataclasses
import hashlib
import itertools
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, make_config
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from rnnbench import tasks
from rnnbench.config import ConfigError
from rnnbench.kernels.torch_path import windows
from rnnbench.tasks import task as task_module
from rnnbench.tasks.music import PARTS, SETS, Music, cut_up, read
from rnnbench.tasks.synthetic import Generated
from rnnbench.tasks.text import SETS as TEXTS
from rnnbench.tasks.text import PublishedText, Text
from rnnbench.train.stack import Stack


def pieces(rng, lengths):
    cells = np.empty((1, len(lengths)), object)
    for k, length in enumerate(lengths):
        cells[0, k] = (rng.rand(length, 88) < 0.1).astype(np.uint8)
    return cells


@pytest.fixture
def music(tmp_path, monkeypatch):
    """A small JSB_Chorales.mat, and what is in it."""
    rng = np.random.RandomState(0)
    parts = {
        "traindata": pieces(rng, [5, 9, 3]),
        "validdata": pieces(rng, [4, 12]),
        "testdata": pieces(rng, [7]),
    }
    (tmp_path / "poly_music").mkdir()
    savemat(tmp_path / "poly_music" / "JSB_Chorales.mat", parts)
    digest = hashlib.sha256((tmp_path / "poly_music" / "JSB_Chorales.mat").read_bytes()).hexdigest()
    return {"root": str(tmp_path), "sha256": {"JSB_Chorales.mat": digest}}, parts


def test_the_next_step_is_asked_for(music):
    where, parts = music
    data = Music("jsb_chorales", metric="nll", **where)
    task, shape = tasks.load(data), tasks.shape(data)
    assert (shape.train, shape.val, shape.test, shape.steps, shape.test_steps) == (3, 2, 1, 8, 11)
    whole = [piece for part in parts.values() for piece in part.flat]
    for k, piece in enumerate(whole):
        steps = len(piece) - 1
        assert task.lengths[k] == steps
        assert np.array_equal(task.inputs[k, :steps], piece[:-1])
        assert np.array_equal(task.targets[k, :steps], piece[1:])


def test_cut_pieces_ask_every_step_once(music):
    where, parts = music
    task = tasks.load(Music("jsb_chorales", metric="nll", window=4, **where))
    asked = [target[:n] for target, n in zip(task.targets, task.lengths, strict=True)]
    whole = [piece[1:] for part in parts.values() for piece in part.flat]
    assert np.array_equal(np.concatenate(asked), np.concatenate(whole))
    assert task.lengths.max() == 4
    assert [len(part) for part in cut_up(np.zeros((9, 88), np.uint8), 4)] == [5, 5]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"val_size": 3}, "data.val_size=3: .* split as published"),
        ({"train_size": 9}, "data.train_size=9: .* at most 3"),
        ({"metric": "accuracy"}, "data.metric=accuracy: .* judged by nll"),
        ({"sha256": {}, "window": 5}, "sha256 .* where ac0e6085"),
        ({"root": "nowhere", "download": False, "window": 5}, "JSB_Chorales.mat.*data.download=false"),
    ],
)
def test_music_is_refused(music, change, message):
    with pytest.raises(ConfigError, match=message):
        tasks.shape(Music(**{"name": "jsb_chorales", "metric": "nll", **music[0], **change}))


def test_a_file_of_something_else_is_named(music, tmp_path):
    file = tmp_path / "poly_music" / "JSB_Chorales.mat"
    savemat(file, {"traindata": np.zeros((3, 3))})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    data = Music(
        "jsb_chorales", metric="nll", root=str(tmp_path), sha256={"JSB_Chorales.mat": digest}, window=3
    )
    with pytest.raises(ConfigError, match=r"JSB_Chorales.mat|traindata"):
        tasks.load(data)


@pytest.mark.parametrize("name", SETS)
def test_the_published_files(name):
    (file,) = SETS[name].files.files
    if not (DATA / "poly_music" / file).exists():
        pytest.skip("the music files are not here: set RNNBENCH_DATA to their folder")
    task = tasks.load(Music(name, metric="nll", root=str(DATA), download=False))
    published = {"jsb_chorales": (229, 76, 77), "nottingham": (694, 173, 170), "muse_data": (524, 135, 124),
                 "piano_midi": (87, 12, 25)}  # fmt: skip
    assert tuple(len(task.splits[part]) for part in PARTS) == published[name]
    whole = Music(name, metric="nll", root=str(DATA), download=False)
    subset = Music(name, metric="nll", root=str(DATA), download=False, train_size=published[name][0])
    assert tasks.shape(whole) == tasks.shape(subset)  # known, and counted
    content = (DATA / "poly_music" / file).read_bytes()
    train, test = (np.concatenate([p[1:] for p in read(content, part)]) for part in ("traindata", "testdata"))
    share = (train.sum(0) + 1) / (len(train) + 2)
    constant = -np.where(test, np.log(share), np.log1p(-share)).sum(1).mean()
    assert constant == pytest.approx(SETS[name].baseline, abs=0.01)


def text(tmp_path, content, **more):
    (tmp_path / "t.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return Text("text", metric="bpc", path=str(tmp_path / "t.txt"), **more)


@pytest.mark.parametrize("train_size", [None, 2000])
def test_a_published_text_is_downloaded_once_and_its_sizes_are_known_before(tmp_path, server, train_size):
    published = TEXTS["tiny_shakespeare"]
    letters = "".join(chr(33 + k) for k in range(published.vocabulary))
    content = "".join(itertools.islice(itertools.cycle(letters), published.characters))
    (server.folder / "input.txt").write_text(content, encoding="ascii")
    digest = hashlib.sha256(content.encode()).hexdigest()
    data = PublishedText(
        "tiny_shakespeare",
        metric="bpc",
        root=str(tmp_path / "root"),
        source=server.url,
        sha256={"input.txt": digest},
        train_size=train_size,
        val_size=1000,
        test_size=700,
    )
    shape = tasks.shape(data)
    assert not server.asked
    task = tasks.load(data)
    assert tasks.load(data) is tasks.load(data)
    assert server.asked == ["/input.txt"]
    assert task.details["vocabulary"] == letters
    assert task.checksum == digest
    assert [shape.train, shape.val, shape.test] == [len(task.splits[part]) for part in PARTS]
    assert shape.outputs == task.outputs == published.vocabulary
    test = "".join(letters[t] for k in task.splits["test"] for t in task.targets[k][: task.lengths[k]])
    assert test == content[-699:]
    with pytest.raises(ConfigError, match=r"data.test_size|too few"):
        tasks.shape(dataclasses.replace(data, test_size=published.characters))


def test_a_text_is_read_on_from_window_to_window(tmp_path):
    content = "abcdefghij" * 30
    task = tasks.load(text(tmp_path, content, window=7, val_size=40, test_size=30))
    letters = sorted(set(content))
    for part, there in (("train", content[:230]), ("val", content[230:270]), ("test", content[270:])):
        index = task.splits[part]
        for source, expected in ((task.inputs, there[:-1]), (task.targets, there[1:])):
            found = "".join(letters[t] for k in index for t in source[k][: task.lengths[k]])
            assert found == expected
    assert task.details["vocabulary"] == "abcdefghij"


@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_the_state_is_carried_from_window_to_window(tmp_path, cell):
    """What windows are worth is what each stream is worth, read in one piece."""
    rng = np.random.RandomState(0)
    content = "abcde" + "".join(rng.choice(list("abcde"), 600))
    config = make_config(cell)
    config.data = text(tmp_path, content, window=7, val_size=100, test_size=150)
    config.fit.batch_size = 4
    task = tasks.load(config.data)
    stack = Stack(config, task)
    trial = stack.fresh(config)
    loss, hits, _ = stack.compute.evaluate(trial.rows["parameters"], stack.splits["test"], stack.poll)
    index = task.splits["test"]
    length = -(-len(index) // 4)
    losses, right, count = 0.0, 0.0, 0
    for stream in (index[start : start + length] for start in range(0, len(index), length)):
        steps = [(k, t) for k in stream for t in range(task.lengths[k])]
        tokens, answers = (
            torch.tensor([part[k, t] for k, t in steps]).long() for part in (task.inputs, task.targets)
        )
        x = torch.nn.functional.one_hot(tokens, 5).float().view(1, -1, 5, 1)
        logits = stack.network(stack.network.views(trial.rows["parameters"]), x)[0, :, :, 0].T
        losses += torch.nn.functional.cross_entropy(logits, answers, reduction="sum").item()
        right += (logits.argmax(1) == answers).sum().item()
        count += len(steps)
    assert count == 149
    assert loss.item() == pytest.approx(losses / count, rel=1e-5)
    assert hits.item() == pytest.approx(right / count)


def test_a_text_is_learnt_and_read_in_order(tmp_path):
    config = make_config("gru")
    config.data = text(tmp_path, "the cat sat on the mat. " * 60, window=10)
    config.fit.batch_size = 5
    stack = Stack(config, tasks.load(config.data))
    stack.admit([stack.fresh(config)])
    order = stack._order()[0].view(-1, 5)
    assert torch.equal(order[1:], order[:-1] + 1)  # each minibatch continues the one before
    first, *_, last = (report.metrics[0] for report in stack.epochs() if not _leave(stack))
    assert last["val/bpc"] < 0.7 * first["val/bpc"]
    assert first["val/bpc"] == pytest.approx(first["val/loss"] / np.log(2))


def _leave(stack):
    stack.stop([slot for slot in stack.slots if slot.ended])


@pytest.mark.parametrize("count", [1, 5, 12, 13])
@pytest.mark.parametrize("streams", [1, 3, 4, 20])
def test_streams_read_every_window_once_and_in_order(count, streams):
    parts = [part.tolist() for part in windows(count, streams)]
    assert sorted(k for part in parts for k in part) == list(range(count))
    for before, after in itertools.pairwise(parts):
        assert after == [k + 1 for k in before][: len(after)]


@pytest.mark.parametrize(
    "content, more, message",
    [
        ("", {}, "too few"),
        (b"\xff\xfe\x00", {}, "not UTF-8 at byte 0"),
        ("abc" * 40 + "z", {}, "test part has 'z'"),
        ("abc" * 40, {"train_size": 1000}, "data.train_size=1000: .* at most"),
        ("abc" * 40, {"val_size": 119}, "too few"),
    ],
)
def test_a_text_is_refused(tmp_path, content, more, message):
    with pytest.raises(ConfigError, match=message):
        tasks.shape(text(tmp_path, content, **more))


def test_a_text_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"data.path=nowhere.txt: cannot be read"):
        tasks.shape(Text("text", metric="bpc", path="nowhere.txt"))


def test_an_equal_task_is_made_once_and_a_changed_file_is_read_again(tmp_path):
    data = text(tmp_path, "abcd" * 100)
    first = tasks.load(data)
    assert tasks.load(dataclasses.replace(data)) is first
    assert tasks.load(dataclasses.replace(data, window=9)) is not first
    made = Generated("adding", metric="mse", steps=7)
    assert tasks.load(made) is tasks.load(dataclasses.replace(made))
    assert tasks.load(dataclasses.replace(made, steps=8)).inputs.shape[1] == 8
    again = tasks.load(text(tmp_path, "abcde" * 100))
    assert (first.outputs, again.outputs) == (4, 5)
    assert again.checksum != first.checksum


def test_the_tasks_in_memory_have_an_end(monkeypatch):
    monkeypatch.setattr(task_module, "HELD", OrderedDict())
    sizes = {}
    for steps in range(10, 20):
        task = tasks.load(Generated("adding", metric="mse", steps=steps))
        sizes[steps] = task.inputs.nbytes + task.targets.nbytes + sum(i.nbytes for i in task.splits.values())
        monkeypatch.setattr(task_module, "ROOM", sizes[10] * 3)
        assert sum(sizes[held.inputs.shape[1]] for held in task_module.HELD.values()) <= sizes[10] * 3
        assert list(task_module.HELD.values())[-1] is task
    monkeypatch.setattr(task_module, "ROOM", 1)
    large = tasks.load(Generated("adding", metric="mse", steps=50))
    assert [*map(id, task_module.HELD.values())] == [id(large)]  # larger than the room, but in use


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=60, max_size=200))
def test_a_text_has_the_characters_of_its_file(content):
    with tempfile.TemporaryDirectory() as folder:
        data = text(Path(folder), content, val_size=2, test_size=2, window=5)
        part = content[:-4]
        if set(content) - set(part):
            with pytest.raises(ConfigError, match="which the training part does not have"):
                tasks.load(data)
            return
        task = tasks.load(data)
    letters = sorted(set(part))
    assert task.details["vocabulary"] == "".join(letters)
    rows = [(task.inputs[k], task.targets[k], task.lengths[k]) for k in task.splits["train"]]
    assert "".join(letters[t] for x, _, length in rows for t in x[:length]) == part[:-1]
    assert "".join(letters[t] for _, y, length in rows for t in y[:length]) == part[1:]
