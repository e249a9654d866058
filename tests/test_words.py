"""What is typed wrong, keys, groups, grammar or values, ends in one message that names a form that works."""

import re
import shlex
from dataclasses import replace

import hydra
import pytest
from conftest import make_config, sampled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import rnnbench
from rnnbench import terminal
from rnnbench.config import DATA, OPTIMISERS, Config, ConfigError, conf_folder, plain
from rnnbench.config.advice import nearest, unknown_key
from rnnbench.config.keys import is_free, keys
from rnnbench.nn.cells import class_of
from rnnbench.sweep import launcher
from rnnbench.sweep.arguments import is_sweep, loader_of, read_arguments
from rnnbench.sweep.compose import compose_words
from rnnbench.sweep.explain import of_point
from rnnbench.sweep.hydra_api import Callbacks, split_points
from rnnbench.sweep.overrides import Checker
from rnnbench.sweep.preflight import check_alike
from tests.test_refusals import assert_refused, command

# What is typed, as the shell gives it to us, and the form that is to be in the answer.
SINGLE = {
    # keys that there are not, in every form
    "lr=0.1": "did you mean optim.lr=0.1?",
    "+lr=0.1": "+lr=0.1: there is no key lr; did you mean optim.lr=0.1?",
    "++lr=0.1": "++lr=0.1: there is no key lr; did you mean optim.lr=0.1?",
    "+model.hiden_size=3": "did you mean model.hidden_size=3?",
    "++model.hiden_size=3": "did you mean model.hidden_size=3?",
    "~experiment=1": "write ~experiment",
    "~search=[a]": "write ~search",
    "experiment=[1,2]": "experiment=1",
    "experiment=[tutorail]": "tutorial",
    "+optim.learning_rate=0.5": "did you mean optim.lr=0.5?",
    "optimizer.lr=0.5": "did you mean optim.lr=0.5?",
    "+fit.early_stopping=true": "did you mean fit.patience?",
    "+fit.early_stopping=3": "did you mean fit.patience=3?",
    "+a=0": "there is no key a; `python -m rnnbench --cfg job` shows",
    "'+model={hiden_size: 3}'": "model.hiden_size: there is no key model.hiden_size; did you mean",
    "'model={hiden_size: 3}'": "did you mean model.hidden_size",
    "batch_size=8": "did you mean fit.batch_size=8?",
    "budget=20k": "did you mean model.budget=20000?",
    "data.options.x=1": "write +data.options.x=1",
    "+optim.momentum=0.9": "it goes with optim=rmsprop or optim=sgd",
    "data.steps=5": "it goes with data=adding, data=copy, data=mqar",
    "hydra.run.dri=x": "did you mean hydra.run.dir",
    "hydra.sweeper.n_trials=3": "goes with hydra/sweeper=optuna",
    # keys that there are
    "+model.hidden_size=3": "is there already; write model.hidden_size=3",
    "+experiment=tutorial": "is there already; write experiment=tutorial",
    "model/hidden_size=3": "a value has a dot in its key: model.hidden_size=3",
    "~seed": "seed cannot be deleted",
    "~model": "model cannot be deleted",
    "~optim.lr": "optim.lr cannot be deleted",
    # options and groups
    "model=lsmt": "did you mean model=lstm or",
    "hydra/launcher=stak": "did you mean hydra/launcher=stack?",
    "optim=adan": "did you mean optim=adam or optim=adamw?",
    "models=lstm": "did you mean model=lstm?",
    "optimizer=adam": "did you mean optim=adam?",
    "dataset=mnist": "did you mean data=mnist?",
    "hydra/launchr=stack": "did you mean hydra/launcher=stack?",
    "hydra.sweeper=optuna": "an option is chosen with a slash: hydra/sweeper=optuna",
    "model=[lstm,gru]": "several are a sweep: -m model=lstm,gru",
    "fit=true": "fit=true: there is no such option; fit is one of default",
    "data=null": "data=null: there is no such option",
    "model=null": "model=null: there is no such option",
    # several values without -m
    "model=lstm,gru": "put -m before all values",
    "seed=range(4)": "put -m before all values",
    "model.budget=20,000": "or model.budget=20000 if this is one number",
    "optim.lr=0,1": "or optim.lr=0.1 if this is one number",
    # grammar
    "model": "has no value; write model=NAME, with one of cifg, cornn,",
    "seed": "has no value; write seed=VALUE",
    "seed 3": "write seed=3",
    "lstm": "did you mean model=lstm?",
    "model.lstm": "did you mean model=lstm?",
    "model:lstm": "did you mean model=lstm?",
    "'model = lstm'": "write model=lstm",
    "model = lstm": "write model=lstm",
    "seed =3": "write seed=3",
    "seed= 3": "write seed=3",
    "model=lstm,": "write model=lstm",
    "model=lstm, gru": "write model=lstm,gru after -m",
    "seed=1, 2, 3": "write seed=1,2,3 after -m",
    "seed=1 2": "separated by commas, without spaces: seed=1,2",
    "tracking.artifacts=[curves": '[ is not closed; write "tracking.artifacts=[curves]"',
    "tracking.artifacts=[curves, confusion]": 'write "tracking.artifacts=[curves,confusion]"',
    "seed=range(3": '( is not closed; write "seed=range(3)" after -m',
    "\"tracking.experiment='x\"": "' is not closed",
    "fit.epochs=5]": "write fit.epochs=5",
    "model=lstm,,gru": "write model=lstm,gru after -m",
    "seed=foo(3)": "there is no foo()",
    "seed=rnage(3)": "did you mean range(...)?",
    "a?b=3": "a key has letters, digits, _ and dots",
    "=3": "a key has letters",
    "model=hidden_size=3": "write model.hidden_size=3",
    "tracking.experiment=a=b": "need quotes",
    # several options, whatever stands between them
    "model=(lstm,gru)": "several options are a sweep: -m model=lstm,gru",
    "model='{lstm,gru}'": "several options are a sweep: -m model=lstm,gru",
    "'model=lstm;gru'": "several options are a sweep: -m model=lstm,gru",
    "'model=lstm gru'": "several options are a sweep: -m model=lstm,gru",
    "model=lstm/gru": "several options are a sweep: -m model=lstm,gru",
    "seed=choice()": "choice() has no values; for example choice(a,b)",
    "é=1": "a key has letters, digits, _ and dots",
    # values of the wrong kind
    "model.bidirectional=2": "must be true or false",
    "dry_run=-1": "must be true or false",
    "fit.epochs=99999999999999999999": "must be below 2**63",
    "seed=9223372036854775808": "must be below 2**63",
    "seed=0..3": 'write "seed=range(4)" after -m',
    "seed=2-4": 'write "seed=range(2,5)" after -m',
    "fit.epochs=1e1": "must be a whole number; write fit.epochs=10",
    "fit.epochs=10.0": "write fit.epochs=10",
    "model.budget=20k": "write model.budget=20000",
    "model.budget=1.5M": "write model.budget=1500000",
    "model.dropout=10%": "write model.dropout=0.1",
    "model.hidden_size=[8,16]": "write model.hidden_size=8,16 after -m",
    "fit.clip=none": "write fit.clip=null",
    "fit.select=vla": "must be one of val, test; write fit.select=val",
    "data.order=row": "write data.order=rows",
    "dry_run=ture": "must be true or false; write dry_run=true",
    "seed=null": "must be a whole number",
    "tracking.artifacts=curves": "must be a list of checkpoint, confusion, by_length, curves, in brackets",
    "fit.epochs=???": "fit.epochs: has no value; give fit.epochs=...",
    "data=text": "data.path: has no value; give data.path=...",
    "fit.epochs=${optim.lr}": "fit.epochs=${optim.lr}: must be a whole number",
    "fit.epochs=${model}": "fit.epochs=${model}: must be a whole number",
    "fit.epochs=${nowhere}": "fit.epochs=${nowhere}: ",
    "seed=${seed}": "seed=${seed}: ",
    "seed=${oc.env:RNNBENCH_UNSET}": "RNNBENCH_UNSET",
    "model.budget=5000 model.hidden_size=3": "model.budget=5000 chooses the hidden size",
    "model.budget=5000 ++model.hidden_size=3": "model.budget=5000 chooses the hidden size",
    "experiment=bai2018_jsb model.hidden_size=3": "model.budget=300000 chooses the hidden size",
    # flags
    "--model lstm": "values are given without dashes: model=lstm",
    "--seed=3": "values are given without dashes: seed=3",
    "--hidden-size=3": "values are given without dashes: model.hidden_size=3",
    "--multrun": "did you mean --multirun?",
    "model=lstm -m seed=0,1": "python -m rnnbench -m model=lstm seed=0,1",
    "--cfg": "expected one argument",
    "--cfg jobs": "invalid choice",
    "--cfg job -m": "only one of these at a time",
    "--multirun=true": "takes no value; write --multirun",
    "-m=true seed=0,1": "takes no value; write -m",
    "--help seed": "seed: --help tells of all groups and keys at once",
    "--version seed=1": "stands alone",
    "--shell-completion": "goes with install=SHELL",
    "-sc foo": "goes with install=SHELL",
    "-sc install=cmd": "there are completions for bash, fish or zsh",
    "--config-dir= seed=1": "is not a folder",
}  # fmt: skip

