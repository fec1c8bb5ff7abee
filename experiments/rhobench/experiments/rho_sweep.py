"""One training per rho, as in the paper: a small Sparse DETR with two encoder layers at four values of rho.

The base of the ablations on generated scenes; the demo trains a deeper model once for every rho.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Expectation, Experiment
from rhobench.experiments._scenes import small_scenes


def rho_sweep() -> Experiment:
    """Train at rho 0.1, 0.25, 0.5 and 1.0 on 2,000 scenes of 160x160 pixels."""
    scenes = small_scenes()
    return replace(
        scenes,
        base=replace(scenes.base, experiment="rho_sweep"),
        expected=(Expectation(metric="ap", at_least=0.48),),
    )
