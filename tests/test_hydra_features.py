"""Hydra as its users know it: what its settings promise of each job holds in stacks too, or is refused.

Hydra's own suites for launchers and sweepers (`hydra.test_utils.launcher_common_tests`), translated to this
application. What of them does not apply:

- Their applications with other configurations (`a_module`, `configs/compose.yaml`) and task functions that
  return 100, print or raise: the task here is training, and what a launcher is asked for is its record.
- `JobReturn.cfg` and `.hydra_cfg` of a stack's jobs: they would stay in memory for every job of a sweep. What
  they would say is in the files of the job's folder, which is asked here, and in what callbacks are given.
- `hydra.job.chdir=true` under launchers whose jobs train together: refused with the key.
- `test_sweep_over_unspecified_mandatory_default`, `test_sweep_and_override`: defaults lists of applications
  of their own; tests/test_compose.py holds that every composition is Hydra's.
"""

import os
import signal
import warnings
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import hydra
import pytest
from conftest import crossed, sampled
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

import rnnbench
from rnnbench.app import app
from rnnbench.cluster import SentStack, work_on
from rnnbench.config import ConfigError, conf_folder
from rnnbench.record import SweepFolder, read_result, read_sweep
from rnnbench.sweep import job as job_module
from rnnbench.sweep import launcher
from rnnbench.sweep.hydra_api import BASE
from rnnbench.sweep.hydra_jobs import TrialFailed, check_name
from rnnbench.sweep.job import Job, identity
from tests.test_app import numbers, run

QUICK = ["fit.epochs=1", "model.hidden_size=4", "data.train_size=64", "tracking.uri=null"]
# The four ways to train a grid in this process.
WAYS = [["hydra/launcher=" + launcher, "hydra/sweeper=" + sweeper]
        for launcher in ("stack", "basic") for sweeper in ("grid", "basic")]  # fmt: skip
BOTH = [WAYS[0], WAYS[3]]  # of them, those with each launcher and each sweeper
LAUNCHERS = ["stack", "basic"]
EXCLUDED = (
    "hydra.job.config.override_dirname.exclude_keys=["
    + ",".join(word.partition("=")[0] for word in [*QUICK, "tracking"])
    + "]"
)
LISTEN = f"+hydra.callbacks.mine._target_={__name__}.Events"
CELL = """import os
import rnnbench

@rnnbench.register_cell("placed")
class Placed(rnnbench.Cell):
    def step(self, a, state, layer):
        if a.shape[-1] > 4:  # in training, not while it is traced
            open("was_here", "w").close()
        return (layer.recurrent(state[0], a).tanh(),)
"""

SEEN: list[tuple] = []  # what Events was told


class Events(Callback):
    """Notes what it is told, and what it finds around it."""

    def __init__(self, interrupt=False):
        self.interrupt = interrupt

    def on_multirun_start(self, config, **kwargs):
        SEEN.append(("multirun_start",))

    def on_multirun_end(self, config, **kwargs):
        SEEN.append(("multirun_end",))

    def on_run_start(self, config, **kwargs):
        SEEN.append(("run_start",))

    def on_run_end(self, config, **kwargs):
        SEEN.append(("run_end",))

    def on_job_start(self, config, *, task_function, **kwargs):
        assert HydraConfig.get().runtime.output_dir == config.hydra.runtime.output_dir
        assert task_function is app
        place = Path(config.hydra.runtime.output_dir).name
        SEEN.append(("start", config.seed, place, os.environ.get("RNNBENCH_TRIED"), os.getcwd()))
        if self.interrupt and len(of_jobs("start")) == 1:  # a second Ctrl-C ends at once
            signal.raise_signal(signal.SIGINT)

    def on_job_end(self, config, job_return, **kwargs):
        assert job_return.cfg.seed == config.seed and "hydra" not in job_return.cfg
        assert job_return.hydra_cfg.hydra.runtime.output_dir == config.hydra.runtime.output_dir
        SEEN.append(("end", config.seed, job_return.status, job_return._return_value))


class Logs(Callback):
    """Writes to the log of a job."""

    def on_job_start(self, config, **kwargs):
        import logging

        logging.getLogger("mine").info("seed %d", config.seed)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    SEEN.clear()
    before = HydraConfig.instance().cfg
    yield
    HydraConfig.instance().cfg = before


