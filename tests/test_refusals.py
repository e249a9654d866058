"""Every mistake ends at once with one message, exit code 1, no traceback, and nothing made."""

import subprocess
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from rnnbench.config import ConfigError
from rnnbench.sweep import launcher
from rnnbench.sweep.compose import Composer, separate_hydra
from rnnbench.sweep.launcher import Composed
from rnnbench.sweep.stages import preflight
from tests.forked import Forked

# Commands, and words of their message.
COMMANDS = {
    "model=foo": ["model=foo", "gru", "lstm", "rnn"],
    "optim=lion": ["optim=lion", "adam", "rmsprop", "sgd"],
    "data=imagenet": ["data=imagenet", "digits", "mnist"],
    "model.name=foo": ["model.name=foo", "lstm"],
    "model.hidden_size=0": ["model.hidden_size=0", "at least 1"],
    "model.hidden_size=ten": ["model.hidden_size=ten", "whole number"],
    "optim.lr=nan": ["optim.lr=nan", "above 0"],
    "fit.batch_size=5000": ["fit.batch_size=5000", "training examples"],
    "tracking.uri=nonsense": ["tracking.uri=nonsense", "sqlite:///mlflow.db"],
    "tracking.uri=http://me:secret@host": ["tracking.uri", "MLFLOW_TRACKING_PASSWORD"],
    "tracking.uri=sqlite:////no/such/folder/mlflow.db": ["tracking.uri", "/no/such/folder"],
    "data=mnist data.root=/no/such data.download=false": ["/no/such", "train-images-idx3", "data=digits"],
    "hydra.run.dir=/proc/rnnbench/0": ["/proc/rnnbench"],
}