# The same after -m.
SEVERAL = {
    "+lr=0.001,0.5": "did you mean optim.lr=0.001,0.5?",
    "+a=0,1": "there is no key a",
    "+optimizer.lr=choice(0.1,0.2)": "did you mean optim.lr=choice(0.1,0.2)?",
    "model=lstm,gruu": "model=gruu: there is no such option; did you mean model=gru",
    "seed=range(0)": "a range without values; range(3) is 0,1,2",
    "seed=range(3,0)": "a range without values",
    "tracking.uri=a,b": "all trials of a sweep have the same tracking",
    "tracking=mlflow,none": "all trials of a sweep have the same tracking",
    "tracking.experiment=a,b": "all trials of a sweep have the same tracking",
    "dry_run=true,false": "all trials of a sweep have the same dry_run",
    "search=rate,lstm_gru": "all trials of a sweep have the same search",
    "hydra/launcher=basic,stack": "a whole sweep has one hydra/launcher",
    "hydra.sweep.dir=a,b": "a whole sweep has one hydra.sweep.dir",
    "model=glob(z*)": "none of the options is like this; model is one of cifg",
    "model=lstm gru": "separated by commas, without spaces: model=lstm,gru",
    "model=lstm, gru": "write model=lstm,gru",
}

# What must go on working, though it looks like the above.
ACCEPTED = [
    "data=own data.name=mine +data.options.x=1 +data.options.y.z=[1,2]",
    "'+data.sha256={a: b}'",
    "+data.sha256.file=abc",
    "++model.hidden_size=3",
    "++optim.lr=0.1",
    "+hydra.callbacks.mine._target_=hydra.experimental.callback.Callback",
    "+hydra.job.env_set.X=1",
    "~hydra.callbacks.rnnbench",
    "experiment=tutorial",
    "experiment=[tutorial]",
    "'optim={lr: 0.1}'",
    "fit.epochs=int(3.0)",
    "model.num_layers=2 model.hidden_size=${model.num_layers}",
    "\"tracking.experiment='a,b'\"",
    "model.budget=null model.hidden_size=3",
    "experiment=bai2018_jsb model.budget=null model.hidden_size=3",
    "model.forget_bias=1",
    "fit.clip=1",
    "dry_run=yes",
]


