"""Checks of a disturbed sweep after its end: every run once, bit-identical results, no lost work, no leftover files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
from safetensors.numpy import load_file

from rhobench.cluster.attempt import ATTEMPT_FILE, VANISHED, ActiveAttempt
from rhobench.cluster.execute import DETECTIONS_FILE
from rhobench.measure.artifact import FILE_NAME
from rhobench.results import Record, Store
from rhobench.training.meter import MEASURED

TIMES = {"seconds", *MEASURED}
"""Fields of a history entry that differ between identical trainings."""
RESULTS = ("rho", "ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "gflops", "params_m", "height", "width")
"""Fields of a point that are equal for identical trainings."""
EXPECTED_FILES = {
    "record.json",
    "model.safetensors",
    "detections.parquet",
    "pictures.json",
    "tensorboard",
    "error.txt",
}
"""Files that the folder of a finished run may contain."""
MEASUREMENT_FILES = ("samples-", "measurement-", "matches-")
"""Beginnings of the names of further files, which contain the time of a measurement or the rho of an evaluation."""


def result_of(store: Store, record: Record) -> dict[str, Any]:
    """Everything about a run that must not depend on interruptions; weights and detections are hashed."""
    folder = store.run_dir(record.run_id)
    weights = hashlib.sha256()
    for name, tensor in sorted(load_file(folder / FILE_NAME).items()):
        weights.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    detections = pd.read_parquet(folder / DETECTIONS_FILE).to_csv(float_format="%r").encode()
    return {
        "history": [{name: value for name, value in entry.items() if name not in TIMES} for entry in record.history],
        "points": [{name: value for name, value in p.flat().items() if name in RESULTS} for p in record.points],
        "categories": record.categories,
        "weights": weights.hexdigest(),
        "detections": hashlib.sha256(detections).hexdigest(),
    }


def results_of(store: Store) -> dict[str, dict[str, Any]]:
    """``result_of`` of every completed run, by run id."""
    return {record.run_id: result_of(store, record) for record in store.records() if record.status == "completed"}


def finished_runs(store: Store) -> dict[str, str | None]:
    """Time when each run with a result was finished, by run id."""
    try:
        records = store.records()
    except ValueError:  # the store does not exist yet
        return {}
    return {record.run_id: record.finished_at for record in records if record.status in ("trained", "completed")}


def find_problems(
    store: Store, reference: Mapping[str, Any], kept: Mapping[str, str | None], killed: Iterable[ActiveAttempt]
) -> Iterator[str]:
    """Describe every violation of the requirements.

    Args:
        store: of the sweep, which has ended.
        reference: ``results_of`` of the undisturbed sweep.
        kept: ``finished_runs`` at the kill.
        killed: unfinished attempts that were killed.
    """
    records = {record.run_id: record for record in store.records()}
    yield from store.problems
    if set(records) != set(reference):
        yield f"runs differ: {sorted(set(records) ^ set(reference))}"
    unfinished = {name: record for name, record in records.items() if record.status != "completed"}
    yield from (f"{name} is {record.status}: {record.reason}" for name, record in unfinished.items())
    for name, result in results_of(store).items():
        other = reference.get(name, {})
        differing = [part for part, value in result.items() if other.get(part) != value]
        if differing:
            yield f"{name} differs in {', '.join(differing)}"
    yield from (
        f"{name} was repeated" for name, at in kept.items() if name not in records or records[name].finished_at != at
    )
    for attempt in killed:
        recorded = records[attempt.run_id].attempts if attempt.run_id in records else []
        if (VANISHED, attempt.started_at) not in {(past.reason, past.started_at) for past in recorded}:
            yield f"the killed attempt at {attempt.run_id} is not recorded"
    yield from leftover_files(store)


def leftover_files(store: Store) -> Iterator[str]:
    """Describe files that are no longer needed, except temporary files of records, which are kept for ten minutes."""
    for folder in sorted((store.path / "runs").iterdir()):
        for file in sorted(folder.iterdir()):
            temporary = file.name.startswith(".record.json.") or file.name.startswith(f".{ATTEMPT_FILE}.")
            named = file.name in EXPECTED_FILES or file.name.startswith(MEASUREMENT_FILES)
            if not named and not temporary:
                yield f"{folder.name}/{file.name} is left over"
    if (store.path / ".ray").exists():
        yield f".ray is left over with {len(list((store.path / '.ray').iterdir()))} folders"
