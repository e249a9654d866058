"""The space of a search: translates Hydra's sweep syntax into Optuna's distributions, with conditions.

A point of the space is a list of overrides, as on Hydra's command line.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from rnnbench.config import ConfigError, Drawn
from rnnbench.config.advice import shown
from rnnbench.config.keys import fits, wanted

Draw = Callable[["Parameter"], Any]  # draws a value from a parameter's distribution
Lookup = Callable[[str], str | None]  # gives the value of a key or group that the search does not set
NUMBER = re.compile(r"-?[0-9.]+(e[+-]?[0-9]+)?")


@dataclass(frozen=True)
class Condition:
    """The condition that a key has one of these values."""

    key: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.key}={','.join(self.values)}"

    def holds(self, value: str | None) -> bool:
        """Return whether the key has one of the values."""
        return value is not None and any(same(value, other) for other in self.values)


@dataclass(frozen=True)
class Parameter:
    """A key of the space with what it is drawn from, and the condition under which it is drawn."""

    key: str  # the key that is set, such as model.hidden_size
    over: BaseDistribution | str  # a text is one fixed value, and no parameter of the study
    when: Condition | None = None
    complement: bool = False

    @property
    def name(self) -> str:
        """The parameter's name in the study; it has the condition, since each may have its distribution."""
        return self.key if self.when is None else f"{self.key} [{self.when}]"

    def override(self, value: Any) -> str:
        """Return the override that sets a drawn value."""
        return f"{self.key}={text(1 - value if self.complement else value)}"

    def sets(self, word: str) -> bool:
        """Return whether an override gives the key one of the parameter's values: `optim.lr=0.1`."""
        key, _, value = word.partition("=")
        if key != self.key:
            return False
        if isinstance(self.over, str):
            return value == self.over
        if isinstance(self.over, CategoricalDistribution):
            return word in {self.override(choice) for choice in self.over.choices}
        return NUMBER.fullmatch(value) is not None

    def identity(self) -> list[Any]:
        """Return what distinguishes the parameter from others, as JSON types."""
        over = self.over if isinstance(self.over, str) else json.loads(distribution_to_json(self.over))
        return [self.name, over, self.complement]


def text(value: Any) -> str:
    """Return a value as text that Hydra's grammar reads."""
    return value if isinstance(value, str) else "null" if value is None else json.dumps(value)


def same(one: str, other: str) -> bool:
    """Return whether two texts are one value; numbers are equal however they are written."""
    return one == other or (number(one) is not None and number(one) == number(other))


def number(value: str) -> float | None:
    """Return the number that a text is, or None."""
    try:
        return float(value)
    except ValueError:
        return None


