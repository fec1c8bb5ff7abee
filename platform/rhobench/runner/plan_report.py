"""A plan of runs, as ``plan`` makes it, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from rhobench.cluster.session import Cluster
from rhobench.config import TrainConfig
from rhobench.config.experiment import Sampling
from rhobench.config.paths import run_key
from rhobench.study.known_runs import IdentifiedRun


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run, as it would be done."""

    named: IdentifiedRun
    varied: dict[str, Any]
    """Values by path of what tells it from the others."""
    by: str | None
    """Another experiment that computed it, or began to."""
    left: bool
    """Whether it has to be trained."""
    at_once: int
    """How many such runs the cluster holds at a time; 0: none can ever start."""
    hours: float | None
    """Of its training on all its workers; None: nothing is known."""

    @property
    def train(self) -> TrainConfig:
        """How it is trained."""
        return self.named.config.train

    @property
    def attempts(self) -> int:
        """Attempts that failed."""
        return 0 if self.named.record is None else len(self.named.record.attempts)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        train = self.train
        return {
            "run_id": self.named.run_id,
            "key": run_key(self.named.config),
            "varied": self.varied,
            "batch_size": train.batch_size,
            "rates": train.rates,
            "resources": {
                "workers": train.num_workers,
                "cpus_per_worker": train.cpus_per_worker,
                "gpus_per_worker": train.gpus_per_worker,
            },
            "state": self.named.state,
            "attempts": self.attempts,
            "computed_by": self.by,
            "estimated_hours": self.hours,
        }

    def row(self) -> tuple[str, ...]:
        """Cells of the table."""
        progress = {path.rpartition(".")[2]: value for path, value in self.varied.items() if value != ()}
        varied = ", ".join(f"{name} {_plain(value)}" for name, value in progress.items())
        state = self.named.state
        if self.attempts:
            state += f" ({self.attempts} attempt{'' if self.attempts == 1 else 's'})"
        if self.by:
            state += f", computed by {self.by}"
        if self.left and not self.at_once:
            state += ", too large"
        return (
            self.named.run_id,
            varied,
            resources_in_words(self.train),
            "" if self.hours is None else _duration(self.hours),
            state,
        )


