"""`rhobench measure`: measure trained models again, or at further points, and add the points to their records."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from rhobench.cluster.session import priority_warning, ray_session
from rhobench.config import ConfigError, RunConfig
from rhobench.config.conversion import from_dict
from rhobench.config.metrics import METRICS
from rhobench.config.phrases import counted, listed
from rhobench.config.points import MeasureRequest, groups_of, product_of_points
from rhobench.config.protocols import Protocol
from rhobench.results import Point, Record, Store, printable, rho_label
from rhobench.results.environment import usable_cores

MODEL_FILE, RECORD_FILE = "model.safetensors", "record.json"


BENCHMARK_HINT = "`rhobench benchmark PATH --store STORE --name NAME` measures such a detector again."
"""What to do about detectors of other libraries, whose files are not in the store."""


class MeasureTargetError(ValueError):
    """A target that is neither a store, nor a run, nor a model."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Points and protocol of a measurement, as the command line gives them; what is empty takes its default."""

    protocol: Protocol
    """Protocol of the latency."""
    rhos: tuple[float, ...] = ()
    """Values of rho. Empty: those of the record, or that of the training."""
    precisions: tuple[str, ...] = ()
    """Precisions. Empty: fp32."""
    batch_sizes: tuple[int, ...] = ()
    """Images per call. Empty: those of the protocol."""
    resolutions: tuple[tuple[int, int], ...] = ()
    """Heights and widths in pixels. Empty: as trained."""
    compiled: bool = False
    """Whether the model is compiled."""
    device: str | None = None
    """"cpu" or "cuda"; None: a GPU for a model that was trained on one, if there is one."""
    threads: int | None = None
    """Threads of PyTorch; None: one per usable core."""
    data: Path | None = None
    """Folder of the data set, if it is not where it was in the training."""
    each_device: bool = False
    """Whether runs are measured on one node of each kind of GPU and CPU of a Ray cluster."""
    address: str = "local"
    """That cluster: "local", "auto" or HOST:PORT."""
    without_token: bool = False
    """Whether Ray is used without token authentication."""

    def __post_init__(self) -> None:
        if self.each_device and (self.device or self.threads):
            raise ConfigError("--each-device uses every device with all its cores: omit --device and --threads.")
        if self.address != "local" and not self.each_device:
            raise ConfigError("--address is the cluster of --each-device: give both, or neither to measure here.")
        for rho in self.rhos:
            if not 0 < rho <= 1:
                raise ConfigError(f"--rho {rho:g} is not allowed: it must be greater than 0 and at most 1.")
        for size in self.batch_sizes:
            if size < 1:
                raise ConfigError(f"--batch {size} is not allowed: it must be at least 1.")
        for name in self.precisions:
            if name not in ("fp32", "bf16", "fp16", "auto"):
                raise ConfigError(f"--precision {name} is not a precision: use fp32, bf16, fp16 or auto.")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads {self.threads} is not allowed: it must be at least 1.")

    def request(self, rhos: Sequence[float | None]) -> MeasureRequest:
        """The points of a model whose own values of rho are ``rhos``."""
        return MeasureRequest(
            points=product_of_points(
                self.protocol,
                rhos=self.rhos or rhos,
                precisions=self.precisions,
                batch_sizes=self.batch_sizes,
                resolutions=self.resolutions,
                compiled=self.compiled,
            )
        )


