"""Search for the best trade-off between AP and GFLOPs over rho and the depth of encoder and decoder.

Optuna chooses each run from the results of the earlier ones, maximising AP and minimising GFLOPs.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Experiment, Range, Sampling
from rhobench.experiments._scenes import small_scenes


def search() -> Experiment:
    """Sample twelve runs with rho from 0.05 to 1 and one to four layers in encoder and decoder."""
    scenes = small_scenes()
    return replace(
        scenes,
        summary="Optuna search over rho and the number of layers: AP against GFLOPs on generated scenes",
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
