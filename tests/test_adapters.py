"""The private parts of Hydra and Optuna are as the adapters need them: these fail first when one changes."""

import inspect
import sys
from dataclasses import dataclass

import hydra
import optuna
import pytest
from hydra._internal import config_loader_impl, config_repository, defaults_list, utils
from hydra._internal import hydra as hydra_main
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, env_override, filter_overrides
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rnnbench.config import conf_folder
from rnnbench.search import optuna_api
from rnnbench.sweep import hydra_api, launcher


@pytest.fixture
def loader():
    launcher.register()
    return hydra_api.make_loader(str(conf_folder()), None)


@pytest.fixture
def parser(loader):
    return OverridesParser.create(config_loader=loader)


def first_parameters(function, *names):
    """Assert that a function can be called with these positional arguments."""
    assert tuple(inspect.signature(function).parameters)[: len(names)] == names


def test_the_functions_take_the_arguments_that_they_are_given():
    first_parameters(utils.run_and_report, "func")
    first_parameters(utils.create_config_search_path, "search_path_dir")
    first_parameters(config_loader_impl.ConfigLoaderImpl, "config_search_path")
    loader = config_loader_impl.ConfigLoaderImpl
    first_parameters(loader._parse_overrides_and_create_caching_repo, "self", "config_name", "overrides")
    first_parameters(loader._apply_overrides_to_config, "overrides", "cfg")
    first_parameters(loader.load_configuration, "self", "config_name", "overrides", "run_mode")
    assert "= ConfigLoaderImpl(" in inspect.getsource(hydra_main.Hydra.create_main_hydra2)
    first_parameters(BasicSweeper.split_arguments, "overrides", "max_batch_size")
    first_parameters(HydraContext, "config_loader", "callbacks")
    first_parameters(configure_log, "log_config", "verbose_config")
    first_parameters(env_override, "env")
    first_parameters(filter_overrides, "overrides")
    for event in ("on_job_start", "on_job_end"):
        assert callable(getattr(hydra_api.Callbacks, event))


def test_hydras_command_raises_its_errors(monkeypatch, tmp_path):
    assert "run_and_report(" in inspect.getsource(utils._run_hydra)
    launcher.register()
    monkeypatch.setattr(utils, "run_and_report", utils.run_and_report)
    monkeypatch.setattr(sys, "argv", ["rnnbench", "nothing=1", f"hydra.run.dir={tmp_path}"])
    with pytest.raises(HydraException, match="nothing"):
        hydra_api.run_application(lambda cfg: None, str(conf_folder()), "config")


def test_the_parser_has_the_flags_that_are_checked():
    parser = hydra_api.arguments_parser()
    flags = hydra_api.flags_of(parser)
    assert {
        "-m",
        "--multirun",
        "--run",
        "--cfg",
        "--info",
        "--config-dir",
        "--resolve",
        "--help",
    } <= flags.keys()
    assert flags["-m"].nargs == 0 and flags["--config-dir"].nargs is None
    arguments = parser.parse_args(["-m", "--config-dir", "x", "seed=1"])
    assert (arguments.multirun, arguments.config_dir, arguments.overrides) == (True, "x", ["seed=1"])
    assert {"run", "cfg", "info", "shell_completion", "resolve", "help", "config_path"} <= vars(
        arguments
    ).keys()
    with pytest.raises(SystemExit):
        parser.parse_args(["--multi"])


def test_the_files_know_groups_options_and_contents(loader, tmp_path):
    files = hydra_api.files_of(loader)
    assert files.group_exists("model") and not files.group_exists("nothing")
    assert files.config_exists("model/lstm") and not files.config_exists("model/nothing")
    assert files.load_config("model/lstm").config is not None
    assert "mine" not in files.get_group_options("model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: lstm\n")
    more = hydra_api.files_seen_with(loader, "config", [f"hydra.searchpath=[file://{tmp_path}]"])
    assert "mine" in more.get_group_options("model") and "lstm" in more.get_group_options("model")
    with pytest.raises(HydraException):
        hydra_api.files_seen_with(loader, "config", ["seed=[1"])
    first = hydra_api.make_loader(str(conf_folder()), str(tmp_path))
    assert "mine" in hydra_api.files_of(first).get_group_options("model")


