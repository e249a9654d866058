"""python -m rnnbench.bench: how fast this machine is, side by side with the tutorial's loop."""
