"""Loads trained networks from records, for notebooks."""

import io
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from rnnbench import tasks
from rnnbench.config import Config, ConfigError, Data, Kernel, Precision
from rnnbench.config.places import explained
from rnnbench.config.user_code import IMPORT, recalled
from rnnbench.mlflow_sync.artifacts import download
from rnnbench.nn.network import Network, TorchNetwork, to_torch
from rnnbench.record import is_job, read_result
from rnnbench.system.files import read, read_bytes
from rnnbench.tasks import Goal
from rnnbench.tasks.array_file import Arrays
from rnnbench.tasks.files import Stored
from rnnbench.tasks.music import Music
from rnnbench.tasks.sequences import Images
from rnnbench.tasks.series.long_form import LongForm
from rnnbench.tasks.series.recorded import enter, in_units, recorded
from rnnbench.tasks.series.settings import Series
from rnnbench.tasks.series.ucr import Ucr
from rnnbench.tasks.text import Text
from rnnbench.train.stack import Stack


@dataclass
class Trained:
    """A trial's network at its best epoch, and the configuration it was trained with."""

    config: Config
    network: Network
    parameters: Tensor  # (P,)
    goal: Goal  # what the network predicts, see `Goal`
    result: dict[str, Any]  # its record; {} where a run in MLflow has none among its artifacts

    @torch.no_grad()
    def __call__(self, examples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute logits (B, outputs), or where an answer is asked for at every step (B, T, outputs).

        Args:
            examples: (B, T, input), values as in the data: those of images in [0, 1], tokens one-hot, those
                of series and arrays as their file has them, nan where one is missing; they enter as the
                record says (data.standardise, data.missing, data.mean and data.std). Anything that
                torch.as_tensor takes.
            lengths: (B,) whole numbers from 1 to T, the steps of each example that count; what comes after
                them is padding, and its logits mean nothing. None: all T do.

        Raises:
            ConfigError: examples or lengths of another shape, or bytes in place of values in [0, 1]; or a
                value is missing, or the record does not say how values enter.
        """
        data = self.config.data
        x = torch.as_tensor(examples)
        if isinstance(data, Series) and (data.standardise or data.missing) and x.dim() == 3:
            x = self._entering(data, x, lengths)
        if x.dim() != 3 or x.shape[2] != self.network.input_size or 0 in x.shape:
            raise ConfigError(
                f"examples: expected (B, T, input) = (B, T, {self.network.input_size}), got {tuple(x.shape)}"
            )
        if isinstance(data, Images) and not (x.is_floating_point() and bool(((x >= 0) & (x <= 1)).all())):
            found = f"from {x.min():g} to {x.max():g}" if x.is_floating_point() else x.dtype
            raise ConfigError(
                f"examples: expected floats in [0, 1], got {found}; divide by the largest value that a pixel "
                "can have"
            )
        x = x.to(self.parameters.dtype)
        if isinstance(data, Images) or (isinstance(data, Arrays) and not (data.standardise or data.missing)):
            x = (x - data.mean) / data.std
        counted = None if lengths is None else self._checked(torch.as_tensor(lengths), *x.shape[:2])
        weights = self.network.views(self.parameters.unsqueeze(0))
        logits = self.network(weights, x.permute(1, 2, 0).unsqueeze(0), lengths=counted)[0]
        return logits.permute(*reversed(range(logits.dim())))

    def _checked(self, lengths: Tensor, B: int, T: int) -> Tensor:
        """Check lengths (B,), and return them in the shape (1, B) that the network takes."""
        whole = not lengths.is_floating_point() and lengths.dtype is not torch.bool
        if lengths.shape != (B,) or not whole or not bool(((lengths >= 1) & (lengths <= T)).all()):
            raise ConfigError(
                f"lengths: expected (B,) = ({B},) whole numbers from 1 to T = {T}, got "
                f"{tuple(lengths.shape)} of {lengths.dtype}"
                + (f" from {lengths.min()} to {lengths.max()}" if lengths.numel() else "")
            )
        return lengths.long().unsqueeze(0)

    def _entering(self, data: Series, examples: Tensor, lengths: Tensor | None) -> Tensor:
        """Return examples of series or arrays (B, T, channels) as they enter the network, (B, T, input)."""
        own = (data.mean, data.std) if isinstance(data, Arrays) else (0.0, 1.0)
        B, T = examples.shape[:2]
        counted = torch.full((B,), T) if lengths is None else self._checked(torch.as_tensor(lengths), B, T)
        how = recorded(data, self._details, self.network.input_size, own)
        return torch.from_numpy(enter(how, examples.double().numpy(), counted.flatten().numpy()))

    @property
    def _details(self) -> dict[str, str]:
        """Return what the record says of the data."""
        found: dict[str, str] = self.result.get("dataset", {}).get("details", {})
        return found

    def predict(self, examples: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute the network's answers.

        Args:
            examples, lengths: as in `__call__`.

        Returns:
            the most likely class, (B,) or (B, T) integers; or the numbers in the units of the targets,
            (B, outputs) or (B, T, outputs); or which keys sound, (B, T, outputs) booleans.
        """
        logits, data = self(examples, lengths), self.config.data
        match self.goal:
            case Goal.value | Goal.values:
                if isinstance(data, Series) and data.standardise:
                    return torch.from_numpy(in_units(self._details, logits.double().numpy())).to(logits.dtype)
                return logits
            case Goal.keys:
                return logits > 0
        return logits.argmax(-1)

    def evaluate(self, data: str | Path | None = None) -> dict[str, float]:
        """Compute the metrics of the test set again: `test/loss`, and such as `test/accuracy`.

        The same numbers as in the record: bit for bit on the same machine with the kernels that it was
        trained with, of a trial trained on a GPU to rounding, since they are computed on the CPU. Nothing is
        downloaded, and no place is taken from the record.

        Args:
            data: the folder that holds the data set, None: RNNBENCH_DATA or ./data; of data=text,
                data=npz and data=csv the file, which has to be given.

        Raises:
            ConfigError: the data is not there, or is not what the trial was trained on.
        """
        task = self.task(data)
        kernel = {Kernel.cudnn: Kernel.torch, Kernel.fastest: Kernel.auto, Kernel.compiled: Kernel.auto}
        fit = replace(
            self.config.fit,
            device="cpu",
            kernel=kernel.get(self.config.fit.kernel, self.config.fit.kernel),
            precision=Precision.float32,
        )
        stack = Stack(replace(self.config, data=_here(self.config.data, data), fit=fit), task)
        (measured,) = stack.measure(self.parameters.unsqueeze(0), "test").metrics
        return {f"test/{name}": value for name, value in measured.items()}

    def task(self, data: str | Path | None = None) -> tasks.Task:
        """Read the data that the trial was trained on; see `evaluate`.

        Raises:
            ConfigError: it is not there, or is other data.
        """
        task = tasks.load(_here(self.config.data, data))
        recorded = self.result.get("dataset", {}).get("checksum", task.checksum)
        if recorded != task.checksum:
            raise ConfigError(
                f"data={self.config.data.name}: is not what the trial was trained on (sha256 "
                f"{task.checksum[:12]}, recorded {recorded[:12]}); say where that is: evaluate(data=...)"
            )
        return task

    def to_torch(self) -> TorchNetwork:
        """Build the same network as a plain torch.nn module, which takes normalised inputs (B, T, input).

        Raises:
            ConfigError: torch.nn has no such cell.
        """
        return to_torch(self.network, self.parameters)


def _here(data: Data, place: str | Path | None) -> Data:
    """Return the data settings of a record without what the record says about where to get the data.

    Raises:
        ConfigError: the data is in a file, and `place` does not name it.
    """
    if isinstance(data, Stored):
        default: Any = OmegaConf.to_object(OmegaConf.structured(type(data)(data.name)))
        root = default.root if place is None else str(place)
        return replace(data, root=root, download=False, source=None)
    if isinstance(data, Ucr):
        default = OmegaConf.to_object(OmegaConf.structured(type(data)(data.name)))
        return replace(data, root=default.root if place is None else str(place))
    if isinstance(data, Text | Arrays | LongForm):
        if place is None:
            raise ConfigError(
                f"data.path: a file of one's own, in the record {data.path}; say where it is: "
                "evaluate(data=FILE)"
            )
        return replace(data, path=str(place))
    return data


def load(run: str | Path) -> Trained:
    """Load the trained network of a finished trial. No code is imported, no data is read or downloaded.

    Args:
        run: its job folder, or the id of its MLflow run (in the store that MLFLOW_TRACKING_URI names,
            else in ./mlflow.db), with the checkpoint among its artifacts or the folder still there.

    Raises:
        ConfigError: there is no finished trial, or none with weights, or they are damaged; it needs code of
            one's own that has not been imported, or that has changed since.
    """
    if not Path(run).is_dir() and not RUN_ID.fullmatch(str(run)):
        raise ConfigError(f"{run}: there is no such folder; give a job folder, or the id of an MLflow run")
    folder = Path(run) if Path(run).is_dir() else download(str(run))
    file = folder / "weights.pt"
    if not file.exists():
        jobs = sorted(file.parent for file in folder.glob("*/weights.pt"))
        hint = f"give the folder of a trial in it: {jobs[0]}" if jobs else "only a finished trial leaves one"
        raise ConfigError(f"{run}: holds no weights.pt; {hint}")
    result = read_result(folder) if is_job(folder) else {}
    tags = {
        name.removeprefix(IMPORT): tag
        for name, tag in result.get("tags", {}).items()
        if name.startswith(IMPORT)
    }
    try:
        config = recalled(OmegaConf.load(io.StringIO(read(folder / "config.yaml"))), tags)
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from None
    except Exception as error:  # whatever the bytes of a damaged file make of it
        raise ConfigError(f"{folder / 'config.yaml'}: cannot be read ({explained(error)})") from error
    facts = result.get("weights")
    content = read_bytes(file)
    if isinstance(facts, dict) and facts.get("sha256") != sha256(content).hexdigest():
        raise ConfigError(f"{file}: is damaged, its sha256 is not the one in result.json; train it again")
    if facts is None:  # of a record before these facts were in it
        shape = _shape(config.data)
        facts = {"input_size": shape.input_size, "outputs": shape.outputs, "goal": shape.goal.value}
    try:
        goal, input_size, outputs = Goal(facts["goal"]), int(facts["input_size"]), int(facts["outputs"])
    except (KeyError, ValueError, TypeError):
        raise ConfigError(f"{folder / 'result.json'}: is damaged, what it says of weights.pt") from None
    network = Network(config.model, input_size, outputs, goal.every_step)
    try:
        parameters = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")["parameters"]
        assert parameters.shape == (network.count(),)
    except Exception as error:  # whatever its bytes make of it
        said = f"is damaged, it does not hold the {network.count()} parameters of its network"
        raise ConfigError(f"{file}: {said}; train it again") from error
    return Trained(config, network, parameters, goal, result)


RUN_ID = re.compile(r"[0-9a-f]{32}")


def _shape(data: Data) -> tasks.Shape:
    """Return the widths and the goal of a task, without reading data where it is a published set."""
    if isinstance(data, Music):
        data = replace(data, window=None, train_size=None, sha256={})
    return tasks.shape(data if isinstance(data, Text | Arrays) else _here(data, None))
