"""The description of a detector that its file alone does not give: a JSON file of the same name beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from rhobench.adapters.foreign_detector import AdapterError
from rhobench.config import ConfigError
from rhobench.config.conversion import from_dict

T = TypeVar("T")


def description_file(path: Path) -> Path:
    """Path of the description of the detector in ``path``: ``x.json`` of ``x.onnx``."""
    return path.with_suffix(".json")


def read_description(path: Path, cls: type[T], example: str) -> T:
    """Read the description of the detector in the file ``path``.

    Args:
        path: file of the detector.
        cls: dataclass with the fields of the description.
        example: a complete description, shown if there is none.

    Raises:
        AdapterError: there is no description, or it cannot be read.
    """
    file = description_file(path)
    if not file.is_file():
        raise AdapterError(f"{path} needs a description: write {file}, such as {example}.")
    try:
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict):
            raise AdapterError(f"{file} is not a JSON object, such as {example}.")
        return from_dict(cls, content)
    except (ConfigError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{file} cannot be read: {str(error).rstrip('.')}. A valid one is {example}.") from error
