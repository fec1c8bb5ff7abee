"""Accuracy, operations and latency of trained models at given points, all from the same file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from rhobench.cluster.measurement_files import MeasurementFiles, command_line, new_files, write_manifest, write_samples
from rhobench.config import ConfigError, DataConfig
from rhobench.config.points import PointSettings
from rhobench.config.protocols import Protocol
from rhobench.data import Batch, CocoDetection, Flip, collate, prepare_data
from rhobench.measure.artifact import Artifact, load_artifact, sha256_of
from rhobench.measure.flops import count_flops
from rhobench.measure.latency import Latency, measure_latency
from rhobench.measure.part_times import part_times
from rhobench.measure.timed_calls import TimedModel
from rhobench.model.precision import choose_precision
from rhobench.ops import resolve_backend
from rhobench.results import Point
from rhobench.results.environment import cpu_model, usable_cores, utc_now
from rhobench.results.points import is_run_like
from rhobench.statistics.evaluation import Evaluation
from rhobench.training.evaluation import evaluate
from rhobench.training.loaders import image_loader

MAX_AP_LOSS = 0.01
"""Loss of AP against fp32 from which a faster precision is not eligible for a front: it buys time with accuracy."""

SCORES = (
    *("rho", "precision", "height", "width", "accuracy", "accuracy_batch_size", "accuracy_bounds", "matches_file"),
    *("ap_by_class", "gflops", "gflops_by_part", "flops_count", "params_m"),
)
"""Fields of a point that do not depend on how it is timed."""

Say = Callable[[str], None]


class MeasureError(ValueError):
    """A measurement that cannot be made as requested."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model that is to be measured."""

    file: Path
    """Its file; those of the measurement are written beside it."""
    points: tuple[PointSettings, ...]
    """Points to measure."""
    known: Sequence[Point] = ()
    """Points of its record, whose accuracy is used where it was measured in the same way."""
    target: str
    """The model or its run, as a command names it."""


def measure_artifacts(
    subjects: Mapping[str, Subject],
    protocol: Protocol,
    *,
    device: torch.device,
    data: str | None = None,
    say: Say = lambda text: None,
) -> dict[str, list[Point]]:
    """Measure several models in turns, each at its points; write the files of the measurement beside each model.

    Args:
        subjects: models by name.
        protocol: protocol of the latency.
        device: device that runs all of them.
        data: folder of the data set, if it is not where it was in the training.
        say: called with a description of the current step.

    Returns:
        The measured points by name, in the order of ``Subject.points``.

    Raises:
        ArtifactError: a file is not a model of rhobench.
        MeasureError, ConfigError: a point does not apply to its model.
        DatasetError: the data cannot be read.
    """
    started_at = utc_now()
    entries: dict[tuple[str, int], _Entry] = {}
    for name, subject in subjects.items():
        artifact = load_artifact(subject.file)
        artifact.model.to(device)
        scorer = _Scorer(artifact=artifact, device=device, data=data, known=list(subject.known), say=say)
        for number, settings in enumerate(_resolved(subject.points, artifact, device, protocol, data, say)):
            say(f"accuracy of {name} at {describe_point(settings)}")
            entries[name, number] = _Entry(settings, artifact, scorer.point(settings))
    say(f"timing {len(entries)} points by protocol {protocol.id}")
    models = {key: _timed_model(entry, protocol, data) for key, entry in entries.items()}
    measured = measure_latency(models, protocol)
    say(f"timing the parts of the models at {len(entries)} points")
    parts = {key: part_times(model) for key, model in models.items()}
    found: dict[str, list[Point]] = {}
    for name, subject in subjects.items():
        own = {key: entry for key, entry in entries.items() if key[0] == name}
        latencies = [(entry.settings, measured[key]) for key, entry in own.items()]
        files = _write_files(subject, entries[name, 0].artifact, latencies, device, data, started_at)
        found[name] = [
            replace(_timed_point(entry, measured[key], device, files), ms_by_part=dict(parts[key]))
            for key, entry in own.items()
        ]
    return found


