"""Real images: blood cells under a microscope, with three classes, 292 training images and 72 test images.

Data: BCCD (MIT licence) in COCO format, given with ``--data DIR``. The schedule was fixed before the test split was
evaluated for the first time; the result is that of the last epoch.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config import DataConfig, RunConfig
from rhobench.config.experiment import Axis, DataSize, Expectation, Experiment
from rhobench.experiments._scenes import LITE0_PIXELS, short_training, small_sparse_detr

BCCD_TEST = DataSize(images=72, annotations=945, categories=3)
"""Size of the test split of BCCD."""


def bccd() -> Experiment:
    """Train on the splits train and val at rho 0.1, 0.3 and 1.0; evaluate on the split test."""
    return Experiment(
        summary="AP of a small Sparse DETR at three values of rho on blood-cell images (BCCD); needs --data",
        base=RunConfig(
            experiment="bccd",
            model=small_sparse_detr(width=96, ffn_dim=256, num_queries=60),
            data=DataConfig(
                dir="bccd",
                train_splits=("train", "val"),
                val_split="test",
                resize_px=(256, 320),
                vflip=True,  # cells have no preferred orientation
                pixel_mean=LITE0_PIXELS,
                pixel_std=LITE0_PIXELS,
            ),
            train=replace(short_training(epochs=26), eval_every_epochs=5),
        ),
        axes=(Axis(path="model.rho", values=(1.0, 0.3, 0.1)),),
        smoke={"train.epochs": 1, "measure.iterations": 30},
        data_size=BCCD_TEST,
        expected=(Expectation(metric="ap", at_least=0.50), Expectation(metric="ap50", at_least=0.85)),
        cpu_hours=0.5,
    )
