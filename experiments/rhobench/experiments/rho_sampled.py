"""One training for every rho: a training whose steps draw their rho, beside four that have one rho each.

Sparse DETR's weights do not depend on rho, so one model can be run at any. Trained at one rho it has never seen another
share of its tokens updated; trained at all of them it has, at the price of fewer steps for each.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config import Axis, Experiment
from rhobench.experiments.demo import demo

RHOS = (0.1, 0.25, 0.5, 1.0)


def rho_sampled() -> Experiment:
    """The four runs of the demo, each measured at its own rho, and one run for all four."""
    scenes = demo()
    return replace(
        scenes,
        summary="One training with a sampled rho, measured at four, beside a training for each, on generated scenes",
        base=replace(scenes.base, experiment="rho_sampled"),
        axes=(Axis(path="model.rho", values=RHOS[::-1]),),
        also=({"model.rho": 0.25, "model.rho_choices": RHOS, "measure.rhos": RHOS},),
        expected=(),
        cpu_hours=0.25,
    )
