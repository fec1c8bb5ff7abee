"""Rho at training against rho at inference (paper, figure 7, on COCO): how gently does a change of the dial degrade?

The weights of Sparse DETR do not depend on rho, so a model that was trained at 0.3 can be run at any other share of its
tokens. The paper claims that this changes little, which is checked as a loss of at most 0.5 AP. Models that were
trained at other rho say what it loses against a training for the rho at which it is run.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config import MeasureConfig
from rhobench.config.experiment import Axis, Expectation, Experiment
from rhobench.experiments._scenes import SMOKE_ONE_SEED, small_scenes

RHOS = (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
"""Values of rho at inference."""


def rho_at_inference() -> Experiment:
    """Train at rho 0.1, 0.3, 0.5 and 1, with three seeds; measure every model at six values of rho."""
    scenes = small_scenes()
    return replace(
        scenes,
        summary="AP of models trained at four values of rho and run at six, on generated scenes",
        base=replace(scenes.base, experiment="rho_at_inference", measure=MeasureConfig(rhos=RHOS)),
        axes=(Axis(path="model.rho", values=(0.3, 0.1, 1.0, 0.5)),),
        seeds=(0, 1, 2),
        order="informative",
        smoke=SMOKE_ONE_SEED,
        expected=tuple(
            Expectation(
                metric="ap",
                at_least=-0.005,
                where={"rho": 0.3, "rho_infer": rho},
                minus={"rho": 0.3, "rho_infer": 0.3},
                source="paper, figure 7, on COCO",
            )
            for rho in (0.1, 0.2, 0.4, 0.5)
        ),
        cpu_hours=0.5,
    )
