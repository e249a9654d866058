"""MLflow's copy of the records."""