def config_of(words: list[str], several: bool = False) -> Config | None:
    """What the command makes of its words before anything is made; None where it makes several trials."""
    launcher.register()
    arguments = read_arguments(words)
    loader = loader_of(arguments)
    if several or arguments.multirun:
        Checker(loader).check(arguments.overrides, several=True)
        return None
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return launcher.task_config(compose_words(arguments.overrides))


def assert_one_message(message: str) -> None:
    assert message.count("\n") == 0, message
    for foreign in ("Traceback", "https://hydra", "HYDRA_FULL_ERROR", "full_key", "object_type", "use +"):
        assert foreign not in message


@pytest.mark.parametrize("line", SINGLE)
def test_a_wrong_word_is_answered_with_a_form_that_works(line):
    with pytest.raises(ConfigError) as refusal:
        config_of(shlex.split(line))
    assert SINGLE[line] in str(refusal.value), refusal.value
    assert_one_message(str(refusal.value))


@pytest.mark.parametrize("line", SEVERAL)
def test_so_is_one_of_a_sweep(line):
    with pytest.raises(ConfigError) as refusal:
        config_of(shlex.split(line), several=True)
    assert SEVERAL[line] in str(refusal.value), refusal.value
    assert_one_message(str(refusal.value))


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_is_right_is_left_alone(line):
    assert isinstance(config_of(shlex.split(line)), Config)


