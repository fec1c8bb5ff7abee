"""Safe reading of checkpoint files of the official code and of Hugging Face transformers.

Nothing in a checkpoint is executed: pickles are read by torch's restricted unpickler, which creates tensors and plain
containers only, and here also ``argparse.Namespace``, in which the official code stores the arguments of the training.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from rhobench.model.hugging_face import is_hugging_face, to_official
from rhobench.model.official import WeightsError, without_prefix

Layout = Literal["official", "transformers"]

_KNOWN_NON_CHECKPOINTS = {
    (b"<!doctype", b"<html", b"<?xml"): "is a web page, not a checkpoint: download the file itself",
    (b"version https://git-lfs",): "is a Git LFS pointer, not a checkpoint: run `git lfs pull`",
    # torch.save writes a zip archive or, in old versions, a pickle of protocol 2.
    (b"\x80\x03", b"\x80\x04", b"\x80\x05"): "is a plain pickle, which can execute code on loading, and was rejected: "
    "get a checkpoint written by torch.save",
}
"""First bytes (lower case) of files that are commonly mistaken for checkpoints -> what is wrong with them."""


@dataclass(frozen=True, kw_only=True)
class ExternalCheckpoint:
    """Contents of a checkpoint of another code base."""

    state: dict[str, Tensor]
    """Official key -> tensor."""
    layout: Layout
    """Naming scheme of the file."""
    args: Mapping[str, Any]
    """Arguments of the training under their official names; empty if the file contains none."""


def read_checkpoint(file: Path) -> ExternalCheckpoint:
    """Read the weights of ``file``, and the arguments of their training if it contains them.

    Raises:
        WeightsError: the file does not exist, is damaged, contains code or has no state_dict.
    """
    if not file.is_file():
        raise WeightsError(f"There is no file {file}.")
    with file.open("rb") as stream:
        start = stream.read(200).lstrip().lower()  # HTML may begin with blank lines, in either case
    for signatures, problem in _KNOWN_NON_CHECKPOINTS.items():
        if start.startswith(signatures):
            raise WeightsError(f"{file} {problem}.")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    args = content.get("args", {})
    content = next((content[k] for k in ("model", "state_dict") if isinstance(content.get(k), Mapping)), content)
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state or len(state) < len(content):  # other values mean an unknown layout, in which weights may be missed
        raise WeightsError(f"{file} contains no state_dict, neither at the top level nor as 'model' or 'state_dict'.")
    state = without_prefix(state)
    layout: Layout = "transformers" if is_hugging_face(state) else "official"
    return ExternalCheckpoint(
        state=to_official(state) if layout == "transformers" else state,
        layout=layout,
        args=vars(args) if isinstance(args, argparse.Namespace) else args if isinstance(args, dict) else {},
    )


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    """Read a safetensors file that is not an artifact."""
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
        if metadata.get("format", "").startswith("rhobench/"):
            raise WeightsError(
                f"{file} is already a rhobench model: use it directly, or convert it with `rhobench weights export`."
            )
        return load_file(file)
    except SafetensorError as error:
        raise WeightsError(f"{file} is damaged or not a safetensors file ({error}): download it again.") from error


def _read_torch(file: Path) -> Mapping[str, Any]:
    """Read a file of torch.save with the restricted unpickler."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about old file formats
            # Memory-mapped, so that the optimiser state, twice as large as the weights, is not read.
            # Only zip archives can be mapped, and files written before torch 1.6 are none.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle can raise anything
        problem = "is damaged or not a PyTorch checkpoint: download it again"
        if unsafe := re.search(r"GLOBAL ([\w.]+)", str(error)):
            problem = f"would execute {unsafe[1]} on loading and was rejected: get a checkpoint that has tensors only"
        raise WeightsError(f"{file} {problem}.") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{file} contains a {type(content).__name__} instead of a state_dict.")
    return content
