"""Checks, before anything is made, what does not need torch: data, batch size, store, folder."""

import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rnnbench import tasks
from rnnbench.config import Config, ConfigError, Readout, Reuse, flatten
from rnnbench.config.uris import check_store

ROOM = 2**16  # bytes of a new record, Hydra's files included


def check(configs: Sequence[Config], folder: Path) -> None:
    """Refuse trials that could not run, as far as can be checked without torch.

    Raises:
        ConfigError: names the key, the value and what would do.
    """
    for config in unique(configs, lambda c: repr((c.data, c.model, c.fit.batch_size, c.fit.steps_per_epoch))):
        shape = tasks.shape(config.data)
        check_model(config, shape)
        if shape.train and config.fit.steps_per_epoch is not None:
            raise ConfigError(
                f"fit.steps_per_epoch={config.fit.steps_per_epoch}: is for endless data; "
                f"data={config.data.name} has {shape.train} training examples, and an epoch is once through "
                "them"
            )
        if shape.train and config.fit.batch_size > shape.train:
            raise ConfigError(
                f"fit.batch_size={config.fit.batch_size}: must be at most the {shape.train} training "
                f"examples of data={config.data.name}"
            )
    check_alike(configs)
    for config in unique(configs, lambda c: repr(c.tracking)):
        if config.tracking.uri is None and config.reuse is Reuse.store:
            raise ConfigError(
                "reuse=store: there is no store (tracking.uri=null); take reuse=root, or give tracking.uri"
            )
        if config.tracking.uri is not None:
            check_store(config.tracking.uri)
    check_folder(folder)
    for config in unique(configs, lambda c: repr(c.data)):
        tasks.load(config.data)


def check_alike(configs: Sequence[Config]) -> None:
    """Refuse trials of one sweep that differ in a setting of the whole sweep: tracking, dry_run, reuse.

    Raises:
        ConfigError: names the key and two of its values.
    """
    first, *others = [
        flatten({"tracking": asdict(c.tracking), "dry_run": c.dry_run, "reuse": c.reuse.value})
        for c in configs
    ]
    for other in others:
        for key in first:
            if other[key] != first[key]:
                raise ConfigError(
                    f"{key}={other[key]}: all trials of a sweep have the same, and others have {first[key]}"
                )


def check_model(config: Config, shape: tasks.Shape) -> None:
    """Refuse a network that does not suit the task.

    Raises:
        ConfigError: names the key.
    """
    model, name = config.model, config.data.name
    if shape.next_step and model.bidirectional:
        raise ConfigError(
            f"model.bidirectional=true: data={name} asks for the next step, which the reverse direction has "
            "seen; take model.bidirectional=false"
        )
    if shape.goal.every_step and model.readout is not Readout.last:
        raise ConfigError(
            f"model.readout={model.readout.value}: data={name} asks for an answer at every step, so there is "
            "nothing to sum up; take model.readout=last"
        )


def unique(configs: Iterable[Config], key: Callable[[Config], str]) -> list[Config]:
    """Return the first configuration of each key."""
    first: dict[str, Config] = {}
    for config in configs:
        first.setdefault(key(config), config)
    return list(first.values())


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, by writing to it or its nearest existing parent.

    Raises:
        ConfigError: names the folder.
    """
    probe = _nearest(folder) / f".rnnbench-{time.time_ns()}"
    try:
        with open(probe, "wb") as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _no_folder(folder, f"cannot be written to ({error.strerror})") from None
    finally:
        with suppress(OSError):
            probe.unlink()


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest folder above it that exists.

    Raises:
        ConfigError: something else is in the way: a file, a link to nowhere, a name that is too long.
    """
    try:
        whole = folder.absolute()
    except FileNotFoundError:
        raise _no_folder(folder, "the folder that this command runs in was deleted") from None
    for path in (whole, *whole.parents):
        try:
            if stat.S_ISDIR(os.stat(path).st_mode):
                longest = os.pathconf(path, "PC_NAME_MAX")
                if any(len(os.fsencode(part)) > longest for part in whole.relative_to(path).parts):
                    raise _no_folder(folder, f"a name has more than {longest} bytes")
                return path
        except FileNotFoundError:
            if os.path.islink(path):
                raise _no_folder(folder, f"{path} is a link to what is not there") from None
        except NotADirectoryError:  # a part further up is a file
            pass
        except (OSError, ValueError) as error:  # a loop of links, a name that is too long, a NUL in it
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise _no_folder(folder, f"cannot be made ({why})") from None
        else:
            raise _no_folder(folder, f"{path} is no folder")
    return whole


def _no_folder(folder: Path, why: str) -> ConfigError:
    shown = str(folder) if len(str(folder)) < 200 else f"{str(folder)[:200]}..."
    return ConfigError(
        f"hydra.sweep.dir={shown}: {why}; "
        "give a folder of your own: hydra.sweep.dir=..., or hydra.run.dir=... without -m"
    )
