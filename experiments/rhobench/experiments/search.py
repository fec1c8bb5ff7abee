"""Which detector buys most accuracy for its operations: a search over rho and the depth of encoder and decoder.

Optuna chooses each run from the results of those before it, for a high AP at few GFLOPs.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Experiment, Range, Sampling
from rhobench.experiments.demo import demo


def search() -> Experiment:
    """Twelve runs with rho from 0.05 to 1 and one to four layers in encoder and decoder."""
    scenes = demo()
    return replace(
        scenes,
        summary="AP against GFLOPs, searched by Optuna over rho and layers, on generated scenes",
        base=replace(scenes.base, experiment="search"),
        axes=(
            Range(path="model.rho", low=0.05, high=1.0),
            Range(path="model.enc_layers", low=1, high=4),
            Range(path="model.dec_layers", low=1, high=4),
        ),
        sampling=Sampling(method="optuna", count=12, smoke_count=4),
        expected=(),
        cpu_hours=0.6,
    )
