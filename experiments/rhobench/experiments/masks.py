"""What instance segmentation adds: Sparse DETR with and without a mask head, at two shares of its encoder tokens.

Tokens that the encoder leaves as they were are read by the mask head all the same, so masks may need another share.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments.demo import demo


def masks() -> Experiment:
    """With and without masks, at rho 1 and 0.25."""
    scenes = demo()
    return replace(
        scenes,
        summary="AP of boxes and masks, and what a mask head costs, at two rho, on generated scenes",
        base=replace(scenes.base, experiment="masks"),
        axes=(
            Axis(path="model.mask_head", values=(True, False)),
            Axis(path="model.rho", values=(1.0, 0.25)),
        ),
        expected=(),
        cpu_hours=0.3,
    )