def call(how, *overrides):
    """As the command does it, in this process: `run` or `multirun`; what Hydra gives back."""
    launcher.register()
    with hydra.initialize_config_dir(str(conf_folder()), job_name="rnnbench", **BASE):
        words = [*overrides, f"hydra.mode={'RUN' if how == 'run' else 'MULTIRUN'}"]
        return getattr(GlobalHydra.instance().hydra, how)("config", app, words, False)


def sweep(*overrides):
    """The batches of results of a small sweep into ./s."""
    return call("multirun", "hydra.sweep.dir=s", *QUICK, *overrides)


def refused(*overrides):
    """The message of a sweep that is refused with nothing made."""
    with pytest.raises(SystemExit) as stopped:
        sweep(*overrides)
    assert not Path("s").exists()
    return str(stopped.value)


def folders(place="s"):
    return sorted(file.parent.name for file in Path(place).glob("*/result.json"))


def read(file, place="s"):
    return OmegaConf.load(Path(place, file))


# ---- hydra.sweep.subdir


SUBDIRS = [
    ("run_${hydra.job.num}", ["run_0", "run_1"]),
    ("${hydra:job.num}-${model.name}", ["0-gru", "1-gru"]),
    ("${hydra.job.override_dirname}", ["model=gru,seed=5", "model=gru,seed=6"]),
    ("${seed}", ["5", "6"]),
]


@pytest.mark.parametrize(("way", "named"), crossed(WAYS, SUBDIRS))
def test_each_job_has_the_folder_that_subdir_says(way, named):
    subdir, names = named
    sweep("model=gru", "seed=5,6", f"hydra.sweep.subdir={subdir}", EXCLUDED, *way)
    assert folders() == names
    for number, name in enumerate(names):
        written = read(f"{name}/.hydra/hydra.yaml").hydra
        assert written.job.num == number
        assert written.runtime.output_dir == str(Path("s", name).absolute())
        assert read_result(Path("s", name))["params"]["seed"] == 5 + number
    assert rnnbench.records("s")["seed"].tolist() == [5, 6]
    assert read_sweep(Path("s"))["status"] == "finished"


def test_kv_sep_and_item_sep_make_the_name():
    how = "hydra.job.config.override_dirname"
    more = [
        f"{how}.kv_sep=_",
        f"{how}.item_sep=+",
        EXCLUDED,
        "hydra.sweep.subdir=${hydra.job.override_dirname}",
    ]
    sweep("model=gru", "seed=1", *more)
    assert folders() == ["model_gru+seed_1"]


def test_a_trial_is_found_again_whatever_its_folder_is_called(capsys):
    subdir = "hydra.sweep.subdir=run_${hydra.job.num}"
    sweep("seed=0,1", subdir)
    before = {name: read_result(Path("s", name)) for name in folders()}
    Path("s/run_1/result.json").unlink()  # as if it had not been trained
    sweep("seed=3,1,0", subdir)
    assert "1 of 3 trials are finished already" in capsys.readouterr().out
    assert read_result(Path("s/run_0")) == before["run_0"]
    after = [read_result(Path("s", name))["trial"] for name in folders()]
    assert len(set(after)) == len(after) == 3
    sweep("seed=0,1,3")  # without the name that they were made with
    assert "3 of 3 trials are finished already" in capsys.readouterr().out
    assert read("run_1/.hydra/hydra.yaml").hydra.job.num == 1


def test_a_name_that_is_taken_by_another_trial_is_refused():
    subdir = "hydra.sweep.subdir=seed_${seed}"
    sweep("seed=0", subdir)
    before = read_result(Path("s/seed_0"))
    with pytest.raises(SystemExit, match=r"hydra\.sweep\.subdir=seed_0: holds another trial"):
        sweep("seed=0", "optim.lr=0.5", subdir)
    assert read_result(Path("s/seed_0")) == before


IMPOSSIBLE = [
    ("a/${hydra.job.num}", "one level"),
    ("../${hydra.job.num}", "one level"),
    ("same", "several trials"),
    (".x${hydra.job.num}", "one level"),
    ("${hydra.nothing}", "has no value"),
    ("a${hydra.job.num}" + "b" * 260, "too long"),
]