class Space:
    """The parameters of a search, ordered so that a condition's key comes before what depends on it.

    Args:
        parameters: at least one with a distribution.

    Raises:
        ConfigError: the space is empty, or conditions depend on one another.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        if not any(isinstance(parameter.over, BaseDistribution) for parameter in parameters):
            raise ConfigError(
                "hydra.sweeper: there is nothing to search; take search=lstm_gru, or give a key a range, "
                "such as 'optim.lr=tag(log,interval(1e-4,1))'"
            )
        self.parameters: list[Parameter] = []
        left = list(parameters)
        while left:
            waiting = {parameter.key for parameter in left}
            ready = [p for p in left if p.when is None or p.when.key not in waiting]
            if not ready:
                names = ", ".join(parameter.name for parameter in left)
                raise ConfigError(f"hydra.sweeper.space: these depend on one another: {names}")
            self.parameters += ready
            left = [parameter for parameter in left if parameter not in ready]

    @property
    def keys(self) -> set[str]:
        """The keys that the search sets."""
        return {parameter.key for parameter in self.parameters}

    @property
    def drawn(self) -> list[Parameter]:
        """The parameters that Optuna draws."""
        return [p for p in self.parameters if isinstance(p.over, BaseDistribution)]

    def __contains__(self, word: object) -> bool:
        """Return whether an override sets one of the keys to a value of its distribution."""
        return isinstance(word, str) and any(parameter.sets(word) for parameter in self.parameters)

    def point(self, draw: Draw, lookup: Lookup) -> list[str]:
        """Draw a point: return the overrides of each parameter whose condition holds, in order."""
        given: dict[str, str] = {}
        for parameter in self.parameters:
            when = parameter.when
            if when is not None and not when.holds(given.get(when.key, lookup(when.key))):
                continue
            value = parameter.over if isinstance(parameter.over, str) else draw(parameter)
            given[parameter.key] = parameter.override(value).partition("=")[2]
        return [f"{key}={value}" for key, value in given.items()]

    def corners(self, lookup: Lookup) -> list[list[str]]:
        """Return a few points in which each choice and both ends of each range occur."""
        choices = [p.over.choices for p in self.drawn if isinstance(p.over, CategoricalDistribution)]
        most = max([len(values) for values in choices], default=1)

        def corner(number: int) -> Draw:
            def draw(parameter: Parameter) -> Any:
                over: Any = parameter.over
                if isinstance(over, CategoricalDistribution):
                    return over.choices[number % len(over.choices)]
                return over.low if number < most else over.high

            return draw

        return [self.point(corner(number), lookup) for number in range(2 * most)]

    def points(self, lookup: Lookup) -> Iterator[list[str]]:
        """Generate every point of a finite space.

        Raises:
            ConfigError: a range is not finite.
        """
        finite = self.grid()
        path: list[int] = []  # which value each draw of the current point takes
        while True:
            sizes: list[int] = []  # number of values of each parameter that the point draws
            yield self.point(partial(_walk, finite, path, sizes), lookup)
            del path[len(sizes) :]
            while path and path[-1] + 1 == sizes[len(path) - 1]:
                path.pop()
            if not path:
                return
            path[-1] += 1

    def grid(self) -> dict[str, list[Any]]:
        """List the values of each parameter of a finite space.

        Raises:
            ConfigError: a range is not finite.
        """
        return {parameter.name: values(parameter) for parameter in self.drawn}

    def identity(self) -> list[Any]:
        """Return what distinguishes the space from others, as JSON types."""
        return sorted((parameter.identity() for parameter in self.parameters), key=repr)


def _walk(finite: Mapping[str, list[Any]], path: list[int], sizes: list[int], parameter: Parameter) -> Any:
    """Return the value that the path takes at this parameter, the next to be drawn."""
    values = finite[parameter.name]
    sizes.append(len(values))
    if len(path) < len(sizes):
        path.append(0)
    return values[path[len(sizes) - 1]]


def values(parameter: Parameter) -> list[Any]:
    """List all values of a finite distribution.

    Raises:
        ConfigError: it is not finite.
    """
    over = parameter.over
    if isinstance(over, CategoricalDistribution):
        return list(over.choices)
    if isinstance(over, IntDistribution) and not over.log:
        return list(range(over.low, over.high + 1, over.step))
    if isinstance(over, FloatDistribution) and over.step is not None:
        return [over.low + n * over.step for n in range(round((over.high - over.low) / over.step) + 1)]
    raise ConfigError(
        f"hydra/sweeper/sampler: {parameter.name} is an interval, which has infinitely many values; "
        "grid and brute_force need choice() or range()"
    )


def is_finite(parameter: Parameter) -> bool:
    """Return whether a parameter has a list of values, as `values` gives it."""
    over = parameter.over
    if isinstance(over, FloatDistribution):
        return over.step is not None
    return not (isinstance(over, IntDistribution) and over.log)


def read_space(
    entries: Mapping[str, Any], overrides: Sequence[str], parser: OverridesParser
) -> tuple[list[Parameter], list[str]]:
    """Return the parameters of a search, and the overrides that are the same for all its trials.

    A later entry replaces an earlier one with the same key, so a single value on the command line takes its
    key out of the space.

    Args:
        entries: hydra.sweeper.space: key to a `Drawn`, its `over` alone, or a list of either.
        overrides: those of hydra.sweeper.params, then those of the command line.
        parser: Hydra's.

    Raises:
        ConfigError: names the key, and what is wrong with it.
    """
    space: dict[str, list[Parameter]] = {}
    fixed: dict[str, str] = {}
    for key, entry in entries.items():
        drawn = [_drawn(key, item) for item in (entry if isinstance(entry, list) else [entry])]
        space[key] = [_parameter(key, item, parser) for item in drawn]
        if len(drawn) > 1 and any(item.when is None for item in drawn):
            raise ConfigError(f"hydra.sweeper.space: {key} has several ranges: each needs a `when`")
    for line, override in zip(overrides, parser.parse_overrides(list(overrides)), strict=True):
        key = override.get_key_element()
        if override.is_sweep_override():
            space[key] = [Parameter(key, distribution(override))]
            fixed.pop(key, None)
        elif isinstance(override.value(), dict):  # adds to the section, and replaces no option
            fixed[line] = line
        else:
            space.pop(key, None)
            fixed[key] = line
    if "seed" in space:
        raise ConfigError(
            "seed: a search does not choose among seeds, since the best seed is chance; "
            "hydra.sweeper.repeats=3 trains each suggestion under three"
        )
    if folds := space.keys() & {"data.folds", "data.fold"}:
        raise ConfigError(
            f"{min(folds)}: a search does not choose among folds; data.folds=5 trains each suggestion "
            "under all five"
        )
    parameters = [parameter for alternatives in space.values() for parameter in alternatives]
    for parameter in parameters:
        _check_condition(parameter, space)
    return parameters, list(fixed.values())


def _drawn(key: str, entry: Any) -> Drawn:
    try:
        tree = entry if isinstance(entry, dict) else {"over": text(entry)}
        drawn = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Drawn), tree))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"hydra.sweeper.space: {key}: {reason}; keys are over, when, complement") from None
    assert isinstance(drawn, Drawn)
    return drawn


def _parameter(key: str, drawn: Drawn, parser: OverridesParser) -> Parameter:
    try:
        (override,) = parser.parse_overrides([f"{key}={drawn.over}"])
    except HydraException as error:
        raise ConfigError(f"hydra.sweeper.space: {key}={drawn.over}: {error}") from None
    when = None
    if drawn.when is not None:
        on, _, accepted = drawn.when.partition("=")
        if not on or not accepted:
            raise ConfigError(f"hydra.sweeper.space: {key}: when={drawn.when}: must be like optim=sgd")
        when = Condition(on.strip(), tuple(value.strip() for value in accepted.split(",")))
    over = distribution(override) if override.is_sweep_override() else drawn.over
    if drawn.complement and not isinstance(over, FloatDistribution):
        raise ConfigError(f"hydra.sweeper.space: {key}={drawn.over}: complement needs an interval")
    return Parameter(key, over, when, drawn.complement)


def _check_condition(parameter: Parameter, space: Mapping[str, Sequence[Parameter]]) -> None:
    """Refuse a condition that no value in the space can meet.

    Raises:
        ConfigError: names the parameter and the key that its condition is on.
    """
    if parameter.when is None or parameter.when.key not in space:
        return
    possible: set[str] = set()
    for on in space[parameter.when.key]:
        if not isinstance(on.over, CategoricalDistribution | str):
            raise ConfigError(
                f"hydra.sweeper.space: {parameter.name}: a condition needs a choice, and {on.key} is a range"
            )
        possible |= {on.over} if isinstance(on.over, str) else {text(value) for value in on.over.choices}
    if not possible & set(parameter.when.values):
        raise ConfigError(
            f"hydra.sweeper.space: {parameter.name} can never be drawn: {parameter.when.key} is one of "
            f"{', '.join(sorted(possible))}; give {parameter.key} a value to take it out of the space"
        )


def distribution(override: Override) -> BaseDistribution:
    """Translate an override in Hydra's sweep syntax into Optuna's distribution.

    Raises:
        ConfigError: it has no values, values that its key cannot take, or a logarithmic range from 0.
    """
    line, sweep = override.input_line, override.value()
    unknown = set(getattr(sweep, "tags", ())) - ({"log"} if isinstance(sweep, IntervalSweep) else set())
    if unknown:
        raise ConfigError(
            f"{line}: there is no tag {min(unknown)} here; a search knows tag(log,interval(...))"
        )
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None and sweep.end is not None
        low, high, log = sweep.start, sweep.end, "log" in sweep.tags
        if low > high:
            raise ConfigError(f"{line}: from {low} to {high} there is nothing")
        if log and low <= 0:
            raise ConfigError(f"{line}: a logarithmic interval must begin above 0")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        key, _, given = str(line).partition("=")
        if not fits(key, str(float(low))):
            form = shown(
                f"{key}=int({given})" if not log else f"{key}=tag(log,int(interval({low:g},{high:g})))"
            )
            raise ConfigError(f"{line}: {wanted(key)}; write {form}")
        return FloatDistribution(low, high, log=log)
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        steps = sorted(sweep.range())
        if not steps:
            raise ConfigError(f"{line}: a range without values")
        step = abs(sweep.step)
        if all(isinstance(value, int) for value in steps):
            return IntDistribution(int(steps[0]), int(steps[-1]), step=int(step))
        return FloatDistribution(float(steps[0]), float(steps[-1]), step=float(step))
    encoded = list(override.sweep_iterator(transformer=Transformer.encode))
    choices: list[Any] = [None if choice == "null" else choice for choice in encoded]
    if not choices:
        raise ConfigError(f"{line}: a choice without values")
    if isinstance(sweep, ChoiceSweep) and len({text(choice) for choice in choices}) < len(choices):
        raise ConfigError(f"{line}: a value is given twice")
    return CategoricalDistribution(choices)
