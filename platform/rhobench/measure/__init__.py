"""One trained artifact's accuracy, cost and speed."""

from rhobench.measure.flops import FlopCount, ParameterCount, count_flops, count_parameters
from rhobench.measure.sizes import mean_flops

__all__ = ["FlopCount", "ParameterCount", "count_flops", "count_parameters", "mean_flops"]
