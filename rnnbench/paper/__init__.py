"""Tables and figures from records: `python -m rnnbench.paper table=NAME`."""
