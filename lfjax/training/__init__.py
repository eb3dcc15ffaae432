"""State, step, optimizer, checkpoints and logs of a training run. Knows arrays and files, not
methods."""
