"""Engines that run an ONNX file: onnxruntime, and OpenVINO on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhobench.adapters.foreign_detector import AdapterError, require_package

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Function from inputs to outputs by name."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph that an engine has loaded."""

    run: Run
    inputs: tuple[str, ...]
    """Names of the inputs."""
    outputs: tuple[str, ...]
    """Names of the outputs."""


def load_graph(file: Path, engine: str, device: torch.device) -> Graph:
    """Load an ONNX file; it runs on as many threads as PyTorch.

    Raises:
        AdapterError: there is no such engine, it is not installed, does not run on the device, or rejects the file.
    """
    if engine not in ENGINES:
        raise AdapterError(f"There is no engine {engine!r} for ONNX files: choose one of {', '.join(ENGINES)}.")
    library = require_package(engine, "ONNX")
    try:
        return ENGINES[engine](library, file, device, torch.get_num_threads())
    except AdapterError:
        raise
    except Exception as error:  # both libraries raise many types of their own
        raise AdapterError(f"{engine} cannot load {file}: {str(error).strip().splitlines()[0]}") from error


def _onnxruntime(library: Any, file: Path, device: torch.device, threads: int) -> Graph:
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.type]
    if provider not in library.get_available_providers():
        raise AdapterError(
            f"The installed onnxruntime has no {provider}: install onnxruntime-gpu, or use --device cpu."
        )
    options = library.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = library.InferenceSession(file, options, providers=[provider])
    outputs = tuple(output.name for output in session.get_outputs())
    return Graph(
        run=lambda values: dict(zip(outputs, session.run(None, dict(values)), strict=True)),
        inputs=tuple(each.name for each in session.get_inputs()),
        outputs=outputs,
    )


def _openvino(library: Any, file: Path, device: torch.device, threads: int) -> Graph:
    if device.type != "cpu":
        raise AdapterError("OpenVINO runs on the CPU here: use --device cpu, or --engine onnxruntime.")
    # On some processors it would use bf16 by itself.
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = library.Core().compile_model(str(file), "CPU", settings)
    outputs = tuple(output.get_any_name() for output in model.outputs)
    return Graph(
        run=lambda values: {
            name: np.array(array) for name, array in zip(outputs, model(dict(values)).values(), strict=True)
        },
        inputs=tuple(each.get_any_name() for each in model.inputs),
        outputs=outputs,
    )


ENGINES: Mapping[str, Callable[[Any, Path, torch.device, int], Graph]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Loader of each engine by name, which is also that of its package; the first one is the default."""
