"""Laws of the Python API: run, load, predict, evaluate, in notebooks, Hydra applications and threads."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rnnbench
from rnnbench import app, tasks
from rnnbench.config import Config, ConfigError, Model, Sgd, plain, to_yaml
from rnnbench.nn.cells import class_of
from rnnbench.nn.network import Network
from rnnbench.record.job_folder import JobFolder
from rnnbench.sweep.hydra_api import IS_1_3
from rnnbench.tasks.array_file import Arrays
from rnnbench.tasks.music import Music
from rnnbench.tasks.sequences import Images
from rnnbench.tasks.text import Text
from tests.conftest import make_config
from tests.test_own_identity import leaky, typed_in

QUICK = ["model.hidden_size=6", "fit.epochs=2", "data.train_size=100", "tracking.uri=null"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A local HTTP server: its URL, and the requests that it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}", asked
    serving.shutdown()
    thread.join()
    serving.server_close()


def forge(folder: Path, config: Config, width: int, outputs: int, facts: bool, every_step: bool) -> Path:
    """The record of a finished trial of any configuration, with weights of zeros."""
    dataset = {"name": config.data.name, "checksum": "x" * 64}
    job = JobFolder.start(folder, name="forged", config=config, trial="x" * 16, dataset=dataset, tags={})
    network = Network(config.model, width, outputs, every_step)
    torch.save({"parameters": torch.zeros(network.count())}, folder / "weights.pt")
    goal = "keys" if every_step else "label"
    if facts:
        digest = hashlib.sha256((folder / "weights.pt").read_bytes()).hexdigest()
        known = {"sha256": digest, "input_size": width, "outputs": outputs, "goal": goal}
        job.result["weights"] = known
    job.end("finished", {})
    return folder


# Trials, and the evaluation of the test set that their records have to agree with.
TRIALS = {
    "compiled": ["model=gru", "fit.kernel=auto"],
    "torch": ["model=gru", "fit.kernel=torch"],
    "two layers": ["model=lstm", "model.num_layers=2", "model.bidirectional=true"],
    "lengths": [
        "data=parity",
        "data.longest=5",
        "data.test_longest=9",
        "fit.steps_per_epoch=3",
        "data.val_size=9",
    ],
    "numbers": ["data=adding", "data.steps=6", "data.test_size=20", "fit.steps_per_epoch=3"],
}


@pytest.mark.parametrize("words", TRIALS.values(), ids=TRIALS.keys())
def test_evaluate_gives_the_recorded_numbers_and_predict_is_what_they_count(words):
    quick = [word for word in QUICK if "train_size" not in word] if "data=" in " ".join(words) else QUICK
    result = rnnbench.run(*words, *quick)
    trained = rnnbench.load(result["folder"])
    recorded = {name: value for name, value in result["metrics"].items() if name.startswith("test/")}
    assert trained.evaluate() == recorded
    task = tasks.load(trained.config.data)
    test = task.splits["test"]
    lengths = None if task.lengths is None else torch.from_numpy(task.lengths[test])
    if task.tokens:
        x = torch.nn.functional.one_hot(torch.from_numpy(task.inputs[test]).long(), task.tokens)
    else:
        x = torch.from_numpy(task.inputs[test]) * task.scale
    answers = trained.predict(x.float(), lengths)
    if task.goal is tasks.Goal.label:
        right = (answers.numpy() == task.targets[test]).mean()
        assert right == pytest.approx(recorded["test/accuracy"], abs=1e-6)
    else:
        error = ((answers.numpy() - task.targets[test]) ** 2).mean()
        assert error == pytest.approx(recorded["test/mse"], rel=1e-4)


def test_padding_does_not_reach_an_answer():
    trained = rnnbench.load(rnnbench.run(*TRIALS["lengths"], *QUICK[:2], "tracking.uri=null")["folder"])
    short = torch.nn.functional.one_hot(torch.randint(2, (4, 3)), 2).float()
    padded = torch.cat([short, torch.rand(4, 5, 2)], 1)
    torch.testing.assert_close(trained(padded, torch.full((4,), 3)), trained(short))
    assert trained.predict(padded.tolist(), [3, 1, 2, 3]).shape == (4,)


@pytest.mark.parametrize(
    "shape, lengths, words",
    [
        ((5, 8), None, "expected (B, T, input) = (B, T, 8), got (5, 8)"),
        ((5, 8, 9), None, "expected (B, T, input) = (B, T, 8), got (5, 8, 9)"),
        ((0, 8, 8), None, "got (0, 8, 8)"),
        ((2, 8, 8), [1], "lengths: expected (B,) = (2,) whole numbers from 1 to T = 8, got (1,)"),
        ((2, 8, 8), [0, 8], "from 0 to 8"),
        ((2, 8, 8), [1, 9], "from 1 to 9"),
        ((2, 8, 8), [1.0, 2.0], "whole numbers"),
    ],
)
def test_a_wrong_shape_is_refused_with_the_right_one(shape, lengths, words):
    trained = rnnbench.load(forge(Path("r"), make_config("gru"), 8, 10, True, False))
    with pytest.raises(ConfigError) as error:
        trained(torch.rand(*shape), lengths)
    assert words in str(error.value)


def test_bytes_in_place_of_values_are_refused():
    trained = rnnbench.load(forge(Path("r"), make_config("gru"), 8, 10, True, False))
    with pytest.raises(ConfigError, match=r"expected floats in \[0, 1\], got torch.uint8"):
        trained.predict(np.zeros((2, 8, 8), np.uint8))
    for value, found in ((16.0, "from 0 to 16"), (-0.5, "from -0.5 to 0"), (np.nan, "from nan to nan")):
        examples = np.zeros((2, 8, 8))
        examples[1, 2, 3] = value
        with pytest.raises(ConfigError, match=rf"expected floats in \[0, 1\], got {found}; divide by"):
            trained.predict(examples)


def test_a_place_without_a_trained_network_says_what_would_do(tmp_path):
    forge(tmp_path / "r" / "0", make_config("gru"), 8, 10, True, False)
    with pytest.raises(
        ConfigError, match=r"r: holds no weights\.pt; give the folder of a trial in it: .*r/0"
    ):
        rnnbench.load(tmp_path / "r")
    with pytest.raises(ConfigError, match="q: there is no such folder; give a job folder, or the id of an"):
        rnnbench.load("q")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_weights_is_never_loaded(tmp_path, position, bit):
    folder = tmp_path / "r"
    if not folder.exists():
        forge(folder, make_config("gru"), 8, 10, True, False)
    file = folder / "weights.pt"
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[int(position * len(whole))] ^= 1 << bit
    file.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"weights\.pt: is damaged"):
        rnnbench.load(folder)
    file.write_bytes(whole)
    rnnbench.load(folder)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"])
def test_weights_of_an_older_record_that_cannot_be_read_are_named(content):
    folder = forge(Path("r"), make_config("gru"), 8, 10, False, False)
    assert rnnbench.load(folder).evaluate  # a record of before these facts were written
    (folder / "weights.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights\.pt: is damaged"):
        rnnbench.load(folder)


@pytest.mark.parametrize("facts", [True, False])
@pytest.mark.parametrize("name", ["mnist", "cifar10", "jsb_chorales"])
def test_a_record_neither_downloads_nor_writes(tmp_path, server, monkeypatch, name, facts):
    monkeypatch.delenv("RNNBENCH_DATA", raising=False)
    url, asked = server
    config, place = make_config("gru"), str(tmp_path / "planted")
    if name == "jsb_chorales":
        config.data = Music(
            name, metric="nll", root=place, source=url, window=7, sha256={"JSB_Chorales.mat": "0" * 64}
        )
        width, outputs = 88, 88
    else:
        config.data = Images(name, root=place, source=url)
        width, outputs = (28, 10) if name == "mnist" else (96, 10)
    trained = rnnbench.load(forge(tmp_path / "r", config, width, outputs, facts, name == "jsb_chorales"))
    assert trained.predict(torch.rand(2, 3, width)).shape[0] == 2
    with pytest.raises(ConfigError):
        trained.evaluate()
    with pytest.raises(ConfigError):
        trained.evaluate(tmp_path / "mine")
    assert asked == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]


def test_a_run_in_a_strangers_store_fetches_nothing(tmp_path, server, monkeypatch):
    from mlflow.tracking import MlflowClient

    url, asked = server
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("x", f"{url}/artifacts")).info.run_id
    client.set_tag(run, "rnnbench.folder", str(tmp_path / "planted"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="which the record names and not you"):
        rnnbench.load(run)
    assert asked == [] and not (tmp_path / "planted").exists()


def test_a_file_of_ones_own_is_evaluated_where_the_user_says(tmp_path):
    rng = np.random.RandomState(0)
    np.savez(tmp_path / "mine.npz", x_train=rng.rand(60, 4, 2), y_train=rng.randint(0, 3, 60))
    (tmp_path / "text.txt").write_text("abcd" * 200)
    for words in (["data=npz", "data.path=mine.npz"], ["data=text", "data.path=text.txt", "data.window=5"]):
        result = rnnbench.run(*words, *QUICK[:2], "fit.batch_size=4", "tracking.uri=null")
        trained = rnnbench.load(result["folder"])
        data = trained.config.data
        assert isinstance(data, Arrays | Text)
        with pytest.raises(ConfigError, match=r"evaluate\(data=FILE\)"):
            trained.evaluate()
        found = trained.evaluate(data.path)
        assert found == {name: value for name, value in result["metrics"].items() if "test/" in name}
    (tmp_path / "other.txt").write_text("abcd" * 200 + "abdc")
    with pytest.raises(ConfigError, match="is not what the trial was trained on"):
        trained.evaluate("other.txt")


def test_a_record_is_loaded_with_the_code_that_it_was_trained_with(tmp_path):
    words = ["rnnbench_import=mine.py", "model.name=leaky", *QUICK]
    folders = []
    for keep in ("0.9", "0.4"):
        (tmp_path / "mine.py").write_text(leaky(keep))
        folders.append(rnnbench.run(*words)["folder"])
    slow, fast = (rnnbench.load(folder) for folder in folders)
    assert class_of(slow.config.model.name) is not class_of(fast.config.model.name)
    for trained, folder in ((slow, folders[0]), (fast, folders[1])):
        recorded = json.loads((Path(folder) / "result.json").read_text())["metrics"]["test/loss"]
        assert trained.evaluate()["test/loss"] == recorded
    result = json.loads((Path(folders[0]) / "result.json").read_text())
    result["tags"]["rnnbench.import.mine.py"] = "0" * 64
    (Path(folders[0]) / "result.json").write_text(json.dumps(result))
    with pytest.raises(ConfigError, match=r"was trained with other code than .*mine\.py"):
        rnnbench.load(folders[0])


def test_a_class_of_the_notebook_is_trained_edited_and_loaded():
    results = []
    for keep in ("0.9", "0.4", "0.9"):
        typed_in(leaky(keep))
        results.append(rnnbench.run("model.name=leaky", *QUICK))
    first, second, third = results
    assert first["trial"] == third["trial"] != second["trial"]
    assert first["metrics"]["test/loss"] == third["metrics"]["test/loss"] != second["metrics"]["test/loss"]
    assert rnnbench.load(first["folder"]).evaluate()["test/loss"] == first["metrics"]["test/loss"]
    with pytest.raises(ConfigError, match="was trained with other code"):
        rnnbench.load(second["folder"])


THEIRS = "1.2" if IS_1_3 else "1.3"  # the version_base of another application: 1.4 knows one


@pytest.fixture
def in_hydra(tmp_path) -> Iterator[Any]:
    """Hydra is initialised for another application, as after hydra.initialize in a notebook."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "c.yaml").write_text("a: 1\n")
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base=THEIRS, job_name="theirs"):
        yield GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()