# The same for values that the schema or its checks refuse; these are composed here, without a process.
VALUES = {
    "model.hidden_size=1000000": ["model.hidden_size=1000000", "GiB are free on cpu; give a smaller one"],
    "model.budget=99999999999": ["model.budget=99999999999", "GiB are free on cpu; give a smaller one"],
    "data.name=foo": ["foo", "digits", "mnist"],
    "optim.name=lion": ["optim.name=lion", "sgd"],
    "model.hidden_size=-1": ["model.hidden_size=-1", "at least 1"],
    "model.num_layers=0": ["model.num_layers=0", "at least 1"],
    "model.dropout=0.5": ["model.dropout=0.5", "num_layers"],
    "model.dropout=1 model.num_layers=2": ["model.dropout=1", "below 1"],
    "model.readout=first": ["model.readout", "first", "last, mean"],
    "model=gru model.forget_bias=1": ["model.forget_bias=1", "gru has no forget gate"],
    "model.nonlinearity=relu": ["model.nonlinearity=relu", "model=rnn"],
    "optim.lr=0": ["optim.lr=0", "above 0"],
    "optim.lr=-1": ["optim.lr=-1", "above 0"],
    "optim.lr=inf": ["optim.lr=inf", "finite"],
    "optim.weight_decay=-1": ["optim.weight_decay=-1", "at least 0"],
    "optim.momentum=0.9": ["optim.momentum=0.9", "optim=rmsprop or optim=sgd"],
    "optim=sgd optim.momentum=1": ["optim.momentum=1", "below 1"],
    "optim=sgd optim.momentum=0 optim.nesterov=true": ["optim.nesterov=true", "momentum"],
    "optim.beta1=1": ["optim.beta1=1", "below 1"],
    "fit.epochs=0": ["fit.epochs=0", "at least 1"],
    "fit.clip=0": ["fit.clip=0", "above 0"],
    "fit.patience=0": ["fit.patience=0", "at least 1"],
    "fit.schedule=linear": ["fit.schedule", "linear", "cosine"],
    "fit.device=tpu": ["fit.device=tpu", "cuda"],
    "fit.device=cuda:x": ["fit.device=cuda:x", "must be cpu, cuda or cuda:N"],
    "fit.device=cuda:-1": ["fit.device=cuda:-1", "must be cpu, cuda or cuda:N"],
    "fit.kernel=cudnn": ["fit.kernel=cudnn", "cuda"],
    "fit.kernel=fastest": ["fit.kernel=fastest", "cuda"],
    "fit.precision=tf32": ["fit.precision=tf32", "needs fit.device=cuda", "float32"],
    "fit.precision=half": ["fit.precision", "half", "float32, tf32x3, tf32"],
    "fit.device=cuda fit.precision=tf32x3 fit.kernel=torch": [
        "fit.precision=tf32x3",
        "fit.kernel=torch does",
    ],
    "fit.device=cuda fit.precision=tf32x3 fit.kernel=cudnn": ["fit.precision=tf32x3", "take fit.kernel=auto"],
    "data.val_size=0": ["data.val_size=0", "at least 1"],
    "data.train_size=100000": ["data.train_size=100000"],
    "data.split_seed=-1": ["data.split_seed=-1", "at least 0"],
    "data.split_seed=4294967296": ["data.split_seed=4294967296", "below 2**32"],
    "data.folds=1": ["data.folds=1", "at least 2"],
    "data.folds=1438": ["data.folds=1438", "must be at most 1,437", "data=digits"],
    "data.fold=1": ["data.fold=1", "needs data.folds"],
    "data.folds=5 data.fold=5": ["data.fold=5", "from 0 to 4", "data.folds=5"],
    "data.folds=5 data.fold=-1": ["data.fold=-1", "from 0 to 4"],
    "data.folds=5 data.val_size=100": ["data.val_size=100", "data.folds=5 sets it", "null"],
    "data.folds=5 data.train_size=1151": ["data.train_size=1151", "at most 1150", "a fold=287"],
    "data=adding data.folds=5": ["data.folds=5", "data=adding generates its validation", "use null"],
    "data=parity data.folds=5": ["data.folds=5", "data=parity generates its validation", "use null"],
    "data=jsb_chorales data.folds=5": ["data.folds=5", "split as published", "use null"],
    "data=text data.path=a.txt data.folds=5": ["data.folds=5", "characters that follow", "use null"],
    "data.metric=mse": ["data.metric=mse", "judged by accuracy"],
    "data.metric=f1": ["data.metric=f1", "judged by accuracy", "data.metrics="],
    "data.metrics=[f1]": ["data.metrics=f1", "must be one of loss, accuracy, mse"],
    "data.metrics=[mae]": ["data.metrics=mae", "data=digits", "has loss, accuracy, nll, balanced_accuracy"],
    "data.metrics=[macro_f1,macro_f1]": ["data.metrics=macro_f1", "measured already"],
    "data.delay=0": ["data.delay=0", "at least 1"],
    "data=text": ["data.path", "no value"],
    "data=own": ["data.name", "no value"],
    "data=own data.name=nothing": ["data.name=nothing", "adding"],
    "model.budget=50": ["model.budget=50", "lstm has", "hidden size 1"],
    "model.zoneout=1": ["model.zoneout=1", "below 1"],
    "model.weight_noise=0": ["model.weight_noise=0", "above 0"],
    "model=mingru model.zoneout=0.1": ["model.zoneout=0.1", "mingru has no recurrent weights"],
    "model=mgu model.forget_bias=1": ["model.forget_bias=1", "mgu has no forget gate"],
    "model.positive=true": ["model.positive=true", "mingru"],
    "model=mingru model.normalised=true": ["model.normalised=true", "minlstm"],
    "model=lstm model.dt=0.5": ["model.dt=0.5: lstm has no such key (lem and cornn have it)"],
    "model=lem model.gamma=2": ["model.gamma=2.0: lem has no such key (cornn has it)"],
    "model=cornn model.dt=0": ["model.dt=0"],
    "model=lmu model.order=0": ["model.order=0"],
    "model=lmu model.theta=-1": ["model.theta=-1"],
    "model=lmu model.order=5 model.zoneout=0.1": ["model.zoneout=0.1", "leave model.order=5 out"],
    "data=adding data.steps=1": ["data.steps=1", "at least 2"],
    "data=parity data.test_longest=40": ["data.test_longest=40", "data.longest=40"],
    "data=copy model.readout=mean": ["model.readout=mean", "every step"],
    "rnnbench_import=nowhere.py": ["rnnbench_import=nowhere.py", "cannot be read"],
    "data.fill=noise": ["data.fill=noise", "data.delay"],
    "fit.steps_per_epoch=5": ["fit.steps_per_epoch=5", "endless"],
    "data.std=0": ["data.std=0", "above 0"],
    "data.order=diagonal": ["data.order", "diagonal", "rows"],
    "objective=speed": ["objective=speed", "best/val_accuracy"],
    "seed=-1": ["seed=-1", "at least 0"],
    "seed=1.5": ["seed=1.5", "whole number"],
    "model.hiden_size=3": ["did you mean model.hidden_size=3?"],
    "tracking.uri=ftp://host/x": ["tracking.uri=ftp://host/x", "http://"],
    "tracking.uri=http://": ["tracking.uri=http://", "host"],
}


