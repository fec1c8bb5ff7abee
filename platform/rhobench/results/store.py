"""The store: a folder of records. Reading it needs nothing but the records themselves.

``<store>/runs/<run_id>/record.json`` is the truth of a run, ``<store>/experiments/<name>.json`` the base configuration
that all runs of an experiment in this store share.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from rhobench.config import ConfigError, Experiment, RunConfig
from rhobench.config_tree import config_hash, differences, from_dict, leaves, run_key, to_dict, without_execution
from rhobench.results.record import FILE_NAME, Point, Record, RecordError, Status, read_record, write_atomically


class StoreNotFoundError(ValueError):
    """A path at which there is no store."""


class StoreOccupiedError(ValueError):
    """A store that already holds an experiment of this name with other settings."""


class Store:
    """The records under one folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.problems: list[str] = []
        """One sentence for each file that the last reading could not use."""
        self._parsed: dict[Path, tuple[tuple[int, int], Record, RunConfig]] = {}

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run; it need not exist."""
        assert run_id == Path(run_id).name, run_id
        return self.path / "runs" / run_id

    def claim(self, experiment: Experiment) -> None:
        """Reserve the name of ``experiment`` in this store for its base configuration.

        Another axis or seed joins the runs that are there. Another base would mix runs that cannot be compared:
        StoreOccupiedError.
        """
        name = experiment.base.experiment
        path = self.path / "experiments" / f"{name}.json"
        if not path.exists():
            write_atomically(path, json.dumps({"base": to_dict(experiment.base)}, indent=1))
            return
        way_out = "Give another --store, or the same settings."
        try:
            present = from_dict(RunConfig, json.loads(path.read_text(encoding="utf-8"))["base"])
        except (ConfigError, ValueError, KeyError, TypeError) as error:
            raise StoreOccupiedError(f"{path} cannot be compared with this experiment ({error}). {way_out}") from error
        first, second = (without_execution(replace(config, seed=0)) for config in (present, experiment.base))
        changed = differences(first, second)
        if changed:
            shown = ", ".join(map(str, changed[:3])) + (f", and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise StoreOccupiedError(
                f"The store {self.path} already holds experiment {name!r} with other settings: {shown}. {way_out}"
            )

    def records(self) -> list[Record]:
        """Every readable record, by run id. What cannot be read is named in ``problems``."""
        return [record for record, _ in self._read()]

    def _read(self) -> list[tuple[Record, RunConfig]]:
        if not (self.path / "runs").is_dir() and not (self.path / "experiments").is_dir():
            raise StoreNotFoundError(f"There is no store at {self.path}: give the folder that `rhobench run` wrote to.")
        self.problems = []
        parsed = {}
        for path in sorted(self.path.glob(f"runs/*/{FILE_NAME}")):
            try:
                stat = path.stat()
                stamp = (stat.st_mtime_ns, stat.st_ino)  # writing replaces the file, so the inode changes as well
                known = self._parsed.get(path)
                parsed[path] = known if known and known[0] == stamp else (stamp, *_parse(path))
            except (RecordError, OSError) as error:
                self.problems.append(str(error))
        self._parsed = parsed
        return [(record, config) for _, record, config in parsed.values()]

    def unrecorded(self) -> list[str]:
        """Ids of runs that have a folder but no record: they are running, or were killed."""
        return sorted(d.name for d in self.path.glob("runs/*/") if not (d / FILE_NAME).exists())

    def statuses(self) -> dict[str, Status]:
        """Status of every recorded run, by run id."""
        return {record.run_id: record.status for record in self.records()}

    def frame(self) -> pd.DataFrame:
        """One row per point; a run without points has one row too.

        Beside the fields of Point (with ``rho_infer`` for the point's rho) and of ``Record.cost``: run_id, experiment,
        status, reason, configuration (``run_key`` without the seed: equal for runs that differ in nothing else),
        dataset, model, backbone, rho (trained; with ``model.rho_choices`` that of the curve), seed, enc_layers,
        use_enc_aux_loss, started_at, finished_at, and every field of the config under its path, such as "train.lr".
        """
        rows: list[dict[str, Any]] = []
        for record, config in self._read():
            rows.extend(_row(record, config, point) for point in record.points or [Point(rho=config.model.rho)])
        return pd.DataFrame(rows, columns=None if rows else list(_empty_row()))

    def curves(self) -> pd.DataFrame:
        """One row per evaluated epoch of every run: run_id, epoch, loss, ap, ..."""
        rows = [{"run_id": record.run_id, **entry} for record in self.records() for entry in record.history]
        return pd.DataFrame(rows, columns=None if rows else ["run_id", "epoch", "loss", "ap", "ap50", "seconds"])


def _parse(path: Path) -> tuple[Record, RunConfig]:
    record = read_record(path)
    if record.run_id != path.parent.name:
        # A copied folder would count one run as two seeds.
        raise RecordError(f"{path} is the record of run {record.run_id}, not of its folder; move it out of the store.")
    try:
        return record, from_dict(RunConfig, record.config)
    except ConfigError as error:
        raise RecordError(f"{path} cannot be read: {error}") from error


def _row(record: Record, config: RunConfig, point: Point) -> dict[str, Any]:
    measured = asdict(point)
    rho_infer = measured.pop("rho")
    return {
        "run_id": record.run_id,
        "experiment": record.experiment,
        "status": record.status,
        "reason": record.reason,
        "configuration": run_key(replace(config, seed=0)),
        "dataset": _dataset(config),
        "model": config.model.name,
        "backbone": config.model.backbone.name,
        "rho": config.model.rho,
        "rho_infer": rho_infer,
        "seed": config.seed,
        "enc_layers": config.model.enc_layers,
        "use_enc_aux_loss": config.model.use_enc_aux_loss,
        **measured,
        **{name: record.cost.get(name) for name in ("train_seconds", "eval_seconds", "cpu_seconds", "gpu_seconds")},
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        # Tuples cannot be told apart from sequences of values by pandas.
        **{path: str(value) if isinstance(value, tuple) else value for path, value in leaves(config) if "." in path},
    }


def _empty_row() -> dict[str, Any]:
    config = RunConfig(experiment="")
    return _row(Record(run_id="", experiment="", status="failed", config={}), config, Point(rho=None))


def _dataset(config: RunConfig) -> str:
    """Name of what AP was computed on. APs under two names must not be compared."""
    data = config.data
    name = f"scenes {config_hash(data.scenes)}" if data.dir is None else Path(data.dir).name
    return f"{name} {data.val_split}"