@pytest.mark.parametrize(("launcher", "subdir_and_words"), crossed(LAUNCHERS, IMPOSSIBLE))
def test_a_subdir_that_cannot_be_is_refused(launcher, subdir_and_words):
    subdir, words = subdir_and_words
    message = refused("seed=0,1", f"hydra.sweep.subdir={subdir}", f"hydra/launcher={launcher}")
    assert "hydra.sweep.subdir" in message and words in message


@pytest.mark.parametrize("name", ["stacks", "study", "sweep.json", "", "..", "a/b"])
def test_what_a_sweep_folder_holds_itself_names_no_job(name):
    with pytest.raises(ConfigError, match=r"hydra\.sweep\.subdir"):
        check_name(name)


def test_a_folder_elsewhere_fails_its_job_under_hydras_own_sweeper():
    """Nobody has composed its jobs before."""
    with pytest.raises(SystemExit, match=r"hydra\.sweep\.subdir=a/0"):
        sweep("seed=0,1", "hydra.sweep.subdir=a/${hydra.job.num}", *WAYS[3])
    assert not list(Path("s").rglob("result.json"))


# ---- hydra.output_subdir


@pytest.mark.parametrize(("way", "inner"), crossed(WAYS, ["null", ".mine", "of_${hydra.job.num}"]))
def test_output_subdir(way, inner, capsys):
    sweep("seed=0,1", f"hydra.output_subdir={inner}", *way)
    for job in ("0", "1"):
        inside = {path.name for path in Path("s", job).iterdir() if path.is_dir()}
        assert inside == (set() if inner == "null" else {inner.replace("${hydra.job.num}", job)})
    capsys.readouterr()
    sweep("seed=0,1", f"hydra.output_subdir={inner}", "hydra/launcher=stack", "hydra/sweeper=grid")
    out = capsys.readouterr().out
    assert "2 of 2 trials are finished already" in out and "best: trial" in out
    assert "python -m rnnbench" in out
    assert len(rnnbench.records("s")) == 2


def test_output_subdir_of_a_single_run():
    call("run", "hydra.run.dir=r/0", "hydra.output_subdir=null", *QUICK)
    assert not [path for path in Path("r/0").iterdir() if path.is_dir()]
    assert read_result(Path("r/0"))["status"] == "finished"


# ---- hydra.job.env_set, env_copy


@pytest.mark.parametrize(("way", "before"), crossed(WAYS, [None, "old"]))
def test_env_set_holds_while_jobs_train_and_no_longer(way, before, monkeypatch):
    if before is not None:
        monkeypatch.setenv("RNNBENCH_TRIED", before)
    sweep("seed=0,1", "+hydra.job.env_set.RNNBENCH_TRIED=new", LISTEN, *way)
    assert [event[3] for event in SEEN if event[0] == "start"] == ["new", "new"]
    assert os.environ.get("RNNBENCH_TRIED") == before


def test_env_set_may_name_the_environment(monkeypatch):
    monkeypatch.setenv("ONE", "1")
    sweep("seed=0", "+hydra.job.env_set.RNNBENCH_TRIED=${oc.env:ONE}${hydra.job.name}", LISTEN)
    assert [event[3] for event in SEEN if event[0] == "start"] == ["1rnnbench"]


@pytest.mark.parametrize("value", ["${seed}", "${hydra.job.num}", "${hydra.job.override_dirname}"])
def test_an_environment_for_each_job_is_refused(value):
    message = refused("seed=0,1", f"+hydra.job.env_set.A={value}")
    assert "hydra.job.env_set" in message and "hydra/launcher=basic" in message


def test_an_environment_that_choices_make_different_is_refused(tmp_path):
    (tmp_path / "own/experiment").mkdir(parents=True)
    for name in ("a", "b"):
        text = f"# @package _global_\nhydra: {{job: {{env_set: {{A: {name}}}}}}}\nseed: {ord(name)}\n"
        (tmp_path / f"own/experiment/{name}.yaml").write_text(text)
    place = f"hydra.searchpath=[file://{tmp_path}/own]"
    message = refused("experiment=a,b", place)
    assert "hydra.job.env_set" in message and "differ" in message
    sweep("experiment=a", place)
    assert folders() == ["0"]


