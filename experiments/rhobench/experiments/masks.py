"""Instance segmentation: accuracy and cost of Sparse DETR with and without a mask head, at two values of rho.

The mask head also reads the tokens that a sparse encoder does not update, so masks may need a larger rho than boxes.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments._scenes import small_scenes


def masks() -> Experiment:
    """Train with and without a mask head at rho 1 and 0.25."""
    scenes = small_scenes()
    return replace(
        scenes,
        summary="Box AP, mask AP and cost with and without a mask head, on generated scenes",
        base=replace(scenes.base, experiment="masks"),
        axes=(
            Axis(path="model.mask_head", values=(True, False)),
            Axis(path="model.rho", values=(1.0, 0.25)),
        ),
        expected=(),
        cpu_hours=0.3,
    )
