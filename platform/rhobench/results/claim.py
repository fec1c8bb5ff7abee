"""Reservation of the name of an experiment in a store for its base configuration."""

from __future__ import annotations

import json
from dataclasses import replace

from rhobench.config import ConfigError, RunConfig
from rhobench.config.conversion import from_dict, to_dict
from rhobench.config.experiment import Experiment
from rhobench.config.paths import differences, without_execution
from rhobench.config.phrases import listed
from rhobench.results.files import Files, StoreAccessError
from rhobench.results.text import is_file_name, printable


class StoreOccupiedError(ValueError):
    """A store that already holds an experiment of the same name with other settings."""


def claim_experiment(files: Files, experiment: Experiment) -> None:
    """Create the file with the base configuration of ``experiment``, or compare it with the existing one.

    Raises:
        StoreOccupiedError: the name is reserved for another base configuration, whose runs cannot be compared.
        StoreAccessError: the store cannot be written to.
    """
    name = experiment.base.experiment
    assert is_file_name(name), name
    path = f"experiments/{name}.json"
    try:
        # One step, so that of two sweeps that start together only one defines the base
        created = files.create(path, json.dumps({"base": to_dict(experiment.base)}, indent=1).encode())
    except OSError as error:
        raise StoreAccessError(
            f"A store cannot be created at {files.place} ({error.strerror}). "
            "Give --store a folder that you can write to."
        ) from error
    if created:
        return
    way_out = "Give another --store or the same settings."
    try:
        present = from_dict(RunConfig, json.loads(files.read(path))["base"])
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        raise StoreOccupiedError(
            f"{files.display_path(path)} cannot be compared with this experiment ({printable(error)}). {way_out}"
        ) from error
    # Neither the seed nor execution settings distinguish base configurations: their runs are comparable.
    first, second = (without_execution(replace(config, seed=0)) for config in (present, experiment.base))
    changed = differences(first, second)
    if changed:
        raise StoreOccupiedError(
            f"The store {files.place} already holds experiment {name!r} with other settings: "
            f"{printable(listed(changed))}. {way_out}"
        )
