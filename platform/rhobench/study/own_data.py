"""Settings that follow from the data set of the user: splits, sizes, queries, batch and epochs; and those of a fork."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rhobench.config import ConfigError, RunConfig
from rhobench.config.conversion import from_dict
from rhobench.config.paths import leaves, value_at
from rhobench.config.phrases import counted

SHORT_SIDE_PX = 384
"""Shorter side of the images of the model, unless the images are smaller or their objects would be too small."""
OBJECT_PX = 16
"""Side of the median object in the model that images are enlarged for, the width of four tokens of stride 8 in area."""
LARGEST_SHORT_SIDE_PX = 800
"""Shorter side of the official evaluation, which is never exceeded."""
PRESENTATIONS = 10_000
"""Images that a training shows in all, over its epochs."""
EPOCHS = (12, 60)
"""Fewest and most epochs."""
QUERIES = (60, 900)
"""Fewest and most queries; there are half as many again as objects in the fullest image."""
EMA_EPOCHS = 7
"""Epochs that the moving average of the weights covers."""
FEW_IMAGES = 1000
"""Number of training images below which a batch has 4 instead of 8."""


@dataclass(frozen=True, kw_only=True)
class DerivedSettings:
    """Settings that follow from the data and the fork, weaker than those of the user."""

    values: dict[str, Any]
    """Values by path."""
    facts: str
    """What they follow from, for the user."""


NOTHING_DERIVED = DerivedSettings(values={}, facts="")


def describe_settings(derived: DerivedSettings, config: RunConfig) -> str:
    """Return a sentence on the settings of ``config`` that follow from the data, as --set takes them."""
    kept = [f"{path}={_show(value)}" for path, value in derived.values.items() if value_at(config, path) == value]
    chosen = ", ".join(kept) or "nothing left to choose"
    return f"{derived.facts}: {chosen}. --set changes them; --fit finds the micro-batch."


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def find_splits(folder: Path, chosen: Collection[str]) -> dict[str, Any]:
    """Choose the splits of a data set to train and evaluate on -> values by path.

    Args:
        folder: folder of the data set.
        chosen: paths that the user sets.

    Raises:
        DatasetError: the folder has no known layout.
        ConfigError: none of several splits is one to train on.
    """
    from rhobench.data import find_layout

    names = list(find_layout(folder).splits)
    train, val = (_like(names, what) for what in ("train", "val"))
    if train is None and len(names) > 1 and "data.train_splits" not in chosen:
        raise ConfigError(
            f"{folder} has the splits {', '.join(names)}, none of which is called train: choose with "
            "--set data.train_splits=NAME --set data.val_split=NAME."
        )
    # Without a validation split, images are held out of the training split, and "test" stays untouched.
    return {"data.train_splits": (train if val and train else "train",), "data.val_split": val or "val"}


def _like(names: Sequence[str], what: str) -> str | None:
    """The split called ``what``, also with the year of COCO's splits."""
    return next((name for name in names if re.fullmatch(f"{what}(20\\d\\d)?", name)), None)


def settings_from_data(base: RunConfig) -> DerivedSettings:
    """Choose sizes, queries, batch and epochs by the training images of ``base.data``.

    Raises:
        DatasetError: the data set cannot be used.
    """
    from rhobench.data import prepare_data
    from rhobench.data.coco import CocoDetection

    images = CocoDetection(base.data, prepare_data(base.data), base.data.train_splits, train=False)
    short, long = np.median(np.sort(images.sizes, axis=1), axis=0).round().astype(int).tolist()
    side = _short_side(short, images.object_sides)
    fullest, count = int(images.objects.max()), len(images)
    queries = min(max(-(-fullest * 3 // 20) * 10, QUERIES[0]), QUERIES[1])
    epochs = min(max(round(PRESENTATIONS / count), EPOCHS[0]), EPOCHS[1])
    batch = 4 if count < FEW_IMAGES else 8
    values = {
        "data.short_side_px": side,
        "data.max_side_px": max(round(side * 5 / 3), side),
        "data.crop_scales_px": (short,),
        "data.crop_px": (max(short * 3 // 4, 1), max(long, 1)),
        "model.num_queries": queries,
        "train.batch_size": min(batch, count),
        "train.epochs": epochs,
        "train.eval_every_epochs": max(epochs // 6, 1),
        "train.ema_decay": _ema_decay(count // min(batch, count)),
    }
    most = counted(fullest, "object")
    facts = f"{counted(count, 'training image')} of typically {long} x {short} pixels with at most {most}"
    return DerivedSettings(values=values, facts=facts)


def _ema_decay(steps: int) -> float:
    """Decay whose average covers ``EMA_EPOCHS`` epochs of ``steps`` steps, which a short training also passes."""
    return round(min(max(1 - 1 / (EMA_EPOCHS * steps), 0.9), 0.9998), 4)


def _short_side(short: int, object_sides: np.ndarray) -> int:
    """Shorter side in pixels for images whose shorter side is ``short``, a multiple of 32."""
    side = float(min(short, SHORT_SIDE_PX))
    if len(object_sides):
        needed = OBJECT_PX / max(float(np.median(object_sides)), 1e-6) * short
        side = max(side, min(needed, LARGEST_SHORT_SIDE_PX))
    return max(round(side / 32) * 32, 32)


def settings_from_artifact(source: Path) -> DerivedSettings:
    """Take the model of a trained run or artifact, except for its classes and rho; training stays as it is."""
    from safetensors import SafetensorError, safe_open

    file = source if source.is_file() else source / "model.safetensors"
    try:
        with safe_open(file, "np") as opened:
            metadata = opened.metadata() or {}
        trained = from_dict(RunConfig, json.loads(metadata["config"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return NOTHING_DERIVED  # the fork itself says what is wrong
    model = replace(trained.model, backbone=replace(trained.model.backbone, weights=None, weights_prefix=None))
    kept = ("num_classes", "rho", "rho_choices", "dropout", "backbone.frozen")
    values = {f"model.{path}": value for path, value in leaves(model) if path not in kept}
    values |= {"data.pixel_mean": trained.data.pixel_mean, "data.pixel_std": trained.data.pixel_std}
    facts = f"the model is that of {file}; its class heads start anew for another number of categories"
    return DerivedSettings(values=values, facts=facts)