def test_a_file_is_parsed_once_and_read_again_once_it_has_changed(tmp_path, monkeypatch):
    """Whoever composes changes what he was given: the next one is given the file as it is."""
    assert "copy.deepcopy(delegate)" in inspect.getsource(config_repository.CachingConfigRepository)
    parsed = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: parsed.append(file.name) or load(file))
    mine = tmp_path / "mine.yaml"
    mine.write_text("# @package other\ndefaults: [/model: lstm, _self_]\nname: first\n")
    files = hydra_api.files_of(hydra_api.make_loader(str(conf_folder()), str(tmp_path)))
    for _ in range(2):
        found = files.load_config("mine")
        assert found.header["package"] == "other" and found.config == {"name": "first"}
        assert [default.get_name() for default in found.defaults_list] == ["lstm", "_self_"]
        found.config.name = "changed"
    assert parsed == [str(mine)]
    mine.write_text("name: again\n")
    assert files.load_config("mine").config == {"name": "again"}
    mine.unlink()
    assert files.load_config("mine") is None
    mine.write_bytes(b"name: \xff\n")
    with pytest.raises(UnicodeDecodeError):
        files.load_config("mine")


@pytest.mark.parametrize("words", [["first=a"], ["second=a"], ["second=${first}", "first=a"]])
def test_choices_are_inserted_as_by_hydra(tmp_path, monkeypatch, words):
    (tmp_path / "own.yaml").write_text("defaults:\n  - first: b\n  - second: ${first}\n")
    for group in ("first", "second"):
        (tmp_path / group).mkdir()
        for name in ("a", "b"):
            (tmp_path / group / f"{name}.yaml").write_text(f"name: {name}\n")

    def composed():
        with hydra_api.initialized(str(tmp_path)):
            return GlobalHydra.instance().config_loader().load_configuration("own", words, RunMode.RUN)

    ours = composed()
    assert ours.second.name == "a"
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", hydra_api.CHOICES)
    assert ours == composed()


def test_a_config_is_merged_once_and_again_when_a_part_has_changed(tmp_path, monkeypatch):
    """Whoever is given it changes it: the next one is given what is on disk and registered now."""
    (tmp_path / "own.yaml").write_text("defaults:\n  - first: a\n  - kind: one\n  - _self_\n")
    (tmp_path / "first").mkdir()
    merged = []
    merge = config_loader_impl.ConfigLoaderImpl._compose_config_from_defaults_list
    monkeypatch.setattr(
        config_loader_impl.ConfigLoaderImpl,
        "_compose_config_from_defaults_list",
        lambda *given, **named: merged.append(1) or merge(*given, **named),
    )

    def composed(*words):
        with hydra_api.initialized(str(tmp_path)):
            cfg = GlobalHydra.instance().config_loader().load_configuration("own", [*words], RunMode.RUN)
        values = cfg.first.value, cfg.kind.value
        cfg.kind.value = cfg.first.value = 0
        return values

    (tmp_path / "first" / "a.yaml").write_text("value: 1\n")
    hydra_api.register_config("kind", "one", {"value": 1})
    assert [composed(), composed(), composed("first.value=5"), len(merged)] == [(1, 1), (1, 1), (5, 1), 1]
    (tmp_path / "first" / "a.yaml").write_text("value: 2\n")
    assert [composed(), composed(), len(merged)] == [(2, 1), (2, 1), 2]
    hydra_api.register_config("kind", "one", {"value": 3})
    assert [composed(), composed(), len(merged)] == [(2, 3), (2, 3), 3]

    @dataclass
    class Own:  # its module may be read again, so no copy of it is kept
        value: int = 4

    hydra_api.register_config("kind", "one", Own)
    assert [composed(), composed(), len(merged)] == [(2, 4), (2, 4), 5]


def test_values_are_applied_and_noted_as_hydra_does(loader, parser):
    words = ["optim.lr=0.5", "seed=3"]
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        expected, cfg = (
            loader.load_configuration("config", given, RunMode.RUN) for given in (words, ["seed=1"])
        )
        overrides = parser.parse_overrides(words)
        hydra_api.apply_values(overrides, cfg)
        hydra_api.note_overrides(overrides, cfg)
        assert cfg.optim.lr == 0.5 and cfg.seed == 3
        assert cfg.hydra.job.override_dirname == "optim.lr=0.5,seed=3"
        assert OmegaConf.to_yaml(cfg) == OmegaConf.to_yaml(expected)
        with pytest.raises(HydraException):
            hydra_api.apply_values(parser.parse_overrides(["optim.nothing=1"]), cfg)


