"""What should choose the tokens: the decoder's attention map, objectness (paper, figure 4, on COCO), or chance.

A share so small that the choice matters, and one at which it should matter less.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments.demo import demo


def scoring() -> Experiment:
    """Three ways of scoring at two rho."""
    scenes = demo()
    return replace(
        scenes,
        summary="AP with tokens chosen by attention map, objectness or chance at two rho, on generated scenes",
        base=replace(scenes.base, experiment="scoring"),
        axes=(
            Axis(path="model.scoring", values=("dam", "objectness", "random")),
            Axis(path="model.rho", values=(0.3, 0.1)),
        ),
        expected=(),
        cpu_hours=0.3,
    )
