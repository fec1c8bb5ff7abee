"""One training for every rho: each step samples its rho, compared with four trainings at a fixed rho.

The weights of Sparse DETR do not depend on rho, so one model can be run at any rho (paper, figure 7: trained at 0.3).
A model that is trained at one rho has never seen another share of its tokens updated. In the demo's training each step
samples the smallest or the largest rho. All trainings have the same number of steps, and every model is measured at all
four values of rho, which shows what a model loses away from the rho of its training.

The ratio, seven of eight steps at the smallest rho, was chosen on other scenes (``data.scenes.seed=1``, 160 pixels, two
encoder layers) with one seed, among three candidates. Their AP at the four values of rho, smallest first:

- sampled evenly, four epochs: 51.2, 53.0, 53.3, 53.6;
- two of three steps at the smallest rho, four epochs: 53.0, 54.1, 54.1, 54.2;
- seven of eight steps at the smallest rho, five epochs: 58.3, 58.7, 58.6, 58.3.
"""

from __future__ import annotations

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments._scenes import SMOKE_ONE_SEED
from rhobench.experiments.demo import DRAWN, deep_scenes


def rho_sampled() -> Experiment:
    """Train at four fixed rho and with sampled rho as the demo does, with three seeds; measure all at all four."""
    return Experiment(
        summary="One training that samples rho in each step against one training per rho, on generated scenes",
        base=deep_scenes("rho_sampled"),
        axes=(Axis(path="model.rho", values=(1.0, 0.5, 0.25, 0.1)),),
        also=({"model.rho": 0.25, "model.rho_choices": DRAWN},),
        seeds=(0, 1, 2),
        order="informative",
        smoke=SMOKE_ONE_SEED,
        cpu_hours=1.0,
    )
