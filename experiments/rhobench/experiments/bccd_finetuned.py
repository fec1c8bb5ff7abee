"""Blood cells with a trained backbone, data augmentation and averaged weights, over three seeds.

``bccd`` caches the features of a frozen backbone, so its images are only mirrored from epoch to epoch, and training
saturates early. Here random crops and colour jitter vary the images, every backbone stage of stride 8 or more is
trained, and the moving average of the weights is evaluated. Images keep three quarters of their side lengths because
platelets are small, and a third decoder layer helps to separate overlapping cells. The schedule was fixed beforehand;
the result is that of the last epoch.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Expectation, Experiment
from rhobench.experiments.bccd import bccd


def bccd_finetuned() -> Experiment:
    """Train at rho 0.3 with three seeds."""
    frozen = bccd()
    model, data, train = frozen.base.model, frozen.base.data, frozen.base.train
    return replace(
        frozen,
        summary="bccd with a trained backbone, augmentation and averaged weights, over three seeds; needs --data",
        base=replace(
            frozen.base,
            experiment="bccd_finetuned",
            model=replace(model, backbone=replace(model.backbone, frozen="early"), dec_layers=3),
            data=replace(
                data,
                resize_px=(360, 480),
                # Images are 480x640. Half of them stay whole, like the images of the evaluation.
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
                batch_size=4,  # a larger batch leaves too few steps with 292 images
                lr_backbone=1e-4,
                ema_decay=0.998,  # averages over about 7 epochs
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
