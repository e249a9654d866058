"""Finds a sampler of OptunaHub by its package, in a copy on this machine; nothing is downloaded."""

import inspect
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from rnnbench.config import ConfigError

HUB = "hub"  # the name of hydra/sweeper/sampler
KEY = "hydra.sweeper.sampler"


def hub_sampler(arguments: dict[str, Any]) -> type[BaseSampler]:
    """Return the class of a sampler of OptunaHub, and take from the arguments what says where it is.

    Args:
        arguments: `package`, `registry` and `class_name` are taken out; the others are the class's own.

    Raises:
        ConfigError: the package, the sampler in it, or what it needs is not here.
    """
    package, registry = arguments.pop("package", None), arguments.pop("registry", None)
    name = arguments.pop("class_name", None)
    if package is None:
        raise ConfigError(
            f"{KEY}.package: hydra/sweeper/sampler=hub needs one, such as samplers/auto_sampler"
        )
    try:  # late: it is an extra
        from optunahub import _conf, load_local_module
    except ImportError as error:
        raise ConfigError(
            f"hydra/sweeper/sampler=hub: needs the package optunahub ({' '.join(str(error).split())}); "
            "pip install 'rnnbench[hub]' brings it"
        ) from None
    # Not load_module(), which downloads what its cache does not have.
    cache = Path(_conf.cache_home(), "github.com", "optuna", "optunahub-registry", "main", "package")
    root = cache if registry is None else Path(registry).absolute()
    if not (root / package / "__init__.py").is_file():
        raise ConfigError(
            f'{KEY}.package={package}: is not in {root}; python -c "import optunahub; '
            f"optunahub.load_module('{package}')\" brings it into OptunaHub's cache"
        )
    try:
        module = load_local_module(package, registry_root=str(root))
    except ImportError as error:
        needs = root / package / "requirements.txt"
        install = f"pip install -r {needs}" if needs.is_file() else "see its README.md"
        raise ConfigError(
            f"{KEY}.package={package}: needs a package that is not here ({error}); {install}"
        ) from None
    return _chosen(vars(module), package, name)


def _chosen(names: dict[str, Any], package: str, name: str | None) -> type[BaseSampler]:
    """Return the sampler of a package by its name, or its only one."""
    public = names.get("__all__", [each for each in names if not each.startswith("_")])
    samplers = {
        each: names[each]
        for each in public
        if inspect.isclass(names.get(each))
        and issubclass(names[each], BaseSampler)
        and not names[each].__module__.startswith("optuna.")
    }
    if name is None and len(samplers) == 1:
        (name,) = samplers
    if name not in samplers:
        has = f"has {', '.join(samplers)}" if samplers else "has no sampler"
        raise ConfigError(f"{KEY}.class_name={name}: {package} {has}; name one of them")
    found: type[BaseSampler] = samplers[name]
    return found
