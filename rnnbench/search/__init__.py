"""Searches: sweeps whose trials Optuna suggests."""
