"""Questions that only PyTorch and timm can answer, asked without loading them into this process.

Importing both takes seconds and most of a gigabyte. A subprocess answers all open questions at once, unless torch is
loaded here anyway. Answers are kept in the cache folder, under a hash of the question, of the code that answered and of
the versions of its libraries, so that a plan that was checked before is checked again in milliseconds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rhobench.config import BackboneConfig, ModelConfig
from rhobench.config.cache import cache_dir
from rhobench.config.conversion import to_dict
from rhobench.preflight.images import TrainingImages

Answer = Mapping[str, Any]
"""Answer to a question, as parsed JSON. A key "problems" that is not empty keeps it out of the cache."""

LIBRARIES = ("torch", "timm")
"""Distributions on which answers depend."""

ANSWERING = ("config", "model", "measure", "training", "preflight", "ops")
"""Packages of rhobench on which answers depend."""


class UnansweredError(ValueError):
    """Models that could not be checked, because the subprocess for them ended."""


@dataclass(frozen=True, kw_only=True)
class BackboneQuestion:
    """What does a backbone cost at an image size, and which maps does it have?"""

    backbone: BackboneConfig
    """Backbone; its weights and what is frozen have no influence."""
    height: int
    """Height of the image in pixels."""
    width: int
    """Width of the image in pixels."""


@dataclass(frozen=True, kw_only=True)
class ModelQuestion:
    """Can a model be built and run on images?"""

    model: ModelConfig
    """Configuration of the model, with its number of classes."""
    on_gpu: bool
    """Whether it is trained on a GPU."""
    fork_from: str | None
    """Folder of the run whose weights it starts from; None: initial weights."""
    smallest: tuple[int, int]
    """(height, width) of the smallest input in pixels."""
    largest: tuple[int, int]
    """(height, width) of the largest input in pixels."""
    here: bool
    """Whether the run is executed on this machine, so that its kernels can be tried."""


Question = BackboneQuestion | ModelQuestion


def cost_question(model: ModelConfig, images: TrainingImages) -> BackboneQuestion:
    """Return the question for the cost of the backbone of a model on the typical training image."""
    # Neither its weights nor what is frozen change the cost.
    backbone = replace(model.backbone, weights=None, weights_prefix=None, frozen="none")
    return BackboneQuestion(backbone=backbone, height=images.height, width=images.width)


_known: dict[str, Answer] = {}


def ask(questions: Sequence[Question], on_progress: Callable[[str], None] = lambda text: None) -> list[Answer]:
    """Answer questions in their order, from the cache where possible.

    Args:
        questions: questions, also repeated ones.
        on_progress: called with a sentence before a subprocess is started.

    Raises:
        UnansweredError: the subprocess was ended, or it failed on a question.
    """
    texts = [_as_text(question) for question in questions]
    for text in dict.fromkeys(texts):
        if text not in _known and (found := _read(text)) is not None:
            _known[text] = found
    missing = [text for text in dict.fromkeys(texts) if text not in _known]
    if missing:
        on_progress(f"checking {len(missing)} models" if len(missing) > 1 else "checking the model")
        for text, answer in zip(missing, _answer(missing), strict=True):
            _known[text] = answer
            if not answer.get("problems"):
                _write(text, answer)
    return [_known[text] for text in texts]


def _answer(texts: Sequence[str]) -> list[Answer]:
    if "torch" in sys.modules:
        from rhobench.preflight.probe import answer

        return [answer(json.loads(text)) for text in texts]
    done = subprocess.run(
        [sys.executable, "-m", "rhobench.preflight.probe"],
        input="\n".join(texts),
        capture_output=True,
        text=True,
        check=False,
        # Nothing large is computed, and each thread of OpenMP would need memory.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()[-len(texts) :]  # libraries may print something before
    if done.returncode or len(lines) != len(texts):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UnansweredError(f"The models of this plan cannot be checked: {reason}")
    return [json.loads(line) for line in lines]


def _as_text(question: Question) -> str:
    kind = {BackboneQuestion: "backbone", ModelQuestion: "model"}[type(question)]
    content = {"kind": kind} | {name: _as_json(value) for name, value in vars(question).items()}
    if isinstance(question, ModelQuestion):
        content["files"] = [_state(path) for path in _files_of(question)]
    return json.dumps(content, sort_keys=True)


def _as_json(value: Any) -> Any:
    return to_dict(value) if hasattr(value, "__dataclass_fields__") else value


def _files_of(question: ModelQuestion) -> list[Path]:
    """Files and folders that decide the answer besides the configuration."""
    weights, source = question.model.backbone.weights, question.fork_from
    paths = [] if weights in (None, "timm") or str(weights).startswith("package:") else [Path(str(weights))]
    return paths + ([Path(source), *sorted(Path(source).glob("*.safetensors"))] if source else [])


def _state(path: Path) -> list[Any]:
    """Path, size and time of a file, which differ when it has changed."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return [str(path), None]
    return [str(path), status.st_size, status.st_mtime_ns]


def _file(text: str) -> Path:
    digest = hashlib.sha256(_version() + text.encode(errors="replace")).hexdigest()
    return cache_dir() / "preflight" / f"{digest[:32]}.json"


@functools.cache
def _version() -> bytes:
    """Hash of the code that answers, and the versions of its libraries."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in LIBRARIES:
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    for package in ANSWERING:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.digest()


def _read(text: str) -> Answer | None:
    try:
        return json.loads(_file(text).read_bytes())
    except (OSError, ValueError):
        return None


def _write(text: str, answer: Answer) -> None:
    """Keep an answer; without a writable cache folder it is found again."""
    file = _file(text)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(answer))
        os.replace(temporary, file)