def describe_point(settings: PointSettings) -> str:
    """Short text of a point: "ρ 0.1, bf16, batch 4, 320x320, compiled"."""
    parts = ["dense" if settings.rho is None else f"ρ {settings.rho:g}", settings.precision]
    parts += [f"batch {settings.batch_size}"]
    parts += [f"{settings.resolution[0]}x{settings.resolution[1]}"] if settings.resolution else []
    return ", ".join(parts + ["compiled"] * settings.compiled)


@dataclass(frozen=True)
class _Entry:
    settings: PointSettings
    artifact: Artifact
    scored: Point


def _resolved(
    points: Sequence[PointSettings],
    artifact: Artifact,
    device: torch.device,
    protocol: Protocol,
    data: str | None,
    say: Say,
) -> list[PointSettings]:
    """The points with the precision that "auto" means here, and with the shape of a protocol that fixes it."""
    dense = artifact.model.rho is None
    resolved: list[PointSettings] = []
    for settings in points:
        if (settings.rho is None) != dense:
            text = "has a dense encoder: omit --rho" if dense else "is sparse: give a rho"
            raise MeasureError(f"{artifact.config.model.name} {text}.")
        if settings.precision == "auto":
            choice = choose_precision(device)
            say(str(choice))
            settings = replace(settings, precision=choice.precision)
        own_data = _data_of(artifact, settings, data)
        if protocol.shapes == "fixed" and own_data.resize_px is None:
            settings = replace(settings, resolution=_images(own_data).size_of((0, Flip.NONE)))
        if settings not in resolved:  # "auto" may have become another point of the same request
            resolved.append(settings)
    return resolved


def _data_of(artifact: Artifact, settings: PointSettings, data: str | None) -> DataConfig:
    own = artifact.config.data
    own = own if data is None else replace(own, dir=data)
    return own if settings.resolution is None else replace(own, resize_px=settings.resolution)


@cache
def _images(data: DataConfig) -> CocoDetection:
    return CocoDetection(data, prepare_data(data), (data.val_split,), train=False)


