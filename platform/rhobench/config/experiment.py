"""Configuration of an experiment: a base run, axes, sampling, early stopping and expectations.

An experiment is defined by a function that returns an ``Experiment``; a variant is made with
``dataclasses.replace(...)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rhobench.config.errors import require, require_at_least
from rhobench.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A field that varies over the runs of an experiment."""

    path: str
    """Path of the field in ``RunConfig``, such as "model.rho"."""
    values: tuple[Any, ...]
    """Values of the field, in the order in which they are run."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A numeric field that varies between two bounds; ``Sampling`` chooses its values."""

    path: str
    """Path of the field in ``RunConfig``, such as "train.lr". A field of whole numbers gets whole numbers."""
    low: float
    """Smallest value, included."""
    high: float
    """Largest value, included."""
    log: bool = False
    """Whether values are sampled uniformly on a logarithmic scale."""

    def __post_init__(self) -> None:
        require(self.low < self.high, self.path, (self.low, self.high), "the lower bound must come first")
        rule = "a range on a logarithmic scale needs positive bounds"
        require(self.low > 0 or not self.log, self.path, (self.low, self.high), rule)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling of configurations along the axes, instead of their full product."""

    method: Literal["random", "sobol", "optuna"] = "sobol"
    """Sampling method: "random" (independent), "sobol" (scrambled Sobol points, spread evenly over all axes) or
    "optuna" (each configuration chosen from the results of the earlier ones)."""
    count: int
    """Number of configurations. A larger number adds configurations and keeps the earlier ones."""
    seed: int = 0
    """Seed of the sampling; independent of the seeds of the trainings."""
    objectives: tuple[tuple[str, Literal["max", "min"]], ...] = (("ap", "max"), ("gflops", "min"))
    """Objectives of "optuna": columns of ``Store.frame()``, each to be maximised or minimised."""
    smoke_count: int | None = None
    """Number of configurations in a smoke run. None: ``count``."""

    def __post_init__(self) -> None:
        require_at_least(1, "sampling", self, "count", "smoke_count")
        names = [name for name, _ in self.objectives]
        rule = "list at least one metric, each once"
        require(bool(names) and len(set(names)) == len(names), "sampling.objectives", self.objectives, rule)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Early stopping of runs whose AP falls behind that of other runs."""

    method: Literal["asha", "median"] = "asha"
    """Stopping rule. "asha": at ``grace_epochs`` times each power of ``reduction_factor``, the best 1 in
    ``reduction_factor`` runs continues (Li et al. 2020). "median": a run continues while its best AP is at least the
    median of the mean APs of the other runs up to the same epoch (Vizier)."""
    grace_epochs: int = 1
    """Number of epochs that every run completes."""
    reduction_factor: float = 3.0
    """Reduction factor of "asha", above 1; not used by "median"."""
    min_runs: int = 3
    """Number of other runs that "median" needs for a comparison; not used by "asha"."""

    def __post_init__(self) -> None:
        require_at_least(1, "early_stopping", self, "grace_epochs", "min_runs")
        rule = "it must be above 1"
        require(self.reduction_factor > 1, "early_stopping.reduction_factor", self.reduction_factor, rule)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """An expected bound, checked after the runs and printed with its verdict.

    The bound is on a metric of every run or, with ``minus``, on the difference of two configurations over their seeds,
    on which the 95 % interval of the difference decides.
    """

    metric: str
    """Column of ``Store.frame()``; with ``minus``, an average precision."""
    at_least: float | None = None
    """Lower bound. None: no lower bound."""
    at_most: float | None = None
    """Upper bound. None: no upper bound."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Values by column of ``Store.frame()`` that select the runs. Empty: all runs."""
    minus: Mapping[str, Any] | None = None
    """Values by column that select the runs whose mean is subtracted from that of the runs of ``where``. Both are taken
    at the rho of their training unless they name ``rho_infer``. None: the bound is on every run."""
    source: str = ""
    """Source of the bound, such as a row of a published table."""


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """Size of a split, by which a different data set is recognised."""

    images: int
    """Number of images."""
    annotations: int
    """Number of annotated objects."""
    categories: int
    """Number of categories."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A named study: a base run, the axes that vary, the seeds and the expected results."""

    summary: str
    """What the experiment shows, in one line; printed by `rhobench experiments`."""
    base: RunConfig
    """Run that the axes vary."""
    axes: tuple[Axis | Range, ...] = ()
    """Fields that vary. The configurations are the product of the axes, or the ones that ``sampling`` chooses."""
    sampling: Sampling | None = None
    """Sampling of configurations; required by a ``Range``. None: the full product of the axes."""
    exclude: tuple[Mapping[str, Any], ...] = ()
    """Excluded combinations, as values by path: a run that has all values of one of them is skipped."""
    also: tuple[Mapping[str, Any], ...] = ()
    """Further configurations outside the product of the axes, as values by path that replace those of the base."""
    seeds: tuple[int, ...] = (0,)
    """Seeds with which every configuration is run."""
    order: Literal["given", "cheapest", "informative"] = "given"
    """Order in which the runs start: "given" (as the axes list them), "cheapest" (by estimated cost) or "informative"
    (each as far as possible from the earlier ones, every configuration once before any gets its second seed)."""
    early_stopping: EarlyStopping | None = None
    """Early stopping of runs. None: every run completes all epochs."""
    smoke: Mapping[str, Any] = field(default_factory=dict)
    """Values by path that shrink the experiment to about a minute on two CPU cores. The axes stay the same, and so do
    the seeds unless "seed" sets one; ``Sampling.smoke_count`` limits the number of sampled configurations."""
    expected: tuple[Expectation, ...] = ()
    """Expected results of the full size."""
    data_size: DataSize | None = None
    """Size of the validation split for which ``expected`` holds. None: it holds for any data set."""
    follows_data: bool = False
    """Whether splits, sizes, queries, batch and epochs follow the data set, where the user does not set them, and the
    model follows the run of ``--fork``."""
    cpu_hours: float = 0.0
    """Estimated CPU core hours of all runs, if the experiment is designed for CPUs."""
    gpu_hours: float = 0.0
    """Estimated GPU hours of all runs, if the experiment is designed for GPUs."""

    @property
    def search(self) -> Sampling | None:
        """The sampling, if Optuna chooses the runs from results; None: all runs are known beforehand."""
        return self.sampling if self.sampling is not None and self.sampling.method == "optuna" else None
