"""Records of runs, the store that holds them, and Pareto fronts of their results."""

from rhobench.results.claim import StoreOccupiedError
from rhobench.results.environment import describe_environment
from rhobench.results.files import StoreAccessError, StoreNotFoundError
from rhobench.results.pareto import (
    ENDED_EARLY,
    by_configuration,
    configuration_labels,
    describe_left_out,
    describe_missing_front,
    front_mask,
    rho_label,
    samples_rho,
    timing_statuses,
    trained_here,
    training_labels,
    varied_fields,
)
from rhobench.results.point import Point
from rhobench.results.record import SCHEMA, Attempt, ForeignModel, Record, RecordError, read_record, write_record
from rhobench.results.store import Store
from rhobench.results.text import printable

__all__ = [
    "ENDED_EARLY",
    "SCHEMA",
    "Attempt",
    "ForeignModel",
    "Point",
    "Record",
    "RecordError",
    "Store",
    "StoreAccessError",
    "StoreNotFoundError",
    "StoreOccupiedError",
    "by_configuration",
    "configuration_labels",
    "describe_environment",
    "describe_left_out",
    "describe_missing_front",
    "front_mask",
    "printable",
    "read_record",
    "rho_label",
    "samples_rho",
    "timing_statuses",
    "trained_here",
    "training_labels",
    "varied_fields",
    "write_record",
]
