"""Validation of a data set before training and evaluation."""

from rhobench.data.check.dataset import Depth, check_dataset, require_valid
from rhobench.data.check.problem import Problem

__all__ = ["Depth", "Problem", "check_dataset", "require_valid"]
