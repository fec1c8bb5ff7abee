"""Comparison of two trained models, or of two configurations over their seeds, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rhobench.config.metrics import metric
from rhobench.statistics.difference import (
    MIN_SEEDS,
    Difference,
    difference,
    holm,
    mann_whitney,
    welch,
)
from rhobench.statistics.distributions import normal_quantile
from rhobench.statistics.evaluation import Evaluation, class_replicates
from rhobench.statistics.interval import LEVEL
from rhobench.statistics.power import MAX_SEEDS, POWER, images_to_show, seeds_to_show


class ComparisonError(ValueError):
    """Two sides that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One trained model at one rho."""

    run_id: str
    """Run that trained it."""
    seed: int
    """Seed of the training."""
    accuracy: dict[str, float]
    """Accuracy metrics by name."""
    evaluation: Evaluation
    """Its evaluation, with matches."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the things that are compared: a configuration with the trained models of its seeds."""

    name: str
    """Name in sentences."""
    models: tuple[Trained, ...]
    """One model for each seed, in their order."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether the second side is better than the first, by how much and how sure."""

    names: tuple[str, str]
    """Names of the sides."""
    metric: str
    """Metric of the sentence."""
    means: tuple[float, float]
    """Mean of the metric over the seeds of each side."""
    deviations: tuple[float | None, float | None]
    """Standard deviation over the seeds of each side; None for one seed."""
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    """Seeds of each side."""
    images: int
    """Number of images, the same for both."""
    metrics: dict[str, Difference]
    """Differences of all metrics, among them sizes and masks."""
    classes: dict[str, Difference]
    """Differences of the AP of each class that has objects."""
    class_p: dict[str, float]
    """P-values of the classes, corrected for their number (Holm)."""
    p: float
    """P-value of the metric, corrected for the number of comparisons that were made together (Holm)."""
    welch_p: float | None
    """P-value of Welch's t-test on the seeds alone; None: too few seeds."""
    mann_whitney_p: tuple[float, float] | None
    """P-value of the Mann-Whitney test on the seeds, and the smallest one possible; None: one side has one seed."""
    same_models: bool = False
    """Whether both sides are the same trained models at different points. They are compared one by one, and the tests
    of independent seeds, ``welch_p`` and ``mann_whitney_p``, are None."""

    @property
    def difference(self) -> Difference:
        """Difference of the metric, the second side minus the first."""
        return self.metrics[self.metric]

    @property
    def differs(self) -> bool:
        """Whether a difference is shown."""
        return self.difference.differs(self.p)

    @property
    def without_partner(self) -> tuple[list[int], list[int]]:
        """Seeds of each side that the other does not have."""
        first, second = (set(seeds) for seeds in self.seeds)
        return sorted(first - second), sorted(second - first)

    def sentences(self) -> list[str]:
        """The comparison in words."""
        return [self._verdict(), self._scope(), *self._needed(), *self._partners()]

    def as_dict(self) -> dict[str, Any]:
        """The comparison as ``--json`` prints it."""
        return {
            **asdict(self),
            "differs": self.differs,
            "without_partner": self.without_partner,
            "sentences": self.sentences(),
        }

    def _verdict(self) -> str:
        m, d, (first, second) = metric(self.metric), self.difference, self.names
        better = d.value > 0 if m.better == "higher" else d.value < 0
        words = f"better than {first}" if better else f"worse than {first}"
        verdict = f"{second} is {words}" if self.differs else f"{second} is not shown to differ from {first}"
        return f"{verdict}: {m.label} {describe_difference(d, self.metric)}, {describe_p(self.p)}."

    def _scope(self) -> str:
        counts = [len(seeds) for seeds in self.seeds]
        if self.difference.covers == "seeds and images" and self.same_models:
            return f"It covers other seeds and other images ({counts[0]} trained models, each compared with itself)."
        if self.difference.covers == "seeds and images":
            tests = [] if self.welch_p is None else [f"Welch's t-test on the seeds alone: {describe_p(self.welch_p)}"]
            if self.mann_whitney_p:
                p, smallest = self.mann_whitney_p
                limit = f", and can give no less than {smallest:.2g}" if smallest > 1 - LEVEL else ""
                tests.append(f"Mann-Whitney: {describe_p(p)}{limit}")
            return f"It covers other seeds and other images ({counts[0]} and {counts[1]} seeds). {'; '.join(tests)}."
        seeds = "one seed each" if counts == [1, 1] else f"{counts[0]} and {counts[1]} seeds"
        return (
            f"It covers other images and not other seeds: with {seeds}, it holds for these trained models only. "
            f"A statement about the trainings needs at least {MIN_SEEDS} seeds on each side."
        )

    def _needed(self) -> list[str]:
        """How many seeds or images would show the measured difference, where it is not shown."""
        d = self.difference
        if self.differs or d.value == 0 or np.isnan(d.low) or self.same_models:
            return []
        if d.covers == "images":
            deviation = (d.high - d.low) / (2 * normal_quantile((1 + LEVEL) / 2))
            count = images_to_show(d.value, deviation, self.images)
            return [f"If the true difference is the measured one, about {count:,} images show it ({_POWER})."]
        known = [deviation for deviation in self.deviations if deviation is not None]
        count = seeds_to_show(d.value, float(np.sqrt(np.mean(np.square(known)))))
        # The measured difference may happen to be larger than what its seeds show four times in five.
        number = f"more than {MAX_SEEDS}" if count is None else str(max(count, *(len(s) + 1 for s in self.seeds)))
        return [f"If the true difference is the measured one, {number} seeds on each side show it ({_POWER})."]

    def _partners(self) -> list[str]:
        if all(len(seeds) == 1 for seeds in self.seeds):  # two trained models, which the first sentence names
            return []
        return [
            f"Without a partner: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} of {name}."
            for name, seeds in zip(self.names, self.without_partner, strict=True)
            if seeds
        ]


