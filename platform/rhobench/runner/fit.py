"""`rhobench run EXPERIMENT --fit`: find the largest micro-batch that fits into memory, and estimate time and cost.

Each configuration takes a few steps on the largest batch that its data can give. Every size is probed in a subprocess,
so that one that runs out of memory ends nothing else. Ray is not used.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from rhobench.config import DataConfig, RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.phrases import counted
from rhobench.study.study import Study
from rhobench.training.probe_step import StepProbe
from rhobench.training.workload import Workload, estimate_workload


class FitError(ValueError):
    """A probe that failed for another reason than lack of memory."""


@dataclass(frozen=True, kw_only=True)
class ConfigurationFit:
    """Probed micro-batch sizes of one configuration, and the time that its runs take."""

    run_ids: list[str]
    """Ids of its runs, which differ only in their seed."""
    config: RunConfig
    """Configuration of the first of these runs."""
    workload: Workload
    """Batches and images that one worker processes."""
    probes: list[StepProbe]
    """Probes from the largest micro-batch down to the first that fits."""

    @property
    def best(self) -> StepProbe | None:
        """The probe of the largest micro-batch that fits; None: none fits."""
        return self.probes[-1] if self.probes[-1].fits else None

    @property
    def hours(self) -> float | None:
        """Hours of one run on all its workers, with steps, data loading and evaluation; None: it does not fit."""
        best, train, work = self.best, self.config.train, self.workload
        if best is None or best.step_seconds is None or best.score_seconds is None:
            return None
        share, loaders = train.batch_size // train.num_workers, self.config.data.loader_workers
        load = work.load_seconds / max(loaders, 1)
        # Loader processes overlap with the step; without them the step waits for its images.
        step = max(best.step_seconds, share * load) if loaders else best.step_seconds + share * load
        score = max(best.score_seconds, load) if loaders else best.score_seconds + load
        # Rounded up, because the last epoch is always scored; then once for each further rho.
        scorings = (train.epochs - 1) // train.eval_every_epochs + 1 + len(self.config.measure.rhos)
        steps = train.epochs * (work.train_images // train.batch_size)
        return (steps * step + scorings * work.val_images / train.num_workers * score) / 3600

    def as_dict(self) -> dict[str, Any]:
        """Return the fit as ``--json`` prints it."""
        return {
            "run_ids": self.run_ids,
            "workload": asdict(self.workload),
            "tried": [asdict(probe) for probe in self.probes],
            "hours_per_run": self.hours,
        }


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """What fits of a study, with the time and the price of its runs."""

    configurations: list[ConfigurationFit]
    """Configurations of the study."""
    price_per_hour: float | None
    """Price of the device of one worker per hour, in any currency; None: not given."""

    @property
    def micro_batch_size(self) -> int | None:
        """Largest micro-batch that fits every configuration; None: one of them does not fit at all."""
        sizes = [fit.best.micro_batch_size if fit.best else None for fit in self.configurations]
        return None if None in sizes else min(size for size in sizes if size is not None)

    @property
    def device_hours(self) -> float | None:
        """Hours of all runs, summed over their workers; None: not all of them fit."""
        hours = [(fit.hours, len(fit.run_ids), fit.config.train.num_workers) for fit in self.configurations]
        return None if any(h is None for h, _, _ in hours) else sum((h or 0.0) * n * workers for h, n, workers in hours)

    @property
    def price(self) -> float | None:
        """Price of all runs in the currency of ``price_per_hour``; None: unknown."""
        hours = self.device_hours
        return None if hours is None or self.price_per_hour is None else hours * self.price_per_hour

    def as_dict(self) -> dict[str, Any]:
        """Return the report as ``--json`` prints it."""
        return {
            "micro_batch_size": self.micro_batch_size,
            "device_hours": self.device_hours,
            "price": self.price,
            "configurations": [fit.as_dict() for fit in self.configurations],
        }

    def card(self) -> Group:
        """Return the table of the probes and the summary below it, for the terminal."""
        title = "one worker on its largest batch"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("run", overflow="fold")
        table.add_column("micro-\nbatch", justify="right")
        table.add_column("fits")
        # Two lines each, so that the table fits on 80 columns.
        for name in ("peak\nGiB", "s/step\nlargest", "s/step\ntypical", "hours\nper run"):
            table.add_column(name, justify="right")
        for fit in self.configurations:
            for probe in fit.probes:
                numbers = (probe.peak_gib, probe.worst_step_seconds, probe.step_seconds, probe.fits and fit.hours)
                shown = [f"{number:.3g}" if number else "" for number in numbers]
                verdict = "yes" if probe.fits else probe.reason
                table.add_row(_label(fit), str(probe.micro_batch_size), verdict, *shown)
        return Group(table, *self.summary())

    def summary(self) -> Iterator[str]:
        """Yield sentences on the probed batches, the setting that fits, and the time and price of all runs."""
        for work, train in {(fit.workload, fit.config.train): None for fit in self.configurations}:
            worst, typical = work.worst, work.typical
            yield (
                f"Each step takes {counted(train.batch_size, 'image')}, {train.batch_size // train.num_workers} per "
                f"worker, of at most {worst.height}x{worst.width} pixels with {counted(worst.objects, 'object')}, "
                f"typically {typical.height}x{typical.width}; loading an image takes {1000 * work.load_seconds:.3g} ms "
                "on one core."
            )
        size, hours, trains = self.micro_batch_size, self.device_hours, [f.config.train for f in self.configurations]
        if size is None or hours is None:
            yield (
                "Some runs do not fit even with a micro-batch of one image: use smaller images, a smaller model or "
                "more memory."
            )
            return
        if any((train.micro_batch_size or train.batch_size // train.num_workers) != size for train in trains):
            yield f"The largest micro-batch that fits all runs: --set train.micro_batch_size={size}"
        money = (
            ""
            if self.price is None
            else f", {self.price:.4g} at {self.price_per_hour:g} per worker-hour, in the currency of your price"
        )
        runs = sum(len(fit.run_ids) for fit in self.configurations)
        yield (
            f"{'One run' if runs == 1 else f'All {runs} runs'}: about {hours:.3g} worker-hours{money}. "
            "Not included: workers that wait for each other, computing cached features, measuring latency."
        )


def measure_fit(
    study: Study, price_per_hour: float | None, on_progress: Callable[[str], None] = lambda text: None
) -> FitReport:
    """Probe every configuration of a study on this machine.

    Args:
        study: study with its runs.
        price_per_hour: price of the device of one worker, a GPU or its cores; None: no price is estimated.
        on_progress: called with a description of the current probe.

    Raises:
        FitError: a probe failed for another reason than lack of memory.
        DatasetError: the data cannot be read.
    """
    groups: dict[RunConfig, list[str]] = {}
    for name, config in zip(study.run_ids, study.configs, strict=True):
        groups.setdefault(replace(config, seed=study.configs[0].seed), []).append(name)
    # Reading the annotations of a large data set takes longer than a probe, so configurations share their workload.
    workloads: dict[tuple[DataConfig, int, int, bool], Workload] = {}
    fits = []
    for config, names in groups.items():
        train = config.train
        key = (config.data, train.batch_size, train.num_workers, train.cache_features)
        if key not in workloads:
            on_progress("reading annotations")
            workloads[key] = estimate_workload(config)
        probes = list(_probe_sizes(config, workloads[key], names[0], on_progress))
        fits.append(ConfigurationFit(run_ids=names, config=config, workload=workloads[key], probes=probes))
    return FitReport(configurations=fits, price_per_hour=price_per_hour)


def _probe_sizes(
    config: RunConfig, work: Workload, name: str, on_progress: Callable[[str], None]
) -> Iterator[StepProbe]:
    """Probe micro-batches from all images of a worker downwards until one fits."""
    share = config.train.batch_size // config.train.num_workers
    for size in range(share, 0, -1):
        if share % size == 0:  # train.micro_batch_size must divide the share of a worker
            on_progress(f"{name}: micro-batch of {counted(size, 'image')}")
            probe = run_in_subprocess(config, work, size)
            yield probe
            if probe.fits:
                return


def run_in_subprocess(config: RunConfig, work: Workload, micro_batch_size: int) -> StepProbe:
    """Run ``training.probe_step`` in a subprocess, which may run out of memory without affecting this process.

    Raises:
        FitError: the probe failed for another reason than lack of memory.
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
    # Libraries may print something before the last line.
    answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"error": _last_line(done)}
    if "error" in answer:
        raise FitError(
            f"The probe of a micro-batch of {counted(micro_batch_size, 'image')} failed, not for lack of memory: "
            f"{answer['error']}"
        )
    return StepProbe(**answer)


KILLED = -9
"""Return code of a process that was killed with SIGKILL, as the kernel does when memory runs out."""


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _label(fit: ConfigurationFit) -> str:
    """Run id without its hash, and without its seed if it stands for several runs."""
    name = fit.run_ids[0].rpartition("-")[0]
    return name.rpartition("-")[0] if len(fit.run_ids) > 1 else name
