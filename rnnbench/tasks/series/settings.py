"""Keeps the settings that all tasks from files of series or arrays have."""

from dataclasses import dataclass
from enum import Enum
from typing import Optional

from rnnbench.config import Data
from rnnbench.config.refusals import refuse


class Missing(Enum):
    """Says what takes the place of a missing value."""

    mask = "mask"  # the mean; and a further channel for each with missing values is 1 there and 0 elsewhere
    forward = "forward"  # the value before; the mean where there is none


class ClassWeights(Enum):
    """Says how much examples of a class count in the loss."""

    balanced = "balanced"  # n / (classes * examples of the class), as in scikit-learn


@dataclass
class Series(Data):
    """Settings of all tasks from files of series or arrays. val_size=null: a sixth of the rest."""

    standardise: bool = True  # each channel, and numbers that are asked for, by the training examples
    missing: Optional[Missing] = None  # null: a missing value is refused
    stratified: bool = True  # splits have each class in its share
    class_weights: Optional[ClassWeights] = None  # null: all examples count the same

    def check(self) -> None:
        """Refuse class weights where no class is asked for; see `Data.check`."""
        super().check()
        if self.class_weights is not None and self.metric != "accuracy":
            refuse("data.class_weights", self.class_weights, f"needs classes, not data.metric={self.metric}")
