"""One training loop for every method: state, step, loop, checkpoints, metrics."""