def test_a_worker_sets_the_environment_and_a_secret_stays_out_of_its_file(monkeypatch):
    """The stack is trained here, as a node would."""
    monkeypatch.setenv("RNNBENCH_TOKEN_OF_MINE", "not to be seen")
    Path("mine.py").write_text(CELL.replace('open("was_here", "w")', "open(os.environ['A'], 'w')"))
    launcher.register()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        words = ["rnnbench_import=mine.py", "model.name=placed", "fit.kernel=torch", *QUICK]
        config = launcher.task_config(hydra.compose("config", words))
    claim = SweepFolder.claim(
        Path("s"), name="s", command=[], tracking=config.tracking, single=False, elsewhere=True
    )
    given = {"A": "there", "B": "${oc.env:RNNBENCH_TOKEN_OF_MINE}"}
    with claim as records:
        job = Job("a", config, Path("s/0"), identity(config))
        stack = SentStack.write(
            Path("s"), records.info["sweep"], [job], max_stack=None, search=None, environment=given
        )
        assert "not to be seen" not in stack.file.read_text()
        work_on(stack.file)
    assert read_result(Path("s/0"))["status"] == "finished"
    assert Path("there").exists()
    assert not {"A", "B"} & os.environ.keys()


# ---- callbacks


def of_jobs(kind):
    return sorted(event[1:] for event in SEEN if event[0] == kind)


@pytest.mark.parametrize("way", sampled(WAYS, BOTH), ids=" ".join)
def test_callbacks_are_told_of_each_job_once(way):
    batches = sweep("seed=0,1,2", LISTEN, *way)
    values = [result.return_value for batch in batches for result in batch]
    assert SEEN[0] == ("multirun_start",) and SEEN[-1] == ("multirun_end",)
    assert [event[:2] for event in of_jobs("start")] == [(seed, str(seed)) for seed in range(3)]
    assert of_jobs("end") == [(seed, JobStatus.COMPLETED, values[seed]) for seed in range(3)]
    for seed in range(3):  # a job starts before it ends
        mine = [event[0] for event in SEEN if event[1:2] == (seed,)]
        assert mine == ["start", "end"]
    SEEN.clear()
    sweep("seed=0,1,2", LISTEN, *way)  # where nothing is trained again, they are told the same
    assert of_jobs("end") == [(seed, JobStatus.COMPLETED, values[seed]) for seed in range(3)]


@pytest.mark.parametrize("way", sampled(WAYS[:3:2], BOTH), ids=" ".join)
def test_callbacks_are_told_of_a_job_that_fails(way):
    lost = ["model=rnn", "optim=sgd", "optim.momentum=0", "optim.lr=0.1,1e38", "data.train_size=512"]
    with pytest.raises(TrialFailed):
        sweep(*lost, LISTEN, *way)
    states = [event[2] for event in SEEN if event[0] == "end"]
    assert sorted(states, key=str) == [JobStatus.COMPLETED, JobStatus.FAILED]
    (error,) = [event[3] for event in SEEN if event[0] == "end" and event[2] is JobStatus.FAILED]
    assert isinstance(error, TrialFailed) and "not finite" in str(error)


def test_callbacks_are_told_of_jobs_that_are_interrupted():
    with pytest.raises(KeyboardInterrupt):
        sweep("seed=0,1", LISTEN, "+hydra.callbacks.mine.interrupt=true", "fit.epochs=1000")
    assert {read_result(Path("s", name))["status"] for name in folders()} == {"interrupted"}
    ended = [event for event in SEEN if event[0] == "end"]
    assert [event[2] for event in ended] == [JobStatus.FAILED] * len(folders())


@pytest.mark.parametrize("launcher", sampled(["stack", "basic"], ["stack"]))
def test_callbacks_are_told_of_a_search(launcher):
    space = ["model.num_layers=choice(1,2,3)", "hydra/sweeper=optuna", "hydra/sweeper/sampler=brute_force"]
    sweep(*space, LISTEN, f"hydra/launcher={launcher}", "+hydra.job.env_set.RNNBENCH_TRIED=new")
    assert [event[1:3] for event in of_jobs("start")] == [("0", "new"), ("1", "new"), ("2", "new")]
    assert [event[2] for event in SEEN if event[0] == "end"] == [JobStatus.COMPLETED] * 3
    assert "RNNBENCH_TRIED" not in os.environ


