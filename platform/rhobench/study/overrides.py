"""What the command line varies: ``--axis``, ``--range``, ``--samples``, ``--exclude``, ``--seeds``, ``--order``, and
``--stop``."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rhobench.config import ConfigError
from rhobench.config.experiment import Axis, EarlyStopping, Experiment, Range, Sampling
from rhobench.config.paths import is_tuple_at, number_at, read_value
from rhobench.study.grid import excludes_something

Method = Literal["random", "sobol", "optuna"]
Stop = Literal["asha", "median", "none"]
Order = Literal["given", "cheapest", "informative"]


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Changes to what an experiment varies, as they were typed; the defaults leave it as it is."""

    axes: Sequence[str] = ()
    """PATH=V1,V2,...; of a field that takes several values, PATH=V1,V2;V1,V2;..."""
    ranges: Sequence[str] = ()
    """PATH=LOW:HIGH or PATH=LOW:HIGH:log."""
    samples: int | None = None
    """Configurations to draw."""
    sampler: str | None = None
    """One of ``Method``."""
    exclude: Sequence[str] = ()
    """PATH=V,PATH=V,..."""
    seeds: str | None = None
    """N,N,..."""
    order: str | None = None
    """One of ``Order``."""
    stop: str | None = None
    """"none", or a method of ``EarlyStopping``."""

    def paths(self) -> set[str]:
        """Of the axes and ranges that were given."""
        return {text.partition("=")[0].strip() for text in (*self.axes, *self.ranges)}

    def applied_to(self, experiment: Experiment) -> Experiment:
        """``experiment`` with these changes. An axis takes the place of one over the same path, or comes last.

        Raises:
            ConfigError: something that was typed cannot be read, or does not fit together.
        """
        given: list[Axis | Range] = [*map(read_axis, self.axes), *map(read_range, self.ranges)]
        for axis in given:
            if [other.path for other in given].count(axis.path) > 1:
                raise ConfigError(f"{axis.path} is given more than one axis: list all its values in one.")
        axes: dict[str, Axis | Range] = {axis.path: axis for axis in experiment.axes}
        axes |= {axis.path: axis for axis in given}
        changed = replace(
            experiment,
            axes=tuple(axes.values()),
            sampling=self._sampling(experiment),
            seeds=experiment.seeds if self.seeds is None else read_seeds(self.seeds),
            order=experiment.order if self.order is None else _one_of(self.order, Order, "--order"),
            early_stopping=self._early_stopping(experiment),
        )
        return replace(changed, exclude=(*still_needed(changed), *map(read_exclusion, self.exclude)))

    def _early_stopping(self, experiment: Experiment) -> EarlyStopping | None:
        if self.stop is None or self.stop == "none":
            return experiment.early_stopping if self.stop is None else None
        method = _one_of(self.stop, Stop, "--stop")
        return replace(experiment.early_stopping or EarlyStopping(), method=method)

    def _sampling(self, experiment: Experiment) -> Sampling | None:
        sampling = experiment.sampling
        method = None if self.sampler is None else _one_of(self.sampler, Method, "--sampler")
        if self.samples is None:
            if method is None or sampling is None:
                if method is not None:
                    raise ConfigError(f"--sampler {method} draws configurations: say how many with --samples N.")
                return sampling
            return replace(sampling, method=method)
        if self.samples < 1:
            raise ConfigError(f"--samples {self.samples} draws nothing: give at least 1.")
        if sampling is None:
            return Sampling(method=method or "sobol", count=self.samples)
        return replace(sampling, method=method or sampling.method, count=self.samples, smoke_count=None)


def still_needed(experiment: Experiment) -> tuple[Any, ...]:
    """The experiment's own exclusions that still exclude something, when its axes were changed."""
    return tuple(exclusion for exclusion in experiment.exclude if excludes_something(experiment, exclusion))


def read_axis(text: str) -> Axis:
    """Read "PATH=V1,V2,..."."""
    path, values = _split(text, "--axis", "PATH=V1,V2, such as --axis model.rho=0.1,0.3")
    parts = [part.strip() for part in values.split(";" if is_tuple_at(path) else ",")]
    read = tuple(read_value(path, part) for part in parts if part or is_tuple_at(path))
    if len(set(read)) != len(read) or not read:
        raise ConfigError(f"--axis {text!r} must list different values, at least one.")
    return Axis(path=path, values=read)


def read_range(text: str) -> Range:
    """Read "PATH=LOW:HIGH" or "PATH=LOW:HIGH:log"."""
    form = "PATH=LOW:HIGH or PATH=LOW:HIGH:log, such as --range train.lr=1e-4:1e-2:log"
    path, bounds = _split(text, "--range", form)
    number_at(path)
    low, *rest = bounds.split(":")
    if len(rest) not in (1, 2) or rest[1:] not in ([], ["log"]):
        raise ConfigError(f"--range {text!r} is not of the form {form}.")
    numbers = [read_value(path, bound.strip()) for bound in (low, rest[0])]
    if None in numbers:
        raise ConfigError(f"--range {text!r} needs numbers as its bounds.")
    return Range(path=path, low=numbers[0], high=numbers[1], log=len(rest) == 2)


def read_exclusion(text: str) -> dict[str, Any]:
    """Read "PATH=V,PATH=V"; what has no "=" belongs to the value before it."""
    parts: list[str] = []
    for part in text.split(","):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += f",{part}"
    pairs = [_split(part, "--exclude", "PATH=V,PATH=V, such as --exclude model.enc_layers=1") for part in parts]
    return {path: read_value(path, value) for path, value in pairs}


def read_seeds(text: str) -> tuple[int, ...]:
    """Read "0,1,2"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) != len(parts):
        raise ConfigError(f"--seeds {text!r} must list different whole numbers, such as --seeds 0,1,2.")
    return tuple(map(int, parts))


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"{option} {text!r} is not of the form {form}.")
    return path.strip(), value.strip()


def _one_of(text: str, allowed: Any, option: str) -> Any:
    names = typing.get_args(allowed)
    if text not in names:
        raise ConfigError(f"{option} {text} is not known: choose one of {', '.join(names)}.")
    return text
