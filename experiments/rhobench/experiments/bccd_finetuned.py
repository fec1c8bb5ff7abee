"""Blood cells again, with a backbone that learns, too, and images that differ from epoch to epoch.

With a frozen backbone every epoch of ``bccd`` shows the same images, mirrored at most, and soon teaches nothing new.
Here crops and colours make them new, all stages of the backbone with stride 8 or more are trained, and the average of
the weights is what counts. Images keep three quarters of their side lengths, for platelets are small, and a third
decoder layer tells apart cells that overlap. The schedule is fixed beforehand; the last epoch is scored.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Expectation, Experiment
from rhobench.experiments.bccd import bccd


def bccd_finetuned() -> Experiment:
    """rho 0.3, three seeds."""
    frozen = bccd()
    model, data, train = frozen.base.model, frozen.base.data, frozen.base.train
    return replace(
        frozen,
        summary="AP of a small Sparse DETR trained with its backbone on augmented blood-cell images; needs --data",
        base=replace(
            frozen.base,
            experiment="bccd_finetuned",
            model=replace(model, backbone=replace(model.backbone, frozen="early"), dec_layers=3),
            data=replace(
                data,
                resize_px=(360, 480),
                # Of images of 480x640. Half of them stay whole, as those that are scored are.
                crop_prob=0.5,
                crop_scales_px=(480,),
                crop_px=(360, 640),
                brightness=0.2,
                contrast=0.2,
                saturation=0.2,
            ),
            train=replace(
                train,
                epochs=36,
                batch_size=4,  # so few images give too few steps otherwise
                lr_backbone=1e-4,
                ema_decay=0.998,  # over about 7 epochs
                cache_features=False,
                eval_every_epochs=10,
                cpus_per_worker=2,
            ),
        ),
        axes=(),
        seeds=(0, 1, 2),
        expected=(Expectation(metric="ap", at_least=0.57), Expectation(metric="ap50", at_least=0.90)),
        cpu_hours=2.2,
    )
