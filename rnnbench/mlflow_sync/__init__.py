"""Keeps MLflow's copy of the records: delivers it, reads it and deletes it."""
