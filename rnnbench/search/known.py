"""Reads the points of a space that a search trains first: overrides, or the best trial of another study."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rnnbench.config import ConfigError
from rnnbench.search.space import Lookup, Parameter, Space, number, same, text
from rnnbench.search.study import Given

KEY = "hydra.sweeper.enqueue"


def read_points(points: Sequence[str], space: Space, lookup: Lookup, parser: OverridesParser) -> list[Given]:
    """Read several points, each as `read_point` does."""
    return [read_point(point, space, lookup, parser) for point in points]


def read_point(point: str, space: Space, lookup: Lookup, parser: OverridesParser) -> Given:
    """Return the parameters that a point gives, whose others the sampler draws.

    Args:
        point: overrides, such as `optim.lr=0.01 fit.clip=1`.
        lookup: gives the values of keys that the search does not set.
        parser: Hydra's.

    Raises:
        ConfigError: it is outside of the space; names the key and its range.
    """
    values = _values(point, parser)
    for key, value in values.items():
        there = lookup(key)
        if key not in space.keys and (there is None or not same(there, value)):
            is_set = f"is {there} in all trials" if there is not None else "is not searched"
            raise ConfigError(f"{KEY}={point}: {key} {is_set}; searched are {', '.join(sorted(space.keys))}")
    drawn: dict[str, Any] = {}
    for key in space.keys & values.keys():
        drawn |= _drawn(point, key, [p for p in space.parameters if p.key == key], values)
    if not drawn:
        raise ConfigError(f"{KEY}={point}: sets no key of the space: {', '.join(sorted(space.keys))}")
    return Given(" ".join(f"{key}={value}" for key, value in sorted(values.items())), drawn)


def point_of(given: Given, space: Space, lookup: Lookup) -> list[str]:
    """Return the overrides of a point, with some value for what the sampler draws."""

    def draw(parameter: Parameter) -> Any:
        over: Any = parameter.over
        some = over.choices[0] if isinstance(over, CategoricalDistribution) else over.low
        return given.parameters.get(parameter.name, some)

    return space.point(draw, lookup)


def check_points(points: Sequence[Given], n_trials: int) -> None:
    """Refuse points that are equal, or more of them than trials.

    Raises:
        ConfigError: names the points, or the numbers.
    """
    origins = [point.origin for point in points]
    for origin in origins:
        if origins.count(origin) > 1:
            raise ConfigError(f"{KEY}={origin}: is given twice, and would be trained once")
    if len(points) > n_trials:
        raise ConfigError(
            f"{KEY}: has {len(points)} points, more than hydra.sweeper.n_trials={n_trials}; they count"
        )


def _values(point: str, parser: OverridesParser) -> dict[str, str]:
    """Read the overrides of a point: key to value, as text."""
    values: dict[str, str] = {}
    try:
        overrides = parser.parse_overrides(shlex.split(point))
    except (HydraException, ValueError) as error:
        raise ConfigError(f"{KEY}={point}: {' '.join(str(error).split())}") from None
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if override.is_sweep_override() or override.is_delete() or override.is_add():
            raise ConfigError(f"{KEY}={point}: a point has one value for a key, as in optim.lr=0.01")
        if key in values:
            raise ConfigError(f"{KEY}={point}: sets {key} twice")
        values[key] = value.text if isinstance(value, QuotedString) else text(value)
    if not values:
        raise ConfigError(f"{KEY}: a point is empty; write overrides, as in ['optim.lr=0.01 fit.clip=1']")
    return values


def _drawn(
    point: str, key: str, parameters: Sequence[Parameter], values: Mapping[str, str]
) -> dict[str, Any]:
    """Return what is drawn where a key has its value, by name of each parameter that may set the key.

    Raises:
        ConfigError: no parameter that may be drawn in this point can give the value.
    """
    possible = [p for p in parameters if p.when is None or _may_hold(p, values)]
    if not possible:
        when = " or ".join(str(p.when) for p in parameters)
        raise ConfigError(f"{KEY}={point}: {key} is drawn only where {when}")
    fixed = [p for p in possible if p.over == values[key]]
    found = {p.name: value for p in possible if (value := inverse(p, values[key])) is not None}
    if not found and not fixed:
        ranges = " or ".join(_range(parameter) for parameter in possible)
        raise ConfigError(f"{KEY}={point}: {key}={values[key]} is outside of the space: {ranges}")
    return {name: value for name, (value,) in found.items()}


def _may_hold(parameter: Parameter, values: Mapping[str, str]) -> bool:
    """Return whether a parameter's condition can hold in a point; the sampler may draw what is missing."""
    assert parameter.when is not None
    return parameter.when.holds(values.get(parameter.when.key, parameter.when.values[0]))


def inverse(parameter: Parameter, value: str) -> tuple[Any] | None:
    """Return what is drawn where a parameter's key has this value, in a tuple; None if it cannot be."""
    over = parameter.over
    if isinstance(over, CategoricalDistribution):
        equal = [choice for choice in over.choices if same(text(choice), value)]
        return (equal[0],) if equal else None
    given = number(value)
    if given is None or not isinstance(over, FloatDistribution | IntDistribution):
        return None
    drawn = 1 - given if parameter.complement else given
    if not over.low <= drawn <= over.high:
        return None
    steps = 0.0 if not over.step else (drawn - over.low) / over.step
    if not math.isclose(steps, round(steps), abs_tol=1e-8):
        return None
    return (int(drawn) if isinstance(over, IntDistribution) else drawn,)


def _range(parameter: Parameter) -> str:
    """Describe in a few words which values a parameter's key can have."""
    over = parameter.over
    where = "" if parameter.when is None else f" (where {parameter.when})"
    if isinstance(over, str):
        return over + where
    if isinstance(over, CategoricalDistribution):
        return f"one of {', '.join(map(text, over.choices))}{where}"
    assert isinstance(over, FloatDistribution | IntDistribution)
    low, high = (1 - over.high, 1 - over.low) if parameter.complement else (over.low, over.high)
    step = f" in steps of {over.step:g}" if over.step not in (None, 1) else ""
    return f"from {low:g} to {high:g}{step}{where}"
