"""`rhobench run EXPERIMENT --dry-run`: which runs there are, what the store has of them, what they need and cost.

Trains nothing and writes nothing. On this machine Ray is not even started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rhobench.cluster.session import Cluster, ask_capacity, local_device
from rhobench.config import RunConfig, TrainConfig
from rhobench.config.paths import from_dict, run_key, value_at
from rhobench.results import Record, Store
from rhobench.runner.plan_report import ChosenLater, Plan, PlannedRun
from rhobench.study.estimate import UNKNOWN, Speed, Tell, designed_speed, estimated_runs, measured_speed, works_of
from rhobench.study.grid import values_on_axes, varied_paths
from rhobench.study.known_runs import KnownRuns
from rhobench.study.resolve import step_in_words
from rhobench.study.study import Study

UNCOUNTED = "of some the operations cannot be counted, for their images have fewer tokens than the model has queries"


def plan(
    study: Study,
    store: Store,
    address: str,
    price_per_hour: float | None,
    tell: Tell = lambda text: None,
    *,
    without_token: bool = False,
) -> Plan:
    """What would be run.

    Args:
        study: with its runs.
        store: that they would go into; it need not exist.
        address: of the Ray cluster; "local" is this machine.
        price_per_hour: of the device of one worker.
        tell: is told about progress.
        without_token: see ``--without-token``.

    Raises:
        ClusterError: no cluster answers at the address, or it must not be used this way.
    """
    name, known = study.experiment.base.experiment, KnownRuns.of(store)
    paths = varied_paths(study.experiment)
    named = [known.name(config, paths) for config in study.configs]
    cluster = ask_capacity(address, without_token=without_token)
    records = [record for same in known.records.values() for record in same]
    later = _chosen_later(study, records, cluster)
    planned = study.configs + (estimated_runs(study.experiment)[: later.sampling.count] if later else [])
    tell("counting operations")
    works = works_of(planned, tell)
    speed = _speed(study, records, address, planned)
    hours = [speed.hours(work) for work in works]
    if later:
        of_those = hours[len(study.configs) :]
        mean = None if None in of_those else sum(h or 0.0 for h in of_those) / len(of_those)
        later = replace(later, hours=mean)
    trained = ("trained", *study.finished)
    seeds = {"seed"} if len(study.experiment.seeds) > 1 else set()
    runs = [
        PlannedRun(
            named=run,
            varied={path: value_at(run.config, path) for path in (*paths, *seeds)},
            by=run.config.experiment if run.config.experiment != name else None,
            left=run.state not in trained,
            at_once=runs_at_once(run.config.train, cluster),
            hours=taken,
        )
        for run, taken in zip(named, hours, strict=False)
    ]
    return Plan(
        experiment=name,
        runs=runs,
        later=later,
        cluster=cluster,
        where="this machine" if address == "local" else f"the cluster at {address}",
        steps=list(dict.fromkeys(step_in_words(config.train) for config in planned)),
        estimated_from=UNCOUNTED if speed is not UNKNOWN and None in hours else speed.source,
        price_per_hour=price_per_hour,
    )


def runs_at_once(train: TrainConfig, cluster: Cluster) -> int:
    """How many runs a cluster of equal nodes holds at a time; a worker is on one node, a run may be on several."""
    workers = cluster.cores_per_node // train.cpus_per_worker
    if train.gpus_per_worker:
        workers = min(workers, int(cluster.gpus / cluster.nodes / train.gpus_per_worker + 1e-9))
    return cluster.nodes * workers // train.num_workers


def _chosen_later(study: Study, records: Sequence[Record], cluster: Cluster) -> ChosenLater | None:
    experiment, train = study.experiment, study.experiment.base.train
    if experiment.sampling is None or experiment.sampling.method != "optuna":
        return None
    trained = ("trained", *study.finished)
    known = [from_dict(RunConfig, record.config) for record in records if record.status in trained]
    chosen = {run_key(config) for config in known if values_on_axes(experiment, config) is not None}
    at_once = runs_at_once(train, cluster)
    return ChosenLater(sampling=experiment.sampling, in_store=len(chosen), hours=None, at_once=at_once, train=train)


def _speed(study: Study, records: Sequence[Record], address: str, planned: Sequence[RunConfig]) -> Speed:
    """By runs that finished, else by the hours that the experiment names."""
    if not planned:
        return UNKNOWN
    train, data = planned[0].train, planned[0].data
    device = local_device(gpu=train.gpus_per_worker > 0) if address == "local" else None
    return measured_speed(records, device, train) or designed_speed(study.designed, data, train) or UNKNOWN