LONG = [key for key in keys() if len(key.rpartition(".")[2]) > 1]


@pytest.mark.parametrize("key", sampled(LONG, LONG[::8]))
def test_a_key_with_one_wrong_letter_is_answered_with_that_key(key):
    """Left out, doubled, exchanged with its neighbour, or another one."""
    start = key.rfind(".") + 1
    typos = set()
    for n in range(start, len(key)):
        typos |= {key[:n] + key[n + 1 :], key[:n] + key[n] + key[n:], key[:n] + "q" + key[n + 1 :]}
        if n + 1 < len(key):
            typos.add(key[:n] + key[n + 1] + key[n] + key[n + 2 :])
    for typo in typos - keys().keys():
        if not typo.endswith(".") and not is_free(typo):
            assert key in unknown_key(typo), typo
            assert key in nearest(typo.rpartition(".")[2], keys(), 5) or len(typo) - start < 6, typo


def test_the_keys_are_those_of_the_configurations():
    """Of every optimiser and every task, as `plain` writes them: nothing of the schema is missing."""
    launcher.register()
    given = [(f"optim={name}", {"optim": kind(name=name)}) for name, kind in OPTIMISERS.items()]
    given += [(f"data={name}", {"data": kind(name=name)}) for name, kind in DATA.items()]
    for options, chosen in given:
        config = replace(make_config(), **chosen)
        for section, values in plain(config).items():
            names = [f"{section}.{key}" for key in values] if isinstance(values, dict) else [section]
            assert set(names) <= keys().keys()
            for name in names:
                assert not keys()[name].options or options in keys()[name].options or (
                    not name.startswith(options.partition("=")[0])
                )  # fmt: skip


GROUPS = ["model", "optim", "data", "experiment", "hydra/launcher", "hydra.job.name"]
GIVEN = ["1", "0.5", "true", "null", "lstm", "adam", "digits", "1e3", "-1", "[1,2]", "{a: 1}", "a,b"]
GIVEN += ["range(2)", "x", "${seed}", "???", "'q'", "20k", "", "${oc.env:A}"]


@st.composite
def mutated(draw):
    """Overrides of the schema's keys, some letters of which are exchanged, left out or put in."""
    words = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from([*keys(), *GROUPS]))
        value = draw(st.sampled_from(GIVEN))
        word = draw(st.sampled_from(["", "", "", "+", "++", "~"])) + f"{key}={value}"
        for _ in range(draw(st.integers(0, 2))):
            place = draw(st.integers(0, len(word)))
            sign = draw(st.sampled_from([*"=.,/:'\"[]{}()+~ $@#\\é", "a", "_", ""]))
            word = word[:place] + sign + word[place + draw(st.integers(0, 1)) :]
        words.append(word)
    return words


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_whatever_is_typed_ends_in_a_configuration_or_one_message(words):
    launcher.register()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        try:
            assert isinstance(launcher.task_config(compose_words(words)), Config)
        except ConfigError as refusal:
            message = str(refusal)
            assert message.strip()
            for foreign in ("Traceback", "https://hydra", "HYDRA_FULL_ERROR", "full_key"):
                assert foreign not in message


