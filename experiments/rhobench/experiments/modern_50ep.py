"""The official training with today's common practice: averaged weights, warm-up, cosine schedule and bf16.

Everything else equals ``official_50ep``. With the same ``--store`` for both, ``rhobench pareto STORE`` shows the
difference at every rho.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Experiment
from rhobench.experiments.official_50ep import official_50ep


def modern_50ep() -> Experiment:
    """Return ``official_50ep`` with the changed training."""
    official = official_50ep()
    base = official.base
    train = replace(
        base.train,
        schedule="cosine",
        warmup_fraction=0.02,  # one of the 50 epochs
        ema_decay=0.9997,  # averages over about 3,300 steps, nearly half an epoch
        precision="bf16",
    )
    return replace(
        official,
        summary="official_50ep with averaged weights, warm-up, cosine schedule and bf16; needs COCO",
        base=replace(base, experiment="modern_50ep", train=train),
        expected=(),  # the bounds are those of the official training
    )
