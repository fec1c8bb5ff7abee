"""The training loop of one run. It knows nothing of Ray: progress goes to a ``report`` function."""
