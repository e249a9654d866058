"""Stands in for the package of the published Optuna sweeper, for configs that name it."""
