"""Experiments, found by themselves: each module NAME.py has a function NAME that returns an ``Experiment``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rhobench.config.experiment import Experiment
from rhobench.experiments._found import Found

# The one to try first comes first.
EXPERIMENTS: Mapping[str, Callable[[], Experiment]] = Found(__name__, "an experiment", first="demo")
"""Every experiment by name: ``EXPERIMENTS["demo"]()`` builds the experiment "demo"."""

__all__ = ["EXPERIMENTS"]
