"""Accuracy, operations and latency of trained models at given points, all from the same file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from rhobench.cluster.measurement_files import MeasurementFiles, command_line, new_files, write_manifest, write_samples
from rhobench.cluster.point_scores import MeasureError, Scorer, data_of, images_of
from rhobench.config import ConfigError, DataConfig
from rhobench.config.phrases import counted
from rhobench.config.points import PointSettings
from rhobench.config.protocols import Protocol
from rhobench.data.coco import Batch, collate
from rhobench.data.transforms import Flip
from rhobench.measure.artifact import Artifact, load_artifact, sha256_of
from rhobench.measure.latency import Latency, measure_latency
from rhobench.measure.part_times import part_times
from rhobench.measure.timed_calls import TimedModel
from rhobench.model.precision import choose_precision
from rhobench.ops import resolve_backend
from rhobench.results import Point
from rhobench.results.environment import cpu_device, utc_now

MAX_AP_LOSS = 0.01
"""Loss of AP against fp32 from which a faster precision is not eligible for a front: it buys time with accuracy."""

Say = Callable[[str], None]


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
    files: dict[str, MeasurementFiles] = {}
    for name, subject in subjects.items():
        artifact = load_artifact(subject.file)
        artifact.model.to(device)
        files[name] = new_files(subject.file.parent, started_at)
        scorer = Scorer(
            artifact=artifact,
            device=device,
            data=data,
            known=subject.known,
            folder=subject.file.parent,
            files=files[name],
        )
        for number, settings in enumerate(_resolved(subject.points, artifact, device, protocol, data, say)):
            say(f"accuracy of {name} at {describe_point(settings)}")
            entries[name, number] = _Entry(settings, artifact, scorer.point(settings))
    say(f"timing {counted(len(entries), 'point')} by protocol {protocol.id}")
    models = {key: _timed_model(entry, protocol, data) for key, entry in entries.items()}
    measured = measure_latency(models, protocol)
    say(f"timing the parts of the models at {counted(len(entries), 'point')}")
    parts = part_times(models)
    found: dict[str, list[Point]] = {}
    for name, subject in subjects.items():
        own = {key: entry for key, entry in entries.items() if key[0] == name}
        latencies = [(entry.settings, measured[key]) for key, entry in own.items()]
        _write_files(subject, files[name], entries[name, 0].artifact, latencies, device, data, started_at)
        found[name] = [
            replace(_timed_point(entry, measured[key], device, files[name]), ms_by_part=parts[key])
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
        own_data = data_of(artifact, settings, data)
        if protocol.shapes == "fixed" and own_data.resize_px is None:
            settings = replace(settings, resolution=images_of(own_data).size_of((0, Flip.NONE)))
        if settings not in resolved:  # "auto" may have become another point of the same request
            resolved.append(settings)
    return resolved


@cache
def _batches(data: DataConfig, batch_size: int, count: int, repeat_one: bool) -> tuple[Batch, ...]:
    """Batches of validation images, cached because all points of a sweep with the same data share them."""
    return tuple(_batch(data, batch_size, count, repeat_one, i) for i in range(-(-_count(data, count) // batch_size)))


def _count(data: DataConfig, count: int) -> int:
    return min(count, len(images_of(data)))


def _batch(data: DataConfig, batch_size: int, count: int, repeat_one: bool, number: int) -> Batch:
    images, first, total = images_of(data), number * batch_size, _count(data, count)
    keys = [first if repeat_one else (first + i) % total for i in range(batch_size)]
    return collate([images[key, Flip.NONE] for key in keys])


def _timed_model(entry: _Entry, protocol: Protocol, data: str | None) -> TimedModel:
    settings = entry.settings
    own = data_of(entry.artifact, settings, data)
    arguments = (own, settings.batch_size, protocol.images, protocol.repeat_one)
    return TimedModel(
        model=entry.artifact.model,
        batches=_batches(*arguments),
        load=lambda i: _batch(*arguments, i),
        rho=settings.rho,
        precision=settings.precision,
        compiled=settings.compiled,
    )


def _write_files(
    subject: Subject,
    files: MeasurementFiles,
    artifact: Artifact,
    latencies: Sequence[tuple[PointSettings, Latency]],
    device: torch.device,
    data: str | None,
    started_at: str,
) -> None:
    folder, protocol = subject.file.parent, latencies[0][1].protocol
    write_samples(folder / files.samples, latencies)
    settings = [each for each, _ in latencies]
    annotations = images_of(data_of(artifact, settings[0], data)).annotation_files
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
    return cpu_device()


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
