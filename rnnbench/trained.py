"""For notebooks: train a trial, and get trained networks back from records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from rnnbench import tasks
from rnnbench.cells import CELLS
from rnnbench.config import Arrays, Config, ConfigError, Images, conf_folder, typed
from rnnbench.network import Network, TorchNetwork, to_torch
from rnnbench.record import download, read_result


@dataclass
class Trained:
    """A trial's network at its best epoch, and the configuration it was trained with."""

    config: Config
    network: Network
    parameters: Tensor  # (P,)

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Tensor:
        """Logits (B, outputs), at every step (B, T, outputs), of examples (B, T, input).

        Values as in the data: those of images in [0, 1], tokens one-hot.
        """
        data = self.config.data
        x = (examples - data.mean) / data.std if isinstance(data, Images | Arrays) else examples
        weights = self.network.views(self.parameters.unsqueeze(0))
        logits = self.network(weights, x.permute(1, 2, 0).unsqueeze(0))[0]
        return logits.permute(*reversed(range(logits.dim())))

    def to_torch(self) -> TorchNetwork:
        """The same network as a plain torch.nn module; it takes normalised inputs (B, T, input).

        Raises:
            ConfigError: torch.nn has no such cell.
        """
        return to_torch(self.network, self.parameters)


def load(run: str | Path) -> Trained:
    """The trained network of a finished trial.

    Args:
        run: its job folder, or the id of its MLflow run (in the store that MLFLOW_TRACKING_URI names,
            else in ./mlflow.db), with the checkpoint among its artifacts or the folder still there.

    Raises:
        ConfigError: there is no finished trial, or none with weights; it needs code of one's own that has
            not been imported.
    """
    folder = Path(run) if Path(run).is_dir() else download(str(run))
    weights = folder / "weights.pt"
    if not weights.exists():
        raise ConfigError(f"{run}: holds no weights.pt; only a trial that has finished leaves one")
    config = typed(OmegaConf.load(folder / "config.yaml"))
    if config.rnnbench_import and (config.model.name not in CELLS or config.data.name not in tasks.TASKS):
        raise ConfigError(
            f"{run}: its cell or task ({config.model.name}, {config.data.name}) comes from "
            f"{config.rnnbench_import}; import that file first"
        )
    shape = tasks.shape(config.data)
    network = Network(config.model, shape.input_size, shape.outputs, shape.goal.every_step)
    return Trained(config, network, torch.load(weights, weights_only=True)["parameters"])


def run(*overrides: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Train one trial as `python -m rnnbench OVERRIDES` would; its result, as in result.json.

    Args:
        overrides: as on the command line, `"model=gru", "seed=1"`.
        folder: its job folder if it is a number, else the folder of job 0; by default a new one below
            multirun/.

    Raises:
        ConfigError: the trial cannot be run.
    """
    import hydra

    from rnnbench import launch
    from rnnbench.ledger import Job
    from rnnbench.preflight import preflight

    launch.register()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose("config", list(overrides), return_hydra_config=True)
        config = launch.task_config(cfg)
    preflight([config], Path(folder or cfg.hydra.run.dir))
    folder = launch.job_folder(Path(folder or launch.own_folder(cfg, "run")))
    job = Job(launch.job_name(overrides, config), config, folder)
    with launch.open_sweep(folder.parent, config, job.name, single=True) as sweep:
        launch.run_jobs(sweep, [job], 1)
    return read_result(folder)
