"""The models by name, as the paper's tables and the command line call them. Needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from rhobench.config.errors import ConfigError
from rhobench.config.model import FAMILIES, BackboneConfig, ModelConfig

COCO_CLASSES = 91
"""Classes of the official models: raw COCO category ids, 0 to 90."""

BACKBONES: Mapping[str, str] = {
    "r50": "resnet50",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}
"""Short names of the paper's backbones, and timm's."""

_OFFICIAL: Mapping[str, Mapping[str, Any]] = {
    "detr": {"num_queries": 100, "ffn_dim": 2048},
    "deformable_detr": {"use_enc_aux_loss": False},
    "refined_deformable_detr": {"use_enc_aux_loss": False, "refine_single_stage": True},
    "two_stage_deformable_detr": {"use_enc_aux_loss": False, "eff_query_init": False, "eff_specific_head": False},
    "efficient_detr": {"use_enc_aux_loss": False},
    "sparse_detr": {},
}
"""What is official in a family beside the switches that ``FAMILIES`` fixes, where it is not the default (spec 1)."""

assert set(_OFFICIAL) == set(FAMILIES)


def find_model(name: str) -> ModelConfig:
    """The configuration called ``name``, with the classes of the official models.

    Args:
        name: FAMILY or FAMILY_BACKBONE, such as "efficient_detr_swin_t". The backbone is one of ``BACKBONES``, any
            model of timm ("sparse_detr_convnext_tiny"), or "r50" when left out; "_dc5" at the end dilates its last
            stage.

    Raises:
        ConfigError: there is no such family. Whether timm has the backbone shows when the model is built.
    """
    # The longest family first: "two_stage_deformable_detr" must not be read as another one's backbone.
    for family in sorted(FAMILIES, key=len, reverse=True):
        if name == family or name.startswith(family + "_"):
            short = name.removeprefix(family).removeprefix("_") or "r50"
            dilation = short.endswith("_dc5")
            short = short.removesuffix("_dc5")
            backbone = BackboneConfig(name=BACKBONES.get(short, short), dilation=dilation)
            switches = {**FAMILIES[family], **_OFFICIAL[family]}
            return ModelConfig(name=family, backbone=backbone, num_classes=COCO_CLASSES, **switches)
    near = difflib.get_close_matches(name, MODELS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(MODELS)}."
    raise ConfigError(
        f"There is no model {name!r}. {hint} Any backbone of timm may follow the family: sparse_detr_NAME."
    )


MODELS: Mapping[str, ModelConfig] = {
    name: find_model(name)
    for name in (
        "detr_r50",
        "detr_r50_dc5",
        "deformable_detr_r50",
        "deformable_detr_swin_t",
        "refined_deformable_detr_r50",
        "two_stage_deformable_detr_r50",
        "two_stage_deformable_detr_swin_t",
        "efficient_detr_r50",
        "efficient_detr_swin_t",
        "sparse_detr_r50",
        "sparse_detr_swin_t",
        "sparse_detr_swin_b",
    )
}
"""The named models."""
