"""The dial of Sparse DETR in minutes on two cores: one model whose share of updated tokens is chosen at inference.

The share, rho, is in no weight, so each of the two trainings (two seeds, one core each) is evaluated and timed at four
values of it. Every training step draws its rho, 0.1 in seven of eight steps and 1 in the others, so that the model has
seen both ends of the dial, as slimmable networks train their narrowest and widest form (Yu & Huang 2019). That is not
part of the paper, which trains one model per rho; ``rhobench run rho_sampled`` compares both on the same images.

Six encoder layers and a backbone that ends at stride 16 make the encoder the larger part of the model, as in the paper.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config import DataConfig, MeasureConfig, RunConfig, ScenesConfig
from rhobench.config.experiment import Expectation, Experiment
from rhobench.experiments._scenes import LITE0_PIXELS, SMOKE, short_training, small_sparse_detr

RHOS = (0.1, 0.25, 0.5, 1.0)
"""Values of rho at which the models are evaluated and timed."""
DRAWN = (*7 * (0.1,), 1.0)
"""Values that each training step draws from. The values in between are never trained."""


def deep_scenes(experiment: str) -> RunConfig:
    """Return a run at rho 0.25 of the demo's model on the demo's 2,000 scenes of 192x192 pixels."""
    return RunConfig(
        experiment=experiment,
        model=replace(small_sparse_detr(width=64, ffn_dim=384, num_queries=30, enc_layers=6, max_stride=16), rho=0.25),
        data=DataConfig(
            # Objects up to half the image: of larger ones, a tenth of the tokens would be a small part.
            scenes=ScenesConfig(size_px=192, max_diameter=0.5),
            resize_px=(192, 192),
            hflip=False,  # four epochs show no image often enough for flips to matter
            pixel_mean=LITE0_PIXELS,
            pixel_std=LITE0_PIXELS,
        ),
        train=short_training(epochs=4),
        measure=MeasureConfig(rhos=RHOS),
    )


def demo() -> Experiment:
    """Train one model for every rho with two seeds; measure each at four values of rho."""
    base = deep_scenes("demo")
    return Experiment(
        summary="One small Sparse DETR at four values of rho: AP against GFLOPs and latency, on generated scenes",
        base=replace(base, model=replace(base.model, rho_choices=DRAWN)),
        seeds=(0, 1),
        smoke=SMOKE,
        expected=(Expectation(metric="ap", at_least=0.50),),
        cpu_hours=0.15,
    )
