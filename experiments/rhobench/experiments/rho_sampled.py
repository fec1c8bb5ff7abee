"""One training for every rho: a training whose steps draw their rho, beside four that have one rho each.

Sparse DETR's weights do not depend on rho, so one model can be run at any (paper, figure 7: trained at 0.3). Trained at
one rho it has never seen another share of its tokens updated; trained at all of them it has, at the price of fewer
steps for each.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config import Axis, Experiment
from rhobench.experiments.demo import demo

RHOS = (0.1, 0.25, 0.5, 1.0)


def rho_sampled() -> Experiment:
    """The runs of the demo, of which that at 0.25 is measured at all four rho, and one whose steps draw theirs."""
    scenes = demo()
    return replace(
        scenes,
        summary="One training with a sampled rho, run at four, beside a training for each, on generated scenes",
        base=replace(scenes.base, experiment="rho_sampled"),
        axes=(Axis(path="model.rho", values=(1.0, 0.5, 0.1)),),
        also=(
            {"model.rho": 0.25, "measure.rhos": RHOS},
            {"model.rho": 0.25, "measure.rhos": RHOS, "model.rho_choices": RHOS},
        ),
        expected=(),
        cpu_hours=0.25,
    )