@dataclass(frozen=True, kw_only=True)
class MeasureOutcome:
    """What a measurement found."""

    protocol: Protocol
    """Protocol of the latency."""
    points: dict[str, list[Point]]
    """Measured points by the name of the run or the model."""
    folders: dict[str, str] = field(default_factory=dict)
    """Where the record or the files of each are."""
    problems: list[str] = field(default_factory=list)
    """Devices that could not measure, with the reason."""
    foreign: list[str] = field(default_factory=list)
    """Detectors of other libraries in the store, which only ``rhobench benchmark`` measures."""

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as ``--json`` prints it."""
        rows = [{"model": name} | point.flat() for name, points in self.points.items() for point in points]
        known = {"folders": self.folders, "problems": self.problems, "foreign": self.foreign}
        return {"protocol": self.protocol.id, "points": rows, **known}

    def card(self) -> Group:
        """Return the table of the points for the terminal, with the protocol that every number belongs to."""
        flat = [point for points in self.points.values() for point in points]
        reduced = any(point.ap_difference is not None for point in flat)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        if len(self.points) > 1:
            table.add_column("run", overflow="fold")
        if self._several_devices:
            table.add_column("device", overflow="fold")
        for name in ("ρ", "dtype", "batch", "input"):
            table.add_column(name, no_wrap=True)
        # The loss of accuracy comes first: a faster number that is not as accurate is another number.
        for name in ("ΔAP\nfp32",) * reduced + ("AP", "GFLOPs", "ms", "95 %\ninterval", "FPS", "status"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, points in self.points.items():
            for point in sorted(points, key=lambda point: (point.rho is None, point.rho or 0.0)):
                table.add_row(*map(escape, self._row(name, point, reduced)))
        return Group(table, *self._sentences(flat))

    @property
    def _several_devices(self) -> bool:
        return len({point.device for points in self.points.values() for point in points}) > 1

    def _row(self, name: str, point: Point, reduced: bool) -> Iterator[str]:
        if len(self.points) > 1:
            yield printable(name)
        if self._several_devices:
            yield printable(point.device or "")
        yield rho_label(point.rho, point.rho)
        yield (point.precision or "") + (" compiled" if point.compiled else "")
        yield str(point.batch_size)
        yield f"{point.height}x{point.width}"
        if reduced:
            yield "" if point.ap_difference is None else f"{100 * point.ap_difference:+.2f}"
        yield METRICS["ap"].format(point.accuracy.get("ap"))
        yield METRICS["gflops"].format(point.gflops)
        yield _milliseconds(point.latency_ms)
        yield f"{_milliseconds(point.latency_low_ms)}–{_milliseconds(point.latency_high_ms)}"
        yield METRICS["fps"].format(point.fps)
        yield (point.timing_status or "").replace("_", " ")

    def _sentences(self, points: Sequence[Point]) -> Iterator[str]:
        yield f"Protocol {self.protocol.id}: {self.protocol.describe()}"
        for device, point in {point.device: point for point in points}.items():
            threads = f", {point.threads} threads" if point.threads else ""
            yield f"Device: {device}{threads}, attention backend {point.backend}."
        for problem in self.problems:
            yield f"Not measured on {printable(problem)}"
        if self.foreign:
            detectors = (
                f"{counted(len(self.foreign), 'detector')} of other libraries ({listed(self.foreign, printable)})"
            )
            yield f"Not measured: {detectors}. {BENCHMARK_HINT}"
        yield from _describe_not_eligible(points)
        for name, folder in self.folders.items():
            yield f"{printable(name)}: raw samples and manifest in {printable(folder)}"


def _describe_not_eligible(points: Sequence[Point]) -> Iterator[str]:
    """Yield why times may not enter a front, once for all reasons that differ in their numbers only."""
    kinds: dict[str, list[str]] = {}
    for reason in (point.timing_reason for point in points if point.timing_reason):
        kinds.setdefault(re.sub(r"[\d.]+", "#", reason), []).append(reason)
    for reasons in kinds.values():
        example = "for example, " if len(set(reasons)) > 1 else ""
        yield f"{len(reasons)} of {len(points)} times not eligible for a front: {example}{reasons[0]}."


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def measure_target(target: str, options: MeasureOptions, say: Callable[[str], None]) -> MeasureOutcome:
    """Measure a model, a run, or all trained runs of a store.

    Args:
        target: file of a model, folder of a run, or folder or URL of a store.
        options: points and protocol.
        say: called with a description of the current step.

    Raises:
        MeasureTargetError: the target is none of these.
        ValueError: a point does not apply to a model, or its data cannot be read.
    """
    path = Path(target)
    if "://" not in target and path.is_file():
        # A model beside its record is that of a run, whose record gets the points.
        if not (path.parent / RECORD_FILE).is_file() or path.name != MODEL_FILE:
            return _measure_file(path, options, say)
        path = path.parent
    if "://" not in target and (path / RECORD_FILE).is_file():
        return _measure_runs(Store(path.parent.parent), [path.name], options, say)
    return _measure_runs(Store(target), None, options, say)


def _measure_runs(
    store: Store, run_ids: Sequence[str] | None, options: MeasureOptions, say: Callable[[str], None]
) -> MeasureOutcome:
    records = [r for r in store.records() if (r.run_id in run_ids if run_ids else r.status in ("trained", "completed"))]
    foreign = [record.foreign.name for record in records if record.foreign is not None]
    requests = {r.run_id: options.request(_rhos_of(r)) for r in records if r.foreign is None}
    if not requests:
        others = (
            f", only detectors of other libraries ({listed(foreign, printable)}). {BENCHMARK_HINT}" if foreign else "."
        )
        raise MeasureTargetError(f"{store.place} has no trained run to measure{others}")
    measure = _measure_on_each_device if options.each_device else _measure_here
    found, problems = measure(store.place, requests, options, say)
    folders = {name: f"{store.place}/runs/{name}" for name in found}
    return MeasureOutcome(protocol=options.protocol, points=found, folders=folders, problems=problems, foreign=foreign)


Measured = tuple[dict[str, list[Point]], list[str]]
"""Points by run id, and the devices that could not measure, with the reason."""


def _measure_here(
    place: str, requests: dict[str, MeasureRequest], options: MeasureOptions, say: Callable[[str], None]
) -> Measured:
    from rhobench.cluster.measure_runs import measure_runs

    threads, data, found = _threads(options), _data_folder(options), dict[str, list[Point]]()
    for group in groups_of(requests):
        found |= measure_runs(place, group, options.protocol, threads, device=options.device, data=data, say=say)
    return found, []


def _measure_on_each_device(
    place: str, requests: dict[str, MeasureRequest], options: MeasureOptions, say: Callable[[str], None]
) -> Measured:
    with ray_session(options.address, without_token=options.without_token):
        from rhobench.cluster.each_device import measure_on_each_device  # imports Ray, which the session configures

        if options.address != "local" and (warning := priority_warning()):
            say(f"warning: {warning}")
        return measure_on_each_device(requests, place, options.protocol, data=_data_folder(options), say=say)


def _threads(options: MeasureOptions) -> int:
    return options.threads or usable_cores() or os.cpu_count() or 1


def _data_folder(options: MeasureOptions) -> str | None:
    return None if options.data is None else str(options.data.absolute())


def _rhos_of(record: Record) -> list[float | None]:
    """Values of rho at which a run was measured so far; that of its training comes first."""
    config = from_dict(RunConfig, record.config)
    return list(dict.fromkeys([config.model.rho, *(point.rho for point in record.points)]))


def _measure_file(file: Path, options: MeasureOptions, say: Callable[[str], None]) -> MeasureOutcome:
    from rhobench.cluster.measure_artifacts import Subject, choose_device, measure_artifacts
    from rhobench.measure.artifact import load_artifact
    from rhobench.measure.process import configure_process

    if options.each_device:
        raise MeasureTargetError(f"--each-device measures the runs of a store, but {file} belongs to no run.")
    config = load_artifact(file).config
    configure_process(_threads(options))
    device = choose_device(options.device, trained_on_gpu=config.train.gpus_per_worker > 0)
    subject = Subject(file=file, points=options.request([config.model.rho]).points, target=str(file))
    data = _data_folder(options)
    found = measure_artifacts({file.name: subject}, options.protocol, device=device, data=data, say=say)
    return MeasureOutcome(protocol=options.protocol, points=found, folders={file.name: str(file.parent)})