@pytest.mark.parametrize(
    "word",
    ["hydra/launcher=slurm", "hydra.launcher.max_stack=1", "hydra/sweeper=optuna", "hydra.sweeper.plan=x"],
)
def test_what_is_of_a_sweep_is_refused_of_a_single_run(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"is of a sweep, and this is a single run; leave it out, or put -m"
    ):
        rnnbench.run(word, "tracking.uri=null")
    assert not list(tmp_path.iterdir())


def test_a_sweep_may_be_asked_for_by_its_setting():
    assert is_sweep(read_arguments(["hydra.mode=MULTIRUN", "seed=0,1"]))
    assert not is_sweep(read_arguments(["hydra.mode=RUN"]))
    with pytest.raises(ConfigError, match="leave one of the two out"):
        is_sweep(read_arguments(["-m", "hydra.mode=RUN"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.hidden_size=4", "seed=x"], "seed=x: must be a whole number"),
        (["model=gru", "model.hidden_size=4"], "model.forget_bias=1.0: gru has no forget gate"),
    ],
)
def test_a_message_names_the_point_of_a_sweep_once(words, message):
    named = any(message.startswith(word) for word in words)
    expected = message if named else f"{' '.join(words)}: {message}"
    assert str(of_point(words, ConfigError(message))) == expected


def test_a_cell_of_nearly_that_name_is_found():
    with pytest.raises(ConfigError, match=r"did you mean model.name=lstm"):
        class_of("lsmt")


def test_python_answers_as_the_command_does():
    with pytest.raises(ConfigError, match=r"lr=0.1: there is no key lr; did you mean optim.lr=0.1\?"):
        rnnbench.run("lr=0.1")


FILES = {
    "experiment=mine": "# @package _global_\nmodel: {hiden_size: 3}\n",
    "+mine=mine": "# @package _global_\nmodel: {hiden_size: 3}\n",
    "search=mine": "# @package _global_\ndefaults: [{override /hydra/sweeper: optuna}]\n"
    "hydra: {sweeper: {space: {model.hiden_size: 'choice(3,4)'}}}\n",
    "search=mine -m": "# @package _global_\ndefaults: [{override /hydra/sweeper: optuna}]\n"
    "hydra: {sweeper: {params: {+model.hiden_size: 'choice(3,4)'}}}\n",
}


@pytest.mark.parametrize("line", FILES)
def test_a_key_in_a_file_of_ones_own_is_refused(line, tmp_path):
    group = line.split()[0].strip("+").partition("=")[0]
    file = tmp_path / "own" / group / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(FILES[line])
    work = tmp_path / "work"
    work.mkdir()
    words = ["--config-dir", str(tmp_path / "own"), line.split()[0]]
    words += ["-m"] if group == "search" else []
    assert_refused(command(words, work), ["did you mean model.hidden_size"], work)


BROKEN = {
    # PyYAML in Python and in C, which OmegaConf 2.4 takes, have different words.
    b"# @package _global_\nmodel: [lstm\n": r"mine\.yaml:3: (did not find )?expected ',' or '\]'",
    b"\xff\xfe": "experiment=mine: its file is no YAML in UTF-8",
    b"model: {hidden_size: 4}\n": "must begin with the line `# @package _global_`",
    b"": "must begin with the line `# @package _global_`",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_file_of_ones_own_that_cannot_be_read_is_named(content, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        rnnbench.run(f"hydra.searchpath=[{tmp_path}]", "experiment=mine", "tracking.uri=null")
    assert "mine" in str(refusal.value)
    assert re.search(BROKEN[content], str(refusal.value))
    assert_one_message(str(refusal.value))


@pytest.mark.parametrize(
    "line",
    ["--config-dir own", "--config-dir=own", "-cd own", "-cd=own", "-cn mine", "'hydra.searchpath=[/own]'"],
)
def test_the_command_to_train_again_finds_the_same_files(line, monkeypatch):
    words = shlex.split(line)
    monkeypatch.setattr("sys.argv", ["rnnbench", "-m", *words, "seed=0,1"])
    assert shlex.split(terminal.train_command(["seed=1"])) == ["python", "-m", "rnnbench", *words, "seed=1"]


COMMANDS = {
    "+lr=0.1": "did you mean optim.lr=0.1?",
    "-m +lr=0.001,0.5": "did you mean optim.lr=0.001,0.5?",
    "-m hydra/launcher=basic hydra/sweeper=basic seed=range(0)": "a range without values",
    "-m hydra/launcher=basic hydra/sweeper=basic model=lstm,gru ++lr=1": "did you mean optim.lr=1?",
    "-m hydra.sweeper.max_batch_size=0 seed=0,1": "hydra.sweeper.max_batch_size=0: must be a whole number",
    "-m hydra.sweeper.max_batch_size=x seed=0,1": "hydra.sweeper.max_batch_size=x: must be a whole number",
    "-m hydra.launcher.max_stack=1.5 seed=0,1": "hydra.launcher.max_stack=1.5: must be a whole number",
    "-m hydra.launcher.max_stack=x seed=0,1": "hydra.launcher.max_stack=x: must be a whole number",
    "-m hydra.sweeper.only=/nowhere seed=0,1": "hydra.sweeper.only=/nowhere: No such file",
    "-m hydra.sweeper.plan=/nowhere/x seed=0,1": "hydra.sweeper.plan=/nowhere/x: No such file",
    "-m +hydra.sweeper.params=[seed]": "hydra.sweeper.params: must be a mapping",
    "-m hydra/sweeper=optuna model.hidden_size=interval(4,8)": '"model.hidden_size=int(interval(4,8))"',
    "-m hydra/sweeper=optuna optim.lr=tag(lgo,interval(0.1,1))": "there is no tag lgo here",
    "-m hydra/sweeper=optuna model=glob(z*)": "none of the options is like this",
    "-m hydra/sweeper=optuna optim.lr=choice(0.1,1) hydra.sweeper.objectives=x": "must be a list, in",
    "-m hydra/sweeper=optuna +hydra.sweeper.space={optim.lr:{over:'choice(1,2)',when:'modle=lstm'}}": (
        "there is no key modle; did you mean model"
    ),
    "-m hydra/sweeper=optuna +hydra.sweeper.space={optim.lr:{over:'choice(1,2)',when:'model=lsmt'}}": (
        "did you mean model=lstm"
    ),
    "-m hydra/sweeper=optuna +lr=interval(0.001,0.1)": "did you mean optim.lr=interval(0.001,0.1)?",
    "-m hydra/sweeper=optuna hydra.sweeper.params={+lr:interval(1,2)}": "interval(...) stands in quotes",
    "-m hydra/sweeper=optuna hydra.sweeper.params={+lr:'interval(1,2)'}": 'write "+hydra.sweeper.params=',
    "-m hydra/sweeper=optuna +hydra.sweeper.params={+lr:'interval(1,2)'}": "there is no key lr",
    "-m hydra/sweeper=optuna optim.momentum=interval(0.1,0.2)": "it goes with optim=rmsprop or optim=sgd",
    "-m hydra.sweeper.params={+lr:'1,2'}": "did you mean optim.lr=1,2?",
    "-m hydra.sweeper.params={seed:'range(0)'}": "a range without values",
    "-m experiment=[bai2018_jsb] model.hidden_size=3,4": "model.budget=300000 chooses",
    "-m hydra.run.dir=x": "give hydra.sweep.dir=x",
    "hydra.sweep.dir=x": "give hydra.run.dir=x, or put -m first",
    "hydra.sweep.subdir=x": "put -m first",
    "+hydra.launcher.max_stak=3": "did you mean hydra.launcher.max_stack?",
    "-m +hydra.sweeper.n_trails=3": "did you mean hydra.sweeper.n_trials",
    "--help lr=0.1": "did you mean optim.lr=0.1?",
    "--cfg job model=lsmt": "did you mean model=lstm or",
    "--config-dir nowhere": "--config-dir=nowhere: is not a folder",
    "--config-name nothing": "nothing",
    "fit.epochs=${nowhere}": "fit.epochs=${nowhere}: ",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_says_it_and_makes_nothing(line, tmp_path):
    done = command(line.split(), tmp_path)
    assert_refused(done, [COMMANDS[line]], tmp_path)
    assert_one_message(done.stderr.strip())


@pytest.mark.slow
def test_a_sweeper_of_hydras_own_does_not_train_a_trial_twice(tmp_path):
    done = command(["-m", "hydra/sweeper=basic", "seed=0,1,0", "tracking=none"], tmp_path)
    assert done.returncode == 1
    assert "seed=0 tracking=none: is the same trial as seed=0 tracking=none; leave one away" in done.stderr
    assert list(tmp_path.glob("**/result.json")) == []


@pytest.mark.parametrize("start", ["on_run_start", "on_multirun_start"])
def test_a_check_that_breaks_stops_the_run(start, monkeypatch, capsys):
    """Hydra turns what a callback raises into a warning, and would go on."""

    def broken(*_):
        raise RuntimeError("of the check itself")

    monkeypatch.setattr(launcher, "check_settings", broken)
    with pytest.raises(SystemExit) as end:
        getattr(launcher.Gate(), start)(OmegaConf.create({}))
    assert end.value.code == 1
    assert "RuntimeError: of the check itself" in capsys.readouterr().err


def test_the_table_counts_a_trial_once():
    def result(trial, seed, accuracy, started, status="finished"):
        metrics = {"best/val_accuracy": accuracy, "parameters/total": 1.0, "time/train_seconds": 1.0}
        params = {"model.name": "lstm", "seed": seed}
        return {"trial": trial, "status": status, "started": started, "params": params,
                "metrics": metrics if status == "finished" else {}}  # fmt: skip

    twice = [result("a", 0, 0.5, 1), result("a", 0, 0.7, 2), result("a", 0, 0.0, 3, "failed")]
    (row,) = terminal.compare(twice).lines()
    assert row[-1] == "1"
    assert "0.7000" in row
    (row,) = terminal.compare([*twice, result("b", 1, 0.9, 4)]).lines()
    assert row[-1] == "2"
    assert "0.8000 ± 0.1414" in row


def test_trials_of_one_sweep_have_one_store():
    configs = [config_of(["tracking=none"]), config_of(["tracking.experiment=b"])]
    with pytest.raises(ConfigError, match=r"tracking.uri=sqlite:///mlflow.db: all trials of a sweep"):
        check_alike(configs)


EQUAL = {
    "seed=0,0": 1,
    "optim.lr=0.1,0.10,1e-1 seed=0,1": 2,
    "fit.kernel=auto,torch": 1,
    "model=lstm,lstm,gru": 2,
    "data.root=a,b": 1,
    "objective=null,val/accuracy": 1,
}


@pytest.mark.parametrize("line", EQUAL)
def test_equal_points_of_a_grid_are_trained_once(line, tmp_path, monkeypatch, capsys):
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    monkeypatch.chdir(tmp_path)
    launcher.register()
    loader = loader_of(read_arguments(["-m"]))
    for name in ("stack", "basic"):
        words = [*line.split(), "tracking=none", f"hydra/launcher={name}", "hydra.sweep.dir=s"]
        config = loader.load_configuration("config", words, RunMode.MULTIRUN)
        context = HydraContext(config_loader=loader, callbacks=Callbacks())
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=lambda _: None, config=config
        )
        words = list(config.hydra.overrides.task)
        points = split_points(sweeper.composer.checker.parser.parse_overrides(words))
        kept, equal = sweeper.points(words)
        assert (len(kept), equal) == (EQUAL[line], len(points) - EQUAL[line])
        assert list(kept[0].overrides) == points[0]
        monkeypatch.setattr(sweeper, "_launch", lambda jobs, name: [])
        sweeper.sweep(words)
        assert f"{equal} of {len(points)} points are the same trial" in capsys.readouterr().out
