"""Runs that a store already holds, whichever experiment computed them, so that none is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.config.paths import Difference, differences, run_id, run_key, value_at, without_execution
from rhobench.config.phrases import listed
from rhobench.config.points import requested_points

if TYPE_CHECKING:  # a store needs pandas and pyarrow, which take longer to import than all the rest
    from rhobench.results import Record, Store

STATUS_PRIORITY = ("completed", "trained", "stopped", "failed")
"""Record statuses; of several records of one run, the one whose status comes first here counts."""


@dataclass(frozen=True, kw_only=True)
class SimilarRun:
    """A run of a store with the values of a new run in all fields that its experiment varies, but not in others."""

    run_id: str
    """Id of the run."""
    differences: tuple[Difference, ...]
    """Fields by which it is another run."""

    def describe(self) -> str:
        """Return which fields differ, such as "train.epochs is 12 there and 5 here"."""
        return listed(self.differences)


TO_MEASURE = "to measure"
"""State of a completed run whose record lacks a requested point."""


def lacks_points(record: Record | None, config: RunConfig) -> bool:
    """Whether a run is trained and its record lacks a point that ``config`` asks for: it is to be measured."""
    from rhobench.results.points import missing_points

    if record is None or record.status not in ("trained", "completed"):
        return False
    missing = missing_points(record, requested_points(config), config.measure.timing.id)
    return record.status == "trained" or bool(missing)


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """A run with the id and the state that it has in a store."""

    run_id: str
    """Id under which the store holds the run, or would hold it."""
    config: RunConfig
    """Configuration with the name of the experiment that ``run_id`` begins with, so that its checkpoint fits."""
    record: Record | None = None
    """Record of the run; None: the store has none, because the run is new, still running or was killed."""
    has_folder: bool = False
    """Whether the store has a folder for the run."""
    similar: SimilarRun | None = None
    """Run of the store that a new one could be taken for; None: there is none, or the run itself is there."""

    @property
    def state(self) -> str:
        """Status of the record, or ``TO_MEASURE``; else "begun" for a run with a folder, else "to do"."""
        if self.record is not None:
            lacking = self.record.status == "completed" and lacks_points(self.record, self.config)
            return TO_MEASURE if lacking else self.record.status
        return "begun" if self.has_folder else "to do"


@dataclass(frozen=True, kw_only=True)
class KnownRuns:
    """The runs of a store, by their ``run_key``."""

    records: Mapping[str, tuple[Record, ...]]
    """Records by run key; several where experiments computed the same run."""
    unrecorded: Mapping[str, str]
    """Ids of runs with a folder but no record, by run key."""
    configs: Mapping[str, RunConfig] = field(default_factory=dict)
    """Configurations of the recorded runs, by run key."""

    @classmethod
    def from_store(cls, store: Store) -> KnownRuns:
        """Read the runs of ``store``; a store that does not exist yet has none.

        Keys are computed from the recorded configurations, so that runs of versions with fewer fields are found.
        """
        from rhobench.results import StoreNotFoundError

        records: dict[str, tuple[Record, ...]] = {}
        configs: dict[str, RunConfig] = {}
        try:
            for record in store.records():
                config = from_dict(RunConfig, record.config)
                key = run_key(config)
                configs[key] = config
                records[key] = (*records.get(key, ()), record)
            # Without a record, only the end of the id tells the run key.
            unrecorded = {name.rpartition("-")[2]: name for name in store.unrecorded()}
        except StoreNotFoundError:
            return cls(records={}, unrecorded={})
        return cls(records=records, unrecorded=unrecorded, configs=configs)

    def resolve(self, config: RunConfig, paths: tuple[str, ...]) -> ResolvedRun:
        """Look up a run.

        Args:
            config: configuration of the run.
            paths: fields that the id of a new run shows, see ``grid.varied_paths``.
        """
        key, own = run_key(config), config.experiment
        same = sorted(self.records.get(key, ()), key=lambda r: (STATUS_PRIORITY.index(r.status), r.experiment != own))
        if same:
            record = same[0]
            return ResolvedRun(
                run_id=record.run_id,
                config=replace(config, experiment=record.experiment),
                record=record,
                has_folder=True,
            )
        if key in self.unrecorded:
            name = self.unrecorded[key]
            # Experiments are named after functions, so their names contain no "-".
            return ResolvedRun(run_id=name, config=replace(config, experiment=name.partition("-")[0]), has_folder=True)
        return ResolvedRun(run_id=run_id(config, paths), config=config, similar=self._similar(config, paths))

    def _similar(self, config: RunConfig, paths: tuple[str, ...]) -> SimilarRun | None:
        """The run of the store that differs least from ``config``, among those with the same seed and varied values."""
        varied = ("seed", *paths)
        values = [value_at(config, path) for path in varied]
        own = replace(without_execution(config), experiment="")
        found: SimilarRun | None = None
        for key, other in self.configs.items():
            if [value_at(other, path) for path in varied] != values:
                continue
            changed = tuple(differences(replace(without_execution(other), experiment=""), own))
            if found is None or len(changed) < len(found.differences):
                found = SimilarRun(run_id=self.records[key][0].run_id, differences=changed)
        return found
