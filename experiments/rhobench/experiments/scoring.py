"""Criterion that selects the tokens: decoder attention map, objectness (paper, figure 4, on COCO) or random choice.

The smaller rho makes the choice matter; at the larger one it should matter less.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Expectation, Experiment
from rhobench.experiments._scenes import SMOKE_ONE_SEED, small_scenes


def scoring() -> Experiment:
    """Train with three scoring criteria at rho 0.1 and 0.3, with three seeds."""
    scenes = small_scenes()
    return replace(
        scenes,
        summary="AP with tokens selected by attention map, by objectness or at random, on generated scenes",
        base=replace(scenes.base, experiment="scoring"),
        axes=(
            Axis(path="model.scoring", values=("dam", "objectness", "random")),
            Axis(path="model.rho", values=(0.3, 0.1)),
        ),
        seeds=(0, 1, 2),
        order="informative",
        smoke=SMOKE_ONE_SEED,
        expected=tuple(
            Expectation(
                metric="ap",
                at_least=0.0,
                where={"model.scoring": "dam", "rho": rho},
                minus={"model.scoring": other, "rho": rho},
                source="paper, figure 4, on COCO",
            )
            for rho in (0.1, 0.3)
            for other in ("random", "objectness")
        ),
        cpu_hours=0.5,
    )
