"""Validation of a data set before training and evaluation."""

from rhobench.data.check.dataset import Depth, check_dataset, check_source

__all__ = ["Depth", "check_dataset", "check_source"]
