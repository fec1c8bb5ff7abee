"""Accuracy, cost and latency of a trained model."""

from rhobench.measure.flops import FlopCount, ParameterCount, count_flops, count_parameters
from rhobench.measure.sizes import mean_flops

__all__ = ["FlopCount", "ParameterCount", "count_flops", "count_parameters", "mean_flops"]
