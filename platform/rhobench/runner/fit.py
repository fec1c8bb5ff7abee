"""`rhobench run EXPERIMENT --fit`: what fits into the memory of a worker, how long it takes, and what it costs.

Each configuration takes a few steps on the largest batch that its data can give, in processes of their own: one that
runs out of memory ends nothing else. Needs no Ray.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Group
from rich.table import Table

from rhobench.config import DataConfig, RunConfig
from rhobench.config.paths import to_dict
from rhobench.study.study import Study
from rhobench.training.probe_step import StepProbe
from rhobench.training.workload import Workload, estimate_workload

Tell = Callable[[str], None]


class FitError(ValueError):
    """A trial that ended for another reason than memory."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One configuration, whatever its seeds."""

    run_ids: list[str]
    """Runs that differ in their seed alone."""
    config: RunConfig
    work: Workload
    tried: list[StepProbe]
    """From the largest micro-batch down to the first that fits."""

    @property
    def best(self) -> StepProbe | None:
        """What fits."""
        return self.tried[-1] if self.tried[-1].fits else None

    @property
    def hours(self) -> float | None:
        """Of one run on all its workers: steps, waiting for images, and scoring."""
        best, train, work = self.best, self.config.train, self.work
        if best is None or best.step_seconds is None or best.score_seconds is None:
            return None
        share, loaders = train.batch_size // train.num_workers, self.config.data.loader_workers
        load = work.load_seconds / max(loaders, 1)
        # Loader processes work beside the step; without them it waits for its images.
        step = max(best.step_seconds, share * load) if loaders else best.step_seconds + share * load
        score = max(best.score_seconds, load) if loaders else best.score_seconds + load
        scorings = (train.epochs - 1) // train.eval_every_epochs + 1 + len(self.config.measure.rhos)
        steps = train.epochs * (work.train_images // train.batch_size)
        return (steps * step + scorings * work.val_images / train.num_workers * score) / 3600

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "run_ids": self.run_ids,
            "workload": asdict(self.work),
            "tried": [asdict(tried) for tried in self.tried],
            "hours_per_run": self.hours,
        }


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A whole study."""

    configurations: list[Fitted]
    price_per_hour: float | None
    """Of the device of one worker."""

    @property
    def micro_batch_size(self) -> int | None:
        """The largest that fits every configuration; None: one of them does not fit at all."""
        sizes = [fitted.best.micro_batch_size if fitted.best else None for fitted in self.configurations]
        return None if None in sizes else min(size for size in sizes if size is not None)

    @property
    def device_hours(self) -> float | None:
        """Of all runs, their workers added up; None: not all of them fit."""
        hours = [(fitted.hours, len(fitted.run_ids), fitted.config.train.num_workers) for fitted in self.configurations]
        return None if any(h is None for h, _, _ in hours) else sum((h or 0.0) * n * workers for h, n, workers in hours)

    @property
    def price(self) -> float | None:
        """In the currency of ``price_per_hour``."""
        hours = self.device_hours
        return None if hours is None or self.price_per_hour is None else hours * self.price_per_hour

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "micro_batch_size": self.micro_batch_size,
            "device_hours": self.device_hours,
            "price": self.price,
            "configurations": [fitted.as_dict() for fitted in self.configurations],
        }

    def card(self) -> Group:
        """For people."""
        table = Table(title="one worker, its largest batch in parts", title_justify="left", expand=False)
        table.add_column("run", overflow="fold")
        table.add_column("at once", justify="right")
        table.add_column("fits")
        for name in ("peak GiB", "s a step", "typically", "hours a run"):
            table.add_column(name, justify="right")
        for fitted in self.configurations:
            for tried in fitted.tried:
                numbers = (tried.peak_gib, tried.worst_step_seconds, tried.step_seconds, tried.fits and fitted.hours)
                shown = [f"{number:.3g}" if number else "" for number in numbers]
                verdict = "yes" if tried.fits else tried.reason
                table.add_row(_name(fitted), str(tried.micro_batch_size), verdict, *shown)
        return Group(table, *self.sentences())

    def sentences(self) -> Iterator[str]:
        """What was tried, what to set, and what all runs take."""
        for work, train in {(f.work, f.config.train): None for f in self.configurations}:
            worst, typical = work.worst, work.typical
            yield (
                f"A step has {train.batch_size} images, {train.batch_size // train.num_workers} on a worker: at most "
                f"{worst.height}x{worst.width} with {worst.objects} objects each, typically "
                f"{typical.height}x{typical.width}; reading one takes {1000 * work.load_seconds:.3g} ms of a core."
            )
        size, hours, trains = self.micro_batch_size, self.device_hours, [f.config.train for f in self.configurations]
        if size is None or hours is None:
            yield "Not every run fits, even one image at once: take smaller images, a smaller model, or more memory."
            return
        if any((train.micro_batch_size or train.batch_size // train.num_workers) != size for train in trains):
            yield f"The fewest micro-batches that fit everywhere: --set train.micro_batch_size={size}"
        money = "" if self.price is None else f", {self.price:.4g} at {self.price_per_hour:g} an hour"
        runs = sum(len(fitted.run_ids) for fitted in self.configurations)
        yield (
            f"{'One run' if runs == 1 else f'All {runs} runs'}: about {hours:.3g} hours of one worker's device{money}. "
            "Not in it: workers waiting for each other, computing cached features, measuring latency."
        )


def fit(study: Study, price_per_hour: float | None, tell: Tell = lambda text: None) -> Fit:
    """Try every configuration of a study.

    Args:
        study: with its runs.
        price_per_hour: of the device of one worker, a GPU or the cores that it has.
        tell: is told about progress.

    Raises:
        FitError: a trial failed for another reason than memory.
        DatasetError: the data cannot be read.
    """
    groups: dict[RunConfig, list[str]] = {}
    for name, config in zip(study.run_ids, study.configs, strict=True):
        groups.setdefault(replace(config, seed=study.configs[0].seed), []).append(name)
    works: dict[tuple[DataConfig, int, int, bool], Workload] = {}
    fitted = []
    for config, names in groups.items():
        train = config.train
        key = (config.data, train.batch_size, train.num_workers, train.cache_features)
        if key not in works:
            tell("reading annotations")
            works[key] = estimate_workload(config)
        tried = list(_tried(config, works[key], names[0], tell))
        fitted.append(Fitted(run_ids=names, config=config, work=works[key], tried=tried))
    return Fit(configurations=fitted, price_per_hour=price_per_hour)


def _tried(config: RunConfig, work: Workload, name: str, tell: Tell) -> Iterator[StepProbe]:
    """From all images of a worker at once downwards, until it fits."""
    share = config.train.batch_size // config.train.num_workers
    for size in range(share, 0, -1):
        if share % size == 0:
            tell(f"{name}: {size} images at once")
            tried = run_in_subprocess(config, work, size)
            yield tried
            if tried.fits:
                return


def run_in_subprocess(config: RunConfig, work: Workload, micro_batch_size: int) -> StepProbe:
    """``training.probe_step.probe_step`` in a process of its own, which may die of what it tries.

    Raises:
        FitError: it ended for another reason than memory.
    """
    request = {"config": to_dict(config), "workload": asdict(work), "micro_batch_size": micro_batch_size}
    done = subprocess.run(
        [sys.executable, "-m", "rhobench.training.probe_step"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == KILLED:
        return StepProbe(micro_batch_size=micro_batch_size, fits=False, reason="killed by the system: out of memory")
    answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"error": _last_line(done)}
    if "error" in answer:
        raise FitError(
            f"Trying {micro_batch_size} images at once failed, and not for want of memory: {answer['error']}"
        )
    return StepProbe(**answer)


KILLED = -9
"""Return code of a process that was given no chance to end in order."""


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _name(fitted: Fitted) -> str:
    """Of a run without its hash, and without its seed where it stands for several."""
    name = fitted.run_ids[0].rpartition("-")[0]
    return name.rpartition("-")[0] if len(fitted.run_ids) > 1 else name