_POWER = f"with a probability of {POWER * 100:.0f} %"


def compare(first: Side, second: Side, name: str = "ap") -> Comparison:
    """Compare two sides.

    With at least ``MIN_SEEDS`` on both, the statement is about the ways of training; with fewer, about the mean of the
    trained models that are there.

    Args:
        first: the side that is compared with.
        second: the side that the differences are signed for.
        name: metric of the verdict.

    Raises:
        ComparisonError: the sides were evaluated on different data, or do not have the metric.
    """
    evaluations = [model.evaluation for side in (first, second) for model in side.models]
    if len({evaluation.dataset for evaluation in evaluations}) > 1:
        raise ComparisonError(
            f"{first.name} and {second.name} were evaluated on different data, where AP values cannot be compared: "
            "evaluate both on the same images."
        )
    sides = (first, second)
    same_models = [m.run_id for m in first.models] == [m.run_id for m in second.models]
    names = [m for m in evaluations[0].replicates if all(m in e.replicates for e in evaluations)]
    metrics = {}
    for m in names:
        values = [np.array([model.accuracy.get(m, np.nan) for model in side.models], float) for side in sides]
        if not np.isnan(np.concatenate(values)).any():
            replicates = [np.stack([model.evaluation.replicates[m] for model in side.models]) for side in sides]
            metrics[m] = difference(values, replicates, same_models=same_models)
    if name not in metrics:
        raise ComparisonError(f"{first.name} and {second.name} have no {metric(name).label} that can be compared.")
    classes = _compare_classes(sides, same_models)
    values = [np.array([model.accuracy[name] for model in side.models]) for side in sides]
    independent = min(map(len, values)) > 1 and not same_models
    return Comparison(
        names=(first.name, second.name),
        metric=name,
        means=(float(values[0].mean()), float(values[1].mean())),
        deviations=(_deviation(values[0]), _deviation(values[1])),
        seeds=(tuple(m.seed for m in first.models), tuple(m.seed for m in second.models)),
        images=evaluations[0].matches["bbox"].num_images,
        metrics=metrics,
        classes=classes,
        class_p=dict(zip(classes, holm([d.p for d in classes.values()]), strict=True)),
        p=metrics[name].p,
        welch_p=welch(values[0], values[1]) if independent else None,
        mann_whitney_p=mann_whitney(values[0], values[1]) if independent else None,
        same_models=same_models,
    )


def _compare_classes(sides: Sequence[Side], same_models: bool) -> dict[str, Difference]:
    """Difference of the AP of each class that has objects."""
    names = sides[0].models[0].evaluation.matches["bbox"].categories
    found = [[class_replicates(model.evaluation.matches["bbox"]) for model in side.models] for side in sides]
    differences = {}
    for k, name in enumerate(names):
        values = [np.array([value[k] for value, _ in side]) for side in found]
        if not np.isnan(np.concatenate(values)).any():
            replicates = [np.stack([r[:, k] for _, r in side]) for side in found]
            differences[name] = difference(values, replicates, same_models=same_models)
    return differences


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def describe_difference(measured: Difference, name: str) -> str:
    """A difference with its interval, such as "+2.4 (95 % from +1.4 to +3.4)"."""
    m = metric(name)
    # Adding 0 turns a rounded -0.0 into 0.0.
    rounded = (round(v * m.scale, m.digits) + 0.0 for v in (measured.value, measured.low, measured.high))
    value, low, high = (f"{v:+.{m.digits}f}" for v in rounded)
    if np.isnan(measured.low):
        return f"{value} (no interval: one image)"
    return f"{value} ({LEVEL * 100:.0f} % from {low} to {high})"


def describe_p(p: float) -> str:
    """A p-value, such as "p = 0.03"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
