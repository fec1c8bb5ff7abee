"""The paper's two other dials: how deep the encoder is, and whether its layers have a loss of their own.

Tokens that are left out make a layer cheap, so a sparse encoder can have more of them; a loss on every layer is what
should let it learn (paper, section 3.3). That loss is on all layers but the last, so with one layer there is none.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments.demo import demo


def encoder_depth() -> Experiment:
    """One, two and four encoder layers, with and without their loss, at rho 0.1 and 0.5: what differs most first."""
    scenes = demo()
    return replace(
        scenes,
        summary="AP against GFLOPs with 1, 2 and 4 encoder layers, with and without their loss, on generated scenes",
        base=replace(scenes.base, experiment="encoder_depth"),
        axes=(
            Axis(path="model.rho", values=(0.5, 0.1)),
            Axis(path="model.enc_layers", values=(4, 2, 1)),
            Axis(path="model.use_enc_aux_loss", values=(True, False)),
        ),
        exclude=({"model.enc_layers": 1, "model.use_enc_aux_loss": True},),
        order="informative",
        expected=(),
        cpu_hours=0.4,
    )
