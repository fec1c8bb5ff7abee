"""One trained artifact's accuracy, cost and speed."""

from rhobench.measure.flops import FlopCount, count_flops

__all__ = ["FlopCount", "count_flops"]