def test_the_parsed_value_keeps_what_value_removes(parser):
    (override,) = parser.parse_overrides(["a='b'"])
    assert override.value() == "b" and isinstance(hydra_api.parsed_value(override), QuotedString)


def test_a_grid_is_split_in_the_order_of_the_basic_sweeper(parser):
    overrides = parser.parse_overrides(["model=lstm,gru", "optim.lr=1", "seed=range(2)"])
    assert hydra_api.split_points(overrides) == [
        [f"model={model}", "optim.lr=1", f"seed={seed}"] for model in ("lstm", "gru") for seed in (0, 1)
    ]


def test_the_basic_launcher_is_known():
    Plugins.instance()  # whose scan imports the module of the class anew
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    assert hydra_api.is_basic(BasicLauncher())
    assert not hydra_api.is_basic(launcher.StackLauncher(None))


def test_globals_are_removed_and_restored():
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        before = GlobalHydra.instance()
        with hydra_api.own_globals():
            assert not GlobalHydra.instance().is_initialized()
        assert GlobalHydra.instance() is before and before.is_initialized()
    assert all(kind.instance() for kind in hydra_api.GLOBALS)


def test_a_resolver_replaces_one_of_its_name():
    for value in (1, 2):
        hydra_api.register_resolver("tests_adapters", lambda value=value: value)
        assert OmegaConf.create({"a": "${tests_adapters:}"}).a == value


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=InMemoryStorage(), sampler=optuna.samplers.RandomSampler(seed=1))


def begin(study, parameters=None):
    trials = study.get_trials(deepcopy=False)
    return optuna_api.begin_trial(
        study, study._storage, trials, attributes={"worker": "me"}, parameters=parameters
    )


def test_a_trial_begins_as_ask_begins_one(study):
    drawn = begin(study).suggest_float("x", 0, 1)
    other = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    assert drawn == other.ask().suggest_float("x", 0, 1)
    (trial,) = study.get_trials()
    assert trial.state == TrialState.RUNNING and trial.user_attrs == {"worker": "me"}
    assert optuna_api.fixed_parameters(trial) == {}


def test_a_trial_can_begin_with_parameters_and_they_are_read_again(study):
    trial = begin(study, {"x": 0.25})
    assert trial.suggest_float("x", 0, 1) == 0.25
    assert optuna_api.fixed_parameters(study.get_trials()[0]) == {"x": 0.25}
    study.enqueue_trial({"x": 0.5})
    assert optuna_api.fixed_parameters(study.get_trials()[1]) == {"x": 0.5}


def test_the_sampler_reads_the_trials_that_it_is_given(study, monkeypatch):
    """Beginning a trial costs one reading of the study, which another process may have made long."""
    study.tell(study.ask(), 1.0)
    trials = study.get_trials(deepcopy=False)
    read = []
    original = study._storage.get_all_trials
    monkeypatch.setattr(study._storage, "get_all_trials", lambda *a, **k: read.append(1) or original(*a, **k))
    trial = optuna_api.begin_trial(study, study._storage, trials, attributes={}, parameters=None)
    trial.suggest_float("x", 0, 1)
    assert study._get_trials(deepcopy=False, use_cache=True) is trials and read == []


def test_the_storage_knows_studies_and_trials_by_their_ids(study):
    trial = begin(study)
    frozen = study.get_trials()[0]
    storage = study._storage
    assert storage.get_study_name_from_id(optuna_api.study_id(study)) == study.study_name
    assert optuna_api.trial_id(trial) == optuna_api.trial_id(frozen)
    assert storage.get_trial(optuna_api.trial_id(trial)).number == trial.number


def test_a_journal_takes_a_lock_of_ours(tmp_path):
    held = []

    class Lock(optuna_api.BaseJournalFileLock):
        def acquire(self):
            held.append("acquired")
            return True

        def release(self):
            held.append("released")

    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log"), Lock()))
    optuna.create_study(storage=storage)
    assert held[:2] == ["acquired", "released"] and len(held) % 2 == 0


def test_the_logger_of_the_database_is_the_one_that_is_silenced():
    import logging

    optuna_api.silence_database()
    module = sys.modules["optuna.storages._rdb.storage"]
    assert module._logger.level == logging.ERROR
