"""Benchmark of a foreign detector: AP, operations and latency, recorded beside our runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from rhobench.adapters.foreign_detector import (
    AdapterError,
    ForeignDetector,
    LabelMap,
    LoadRequest,
    Reference,
    package_versions,
)
from rhobench.adapters.kinds import load_detector
from rhobench.adapters.timing import PROTOCOL, time_detector
from rhobench.config import DataConfig, MeasureConfig
from rhobench.config.cache import cache_dir
from rhobench.config.conversion import from_dict, to_dict
from rhobench.data import prepare_data
from rhobench.data.coco import CocoDetection
from rhobench.measure.accuracy import Accuracy, Detection, score
from rhobench.measure.artifact import sha256_of
from rhobench.measure.flops import count_call
from rhobench.measure.process import configure_process
from rhobench.results import ForeignModel, Point, Record, Store, write_record
from rhobench.results.environment import describe_environment, usable_cores, utc_now
from rhobench.results.evaluations import write_evaluation
from rhobench.results.mirror import mirrored
from rhobench.results.table import dataset_name
from rhobench.results.text import is_file_name

EXPERIMENT = "benchmark"
"""Experiment of the records of foreign detectors."""

COUNTED_IMAGES = 32
"""Images, evenly spread over the split, whose operations are counted and averaged."""

TIMED_IMAGES = 8
"""Images that the timed calls cycle through, the first of the split as for our runs."""

MAX_AP_LOSS = 0.01
"""Difference of the AP of an export from that of its model above which its latency is not comparable: 1 AP."""

Notify = Callable[[str], None]
"""Called with a line of progress."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRequest:
    """What to benchmark, on which data, and where to record it."""

    path: Path
    """File or folder of the detector."""
    kind: str = "auto"
    """Kind of the detector; "auto": found from the path."""
    name: str | None = None
    """Name of its series; None: the name of the file or folder without suffix."""
    store: str
    """Folder or URL of the store."""
    data: DataConfig | None = None
    """Data set; None: that of the runs in the store."""
    device: str = "cpu"
    """Device to run on: "cpu" or "cuda"."""
    engine: str | None = None
    """Engine of an ONNX file; None: onnxruntime."""
    rhos: tuple[float, ...] = ()
    """Shares of updated tokens, for a detector that takes them."""


def benchmark(request: BenchmarkRequest, notify: Notify) -> Record:
    """Evaluate, count and time a detector, and write its record.

    A detector that was benchmarked before with the same files and data is measured again, and its record replaced.

    Raises:
        ValueError: the detector, the data, the store or an option cannot be used.
    """
    name = request.name or request.path.stem
    if not is_file_name(name):
        raise AdapterError(f"--name {name!r} cannot be part of a file name: use letters, digits, '-', '_' and '.'.")
    store, device = Store(request.store), _device(request.device)
    data = evaluated_data(request.data or data_of_store(store))
    configure_process(usable_cores() or 1)
    notify(f"loading {request.path}")
    load = LoadRequest(path=request.path, device=device, engine=request.engine)
    kind, detector = load_detector(load, request.kind)
    rhos = rhos_of(detector, request.rhos)
    images = CocoDetection(data, prepare_data(data), (data.val_split,), train=False)
    labels = LabelMap(detector.classes, images.categories)
    foreign = ForeignModel(
        name=name,
        kind=kind,
        architecture=detector.architecture,
        engine=detector.engine,
        source=str(request.path),
        sha256=digest_of(request.path),
        packages=package_versions(detector.packages),
        ignored_classes=labels.ignored,
    )
    started = utc_now()
    accuracies, points = {}, []
    for rho in rhos:
        detector.rho = rho
        _, accuracies[rho] = evaluate(detector, labels, images, notify)
        points.append(_counted_point(detector, images, notify))
    notes = export_notes(detector.reference, dataset_name(data), {rho: each.ap for rho, each in accuracies.items()})
    identity = {"data": to_dict(data), "sha256": foreign.sha256, "engine": foreign.engine, "rhos": list(rhos)}
    run_id = f"{EXPERIMENT}-{name}-{_hash(identity)}"
    with mirrored(store, run_id, cache_dir() / "benchmarks") as folder:
        folder.mkdir(parents=True, exist_ok=True)
        for i, (rho, accuracy) in enumerate(accuracies.items()):
            scores = write_evaluation(folder, rho, accuracy.metrics, accuracy.per_class, accuracy.matches)
            points[i] = replace(points[i], **scores)
        if not notes:
            notify("timing")
            prepared = [detector.prepare(images.read_image(i)) for i in range(min(TIMED_IMAGES, len(images)))]
            timed = time_detector(detector, prepared, rhos, device, folder)
            points = [replace(point, **timed[point.rho]) for point in points]
        record = Record(
            run_id=run_id,
            experiment=EXPERIMENT,
            status="completed",
            config={"experiment": EXPERIMENT, "data": to_dict(data), "measure": to_dict(MeasureConfig())},
            foreign=replace(foreign, notes=notes),
            environment=describe_environment(),
            categories=images.categories.as_records(),
            points=points,
            protocols={PROTOCOL.id: PROTOCOL.describe()},
            started_at=started,
            finished_at=utc_now(),
        )
        write_record(folder, record)
    return record


