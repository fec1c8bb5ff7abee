"""Encoder depth and auxiliary encoder loss, the two other design choices of the paper (figure 6, on COCO).

Skipped tokens make a layer cheap, so a sparse encoder can afford more layers; the auxiliary loss is meant to keep a
deep one trainable (paper, section 3.3), up to the paper's deepest encoder of 12 layers. The loss is on all layers but
the last, so a single layer has none. At rho 0.1, where a layer costs least.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Expectation, Experiment
from rhobench.experiments._scenes import SMOKE_ONE_SEED, small_scenes


def encoder_depth() -> Experiment:
    """Train 1, 2, 6 and 12 encoder layers, with and without auxiliary loss, at rho 0.1, with three seeds."""
    scenes = small_scenes()
    return replace(
        scenes,
        summary="AP against GFLOPs with 1, 2, 6 and 12 encoder layers, with and without auxiliary loss",
        base=replace(scenes.base, experiment="encoder_depth", model=replace(scenes.base.model, rho=0.1)),
        axes=(
            Axis(path="model.enc_layers", values=(12, 6, 2, 1)),
            Axis(path="model.use_enc_aux_loss", values=(True, False)),
        ),
        exclude=({"model.enc_layers": 1, "model.use_enc_aux_loss": True},),
        seeds=(0, 1, 2),
        order="informative",
        smoke=SMOKE_ONE_SEED,
        expected=tuple(
            Expectation(
                metric="ap",
                at_least=0.0,
                where={"enc_layers": 12, "use_enc_aux_loss": True},
                minus=other,
                source="paper, figure 6, on COCO",
            )
            for other in (
                {"enc_layers": 12, "use_enc_aux_loss": False},
                {"enc_layers": 2, "use_enc_aux_loss": True},
            )
        ),
        cpu_hours=0.6,
    )
