"""The training of one model. Knows no Ray: it is handed a function that it reports to."""

from rhobench.training.loop import TrainingResult, train
from rhobench.training.meter import Report, Status

__all__ = ["Report", "Status", "TrainingResult", "train"]