def test_a_run_leaves_a_hydra_application_as_it_was(in_hydra):
    before = hydra.compose("c", return_hydra_config=True)
    HydraConfig.instance().set_config(before)
    result = rnnbench.run("model=rnn", *QUICK)
    with pytest.raises(ConfigError):
        rnnbench.run("fit.epochs=0")
    assert result["status"] == "finished" and Path(result["folder"], "result.json").is_file()
    assert GlobalHydra.instance().hydra is in_hydra
    assert HydraConfig.get().job.name == "theirs"
    assert hydra.compose("c", return_hydra_config=True).hydra.job.name == "theirs"
    if IS_1_3:  # 1.4 has one behaviour, and nothing to choose it
        assert hydra.version.base_at_least(THEIRS) and not hydra.version.base_at_least("1.3")


def test_runs_in_several_threads_have_a_folder_each_and_their_own_numbers():
    results: dict[int, dict[str, Any]] = {}

    def train(seed: int) -> None:
        results[seed] = rnnbench.run("model=gru", f"seed={seed}", *QUICK)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result["folder"] for result in results.values()}) == 4
    for seed in (0, 3):
        alone = rnnbench.run("model=gru", f"seed={seed}", *QUICK)
        assert alone["metrics"]["test/loss"] == results[seed]["metrics"]["test/loss"]
        assert alone["trial"] == results[seed]["trial"]
    assert not GlobalHydra.instance().is_initialized()