def test_callbacks_of_a_single_run():
    call("run", "hydra.run.dir=r/0", LISTEN, *QUICK)
    assert [event[0] for event in SEEN] == ["run_start", "start", "end", "run_end"]


# ---- logging, the job's name


LOG = f"+hydra.callbacks.log._target_={__name__}.Logs"


@pytest.mark.parametrize("name", sampled(["rnnbench", "mine"], ["mine"]))
def test_job_logging_goes_into_the_sweep_folder(name):
    sweep("seed=0,1", "hydra/job_logging=default", LOG, f"hydra.job.name={name}")
    lines = Path(f"s/{name}.log").read_text().splitlines()
    assert [line.partition(" - ")[2] for line in lines if "[mine]" in line] == ["seed 0", "seed 1"]
    assert read("1/.hydra/hydra.yaml").hydra.job.name == name


@pytest.mark.parametrize("launcher", ["stack", "slurm"])
def test_a_log_of_each_job_is_refused(launcher):
    file = "hydra.job_logging.handlers.file.filename=s/${hydra.job.num}.log"
    more = [file] if launcher == "stack" else ["hydra.launcher.cluster=local"]
    message = refused("seed=0,1", "hydra/job_logging=default", f"hydra/launcher={launcher}", *more)
    assert "hydra/job_logging" in message


# ---- hydra.job.chdir


@pytest.mark.parametrize("way", sampled(["run", *WAYS[2:]], WAYS[2:3]), ids=str)
def test_chdir_trains_in_the_jobs_folder_and_paths_stay_those_of_the_command(way, store):
    Path("mine.py").write_text(CELL)
    before = os.getcwd()
    words = [
        "hydra.job.chdir=true",
        "rnnbench_import=mine.py",
        "model.name=placed",
        "fit.kernel=torch",
        *QUICK,
    ]
    if delivered := way == WAYS[2]:  # to the store where the command was given, and no other is made
        words += ["tracking.uri=sqlite:///mlflow.db"]
    if way == "run":
        call("run", "hydra.run.dir=s/0", *words)
    else:
        sweep("seed=0,1", *words, *way)
    assert folders() == (["0"] if way == "run" else ["0", "1"])
    assert all(Path("s", name, "was_here").exists() for name in folders())
    if delivered:
        assert read_sweep(Path("s"))["tracking"]["uri"] == f"sqlite:///{before}/mlflow.db"
        assert list(Path().rglob("mlflow.db")) == [Path("mlflow.db")]
    assert os.getcwd() == before


@pytest.mark.parametrize("launcher", ["stack", "slurm", "ray"])
def test_chdir_is_refused_where_jobs_train_together(launcher):
    more = ["hydra.launcher.cluster=local"] if launcher == "slurm" else []
    message = refused("seed=0,1", "hydra.job.chdir=true", f"hydra/launcher={launcher}", *more)
    assert "hydra.job.chdir=true" in message and "hydra/launcher=basic" in message


@pytest.mark.parametrize(
    ("word", "launcher"),
    crossed(["hydra.job.chdir=true", "hydra.sweep.subdir=run_${hydra.job.num}"], LAUNCHERS),
)
def test_a_search_refuses_what_it_has_no_use_for(word, launcher):
    space = ["optim.lr=choice(0.1,1)", "hydra/sweeper=optuna", "hydra/sweeper/sampler=brute_force"]
    assert word in refused(*space, word, f"hydra/launcher={launcher}")


# ---- Hydra's suites for launchers and sweepers


@pytest.mark.parametrize("way", sampled(WAYS, BOTH), ids=" ".join)
def test_a_sweep_of_one_job(way):
    ((result,),) = sweep(*way)
    assert result.overrides == QUICK
    assert result.status is JobStatus.COMPLETED and result.task_name == "rnnbench"
    written = read("0/.hydra/hydra.yaml").hydra
    assert written.job.name == "rnnbench"
    assert (written.job.id, written.job.num) in (("0", 0), (0, 0))
    assert written.mode == "MULTIRUN"
    assert read("multirun.yaml").hydra.overrides.task == QUICK


