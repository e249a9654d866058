"""The place of the published Optuna sweeper, for configs that name it."""
