"""Time whole models of ``transformers`` with their own deformable attention and with ours, in turns.

    python benchmarks/transformers_models.py  # Deformable DETR at 800x1066
    python benchmarks/transformers_models.py --model rt_detr --size 640x640

The weights are random, which does not change the time, and the outputs are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rhobench.ops.bench import machine
from rhobench.ops.check import relative_error
from rhobench.ops.compat import patch_transformers
from rhobench.ops.timing import Contender, on_cpu, time_interleaved


def deformable_detr() -> nn.Module:
    """Deformable DETR on a ResNet-50, as published."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    return DeformableDetrForObjectDetection(DeformableDetrConfig(backbone_config=backbone))


def rt_detr() -> nn.Module:
    """RT-DETR on a ResNet-50, as published."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    return RTDetrForObjectDetection(RTDetrConfig())


def rt_detr_v2() -> nn.Module:
    """RT-DETRv2 on a ResNet-50, as published."""
    from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection

    return RTDetrV2ForObjectDetection(RTDetrV2Config())


MODELS = {model.__name__: model for model in (deformable_detr, rt_detr, rt_detr_v2)}


def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Logits and boxes."""
    found = model(pixel_values=images)
    return [found.logits, found.pred_boxes]


def inference(model: nn.Module, images: Tensor) -> None:
    """One forward pass without gradients."""
    with torch.inference_mode():
        outputs(model, images)


def training(model: nn.Module, images: Tensor) -> None:
    """One forward and backward pass, without matching and optimiser."""
    sum(output.square().mean() for output in outputs(model, images)).backward()  # type: ignore[union-attr]


def on_patched(call: Callable[[], object]) -> Contender:
    """Contender for a call of a patched model, whose time excludes the patching."""

    def measure() -> float:
        with patch_transformers():
            return timed.cold()

    with patch_transformers():
        timed = on_cpu(call)
    return Contender(measure, measure, "wall")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), default="deformable_detr")
    parser.add_argument("--size", default="800x1066", help="height x width of the image (default: 800x1066)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-training", action="store_true", help="time the forward pass only")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    height, width = map(int, options.size.split("x"))
    model, images = MODELS[options.model]().eval(), torch.randn(1, 3, height, width)

    with torch.inference_mode():
        own = outputs(model, images)
        with patch_transformers():
            errors = [
                relative_error(ours, other.double()) for ours, other in zip(outputs(model, images), own, strict=True)
            ]
    print(
        f"{options.model}, {options.size}, {options.threads} threads; relative difference of logits and boxes: {errors}"
    )
    found = {"model": options.model, "size": options.size, "machine": machine("cpu"), "errors": errors}
    for step in (inference,) if options.no_training else (inference, training):
        call = partial(step, model, images)
        contenders = {"transformers": on_cpu(call), "ours": on_patched(call)}
        samples = time_interleaved(contenders, rounds=options.rounds, round_s=0)
        times = {name: timed.median for name, timed in samples.items()}
        ratio = times["transformers"] / times["ours"]
        print(
            f"{step.__name__}: "
            + ", ".join(f"{name} {ms:.0f} ms" for name, ms in times.items())
            + f", ratio {ratio:.2f}"
        )
        found[step.__name__] = {name: [*timed.cold, *timed.warm_samples] for name, timed in samples.items()}
    if options.out:
        options.out.write_text(json.dumps(found) + "\n")
    return int(max(errors) > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
