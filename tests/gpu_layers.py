"""What rnnbench.bench.layers has, for tests that import it from here."""

from rnnbench.bench.layers import Arrays, Case, arrays, errors, of_trial, run

__all__ = ["Arrays", "Case", "arrays", "errors", "of_trial", "run"]
