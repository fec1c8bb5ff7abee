"""Experiments, found by themselves: each module NAME.py has a function NAME that returns an ``Experiment``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping

from rhobench.config import ConfigError
from rhobench.config.experiment import Experiment


class _Experiments(Mapping[str, Callable[[], Experiment]]):
    """Functions that build the experiments, by name. A lookup imports the module of that experiment only."""

    def __getitem__(self, name: str) -> Callable[[], Experiment]:
        if name not in self:
            raise KeyError(name)
        module = importlib.import_module(f"{__name__}.{name}")
        build = getattr(module, name, None)
        if not callable(build):
            raise ConfigError(
                f"{module.__file__} is not an experiment: define a function {name}() there that returns an Experiment."
            )
        return build

    def __iter__(self) -> Iterator[str]:
        found = (module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
        names = [name for name in found if not name.startswith("_")]  # an underscore marks shared helpers
        return iter(sorted(names, key=lambda name: (name != "demo", name)))  # the one to try first comes first

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(self)  # the default of Mapping would import the module


EXPERIMENTS: Mapping[str, Callable[[], Experiment]] = _Experiments()
"""Every experiment by name: ``EXPERIMENTS["demo"]()`` builds the experiment "demo"."""

__all__ = ["EXPERIMENTS"]
