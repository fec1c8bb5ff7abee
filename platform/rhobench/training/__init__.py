"""The training loop of one run. It knows nothing of Ray: progress goes to a ``report`` function."""

from rhobench.training.loop import TrainingResult, train
from rhobench.training.meter import Report, Status

__all__ = ["Report", "Status", "TrainingResult", "train"]
