"""Trained runs of a store, measured in turns in one process; their points join the records."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rhobench.cluster.measure_artifacts import Say, Subject, choose_device, measure_artifacts
from rhobench.cluster.run_task import SCRATCH_DIR
from rhobench.config import RunConfig
from rhobench.config.cache import cache_dir
from rhobench.config.conversion import from_dict
from rhobench.config.points import MeasureRequest, PointSettings
from rhobench.config.protocols import Protocol
from rhobench.measure.artifact import FILE_NAME
from rhobench.measure.process import configure_process
from rhobench.results import Point, Record, Store, read_record, write_record
from rhobench.results.mirror import mirrored
from rhobench.results.points import merged_points, missing_points
from rhobench.results.record import FILE_NAME as RECORD_FILE


def measure_runs(
    place: str,
    requests: Mapping[str, MeasureRequest],
    protocol: Protocol,
    threads: int,
    *,
    device: str | None = None,
    data: str | None = None,
    say: Say = lambda text: None,
) -> dict[str, list[Point]]:
    """Measure trained runs at the requested points and complete their records; other points stay as they are.

    Args:
        place: path or URL of the store.
        requests: points to measure, by the id of the run.
        protocol: protocol of the latency.
        threads: number of threads of PyTorch.
        device: "cpu" or "cuda"; None: a GPU for runs that were trained on one, if there is one.
        data: folder of the data set, if it is not where it was in the training.
        say: called with a description of the current step.

    Returns:
        The measured points by run id.
    """
    configure_process(threads)
    store = Store(place)
    # All folders at once, because the models take turns and a folder is uploaded when its block ends.
    with ExitStack() as stack:
        folders = {
            run_id: stack.enter_context(mirrored(store, run_id, cache_dir() / SCRATCH_DIR)) for run_id in requests
        }
        records = {run_id: read_record(folder / RECORD_FILE) for run_id, folder in folders.items()}
        wanted = {run_id: _wanted(records[run_id], request, protocol) for run_id, request in requests.items()}
        subjects = {
            run_id: Subject(
                file=folders[run_id] / FILE_NAME,
                points=points,
                known=records[run_id].points,
                target=f"{store.place}/runs/{run_id}" if store.is_local else str(store.place),
            )
            for run_id, points in wanted.items()
            if points
        }
        on_gpu = any(from_dict(RunConfig, records[i].config).train.gpus_per_worker > 0 for i in subjects)
        found: dict[str, list[Point]] = {}
        if subjects:
            where = choose_device(device, trained_on_gpu=on_gpu)
            found = measure_artifacts(subjects, protocol, device=where, data=data, say=say)
        for run_id, folder in folders.items():
            # Read again: in the minutes of a measurement, another command may have added points.
            _complete_record(folder, read_record(folder / RECORD_FILE), found.get(run_id, []), protocol)
    return found


def _wanted(record: Record, request: MeasureRequest, protocol: Protocol) -> tuple[PointSettings, ...]:
    return request.points if request.again else tuple(missing_points(record, request.points, protocol.id))


def _complete_record(folder: Path, record: Record, points: list[Point], protocol: Protocol) -> None:
    """Add points to the record of a run, which is complete when everything that was asked for is measured."""
    merged = merged_points(record.points, points)
    used = {point.protocol for point in merged}
    protocols = {name: text for name, text in record.protocols.items() if name in used}
    if points:
        protocols[protocol.id] = protocol.describe()
    status = "completed" if record.status == "trained" else record.status
    write_record(folder, replace(record, status=status, points=merged, protocols=protocols))
