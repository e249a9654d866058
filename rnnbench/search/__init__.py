"""Searches: Optuna's side."""
