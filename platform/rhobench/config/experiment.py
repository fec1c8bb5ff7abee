"""Every dataclass that an experiment is made of, beside those of its runs (``rhobench.config``).

A study is a function that returns an ``Experiment``; a variant of one is ``dataclasses.replace(...)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rhobench.config.errors import require
from rhobench.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A field that varies over the runs of an experiment."""

    path: str
    """Path of the field in RunConfig, such as "model.rho"."""
    values: tuple[Any, ...]
    """Its values, in the order in which they are run."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number that varies between two bounds over the runs of an experiment; a ``Sampling`` draws its values."""

    path: str
    """Path of the field in RunConfig, such as "train.lr"; of one that takes whole numbers those are drawn."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Drawn evenly by its logarithm."""

    def __post_init__(self) -> None:
        require(self.low < self.high, self.path, (self.low, self.high), "a range has its smaller bound first")
        rule = "a range that is drawn by its logarithm has positive bounds"
        require(self.low > 0 or not self.log, self.path, (self.low, self.high), rule)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the configurations of an experiment are chosen, where they are not the product of its axes."""

    method: Literal["random", "sobol", "optuna"] = "sobol"
    """"random": independently. "sobol": spread evenly over all axes (scrambled Sobol points). "optuna": one after
    another, from the results of those before."""
    count: int
    """Configurations. The first of more are the same, so raising it keeps the runs."""
    seed: int = 0
    """Of the draws; not the seed of a training."""
    objectives: tuple[tuple[str, Literal["max", "min"]], ...] = (("ap", "max"), ("gflops", "min"))
    """What "optuna" looks for: columns of ``Store.frame()``, and which way is better."""
    smoke_count: int | None = None
    """Configurations of a smoke run; None: ``count``."""

    def __post_init__(self) -> None:
        for name in ("count", "smoke_count"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"sampling.{name}", value, "it must be at least 1")
        names = [name for name, _ in self.objectives]
        rule = "it lists different metrics, at least one"
        require(bool(names) and len(set(names)) == len(names), "sampling.objectives", self.objectives, rule)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Which runs end before their last epoch, because their AP is too far behind that of others."""

    method: Literal["asha", "median"] = "asha"
    """"asha": at ``grace_epochs`` times each power of ``reduction_factor`` the best one of ``reduction_factor`` runs
    goes on (Li et al. 2020). "median": a run goes on while its best AP is at least the median of the mean APs of others
    up to the same epoch (Vizier)."""
    grace_epochs: int = 1
    """No run ends before."""
    reduction_factor: float = 3.0
    """Of "asha"."""
    min_runs: int = 3
    """Other runs that "median" needs for a comparison."""

    def __post_init__(self) -> None:
        require(self.grace_epochs >= 1, "early_stopping.grace_epochs", self.grace_epochs, "it must be at least 1")
        rule = "it must be above 1"
        require(self.reduction_factor > 1, "early_stopping.reduction_factor", self.reduction_factor, rule)
        require(self.min_runs >= 1, "early_stopping.min_runs", self.min_runs, "it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What an experiment expects of its result; checked after the runs and printed with the verdict."""

    metric: str
    """Column of ``Store.frame()``."""
    at_least: float | None = None
    """Every run must reach this."""
    at_most: float | None = None
    """No run may exceed this."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Values by column of ``Store.frame()``: only runs that have them are meant."""
    source: str = ""
    """Where the number comes from."""


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """Size of a split, by which other data are recognized."""

    images: int
    """Number of images."""
    annotations: int
    """Number of annotated objects."""
    categories: int
    """Number of categories."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A named study: a base run, the axes that vary, the seeds, and what is expected."""

    summary: str
    """One line: what it shows."""
    base: RunConfig
    """The run that the axes vary."""
    axes: tuple[Axis | Range, ...] = ()
    """The runs are the product of the axes and the seeds, or with ``sampling`` what it chooses along the axes."""
    sampling: Sampling | None = None
    """None: the product. A ``Range`` needs one."""
    exclude: tuple[Mapping[str, Any], ...] = ()
    """Values by path: a run that has all values of one of them is left out."""
    also: tuple[Mapping[str, Any], ...] = ()
    """Further runs, each with the seeds: values by path that the base is changed to, where no product gives them."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of every configuration."""
    order: Literal["given", "cheapest", "informative"] = "given"
    """In which the runs start. "given": as the axes list them. "cheapest": by their estimated cost. "informative": each
    as far as possible from those before it, every configuration once before any gets its second seed."""
    early_stopping: EarlyStopping | None = None
    """Which runs end early; None: none."""
    smoke: Mapping[str, Any] = field(default_factory=dict)
    """Values by path that shrink the experiment to about a minute on two CPU cores; "axes" and "seeds" stay, and
    ``Sampling.smoke_count`` says how many are drawn."""
    expected: tuple[Expectation, ...] = ()
    """What the full size is expected to give."""
    data_size: DataSize | None = None
    """Size of the validation split that ``expected`` holds for. None: any data set."""
    cpu_hours: float = 0.0
    """Estimated CPU core hours of all runs, when it is made for CPUs."""
    gpu_hours: float = 0.0
    """Estimated GPU hours of all runs, when it is made for GPUs."""
