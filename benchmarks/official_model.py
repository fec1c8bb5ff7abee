"""Time the official Sparse DETR code against rhobench on a CPU: forward pass and training step of the whole model.

    python benchmarks/official_model.py CLONE [--size 800x1066] [--passes 7] [--steps 5] [--json]

CLONE is a clone of github.com/kakaobrain/sparse-detr. Its CUDA operator is replaced by its own PyTorch form, which is
all it has for a CPU. All contenders have the same weights, where official names exist for them, and take turns in one
process; medians are printed. A training step is forward, losses, backward, clipping and AdamW on one image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from rhobench.config import RunConfig, TrainConfig
from rhobench.config.model_zoo import find_model
from rhobench.data.coco import Batch, Target
from rhobench.measure.process import configure_process
from rhobench.model import build_model
from rhobench.model.official import official_state
from rhobench.model.precision import autocast
from rhobench.training.loop import initial_state
from rhobench.training.step import OptimizerStep

CLASSES = 91
OBJECTS = 7
RHOS = {"dense": None, "rho 0.3": 0.3, "rho 0.1": 0.1}
PRECISIONS = ("fp32", "bf16")
Contender = tuple[Callable[[], Any], Callable[[], Any]]
"""Forward pass without gradient, and training step."""


def official_modules(clone: Path) -> Any:
    """Import the official model builder; without its CUDA extension, its download of weights and its logging."""
    sys.path.insert(0, str(clone))
    for unused in ("MultiScaleDeformableAttention", "matplotlib", "matplotlib.pyplot", "matplotlib.patches"):
        sys.modules.setdefault(unused, types.ModuleType(unused))
    resnet50 = torchvision.models.resnet50
    torchvision.models.resnet50 = lambda **options: resnet50(
        replace_stride_with_dilation=options["replace_stride_with_dilation"], norm_layer=options["norm_layer"]
    )
    # Versions that the official code compares as numbers, which fails for two digits
    version, torchvision.__version__ = torchvision.__version__, "0.9.0"
    import models.ops.modules.ms_deform_attn as attention
    from models import deformable_detr
    from models.ops.functions.ms_deform_attn_func import ms_deform_attn_core_pytorch

    torchvision.__version__ = version

    class PlainFunction:
        @staticmethod
        def apply(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, _: int) -> Tensor:
            return ms_deform_attn_core_pytorch(value, shapes.tolist(), locations, weights)

    attention.MSDeformAttnFunction = PlainFunction
    return deformable_detr


def official_arguments(rho: float | None) -> argparse.Namespace:
    """Settings of the official training of Sparse DETR with ResNet-50, and of its dense twin."""
    return argparse.Namespace(
        dataset_file="coco", device="cpu", backbone="resnet50", dilation=False, position_embedding="sine",
        position_embedding_scale=6.283185307179586, hidden_dim=256, num_feature_levels=4, enc_layers=6, dec_layers=6,
        dim_feedforward=1024, dropout=0.1, nheads=8, num_queries=300, dec_n_points=4, enc_n_points=4, aux_loss=True,
        with_box_refine=True, two_stage=True, eff_query_init=True, eff_specific_head=True, use_enc_aux_loss=True,
        rho=rho or 0.0, masks=False, frozen_weights=None, set_cost_class=2, set_cost_bbox=5, set_cost_giou=2,
        cls_loss_coef=2, bbox_loss_coef=5, giou_loss_coef=2, mask_loss_coef=1, dice_loss_coef=1, focal_alpha=0.25,
        mask_prediction_coef=1, lr_backbone=2e-5, backbone_from_scratch=False, finetune_early_layers=False,
        scrl_pretrained_path="",
    )  # fmt: skip


def official_contender(modules: Any, rho: float | None, images: Tensor, weights: dict[str, Tensor]) -> Contender:
    """The official model with the given weights."""
    model, criterion, _ = modules.build(official_arguments(rho))
    model.load_state_dict(weights, strict=False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, weight_decay=1e-4)
    target = _target(images)
    targets = [{"labels": target.labels, "boxes": target.boxes}]

    def forward() -> None:
        model.eval()
        with torch.inference_mode():
            model(list(images))

    def step() -> None:
        model.train()
        criterion.train()
        terms = criterion(model(list(images)), targets)
        loss = sum(
            value * criterion.weight_dict[name] for name, value in terms.items() if name in criterion.weight_dict
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    return forward, step


def our_contender(rho: float | None, precision: str, images: Tensor) -> tuple[Contender, dict[str, Tensor]]:
    """Our model, and its weights under their official names."""
    zoo = find_model("efficient_detr_r50" if rho is None else "sparse_detr_r50")
    own: dict[str, Any] = {"use_enc_aux_loss": True, "num_classes": CLASSES} | ({} if rho is None else {"rho": rho})
    train = TrainConfig(batch_size=1, precision=precision)  # type: ignore[arg-type]
    config = RunConfig(experiment="benchmark", model=replace(zoo, **own), train=train)
    torch.manual_seed(0)
    model = build_model(config.model)
    state = initial_state(config, model, 1000, "", torch.device("cpu"))
    optimize = OptimizerStep(state)
    batch = Batch(images, torch.zeros(len(images), *images.shape[2:], dtype=torch.bool), (_target(images),))

    def forward() -> None:
        model.eval()
        with torch.inference_mode(), autocast(torch.device("cpu"), precision):
            model(images)

    def step() -> None:
        model.train()
        optimize(batch)

    return (forward, step), official_state(model)


def _target(images: Tensor) -> Target:
    generator = torch.Generator().manual_seed(2)
    boxes = torch.rand(OBJECTS, 4, generator=generator) * 0.4 + 0.1
    labels = torch.randint(CLASSES, (OBJECTS,), generator=generator)
    size: Any = tuple(images.shape[2:])
    return Target(image_id=1, original_size=size, labels=labels, boxes=boxes)


def seconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; all take turns, after one untimed call each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path)
    parser.add_argument("--size", default="800x1066")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--rhos", default=",".join(RHOS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure_process(arguments.threads)
    height, width = map(int, arguments.size.split("x"))
    images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    modules = official_modules(arguments.clone)
    table: dict[str, dict[str, dict[str, float]]] = {}
    for label in arguments.rhos.split(","):
        contenders: dict[str, Contender] = {}
        for precision in arguments.precisions.split(","):
            contenders[f"rhobench {precision}"], weights = our_contender(RHOS[label], precision, images)
        contenders["official"] = official_contender(modules, RHOS[label], images, weights)
        for kind, position, repeats in (("forward", 0, arguments.passes), ("step", 1, arguments.steps)):
            calls = {name: partial(contender[position]) for name, contender in contenders.items()}
            table.setdefault(label, {})[kind] = seconds(calls, repeats)
            row = ", ".join(f"{name} {value:.3f} s" for name, value in table[label][kind].items())
            print(f"{label}, {kind}: {row}", file=sys.stderr if arguments.json else sys.stdout, flush=True)
    if arguments.json:
        print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