@cache
def _batches(data: DataConfig, batch_size: int, count: int, repeat_one: bool) -> tuple[Batch, ...]:
    """Batches of validation images, cached because all points of a sweep with the same data share them."""
    return tuple(_batch(data, batch_size, count, repeat_one, i) for i in range(-(-_count(data, count) // batch_size)))


def _count(data: DataConfig, count: int) -> int:
    return min(count, len(_images(data)))


def _batch(data: DataConfig, batch_size: int, count: int, repeat_one: bool, number: int) -> Batch:
    images, first, total = _images(data), number * batch_size, _count(data, count)
    keys = [first if repeat_one else (first + i) % total for i in range(batch_size)]
    return collate([images[key, Flip.NONE] for key in keys])


def _timed_model(entry: _Entry, protocol: Protocol, data: str | None) -> TimedModel:
    settings = entry.settings
    own = _data_of(entry.artifact, settings, data)
    arguments = (own, settings.batch_size, protocol.images, protocol.repeat_one)
    return TimedModel(
        model=entry.artifact.model,
        batches=_batches(*arguments),
        load=lambda i: _batch(*arguments, i),
        rho=settings.rho,
        precision=settings.precision,
        compiled=settings.compiled,
    )


@dataclass(kw_only=True)
class _Scorer:
    """Accuracy and operations of one model, computed once for each way of running it."""

    artifact: Artifact
    device: torch.device
    data: str | None
    known: list[Point]
    say: Say
    computed: dict[PointSettings, Point] = field(default_factory=dict)

    def point(self, settings: PointSettings) -> Point:
        """The point with its accuracy, operations and parameters, and its difference in AP from fp32."""
        scored = self._scored(settings)
        if settings.precision == "fp32":
            return scored
        exact = self._scored(replace(settings, precision="fp32"))
        ap, reference = scored.accuracy.get("ap"), exact.accuracy.get("ap")
        return replace(scored, ap_difference=None if ap is None or reference is None else ap - reference)

    def _scored(self, settings: PointSettings) -> Point:
        settings = replace(settings, compiled=False)  # which changes no more than the rounding
        data = _data_of(self.artifact, settings, self.data)
        if self.data is None:  # on other data, the accuracy of the record says nothing
            for point in self.known:
                if is_run_like(point, settings, self.known) and point.accuracy and _same_padding(point, settings, data):
                    return _only_scores(point)
        if settings not in self.computed:
            self.computed[settings] = self._compute(settings, data)
        return self.computed[settings]

    def _compute(self, settings: PointSettings, data: DataConfig) -> Point:
        model, images = self.artifact.model, _images(data)
        if images.categories != self.artifact.categories:
            raise MeasureError(
                f"{images.annotation_files[0]} has other categories than the model was trained on: give its own data "
                "set with --data DIR."
            )
        height, width = images.size_of((0, Flip.NONE))
        own_rho, model.rho = model.rho, settings.rho
        try:
            loader = image_loader(images, batch_size=settings.batch_size)
            _, accuracy = evaluate(model, loader, images, self.device, settings.precision)
            cost = count_flops(model, height, width, rho=settings.rho)
        except ValueError as error:
            if settings.resolution is None:
                raise
            raise MeasureError(
                f"The model cannot be run at {height}x{width} ({error}): choose another --resolution."
            ) from error
        finally:
            model.rho = own_rho
        return Point(
            rho=settings.rho,
            precision=settings.precision,
            height=height,
            width=width,
            accuracy=accuracy.metrics,
            accuracy_batch_size=settings.batch_size,
            accuracy_bounds=Evaluation.of(accuracy.matches).bounds(accuracy.metrics),
            ap_by_class=accuracy.per_class,
            gflops_by_part=dict(cost.parts),
            gflops=cost.gflops,
            flops_count=cost.count,
            params_m=cost.params_m,
        )


def _same_padding(point: Point, settings: PointSettings, data: DataConfig) -> bool:
    """Whether the accuracy of a known point also holds at the batch size of ``settings``.

    Images of one size need no padding. The accuracy of the training, which is not timed yet, is taken as it is.
    """
    return data.resize_px is not None or point.protocol is None or point.accuracy_batch_size == settings.batch_size


def _only_scores(point: Point) -> Point:
    return Point(**{name: getattr(point, name) for name in SCORES})


def _write_files(
    subject: Subject,
    artifact: Artifact,
    latencies: Sequence[tuple[PointSettings, Latency]],
    device: torch.device,
    data: str | None,
    started_at: str,
) -> MeasurementFiles:
    folder, protocol = subject.file.parent, latencies[0][1].protocol
    files = new_files(folder, started_at)
    write_samples(folder / files.samples, latencies)
    settings = [each for each, _ in latencies]
    annotations = _images(_data_of(artifact, settings[0], data)).annotation_files
    write_manifest(
        folder / files.manifest,
        latencies,
        device,
        command=command_line(subject.target, protocol.name, protocol.scope, settings, data),
        facts={
            "artifact": {"sha256": artifact.sha256, "model": artifact.config.model.name},
            "annotations_sha256": {file.name: sha256_of(file) for file in annotations},
            "samples_file": files.samples,
            "started_at": started_at,
            "finished_at": utc_now(),
        },
    )
    return files


def _timed_point(entry: _Entry, latency: Latency, device: torch.device, files: MeasurementFiles) -> Point:
    """The scored point with its latency."""
    timed, lost = latency.point_fields(), -(entry.scored.ap_difference or 0.0)
    if lost > MAX_AP_LOSS:
        text = f"AP is {100 * lost:.1f} below that of fp32"
        timed |= {"timing_status": "invalid", "timing_reason": f"{text}; {latency.reason}" if latency.reason else text}
    return replace(
        entry.scored,
        **timed,
        device=device_name(device),
        backend=resolve_backend(device, entry.artifact.config.model.attention_backend),
        compiled=entry.settings.compiled,
        measured_at=utc_now(),
        artifact_sha256=entry.artifact.sha256,
        samples_file=files.samples,
        manifest_file=files.manifest,
    )


def device_name(device: torch.device) -> str:
    """Name of a GPU, or of the processor with the number of its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {usable_cores()} cores"


def choose_device(name: str | None, *, trained_on_gpu: bool) -> torch.device:
    """Device of a measurement: the named one, else a GPU if the model was trained on one and there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if trained_on_gpu and torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name} is not a device: use cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda needs a GPU, and torch finds none on this machine.")
    return torch.device(name)
