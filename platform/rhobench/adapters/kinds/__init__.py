"""One module for each kind of foreign detector, found by its presence in this folder.

A module has ``KIND`` (name of the kind), ``TAKES`` (what it reads, for messages), ``recognises(path)`` (whether a path
looks like one) and ``load(request)``. Libraries other than PyTorch are imported inside functions, because each is
optional.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol, cast

from rhobench.adapters.foreign_detector import AdapterError, ForeignDetector, LoadRequest


class Kind(Protocol):
    """A module of this package."""

    KIND: str
    TAKES: str

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` looks like a detector of this kind."""

    def load(self, request: LoadRequest) -> ForeignDetector:
        """Load a trained detector; AdapterError if the files hold none."""


def kinds() -> dict[str, Kind]:
    """Every kind by name."""
    modules = [cast(Kind, import_module(f"{__name__}.{info.name}")) for info in iter_modules(__path__)]
    return {module.KIND: module for module in modules}


def load_detector(request: LoadRequest, kind: str = "auto") -> tuple[str, ForeignDetector]:
    """Load the detector at a path, and return the name of its kind with it.

    Args:
        request: what to load.
        kind: name of a kind; "auto": the one that recognises the path.

    Raises:
        AdapterError: there is no such path or kind, or the files hold no trained detector.
    """
    known, path = kinds(), request.path
    if kind != "auto" and kind not in known:
        raise AdapterError(f"There is no kind {kind!r} of detectors: choose auto or one of {', '.join(known)}.")
    takes = "; ".join(f"{name}: {module.TAKES}" for name, module in known.items())
    if not path.exists():
        raise AdapterError(f"There is no file or folder {path}. A trained detector is needed, as files ({takes}).")
    if kind == "auto":
        kind = next((name for name, module in known.items() if module.recognises(path)), "")
        if not kind:
            raise AdapterError(f"{path} is none of the kinds of detectors that can be measured ({takes}).")
    return kind, known[kind].load(request)
