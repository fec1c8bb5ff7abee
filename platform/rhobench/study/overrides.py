"""Changes to what an experiment varies: --axis, --range, --samples, --exclude, --seeds, --order and --stop."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rhobench.config import ConfigError
from rhobench.config.experiment import Axis, EarlyStopping, Experiment, Range, Sampling
from rhobench.config.paths import is_tuple_at, number_at, read_value
from rhobench.study.grid import excludes_something, largest_run_count

MAX_RUNS = 10_000
"""Runs of a plan from which the user must confirm it."""

Sampler = Literal["random", "sobol", "optuna"]
Stop = Literal["asha", "median", "none"]
Order = Literal["given", "cheapest", "informative"]


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Changes to what an experiment varies, as typed on the command line; the defaults change nothing."""

    axes: Sequence[str] = ()
    """Axes as PATH=V1,V2,..., or PATH=V1,V2;V1,V2;... for a field that takes several values."""
    ranges: Sequence[str] = ()
    """Ranges as PATH=LOW:HIGH or PATH=LOW:HIGH:log."""
    samples: int | None = None
    """Number of configurations to sample; None: as in the experiment."""
    sampler: str | None = None
    """Sampling method, one of ``Sampler``; None: as in the experiment."""
    exclude: Sequence[str] = ()
    """Exclusions as PATH=V,PATH=V,..., in addition to those of the experiment."""
    seeds: str | None = None
    """Seeds as N,N,...; None: as in the experiment."""
    order: str | None = None
    """Order of the runs, one of ``Order``; None: as in the experiment."""
    stop: str | None = None
    """Method of ``EarlyStopping``, or "none" to stop no run early; None: as in the experiment."""
    confirmed: bool = False
    """Whether the user has confirmed a plan of more than ``MAX_RUNS`` runs."""

    def paths(self) -> set[str]:
        """Return the paths of the axes and ranges."""
        return {text.partition("=")[0].strip() for text in (*self.axes, *self.ranges)}

    def apply(self, experiment: Experiment) -> Experiment:
        """Return ``experiment`` with these changes. An axis replaces the one of the same path, or is appended.

        Raises:
            ConfigError: an option cannot be parsed, or options contradict each other.
        """
        given: list[Axis | Range] = [*map(parse_axis, self.axes), *map(parse_range, self.ranges)]
        for axis in given:
            if [other.path for other in given].count(axis.path) > 1:
                raise ConfigError(f"{axis.path} has more than one --axis or --range: combine them into one.")
        axes: dict[str, Axis | Range] = {axis.path: axis for axis in experiment.axes}
        axes |= {axis.path: axis for axis in given}
        changed = replace(
            experiment,
            axes=tuple(axes.values()),
            sampling=self._sampling(experiment),
            seeds=experiment.seeds if self.seeds is None else parse_seeds(self.seeds),
            order=experiment.order if self.order is None else _parse_choice(self.order, Order, "--order"),
            early_stopping=self._early_stopping(experiment),
        )
        _require_confirmed(changed, self.confirmed)
        # The user's own exclusions stay, so that one that excludes nothing is reported.
        return replace(changed, exclude=(*effective_exclusions(changed), *map(parse_exclusion, self.exclude)))

    def _early_stopping(self, experiment: Experiment) -> EarlyStopping | None:
        if self.stop is None or self.stop == "none":
            return experiment.early_stopping if self.stop is None else None
        method = _parse_choice(self.stop, Stop, "--stop")
        return replace(experiment.early_stopping or EarlyStopping(), method=method)

    def _sampling(self, experiment: Experiment) -> Sampling | None:
        sampling = experiment.sampling
        method = None if self.sampler is None else _parse_choice(self.sampler, Sampler, "--sampler")
        if self.samples is None:
            if method is None:
                return sampling
            if sampling is None:
                raise ConfigError(f"--sampler {method} needs the number of configurations: add --samples N.")
            return replace(sampling, method=method)
        if self.samples < 1:
            raise ConfigError(f"--samples {self.samples} is not allowed: give at least 1.")
        if sampling is None:
            return Sampling(method=method or "sobol", count=self.samples)
        # The requested number also replaces that of the smoke size.
        return replace(sampling, method=method or sampling.method, count=self.samples, smoke_count=None)


