"""Reads real series: the UCR and UEA archive (data=ucr), CSV and Parquet files in long form (data=csv).

A reader gives a `Collection`, the series as their files have them; `prepare` makes a task of it: missing
values, standardisation, splits, class weights.
"""

from rnnbench.tasks.series import long_form, ucr

__all__ = ["long_form", "ucr"]  # their import enters their tasks
