"""What must hold when a sweep that was hit has ended: every run once, the same bits, nothing lost, nothing left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
from safetensors.numpy import load_file

from rhobench.cluster.attempt import FILE, VANISHED, ActiveAttempt
from rhobench.cluster.execute import DETECTIONS_FILE
from rhobench.measure.artifact import FILE_NAME
from rhobench.results import Record, Store
from rhobench.training.meter import MEASURED

TIMES = {"seconds", *MEASURED}
"""Of an entry of the history: what differs between equal trainings."""
RESULTS = ("rho", "ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "gflops", "params_m", "height", "width")
"""Fields of a point that do not."""
STAYS = {"record.json", "model.safetensors", "detections.parquet", "samples.parquet", "tensorboard", "error.txt"}
"""What the folder of a finished run may hold."""


def result_of(store: Store, record: Record) -> dict[str, Any]:
    """All of a run that must not depend on what happened on the way, hashed where it is large."""
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
    """``result_of`` every completed run."""
    return {record.run_id: result_of(store, record) for record in store.records() if record.status == "completed"}


def finished(store: Store) -> dict[str, str | None]:
    """Runs with a result -> when they had it."""
    try:
        records = store.records()
    except ValueError:  # the store is not there yet
        return {}
    return {record.run_id: record.finished_at for record in records if record.status in ("trained", "completed")}


def problems(
    store: Store, reference: Mapping[str, Any], kept: Mapping[str, str | None], killed: Iterable[ActiveAttempt]
) -> Iterator[str]:
    """What is not as it must be.

    Args:
        store: of the sweep, which has ended.
        reference: ``results_of`` an undisturbed sweep.
        kept: ``finished`` at the kill.
        killed: tries that were at it in mid-run.
    """
    records = {record.run_id: record for record in store.records()}
    yield from store.problems
    if set(records) != set(reference):
        yield f"runs differ: {sorted(set(records) ^ set(reference))}"
    yield from (f"{name} is {one.status}: {one.reason}" for name, one in records.items() if one.status != "completed")
    for name, result in results_of(store).items():
        other = reference.get(name, {})
        differing = [part for part, value in result.items() if other.get(part) != value]
        if differing:
            yield f"{name} has other {', '.join(differing)}"
    yield from (
        f"{name} was done again" for name, at in kept.items() if name not in records or records[name].finished_at != at
    )
    for one in killed:
        known = records[one.run_id].attempts if one.run_id in records else []
        if (VANISHED, one.started_at) not in {(attempt.reason, attempt.started_at) for attempt in known}:
            yield f"the killed try at {one.run_id} is not remembered"
    yield from left_behind(store)


def left_behind(store: Store) -> Iterator[str]:
    """Files that nobody needs any more. A torn record's temporary file is designed to stay for ten minutes."""
    for folder in sorted((store.path / "runs").iterdir()):
        for file in sorted(folder.iterdir()):
            torn = file.name.startswith(".record.json.") or file.name.startswith(f".{FILE}.")
            if file.name not in STAYS and not torn:
                yield f"{folder.name}/{file.name} is left"
    if (store.path / ".ray").exists():
        yield f".ray is left with {len(list((store.path / '.ray').iterdir()))} folders"
