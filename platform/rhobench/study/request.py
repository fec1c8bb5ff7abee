"""What a user asks for: the name of an experiment and every change to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rhobench.study.overrides import Overrides


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """An experiment by name, with the changes that apply to all of its runs and to what it varies."""

    experiment: str
    """Name of the experiment."""
    assignments: Sequence[str] = ()
    """Settings of all runs as PATH=VALUE, from ``--set``."""
    data: Path | None = None
    """Folder of the data set; None: the one that the experiment names."""
    smoke: bool = False
    """Whether the experiment is shrunk to its smoke size."""
    fork: Path | None = None
    """Folder of a run whose weights every run starts from; None: initial weights."""
    overrides: Overrides = Overrides()  # noqa: RUF009 - frozen, so one instance can be shared
    """Changes to the axes, seeds, sampling, order and early stopping."""