@pytest.mark.parametrize("way", sampled(WAYS, BOTH), ids=" ".join)
def test_the_files_of_the_jobs(way):
    (results,) = sweep("model=lstm,gru", "seed=1,2", *way)
    points = [("lstm", 1), ("lstm", 2), ("gru", 1), ("gru", 2)]
    for number, (model, seed) in enumerate(points):
        words = [*QUICK, f"model={model}", f"seed={seed}"]
        assert results[number].overrides == words
        assert read(f"{number}/.hydra/overrides.yaml") == words
        assert read(f"{number}/.hydra/config.yaml").model.name == model
        assert read(f"{number}/.hydra/config.yaml").seed == seed
        hydra_ = read(f"{number}/.hydra/hydra.yaml").hydra
        assert hydra_.job.num == number and hydra_.overrides.task == words
        assert hydra_.sweep.dir == "s" and hydra_.runtime.cwd == os.getcwd()
        assert hydra_.runtime.choices.model == model
    assert read("multirun.yaml").hydra.overrides.task == [*QUICK, "model=lstm,gru", "seed=1,2"]


@pytest.mark.parametrize("way", sampled(WAYS, BOTH), ids=" ".join)
def test_batches(way):
    """BatchedSweeperTestSuite: two batches of two."""
    batches = sweep("model=lstm,gru", "seed=1,2", "hydra.sweeper.max_batch_size=2", *way)
    assert [len(batch) for batch in batches] == [2, 2]
    words = [result.overrides[-2:] for batch in batches for result in batch]
    assert words == [[f"model={model}", f"seed={seed}"] for model in ("lstm", "gru") for seed in (1, 2)]
    assert folders() == list("0123")
    assert [read(f"{n}/.hydra/hydra.yaml").hydra.job.num for n in range(4)] == list(range(4))


GRAMMAR = [
    ("seed=range(1,6,step=2)", "seed", [1, 3, 5]),
    ("seed=sort(3,1,2,reverse=true)", "seed", [3, 2, 1]),
    ("model=glob([l*,g*],exclude=[l*,*_*])", "model.name", ["gru"]),
    ("model.name=choice('lstm','gru')", "model.name", ["lstm", "gru"]),
    ("tracking.artifacts=[],[curves]", "tracking.artifacts", [[], ["curves"]]),
    ("seed=range(3)", "seed", [0, 1, 2]),
    ("seed=choice(2,1)", "seed", [2, 1]),
    ("seed=sort(3,1,2)", "seed", [1, 2, 3]),
    ("model=glob(min*)", "model.name", ["mingru", "minlstm"]),
    ("fit.clip=null,1", "fit.clip", [None, 1.0]),
    ("model.bidirectional=true,false", "model.bidirectional", [True, False]),
    ("optim.lr=0.1,1e-3", "optim.lr", [0.1, 0.001]),
]


@pytest.mark.parametrize("point", sampled(GRAMMAR, GRAMMAR[:5]), ids=lambda point: point[0])
def test_the_grammar_of_a_sweep(point):
    """The points are those of Hydra's own sweeper, in its order, typed as the schema says."""
    word, key, values = point
    distinct = key != "tracking.artifacts"  # of which a trial does not depend
    with nullcontext() if distinct else pytest.raises(SystemExit, match="same trial"):
        sweep(word, *WAYS[1])
    if distinct:
        found = [read_result(Path("s", name))["params"] for name in folders()]
        assert [params[key] for params in found] == values


def test_shuffle_gives_each_value_once():
    sweep("seed=shuffle(range(4))")
    assert sorted(read_result(Path("s", name))["params"]["seed"] for name in folders()) == [0, 1, 2, 3]


@pytest.mark.parametrize("way", sampled(WAYS, BOTH), ids=" ".join)
def test_hydras_configuration_is_not_swept_over(way):
    with pytest.raises((HydraException, SystemExit)) as stopped:
        sweep("hydra.verbose=true,false", *way)
    assert "hydra.verbose" in str(stopped.value)
    assert not Path("s").exists()


@pytest.mark.parametrize("way", sampled(WAYS, BOTH), ids=" ".join)
def test_a_bad_key_trains_nothing(way):
    with pytest.raises((HydraException, SystemExit)):
        sweep("boo=bar", *way)
    assert not list(Path().rglob("result.json"))


