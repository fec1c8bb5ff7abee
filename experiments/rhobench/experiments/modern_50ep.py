"""The official training with what detectors are trained with today, to be compared with ``official_50ep``.

Averaged weights, a warm-up, a cosine to zero, bf16. Everything else is that of ``official_50ep``, so with one
``--store`` for both, ``rhobench pareto STORE`` shows what the change is worth at every rho.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Experiment
from rhobench.experiments.official_50ep import official_50ep


def modern_50ep() -> Experiment:
    """The runs of ``official_50ep`` in another training."""
    official = official_50ep()
    base = official.base
    train = replace(
        base.train,
        schedule="cosine",
        warmup_fraction=0.02,  # an epoch
        ema_decay=0.9997,
        precision="bf16",
    )
    return replace(
        official,
        summary="official_50ep with averaged weights, warm-up, cosine and bf16, for the same store; needs COCO",
        base=replace(base, experiment="modern_50ep", train=train),
        expected=(),
    )
