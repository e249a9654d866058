"""Sweeps: Hydra's side, and the scheduler that trains their jobs."""
