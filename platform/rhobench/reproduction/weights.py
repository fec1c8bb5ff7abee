"""Our own values of published tables from weights: official checkpoints, or our own models, evaluated on COCO."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rhobench.config import ModelConfig
from rhobench.config.model_zoo import find_model
from rhobench.config.paths import leaves
from rhobench.config.phrases import counted
from rhobench.config.published import FREE_FIELDS, Ours, Referenced, Trained
from rhobench.data import DatasetError
from rhobench.inference.checkpoint_config import identify_model
from rhobench.inference.convert_weights import import_weights
from rhobench.inference.evaluate import ArtifactEvaluation, evaluate_artifact
from rhobench.inference.external_checkpoint import read_checkpoint
from rhobench.inference.referenced_tokens import referenced_share
from rhobench.measure.artifact import FILE_NAME, is_artifact, load_artifact
from rhobench.model.official import WeightsError
from rhobench.results.published_runs import VAL2017_IMAGES
from rhobench.results.reproduction import Found

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
"""Ends of the names of files with weights."""

SPLITS = ("val2017", "val")
"""Splits that are looked for, in this order."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A file with weights that can be evaluated."""

    name: str
    """Name of the file as it is shown."""
    artifact: Path
    """The model, imported if the file is official."""
    config: ModelConfig
    """Configuration of the model."""
    pretraining: str
    """Name of the file with the initial weights of the backbone, in lower case; empty: unknown."""


class WeightsFolder:
    """Evaluates the files of a folder that belong to rows of a published table, each once."""

    def __init__(
        self, files: list[Weights], data: Path, split: str, *, short_side_px: int | None, on_progress: Progress
    ) -> None:
        """
        Args:
            files: the files, see ``open_weights``.
            data: folder in COCO's layout.
            split: split of the evaluation.
            short_side_px: length of the shorter side of the images; None: 800, as published.
            on_progress: called with a description of the current step.
        """
        self.files, self._data, self._split = files, data, split
        self._short_side_px, self._on_progress = short_side_px, on_progress
        self.used: set[str] = set()
        self._evaluate = cache(self._evaluation)

    def find(self, ours: Ours) -> Found | None:
        """Our value of a row; None: no file belongs to it, or it is of another kind."""
        if not isinstance(ours, Trained | Referenced):
            return None
        weights = next((each for each in self.files if _belongs(each, ours)), None)
        if weights is None:
            return None
        self.used.add(weights.name)
        if isinstance(ours, Referenced):
            return self._referenced(weights)
        done = self._evaluate(weights)
        value = done.accuracy.metrics.get(ours.metric)
        if value is None:
            return None
        ends = [done.bounds.get(f"{ours.metric}_{end}") for end in ("low", "high")]
        low, high = (None if end is None else 100 * end for end in ends)
        return self._found(weights, 100 * value, done.num_images, low, high)

    def _referenced(self, weights: Weights) -> Found:
        count = 0

        def on_image(done: int, total: int) -> None:
            nonlocal count
            count = total
            self._on_progress(f"{weights.name}: {done} of {total} images")

        share = referenced_share(weights.artifact, self._data, self._split, on_image, self._short_side_px)
        return self._found(weights, 100 * share, count, None, None)

    def _found(self, weights: Weights, value: float, images: int, low: float | None, high: float | None) -> Found:
        size = f", shorter side {self._short_side_px} px" if self._short_side_px else ""
        published = self._split == SPLITS[0] and images == VAL2017_IMAGES and self._short_side_px is None
        return Found(
            value=value,
            evidence="weights",
            low=low,
            high=high,
            runs=(weights.name,),
            not_comparable=None if published else "data",
            detail=f"{counted(images, 'image')} of {self._data.name} {self._split}{size}",
        )

    def _evaluation(self, weights: Weights) -> ArtifactEvaluation:
        def on_image(done: int, total: int) -> None:
            self._on_progress(f"{weights.name}: {min(done, total)} of {total} images")

        return evaluate_artifact(weights.artifact, self._data, self._split, None, on_image, self._short_side_px)


@contextmanager
def open_weights(folder: Path) -> Iterator[list[Weights]]:
    """Context of the files with weights in a folder; official checkpoints are imported into a temporary folder.

    The model of an official checkpoint follows from the arguments of its training, which it contains.

    Raises:
        WeightsError: there is no such folder, it has no weights, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise WeightsError(f"--weights {folder}: there is no such folder. Give one with official checkpoints.")
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not files:
        kinds = ", ".join(SUFFIXES)
        raise WeightsError(f"--weights {folder}: the folder has no weights, whose names end in {kinds}.")
    with tempfile.TemporaryDirectory(prefix="rhobench-weights-") as temporary:
        yield [_open(file, Path(temporary) / f"{i}-{FILE_NAME}") for i, file in enumerate(files)]


def _open(file: Path, imported: Path) -> Weights:
    if is_artifact(file):
        config = load_artifact(file).config.model
        return Weights(name=file.name, artifact=file, config=config, pretraining=_lower(config.backbone.weights))
    checkpoint = read_checkpoint(file)
    done = import_weights(file, identify_model(checkpoint, file), imported)
    pretraining = _lower(checkpoint.args.get("scrl_pretrained_path"))
    return Weights(name=file.name, artifact=imported, config=done.config, pretraining=pretraining)


def _lower(path: object) -> str:
    return str(path).lower() if path else ""


def _belongs(weights: Weights, row: Trained | Referenced) -> bool:
    own = dict(leaves(weights.config))
    if isinstance(row, Referenced):
        return _is_model(own, row.model, {})
    self_supervised = (row.pretraining or "scrl") in weights.pretraining
    if self_supervised != (row.pretraining is not None):
        return False
    return _is_model(own, row.model, {**row.settings, "rho": row.rho})


def _is_model(own: Mapping[str, object], name: str, settings: Mapping[str, object]) -> bool:
    """Whether a model has the settings of a named one, with ``settings`` changed."""
    expected = {**dict(leaves(find_model(name))), **settings}
    own = {**own, "backbone.name": str(own["backbone.name"]).partition(".")[0]}  # without the tag of its weights
    return all(own[path] == value for path, value in expected.items() if path not in FREE_FIELDS)


@contextmanager
def open_data(folder: Path) -> Iterator[tuple[Path, str]]:
    """Context of a COCO data set and its split: val2017, val, or the only one.

    A folder with annotations/instances.json is one split, which gets the name "val" in a temporary folder of links.

    Raises:
        DatasetError: there is no such folder, or it is no COCO data set with such a split.
    """
    annotations = folder / "annotations"
    if not annotations.is_dir():
        raise DatasetError(f"--data {folder}: there is no folder {annotations}. Give a data set in COCO's layout.")
    found = {file.stem.removeprefix("instances_") for file in annotations.glob("instances_*.json")}
    named = [split for split in SPLITS if split in found] or (sorted(found) if len(found) == 1 else [])
    if named:
        yield folder, named[0]
        return
    whole = annotations / "instances.json"
    if not whole.is_file():
        there = ", ".join(sorted(found)) or "none"
        raise DatasetError(f"--data {folder} has neither the split {' nor '.join(SPLITS)}; its splits are: {there}.")
    with tempfile.TemporaryDirectory(prefix="rhobench-data-") as temporary:
        view = Path(temporary) / folder.resolve().name
        (view / "annotations").mkdir(parents=True)
        (view / "annotations" / "instances_val.json").symlink_to(whole.resolve())
        (view / "images").symlink_to((folder / "images").resolve())
        yield view, "val"
