"""From an experiment and what the user changed to a list of runs."""
