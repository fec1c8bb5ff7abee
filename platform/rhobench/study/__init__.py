"""From an experiment and the user's changes to a list of runs: overrides, grid, sampling, order, cost."""
