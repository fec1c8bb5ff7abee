"""Which runs a store already holds: one that another experiment has computed with the same settings is not repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rhobench.config import RunConfig
from rhobench.config.paths import from_dict, run_id, run_key
from rhobench.results import Record, Store, StoreNotFoundError

_FURTHEST = ("completed", "trained", "stopped", "failed")
"""Of several records of one run, the first of these counts."""


@dataclass(frozen=True, kw_only=True)
class IdentifiedRun:
    """A run with its identity in a store."""

    run_id: str
    """Of the store's own run where it holds this one, whoever computed it first."""
    config: RunConfig
    """With the name of the experiment that ``run_id`` begins with, so that its checkpoint can be taken up."""
    record: Record | None = None
    """What the store knows; None: nothing, or a run without record that goes on or was killed."""
    begun: bool = False
    """Whether the store has a folder of it."""

    @property
    def state(self) -> str:
        """Status of its record, or "begun", or "to do"."""
        if self.record is not None:
            return self.record.status
        return "begun" if self.begun else "to do"


@dataclass(frozen=True, kw_only=True)
class KnownRuns:
    """The runs of a store by their ``run_key``."""

    records: Mapping[str, tuple[Record, ...]]
    unrecorded: Mapping[str, str]
    """Ids of runs that have a folder but no record."""

    @classmethod
    def of(cls, store: Store) -> KnownRuns:
        """What ``store`` holds now; nothing where there is no store yet.

        The key is worked out of the recorded configuration, so runs of versions with fewer fields are found, too.
        """
        records: dict[str, tuple[Record, ...]] = {}
        try:
            for record in store.records():
                key = run_key(from_dict(RunConfig, record.config))
                records[key] = (*records.get(key, ()), record)
            unrecorded = {name.rpartition("-")[2]: name for name in store.unrecorded()}
        except StoreNotFoundError:
            return cls(records={}, unrecorded={})
        return cls(records=records, unrecorded=unrecorded)

    def name(self, config: RunConfig, paths: tuple[str, ...]) -> IdentifiedRun:
        """The identity of a run.

        Args:
            config: of the run.
            paths: that its name shows where the store does not hold it: ``expansion.varied_paths``.
        """
        key, own = run_key(config), config.experiment
        same = sorted(self.records.get(key, ()), key=lambda r: (_FURTHEST.index(r.status), r.experiment != own))
        if same:
            found = same[0]
            return IdentifiedRun(
                run_id=found.run_id, config=replace(config, experiment=found.experiment), record=found, begun=True
            )
        if key in self.unrecorded:
            name = self.unrecorded[key]
            # Names of experiments are those of functions, without a "-".
            return IdentifiedRun(run_id=name, config=replace(config, experiment=name.partition("-")[0]), begun=True)
        return IdentifiedRun(run_id=run_id(config, paths), config=config)