def command(arguments, folder):
    """What the command says and ends with."""
    process = Forked("rnnbench", arguments, folder)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def assert_refused(done, words, folder):
    message = done.stderr
    assert done.returncode == 1, message
    assert "Traceback" not in message
    assert all(word in message for word in words), message
    assert "secret" not in message
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("overrides", COMMANDS)
def test_a_run_is_refused(overrides, tmp_path):
    assert_refused(command(overrides.split(), tmp_path), COMMANDS[overrides], tmp_path)


@pytest.fixture(scope="module")
def composer():
    """Composes single jobs as Hydra does (tests/test_compose.py), each set of choices once."""
    launcher.register()
    with separate_hydra():
        loader = GlobalHydra.instance().config_loader()
        return Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@pytest.mark.parametrize("overrides", VALUES)
def test_a_value_is_refused(composer, overrides, tmp_path):
    with pytest.raises(ConfigError) as refusal:
        preflight([Composed.of(composer, overrides.split()).config], tmp_path)
    message = str(refusal.value)
    assert all(word in message for word in VALUES[overrides]), message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model=lstm,foo", ["model=foo"]),
        ("model.hidden_size=4,0", ["model.hidden_size=0", "at least 1"]),
        ("model=lstm,gru model.forget_bias=1", ["gru has no forget gate"]),
        ("fit.batch_size=8,5000", ["fit.batch_size=5000"]),
        ("hydra/launcher=basic optim.lr=0.1,0", ["optim.lr=0"]),
        ("hydra.launcher.max_stack=0", ["max_stack=0"]),
        ("hydra.sweep.dir=/proc/rnnbench", ["/proc/rnnbench"]),
        ("seed=interval(0,1)", ["interval"]),
        ("hydra/sweeper=grid search=lstm_gru", ["hydra/sweeper=grid", "search=lstm_gru", "optuna"]),
    ],
)
def test_one_bad_point_refuses_the_whole_sweep(overrides, words, tmp_path):
    assert_refused(command(["-m", *overrides.split()], tmp_path), words, tmp_path)


STEP = """import rnnbench

@rnnbench.register_cell("mine")
class Mine(rnnbench.Cell):
    def step(self, a, state, layer):
        h, c = state
        return layer.recurrent(h, a).tanh(), c
"""


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_a_wrong_step_is_refused_before_anything_is_made_whatever_computes(kernel, tmp_path):
    (tmp_path / "mine.py").write_text(STEP)
    work = tmp_path / "work"
    work.mkdir()
    words = [f"rnnbench_import={tmp_path}/mine.py", "model=mine", f"fit.kernel={kernel}"]
    assert_refused(command(words, work), ["mine.py:", "states = 1"], work)


def test_cuda_where_there_is_none(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert_refused(command(["fit.device=cuda"], tmp_path), ["fit.device=cuda", "cpu"], tmp_path)


def test_a_refusal_has_its_traceback_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    done = command(["optim.lr=0"], tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "optim.lr=0" in done.stderr


def test_refusals_need_neither_torch_nor_mlflow(tmp_path):
    """Packages of these names that cannot be imported stand before the real ones."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for package in ("torch", "mlflow"):
        (broken / f"{package}.py").write_text("raise SystemExit('imported too early')")
    work = tmp_path / "work"
    work.mkdir()
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(broken)!r}); "
        "runpy.run_module('rnnbench', run_name='__main__')"
    )
    for arguments in (
        ["optim.lr=0"],
        ["-m", "optim.lr=0.1,0"],
        ["fit.batch_size=5000"],
        ["tracking.uri=nonsense"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=work, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 1
        assert "imported too early" not in done.stderr
        assert list(work.iterdir()) == []
