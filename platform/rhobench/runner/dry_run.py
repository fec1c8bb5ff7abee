"""`rhobench run EXPERIMENT --dry-run`: plan the runs of a study, with their state in the store, resources and cost.

Nothing is trained and nothing is written. For this machine, Ray is not started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rhobench.cluster.session import Cluster, cluster_capacity, local_device
from rhobench.config import RunConfig, TrainConfig
from rhobench.config.conversion import from_dict
from rhobench.config.paths import run_key, value_at
from rhobench.results import Record, Store
from rhobench.results.uncertainty import seed_deviation
from rhobench.runner.plan_report import PlannedRun, SearchPlan, SweepPlan, describe_step
from rhobench.study.estimate import (
    UNKNOWN_SPEED,
    SpeedEstimate,
    count_training_gflops,
    runs_to_estimate,
    speed_from_experiment,
    speed_from_records,
)
from rhobench.study.grid import values_on_axes, varied_paths
from rhobench.study.known_runs import TO_MEASURE, KnownRuns, ResolvedRun
from rhobench.study.study import Study

UNCOUNTABLE = (
    "the operations of some runs cannot be counted, because their images have fewer tokens than the model has queries"
)


def plan_sweep(
    study: Study,
    store: Store,
    address: str,
    price_per_hour: float | None,
    on_progress: Callable[[str], None] = lambda text: None,
    *,
    without_token: bool = False,
) -> SweepPlan:
    """Plan the runs of a study.

    Args:
        study: study with its runs.
        store: store of the results; it need not exist.
        address: address of the Ray cluster; "local" is this machine.
        price_per_hour: price of the device of one worker per hour; None: no price is estimated.
        on_progress: called with a description of the current step.
        without_token: whether the cluster is used without token authentication.

    Raises:
        ClusterError: no cluster answers at the address, or it requires a token that is missing.
    """
    known, paths = KnownRuns.from_store(store), varied_paths(study.experiment)
    resolved = [known.resolve(config, paths) for config in study.configs]
    cluster = cluster_capacity(address, without_token=without_token)
    records = [record for same in known.records.values() for record in same]
    search = _plan_search(study, records, cluster)
    planned = study.configs + (runs_to_estimate(study.experiment)[: search.sampling.count] if search else [])
    on_progress("counting operations")
    gflops = count_training_gflops(planned, on_progress)
    speed = _estimate_speed(study, records, address, planned)
    hours = [speed.hours(count) for count in gflops]
    if search:
        search = replace(search, hours=_mean(hours[len(study.configs) :]))
    return SweepPlan(
        experiment=study.experiment.base.experiment,
        # Not strict: the hours of the runs that stand for a search follow at the end.
        runs=[_plan_run(study, run, cluster, taken) for run, taken in zip(resolved, hours, strict=False)],
        search=search,
        cluster=cluster,
        location="this machine" if address == "local" else f"the cluster at {address}",
        steps=list(dict.fromkeys(describe_step(config.train) for config in planned)),
        estimated_from=UNCOUNTABLE if speed is not UNKNOWN_SPEED and None in hours else speed.source,
        price_per_hour=price_per_hour,
        seeds=len(study.experiment.seeds),
        seed_deviation=seed_deviation(store.frame()) if known.records else None,
    )


def runs_at_once(train: TrainConfig, cluster: Cluster) -> int:
    """Number of runs that a cluster of equal nodes holds; a worker needs one node, a run may span several."""
    workers = cluster.cores_per_node // train.cpus_per_worker
    if train.gpus_per_worker:
        # The margin keeps fractions of GPUs that add up to a whole one from being rounded down.
        workers = min(workers, int(cluster.gpus / cluster.nodes / train.gpus_per_worker + 1e-9))
    return cluster.nodes * workers // train.num_workers


def _plan_run(study: Study, run: ResolvedRun, cluster: Cluster, hours: float | None) -> PlannedRun:
    seed = ("seed",) if len(study.experiment.seeds) > 1 else ()
    other = run.config.experiment
    return PlannedRun(
        resolved=run,
        varied={path: value_at(run.config, path) for path in (*varied_paths(study.experiment), *seed)},
        computed_by=other if other != study.experiment.base.experiment else None,
        needs_training=run.state not in ("trained", TO_MEASURE, *study.finished_statuses),
        at_once=runs_at_once(run.config.train, cluster),
        hours=hours,
    )


def _plan_search(study: Study, records: Sequence[Record], cluster: Cluster) -> SearchPlan | None:
    """Plan of the runs that Optuna chooses, without their hours; None: the study is not a search."""
    experiment, train = study.experiment, study.experiment.base.train
    if experiment.search is None:
        return None
    trained = ("trained", *study.finished_statuses)
    known = [from_dict(RunConfig, record.config) for record in records if record.status in trained]
    # Several records may hold the same run.
    chosen = {run_key(config) for config in known if values_on_axes(experiment, config) is not None}
    at_once = runs_at_once(train, cluster)
    return SearchPlan(sampling=experiment.search, in_store=len(chosen), hours=None, at_once=at_once, train=train)


def _estimate_speed(
    study: Study, records: Sequence[Record], address: str, planned: Sequence[RunConfig]
) -> SpeedEstimate:
    """Speed of the finished runs in the store, else from the hours that the experiment estimates."""
    if not planned:
        return UNKNOWN_SPEED
    train, data = planned[0].train, planned[0].data
    # Devices of a cluster are unknown here, so those of its latest run in the store stand for them.
    device = local_device(gpu=train.gpus_per_worker > 0) if address == "local" else None
    return (
        speed_from_records(records, device, train)
        or speed_from_experiment(study.original, data, train)
        or UNKNOWN_SPEED
    )


def _mean(hours: Sequence[float | None]) -> float | None:
    """Mean of the hours; None: at least one is unknown."""
    return None if None in hours else sum(h or 0.0 for h in hours) / len(hours)