@pytest.mark.parametrize("way", sampled(WAYS[1:], BOTH), ids=" ".join)
def test_the_four_ways_give_the_same_numbers(way):
    """The first of them without a word."""
    sweep("seed=0,1", *way)
    call("multirun", "hydra.sweep.dir=t", "seed=0,1", *QUICK)
    for name in folders():
        assert numbers(Path("s", name))[0] == pytest.approx(numbers(Path("t", name))[0], rel=1e-5, abs=1e-5)


def test_a_sweep_folder_whose_name_is_a_number():
    call("multirun", "hydra.sweep.dir=a/2024", "seed=0,1", *QUICK)
    call("multirun", "hydra.sweep.dir=b/17", "seed=0,1", *QUICK, *WAYS[3])
    assert folders("a/2024") == folders("b/17") == ["0", "1"]
    assert Path("a/2024/sweep.json").exists() and Path("b/17/sweep.json").exists()
    assert not list(Path().glob("*/sweep.json"))


def test_a_sweep_without_callbacks_composes_nothing_again(monkeypatch):
    """What nobody listens to costs nothing."""
    from rnnbench.sweep.launcher import TrialLauncher

    monkeypatch.setattr(TrialLauncher, "_composed", lambda *_: pytest.fail("composed again"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # Hydra 1.4 warns of each class that a config names, ours among them; the command does without.
        warnings.filterwarnings("ignore", r"hydra\.utils\.instantiate\(\) resolved _target_=")
        sweep("seed=0,1")
    starts = [read_result(Path("s", name))["started"] for name in folders()]
    assert all(a <= b for a, b in pairwise(starts))


def test_the_hash_of_a_trial_is_computed_once(monkeypatch):
    """When it is composed; whoever needs it later is given it."""
    hashed, really = [], job_module.trial_hash
    monkeypatch.setattr(job_module, "trial_hash", lambda *of: hashed.append(of) or really(*of))
    sweep("seed=0,1")
    assert folders() == ["0", "1"] and len(hashed) == 2


# ---- jobs in other processes

NOTES = """import os
from hydra.experimental.callback import Callback

class Notes(Callback):
    def on_job_start(self, config, **kwargs):
        note("start", config, os.environ.get("RNNBENCH_TRIED"))

    def on_job_end(self, config, job_return, **kwargs):
        note("end", config, job_return.status.name)

def note(*what):
    with open(os.path.join(os.environ["NOTES"], "notes"), "a") as file:
        print(what[0], what[1].seed, what[1].hydra.job.num, what[2], file=file)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "sees"),
    [
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/sweeper=grid"], "new"),
        (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/sweeper=basic"], "new"),
        # Its workers have the environment; callbacks are called by the command, which does not train.
        (["hydra/launcher=slurm", "hydra.launcher.cluster=local"], "None"),
    ],
)
def test_jobs_in_other_processes_have_the_same(way, sees, tmp_path):
    for package in ("hydra_plugins.hydra_joblib_launcher", "submitit"):
        pytest.importorskip(package)
    (tmp_path / "notes.py").write_text(NOTES)
    (tmp_path / "mine.py").write_text(CELL.replace('"was_here"', 'os.environ["RNNBENCH_TRIED"]'))
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
    run(
        tmp_path, "-m", "seed=5,6", "hydra.sweep.dir=s", "hydra.sweep.subdir=run_${hydra.job.num}", *QUICK,
        "+hydra.callbacks.notes._target_=notes.Notes", "+hydra.job.env_set.RNNBENCH_TRIED=new",
        "rnnbench_import=mine.py", "model.name=placed", "fit.kernel=torch", "hydra.output_subdir=null", *way,
        env=os.environ | {"PYTHONPATH": path, "NOTES": str(tmp_path)},
    )  # fmt: skip
    assert folders() == ["run_0", "run_1"]
    lines = [f"start 5 0 {sees}", "end 5 0 COMPLETED", f"start 6 1 {sees}", "end 6 1 COMPLETED"]
    assert sorted(Path("notes").read_text().splitlines()) == sorted(lines)
    assert Path("new").exists()
    assert not [path for path in Path("s/run_0").iterdir() if path.is_dir()]
