"""Two changes to what the scoring network learns: a weight that warms up, and a target with a soft step.

At first the decoder looks anywhere, and its attention map is noise that reaches the backbone through the scoring
network. Later tokens at the edge of the chosen share enter and leave it from step to step.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments.demo import demo


def dam_target() -> Experiment:
    """With and without each, at rho 0.1."""
    scenes = demo()
    return replace(
        scenes,
        summary="AP with a warmed-up and a soft target of the scoring network at rho 0.1, on generated scenes",
        base=replace(scenes.base, experiment="dam_target", model=replace(scenes.base.model, rho=0.1)),
        axes=(
            # An epoch has 250 steps.
            Axis(path="loss.mask_prediction_warmup_steps", values=(0, 250)),
            Axis(path="loss.dam_softness", values=(0.0, 0.2)),
        ),
        expected=(),
        cpu_hours=0.2,
    )