def data_of_store(store: Store) -> DataConfig:
    """The data set of the runs in a store.

    Raises:
        AdapterError: the store has no runs, or runs on several data sets.
    """
    frame = store.frame()
    names = sorted(frame["dataset"].dropna().unique())
    if len(names) != 1:
        found = f"runs on {len(names)} data sets ({', '.join(names)})" if names else "no runs yet"
        raise AdapterError(f"The store {store.place} has {found}: name the data with --data DIR.")
    record = store.read(frame["run_id"].iloc[0])
    assert record is not None, "the frame has just read it"
    return from_dict(DataConfig, record.config["data"])


def evaluated_data(data: DataConfig) -> DataConfig:
    """The evaluated split of a data set, without the sizes and the training splits, which only our models read."""
    kept = {name: getattr(data, name) for name in ("dir", "scenes", "val_split", "val_share", "val_seed")}
    return DataConfig(**kept, train_splits=(data.val_split,))


def rhos_of(detector: ForeignDetector, wanted: Sequence[float]) -> tuple[float | None, ...]:
    """The values of rho to measure a detector at; (None,) if it does not take any."""
    if not detector.takes_rho:
        if wanted:
            raise AdapterError(f"{detector.architecture} does not take rho: omit --rho.")
        return (None,)
    for rho in wanted:
        if not 0 < rho <= 1:
            raise AdapterError(f"--rho {rho} is not allowed: it must be greater than 0 and at most 1.")
    exported = [] if detector.reference is None else [float(rho) for rho in detector.reference.ap if rho != "dense"]
    rhos = tuple(dict.fromkeys(wanted)) or tuple(exported)
    if not rhos:
        raise AdapterError("This detector takes the share of updated tokens: give --rho, once for each value.")
    return rhos


def evaluate(
    detector: ForeignDetector, labels: LabelMap, images: CocoDetection, notify: Notify
) -> tuple[list[Detection], Accuracy]:
    """Detections of all images one by one, and their accuracy by pycocotools."""
    found: list[Detection] = []
    with torch.inference_mode():
        for i, image_id in enumerate(images.image_ids):
            if i % 20 == 0:
                notify(f"evaluating image {i + 1} of {len(images)}")
            objects = detector.detect(detector.prepare(images.read_image(i)))
            found += labels.detections(objects, image_id)
    return found, score(images.annotation_files[0], found, images.image_ids)


def export_notes(reference: Reference | None, dataset: str, ap: Mapping[float | None, float | None]) -> list[str]:
    """Why the latency of an export must not be compared: its AP is not that of its model; empty otherwise."""
    if reference is None or reference.dataset != dataset:
        return []
    notes = []
    for rho, value in ap.items():
        expected = reference.ap.get("dense" if rho is None else f"{rho:g}")
        if expected is not None and value is not None and abs(value - expected) > MAX_AP_LOSS:
            at = "" if rho is None else f" at ρ {rho:g}"
            notes.append(
                f"Its AP {100 * value:.1f}{at} is not that of the model it was exported from, {100 * expected:.1f}: "
                "its latency was not measured."
            )
    return notes


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files directly in a folder, and of external data."""
    # Weights of an ONNX file above 2 GB lie in a second file of the same name.
    files = sorted(path.iterdir()) if path.is_dir() else [path, *sorted(path.parent.glob(f"{path.name}.data"))]
    files = [file for file in files if file.is_file() and not file.name.startswith(".")]
    if len(files) == 1:
        return sha256_of(files[0])
    lines = "".join(f"{sha256_of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _counted_point(detector: ForeignDetector, images: CocoDetection, notify: Notify) -> Point:
    """Point of a detector at its rho, without accuracy and time."""
    gflops = _mean_gflops(detector, images, notify)
    height, width = detector.input_size or (None, None)
    return Point(
        rho=detector.rho,
        precision=detector.precision,
        height=height,
        width=width,
        gflops=gflops,
        flops_count=None if gflops is None else "standard",
        params_m=detector.params_m,
        backend=detector.engine,
    )


def _mean_gflops(detector: ForeignDetector, images: CocoDetection, notify: Notify) -> float | None:
    """Mean operations per image in 10^9; None where they cannot be counted."""
    if detector.engine != "pytorch":
        return None
    notify("counting operations")
    step = max(len(images) // COUNTED_IMAGES, 1)
    prepared = [detector.prepare(images.read_image(i)) for i in range(0, len(images), step)][:COUNTED_IMAGES]
    counts = [count_call(partial(detector.detect, inputs)) for inputs in prepared]
    known = [operations for operations in counts if operations is not None]
    return sum(known) / len(known) / 1e9 if known and len(known) == len(counts) else None


def _hash(identity: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _device(name: str) -> torch.device:
    if name not in {"cpu", "cuda"}:
        raise AdapterError(f"--device {name} is not allowed: choose cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise AdapterError("--device cuda, but torch finds no GPU on this machine: use --device cpu.")
    return torch.device(name)