@dataclass(frozen=True, kw_only=True)
class ChosenLater:
    """Runs that Optuna chooses from results."""

    sampling: Sampling
    in_store: int
    """Chosen before."""
    hours: float | None
    """Of one of them, in the mean; None: nothing is known."""
    at_once: int
    """How many the cluster holds at a time."""
    train: TrainConfig

    @property
    def count(self) -> int:
        """That are left."""
        return max(self.sampling.count - self.in_store, 0)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "count": self.sampling.count,
            "in_store": self.in_store,
            "objectives": dict(self.sampling.objectives),
            "estimated_hours_per_run": self.hours,
        }

    def sentence(self) -> str:
        """For people."""
        goals = " and ".join(f"{'high' if way == 'max' else 'low'} {name}" for name, way in self.sampling.objectives)
        known = f", {self.in_store} of them in the store" if self.in_store else ""
        return f"{_runs(self.sampling.count)}: Optuna chooses them by the results of others, for {goals}{known}."


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a study, in the order in which they start."""

    experiment: str
    runs: list[PlannedRun]
    later: ChosenLater | None
    cluster: Cluster
    where: str
    """The cluster, in words."""
    steps: list[str]
    """What a step of the runs is, each sentence once."""
    estimated_from: str
    price_per_hour: float | None
    """Of the device of one worker."""

    @property
    def left(self) -> list[tuple[TrainConfig, int, float | None]]:
        """How each run that is left is trained, how many such fit at a time, and its hours."""
        left = [(run.train, run.at_once, run.hours) for run in self.runs if run.left]
        return left + (
            [(self.later.train, self.later.at_once, self.later.hours)] * self.later.count if self.later else []
        )

    @property
    def at_once(self) -> int:
        """How many of the runs that are left go on at a time, where they fit at all."""
        return min((at_once for _, at_once, _ in self.left if at_once), default=0)

    @property
    def fits(self) -> bool:
        """Whether at least one run can start, where one is left."""
        return not self.left or self.at_once > 0

    @property
    def hours(self) -> float | None:
        """Of all runs that are left, one after another; None: not known of all of them."""
        hours = [hours for _, _, hours in self.left]
        return None if None in hours else sum(h or 0.0 for h in hours)

    @property
    def price(self) -> float | None:
        """Of all runs that are left, in the currency of ``price_per_hour``."""
        if self.hours is None or self.price_per_hour is None:
            return None
        return self.price_per_hour * sum((hours or 0.0) * train.num_workers for train, _, hours in self.left)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "runs": [run.as_dict() for run in self.runs],
            "chosen_later": None if self.later is None else self.later.as_dict(),
            "fits": self.fits,
            "at_once": self.at_once,
            "estimated_hours": self.hours,
            "estimated_from": self.estimated_from,
            "price": self.price,
        }

    def card(self) -> Group:
        """For people."""
        table = Table(title=f"{self.experiment}: the runs in their order", title_justify="left", expand=False)
        table.add_column("run", overflow="fold")
        table.add_column("varied")
        table.add_column("workers")
        table.add_column("takes about", justify="right")
        table.add_column("in the store")
        for run in self.runs:
            table.add_row(*run.row())
        return Group(*([table] if self.runs else []), *self.sentences())

    def sentences(self) -> Iterator[str]:
        """What there is to do, whether it can be done, and what it costs."""
        if self.runs:
            states = ", ".join(f"{n} {state}" for state, n in Counter(run.named.state for run in self.runs).items())
            yield f"{_runs(len(self.runs))}: {states}."
        if self.later:
            yield self.later.sentence()
        yield from self.steps
        if not self.left:
            yield "Nothing is left to train."
            return
        cluster, first = self.cluster, self.left[0][0]
        has = f"{self.where} has {_of(cluster.cpus, 'CPU')} and {_of(cluster.gpus, 'GPU')}"
        if not self.fits:
            yield (
                f"No run fits: {has}, a run needs {resources_in_words(first)}. Lower train.num_workers, "
                "train.cpus_per_worker or train.gpus_per_worker."
            )
        else:
            yield f"{has[0].upper()}{has[1:]}: {_runs(self.at_once)} at once."
        yield from self._cost_in_words()

    def _cost_in_words(self) -> Iterator[str]:
        if self.hours is None:
            yield f"How long they take is not known: {self.estimated_from}."
            return
        money = (
            "" if self.price is None else f", {self.price:.4g} at {self.price_per_hour:g} an hour for a worker's device"
        )
        alone, together = _duration(self.hours), _duration(self.hours / max(self.at_once, 1))
        faster = f", {together} with {self.at_once} at once" if self.at_once > 1 else ""
        yield f"About {alone} of training{faster}{money}: {self.estimated_from}."


def resources_in_words(train: TrainConfig) -> str:
    """Such as "2 x 4 CPUs, 1 GPU"."""
    gpus = f", {_of(train.gpus_per_worker, 'GPU')}" if train.gpus_per_worker else ""
    return f"{train.num_workers} x {_of(train.cpus_per_worker, 'CPU')}{gpus}"


def _duration(hours: float) -> str:
    """Such as "40 s", "12 min" or "3.5 h": two digits, for it is an estimate."""
    for unit, size in (("h", 1.0), ("min", 1 / 60), ("s", 1 / 3600)):
        if hours >= size or unit == "s":
            break
    number = float(f"{hours / size:.2g}")
    return f"{number:g} {unit}"


def _plain(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _of(count: float, what: str) -> str:
    return f"{count:g} {what}{'' if count == 1 else 's'}"
