"""The plan of a sweep as tables, sentences and JSON: runs, states, resources, hours and price."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from rhobench.cluster.session import Cluster
from rhobench.config import TrainConfig
from rhobench.config.experiment import Sampling
from rhobench.config.paths import run_key, short_name
from rhobench.config.phrases import counted
from rhobench.runner.preflight import HOURS_OF_A_YEAR, describe_years
from rhobench.statistics.difference import MIN_SEEDS
from rhobench.statistics.power import POWER, smallest_difference
from rhobench.study.known_runs import ResolvedRun

MAX_STEPS = 3
"""Kinds of optimizer steps that are described; a sampled learning rate makes one of every run."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run of a sweep before it starts."""

    resolved: ResolvedRun
    """The run with its id and state in the store."""
    varied: dict[str, Any]
    """Values by path in which the run differs from the others."""
    computed_by: str | None
    """Another experiment that the store holds the run for; None: this one."""
    needs_training: bool
    """Whether the store lacks a trained artifact of the run."""
    at_once: int
    """Number of such runs that the cluster holds at the same time; 0: none can ever start."""
    hours: float | None
    """Estimated hours of its training on all its workers; None: unknown."""

    @property
    def train(self) -> TrainConfig:
        """Training configuration of the run."""
        return self.resolved.config.train

    @property
    def attempts(self) -> int:
        """Number of failed attempts in the record."""
        return 0 if self.resolved.record is None else len(self.resolved.record.attempts)

    def as_dict(self) -> dict[str, Any]:
        """Return the run as ``--json`` prints it."""
        train = self.train
        return {
            "run_id": self.resolved.run_id,
            "key": run_key(self.resolved.config),
            "varied": self.varied,
            "batch_size": train.batch_size,
            "rates": train.rates,
            "resources": {
                "workers": train.num_workers,
                "cpus_per_worker": train.cpus_per_worker,
                "gpus_per_worker": train.gpus_per_worker,
            },
            "state": self.resolved.state,
            "differs": [] if self.resolved.similar is None else [str(d) for d in self.resolved.similar.differences],
            "attempts": self.attempts,
            "computed_by": self.computed_by,
            "estimated_hours": self.hours,
        }

    def row(self) -> tuple[str, ...]:
        """Return the cells of the run in the table."""
        # An empty list means that the field is not used, such as model.rho_choices in a run with a fixed rho.
        by_name = {short_name(path): value for path, value in self.varied.items() if value != ()}
        varied = ", ".join(f"{name} {_format_value(value)}" for name, value in by_name.items())
        state = self.resolved.state
        if self.attempts:
            state += f" ({counted(self.attempts, 'attempt')})"
        if self.computed_by:
            state += f", shared with {self.computed_by}"
        if self.needs_training and not self.at_once:
            state += ", does not fit"
        hours = "" if self.hours is None else _format_hours(self.hours)
        return self.resolved.run_id, varied, describe_resources(self.train), hours, state


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The runs of a search, which Optuna chooses from results while the sweep is running."""

    sampling: Sampling
    """Number of runs, and the objectives of the search."""
    in_store: int
    """Number of runs that the store already holds."""
    hours: float | None
    """Mean estimated hours of one run; None: unknown."""
    at_once: int
    """Number of such runs that the cluster holds at the same time; 0: none can ever start."""
    train: TrainConfig
    """Training configuration of the runs."""

    @property
    def remaining(self) -> int:
        """Number of runs that are still to be chosen."""
        return max(self.sampling.count - self.in_store, 0)

    def as_dict(self) -> dict[str, Any]:
        """Return the search as ``--json`` prints it."""
        return {
            "count": self.sampling.count,
            "in_store": self.in_store,
            "objectives": dict(self.sampling.objectives),
            "estimated_hours_per_run": self.hours,
        }

    def summary(self) -> str:
        """Return one sentence on the search for the terminal."""
        goals = " and ".join(f"{'high' if way == 'max' else 'low'} {name}" for name, way in self.sampling.objectives)
        known = f"; {self.in_store} of them in the store" if self.in_store else ""
        return f"{counted(self.sampling.count, 'run')}, which Optuna chooses from earlier results for {goals}{known}."


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """All runs of a study in the order in which they start, with the resources they need and what they cost."""

    experiment: str
    """Name of the experiment."""
    runs: list[PlannedRun]
    """Runs that are known beforehand."""
    search: SearchPlan | None
    """Runs that Optuna chooses; None: the study is not a search."""
    cluster: Cluster
    """Resources of the cluster."""
    location: str
    """The cluster as sentences call it: "this machine" or "the cluster at HOST:PORT"."""
    steps: list[str]
    """Descriptions of the optimizer steps of the runs, each once."""
    estimated_from: str
    """Origin of the estimated hours, or why there are none."""
    price_per_hour: float | None
    """Price of the device of one worker per hour, in any currency; None: not given."""
    seeds: int
    """Number of seeds of every configuration."""
    seed_deviation: float | None
    """Standard deviation of AP between seeds of runs in the store; None: unknown."""

    @property
    def remaining(self) -> list[tuple[TrainConfig, int, float | None]]:
        """Training configuration, number that fits at the same time and hours of each run still to be trained."""
        known = [(run.train, run.at_once, run.hours) for run in self.runs if run.needs_training]
        search = self.search
        return known + ([(search.train, search.at_once, search.hours)] * search.remaining if search else [])

    @property
    def at_once(self) -> int:
        """Number of remaining runs that train at the same time, ignoring those that do not fit at all."""
        return min((at_once for _, at_once, _ in self.remaining if at_once), default=0)

    @property
    def fits(self) -> bool:
        """Whether at least one of the remaining runs can start, or none remains."""
        return not self.remaining or self.at_once > 0

    @property
    def hours(self) -> float | None:
        """Estimated hours of all remaining runs one after another; None: unknown for at least one of them."""
        hours = [hours for _, _, hours in self.remaining]
        return None if None in hours else sum(h or 0.0 for h in hours)

    @property
    def parallel_hours(self) -> float | None:
        """Estimated hours until the last remaining run has ended, in order and ``at_once`` at a time; None: unknown."""
        if self.hours is None:
            return None
        ends = [0.0] * min(max(self.at_once, 1), max(len(self.remaining), 1))
        for _, _, hours in self.remaining:
            heapq.heapreplace(ends, ends[0] + (hours or 0.0))
        return max(ends)

    @property
    def price(self) -> float | None:
        """Estimated price of all remaining runs in the currency of ``price_per_hour``; None: unknown."""
        if self.hours is None or self.price_per_hour is None:
            return None
        return self.price_per_hour * sum((hours or 0.0) * train.num_workers for train, _, hours in self.remaining)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as ``--json`` prints it."""
        return {
            "runs": [run.as_dict() for run in self.runs],
            "chosen_later": None if self.search is None else self.search.as_dict(),
            "fits": self.fits,
            "at_once": self.at_once,
            "estimated_hours": self.hours,
            "estimated_from": self.estimated_from,
            "price": self.price,
            "seeds": self.seeds,
            "seed_deviation": self.seed_deviation,
            "smallest_difference_sd": smallest_difference(self.seeds),
        }

    def card(self) -> Group:
        """Return the table of the runs and the summary below it, for the terminal."""
        table = Table(
            title=f"{self.experiment}: runs in order",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
        table.add_column("run", overflow="fold")
        table.add_column("varied")
        table.add_column("workers")
        table.add_column("estimated", justify="right")
        table.add_column("state in store")
        for run in self.runs:
            table.add_row(*run.row())
        return Group(*([table] if self.runs else []), *self.summary())

    def summary(self) -> Iterator[str]:
        """Yield sentences on the remaining work, whether it fits on the cluster, and what it costs."""
        if self.runs:
            states = Counter(run.resolved.state for run in self.runs)
            yield f"{counted(len(self.runs), 'run')}: {', '.join(f'{n} {state}' for state, n in states.items())}."
        if self.search:
            yield self.search.summary()
        yield from self._describe_repetitions()
        yield from self.steps[:MAX_STEPS]
        if len(self.steps) > MAX_STEPS:
            yield f"{len(self.steps) - MAX_STEPS} more kinds of steps, with other batches or rates; --json lists all."
        yield self._describe_seeds()
        if not self.remaining:
            yield "No run remains to be trained."
            return
        has = f"{self.location} has {counted(self.cluster.cpus, 'CPU')} and {counted(self.cluster.gpus, 'GPU')}"
        if not self.fits:
            needed = describe_resources(self.remaining[0][0])
            yield (
                f"No run fits: {has}, but a run needs {needed}. Lower train.num_workers, train.cpus_per_worker or "
                "train.gpus_per_worker."
            )
        else:
            yield f"{has[0].upper()}{has[1:]}: {counted(self.at_once, 'run')} at once."
        yield self._describe_cost()
        if self.hours is not None and self.hours > HOURS_OF_A_YEAR:
            yield f"{describe_years(self.hours)}: to start it, add --yes."

    def _describe_repetitions(self) -> Iterator[str]:
        """Yield why runs are trained although the store has runs with the same varied values."""
        similar = [run.resolved.similar for run in self.runs if run.resolved.similar is not None]
        reasons = Counter(each.describe() for each in similar)
        for reason, count in reasons.items():
            example = next(each.run_id for each in similar if each.describe() == reason)
            yield f"{counted(count, 'run')} of other settings than in the store, such as {example}: {reason}."

    def _describe_seeds(self) -> str:
        """What differences between configurations the seeds can show."""
        smallest = smallest_difference(self.seeds)
        if smallest is None:
            return (
                f"{counted(self.seeds, 'seed')} per configuration: no difference between trainings can be shown, only "
                f"between the trained models; that needs at least {MIN_SEEDS} seeds."
            )
        known = "" if self.seed_deviation is None else f": {100 * smallest * self.seed_deviation:.1f} AP in this store"
        return (
            f"{self.seeds} seeds per configuration show differences from {smallest:.1f} standard deviations between "
            f"seeds{known} (probability {POWER * 100:.0f} %, two configurations)."
        )

    def _describe_cost(self) -> str:
        if self.hours is None:
            hint = " `--fit` times some steps and estimates it." if self.location == "this machine" else ""
            return f"The training time is unknown: {self.estimated_from}.{hint}"
        money = (
            ""
            if self.price is None
            else f", {self.price:.4g} at {self.price_per_hour:g} per worker-hour, in the currency of your price"
        )
        parallel, at_once = self.parallel_hours or 0.0, min(self.at_once, len(self.remaining))
        sequential = _format_hours(self.hours)
        faster = f", {_format_hours(parallel)} with {at_once} runs at once" if at_once > 1 else ""
        return f"About {sequential} of training{faster}{money}; estimated {self.estimated_from}."


def describe_resources(train: TrainConfig) -> str:
    """Describe the workers of a run, such as "2 x 4 CPUs, 1 GPU"."""
    gpus = f", {counted(train.gpus_per_worker, 'GPU')}" if train.gpus_per_worker else ""
    return f"{train.num_workers} x {counted(train.cpus_per_worker, 'CPU')}{gpus}"


def describe_step(train: TrainConfig) -> str:
    """Describe an optimizer step: its images, and its learning rates before the schedule."""
    per_worker = train.batch_size // train.num_workers
    micro_batch = train.micro_batch_size or per_worker
    rates = ", ".join(f"{name} {rate:.4g}" for name, rate in train.rates.items())
    rule = "as given" if train.lr_rule == "constant" else f"{train.lr_rule} from a batch of {train.lr_batch_size}"
    return (
        f"Each step takes {counted(train.batch_size, 'image')} on {counted(train.num_workers, 'worker')}, in "
        f"micro-batches of {micro_batch}, with learning rates {rates} ({rule})."
    )


def _format_hours(hours: float) -> str:
    """Format a duration such as "40 s", "12 min" or "3.5 h", with two digits because it is an estimate."""
    for unit, size in (("h", 1.0), ("min", 1 / 60), ("s", 1 / 3600)):
        if hours >= size or unit == "s":
            break
    number = float(f"{hours / size:.2g}")
    return f"{number:g} {unit}"


def _format_value(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')
