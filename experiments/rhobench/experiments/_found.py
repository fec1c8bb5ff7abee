"""Modules that are found by themselves: each module NAME.py of a package has a function NAME that builds a value."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from rhobench.config import ConfigError

T = TypeVar("T")


class Found(Mapping[str, Callable[[], T]]):
    """The functions of a package by name. A lookup imports the module of that function only.

    A name on the command line has hyphens where the module has underscores; an underscore in front marks shared code.
    """

    def __init__(self, package: str, kind: str, *, first: str = "", hyphens: bool = False) -> None:
        """
        Args:
            package: name of the package.
            kind: what the functions build, for messages: "an experiment".
            first: name that is listed first.
            hyphens: whether names have hyphens instead of underscores.
        """
        self._package, self._kind = package, kind
        self._first, self._separator = first, "-" if hyphens else "_"

    def __getitem__(self, name: str) -> Callable[[], T]:
        if name not in self:
            raise KeyError(name)
        own = name.replace("-", "_")
        module = importlib.import_module(f"{self._package}.{own}")
        build: Callable[[], T] | None = getattr(module, own, None)
        if not callable(build):
            raise ConfigError(
                f"{module.__file__} is not {self._kind}: define a function {own}() there that returns one."
            )
        return build

    def __iter__(self) -> Iterator[str]:
        found = (
            module.name for module in pkgutil.iter_modules(sys.modules[self._package].__path__) if not module.ispkg
        )
        names = [name.replace("_", self._separator) for name in found if not name.startswith("_")]
        return iter(sorted(names, key=lambda name: (name != self._first, name)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(self)  # the default of Mapping would import the module
