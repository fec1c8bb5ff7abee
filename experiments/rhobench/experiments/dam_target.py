"""Two changes to the loss of the scoring network: a weight that warms up, and a target with a soft step.

Early in training the attention map of the decoder is noise, which reaches the backbone through the scoring network.
Later, tokens at the boundary of the selected share enter and leave it from step to step.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments._scenes import small_scenes


def dam_target() -> Experiment:
    """Train with and without each of the two changes at rho 0.1."""
    scenes = small_scenes()
    return replace(
        scenes,
        summary="AP with loss warm-up and a soft target for the scoring network at rho 0.1, on generated scenes",
        base=replace(scenes.base, experiment="dam_target", model=replace(scenes.base.model, rho=0.1)),
        axes=(
            # An epoch has 250 steps.
            Axis(path="loss.mask_prediction_warmup_steps", values=(0, 250)),
            Axis(path="loss.dam_softness", values=(0.0, 0.2)),
        ),
        expected=(),
        cpu_hours=0.2,
    )
