"""Says which folds of its data a sweep trains a configuration under."""

from collections.abc import Iterable, Sequence

from rnnbench.config.schema import Config


def folds_of(config: Config, overrides: Iterable[str]) -> Sequence[int]:
    """Return the values of data.fold under which a sweep trains a configuration.

    These are all folds, unless the overrides, or a file of the config tree, name one. Without data.folds it
    is the one value 0, which then means the only split that there is.
    """
    data = config.data
    named = any(word.lstrip("+").startswith("data.fold=") for word in overrides)
    return [data.fold] if data.folds is None or named or data.fold else range(data.folds)
