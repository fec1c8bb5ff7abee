"""Every study, one module each: a function that returns an ``Experiment``, listed here by its name."""

from collections.abc import Callable

from rhobench.config import Experiment
from rhobench.experiments.bccd import bccd
from rhobench.experiments.demo import demo

EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"demo": demo, "bccd": bccd}

__all__ = ["EXPERIMENTS"]