def _require_confirmed(experiment: Experiment, confirmed: bool) -> None:
    """Raise ConfigError if the experiment has very many runs, which are counted without being listed."""
    runs = largest_run_count(experiment)
    if runs > MAX_RUNS and not confirmed:
        raise ConfigError(
            f"This plan has {runs:,} runs, more than {MAX_RUNS:,}: list fewer values, sample with --samples, or add "
            "--yes to plan all of them."
        )


def effective_exclusions(experiment: Experiment) -> tuple[Any, ...]:
    """Return the exclusions that still match a run after the axes of an experiment were changed."""
    return tuple(exclusion for exclusion in experiment.exclude if excludes_something(experiment, exclusion))


def parse_axis(text: str) -> Axis:
    """Parse "PATH=V1,V2,...".

    Raises:
        ConfigError: the text has another form, or the field does not take these values.
    """
    path, values = _split(text, "--axis", "PATH=V1,V2, such as --axis model.rho=0.1,0.3")
    # Values of a field that is a list contain commas themselves.
    parts = [part.strip() for part in values.split(";" if is_tuple_at(path) else ",")]
    # For a field that takes several values, an empty part is the empty list.
    read = tuple(read_value(path, part) for part in parts if part or is_tuple_at(path))
    if len(set(read)) != len(read) or not read:
        raise ConfigError(f"--axis {text!r} must list at least one value, and each only once.")
    return Axis(path=path, values=read)


def parse_range(text: str) -> Range:
    """Parse "PATH=LOW:HIGH" or "PATH=LOW:HIGH:log".

    Raises:
        ConfigError: the text has another form, or the field does not take these numbers.
    """
    form = "PATH=LOW:HIGH or PATH=LOW:HIGH:log, such as --range train.lr=1e-4:1e-2:log"
    path, bounds = _split(text, "--range", form)
    number_at(path)  # raises for a field without numbers before the bounds are parsed
    low, *rest = bounds.split(":")
    if len(rest) not in (1, 2) or rest[1:] not in ([], ["log"]):
        raise ConfigError(f"--range {text!r} is not of the form {form}.")
    numbers = [read_value(path, bound.strip()) for bound in (low, rest[0])]
    if None in numbers:
        raise ConfigError(f"--range {text!r} needs numbers as bounds.")
    return Range(path=path, low=numbers[0], high=numbers[1], log=len(rest) == 2)


def parse_exclusion(text: str) -> dict[str, Any]:
    """Parse "PATH=V,PATH=V"; a part without "=" belongs to the value before it.

    Raises:
        ConfigError: the text has another form, or a field does not take its value.
    """
    parts: list[str] = []
    for part in text.split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    pairs = [_split(part, "--exclude", "PATH=V,PATH=V, such as --exclude model.enc_layers=1") for part in parts]
    return {path: read_value(path, value) for path, value in pairs}


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse "0,1,2".

    Raises:
        ConfigError: the text is not a list of distinct whole numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) != len(parts):
        raise ConfigError(f"--seeds {text!r} must list distinct whole numbers, such as --seeds 0,1,2.")
    return tuple(map(int, parts))


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    """Split "PATH=VALUE" of an ``option``, whose ``form`` the error message shows."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"{option} {text!r} is not of the form {form}.")
    return path.strip(), value.strip()


def _parse_choice(text: str, allowed: Any, option: str) -> Any:
    """``text`` if the Literal ``allowed`` contains it.

    Raises:
        ConfigError: it does not.
    """
    names = typing.get_args(allowed)
    if text not in names:
        raise ConfigError(f"{option} {text!r} is not a choice: give one of {', '.join(names)}.")
    return text
