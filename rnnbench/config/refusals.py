"""Refuses values that no trial can have; the settings classes call these in their `check`."""

import math
from enum import Enum
from typing import Any, NoReturn


class ConfigError(ValueError):
    """A configuration that cannot be run: the message names the key, the value and what would do."""


def refuse(key: str, value: Any, wanted: str) -> NoReturn:
    """Raise the ConfigError of one key.

    Args:
        wanted: what would be accepted, such as "must be above 0".
    """
    shown = value.value if isinstance(value, Enum) else "null" if value is None else value
    raise ConfigError(f"{key}={shown}: {wanted}")


def at_least(least: int, *named: tuple[str, int | None]) -> None:
    """Refuse (key, value) pairs whose value is below `least`; None passes."""
    for key, value in named:
        if value is not None and value < least:
            refuse(key, value, f"must be a whole number of at least {least}")


def positive(*named: tuple[str, float | None]) -> None:
    """Refuse (key, value) pairs whose value is not a finite number above 0; None passes."""
    for key, value in named:
        if value is not None and not (value > 0 and math.isfinite(value)):
            refuse(key, value, "must be a finite number above 0")


def not_negative(*named: tuple[str, float | None]) -> None:
    """Refuse (key, value) pairs whose value is not a finite number of at least 0; None passes."""
    for key, value in named:
        if value is not None and not (value >= 0 and math.isfinite(value)):
            refuse(key, value, "must be a finite number of at least 0")


def finite(*named: tuple[str, float | None]) -> None:
    """Refuse (key, value) pairs whose value is nan or infinite; None passes."""
    for key, value in named:
        if value is not None and not math.isfinite(value):
            refuse(key, value, "must be a finite number")


def share(*named: tuple[str, float | None]) -> None:
    """Refuse (key, value) pairs whose value is outside of [0, 1); None passes."""
    for key, value in named:
        if value is not None and not 0 <= value < 1:
            refuse(key, value, "must be at least 0 and below 1")