def test_two_threads_do_not_train_in_one_folder(monkeypatch):
    train, refused = app.run_jobs, []

    def another_meanwhile(*arguments: Any) -> None:
        with pytest.raises(ConfigError, match="another thread trains in it") as error:
            rnnbench.run("model=gru", *QUICK, folder="r/0")
        refused.append(error)
        train(*arguments)

    monkeypatch.setattr(app, "run_jobs", another_meanwhile)
    assert rnnbench.run("model=gru", *QUICK, folder="r/0")["status"] == "finished"
    assert refused


@pytest.mark.parametrize(
    "words",
    [
        ["model=foo"],
        ["seed=0,1"],
        ["modle.hidden_size=3"],
        ["model.hidden_size=ten"],
        ["fit.epochs="],
        ["fit.epochs=???"],
        ["seed=${oc.env:NOT_THERE}"],
        ["seed=${nothing}"],
        ["[["],
        ["rnnbench_import=nothing.py"],
        ["tracking.uri=http://me:secret@host"],
        ["dry_run=true"],
        ["search=rate"],
        ["data.val_size=0"],
        ["fit.device=cuda:99"],
        ["-m", "seed=0,1"],
        ["--cfg", "job"],
        ["hydra.job.chdir=true"],
        ["hydra/launcher=slurm"],
        ["hydra.sweep.dir=elsewhere"],
        [["model=gru"]],
        [{"model": "gru"}],
        [None],
    ],
    ids=str,
)
def test_what_cannot_be_run_is_a_config_error_and_makes_nothing(tmp_path, words):
    with pytest.raises(ConfigError) as error:
        rnnbench.run(*words)
    assert "secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_named():
    config = make_config("gru", optim=Sgd())
    config.model = Model("nothing", 6)
    folder = Path("r")
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(plain(config)))
    torch.save({}, folder / "weights.pt")
    with pytest.raises(ConfigError, match="cell nothing comes from code of your own"):
        rnnbench.load(folder)


@pytest.mark.parametrize("text", ["", "model: 3", "[", "model: {name: ${nothing}}", "\x00"])
def test_a_damaged_configuration_is_named(text):
    folder = forge(Path("r"), make_config("gru"), 8, 10, True, False)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        rnnbench.load(folder)


@pytest.mark.parametrize(
    "facts", [3, [], {}, {"goal": "other"}, {"goal": "label", "input_size": "x", "outputs": 3}]
)
def test_damaged_facts_are_named(facts):
    folder = forge(Path("r"), make_config("gru"), 8, 10, True, False)
    result = json.loads((folder / "result.json").read_text())
    if isinstance(facts, dict) and facts:
        facts = facts | {"sha256": result["weights"]["sha256"]}
    (folder / "result.json").write_text(json.dumps(result | {"weights": facts}))
    with pytest.raises(ConfigError, match="is damaged"):
        rnnbench.load(folder)
