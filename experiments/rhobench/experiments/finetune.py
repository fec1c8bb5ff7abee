"""Your own data set: a Sparse DETR whose splits, sizes, queries and epochs follow the data given with ``--data DIR``.

The backbone is pretrained, or all weights are those of a run given with ``--fork``. As in ``bccd_finetuned``, images
are mirrored, cropped and changed in colour, every backbone stage of stride 8 or more is trained, and the moving average
of the weights is evaluated. There are no expectations: they would be those of other images.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config import DataConfig, RunConfig
from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments._scenes import LITE0_PIXELS, short_training, small_sparse_detr


def finetune() -> Experiment:
    """Train at rho 1.0, 0.3 and 0.1 on the data set of the user."""
    model = small_sparse_detr(width=96, ffn_dim=256, num_queries=100)
    return Experiment(
        summary="AP against cost at three values of rho on your own data set; needs --data",
        base=RunConfig(
            experiment="finetune",
            model=replace(model, backbone=replace(model.backbone, frozen="early"), dec_layers=3),
            data=DataConfig(
                dir="your data",
                val_share=0.2,
                short_side_px=384,
                max_side_px=640,
                pixel_mean=LITE0_PIXELS,
                pixel_std=LITE0_PIXELS,
                # Half of the images stay whole, like those of the evaluation.
                crop_prob=0.5,
                brightness=0.2,
                contrast=0.2,
                saturation=0.2,
            ),
            train=replace(
                short_training(epochs=36),
                batch_size=4,  # a larger batch leaves too few steps on few images
                lr_backbone=1e-4,
                ema_decay=0.998,
                cache_features=False,
                eval_every_epochs=6,
                cpus_per_worker=2,
            ),
        ),
        axes=(Axis(path="model.rho", values=(1.0, 0.3, 0.1)),),
        follows_data=True,
        smoke={
            "train.epochs": 1,
            "train.ema_decay": None,  # one epoch would be averaged with the initial weights
            "data.short_side_px": 160,
            "data.max_side_px": 267,
            "data.crop_prob": 0.0,
            "model.num_queries": 60,
            "measure.iterations": 30,
            "measure.warmup_iterations": 3,
        },
    )
