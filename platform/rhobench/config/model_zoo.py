"""Named models, such as "sparse_detr_swin_t"; does not need torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from rhobench.config.errors import ConfigError
from rhobench.config.model import FAMILIES, BackboneConfig, ModelConfig

COCO_CLASSES = 91
"""Number of classes of the official models, whose labels are the COCO category ids, 0 to 90."""

BACKBONES: Mapping[str, str] = {
    "r50": "resnet50",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}
"""Names in timm of the backbones of the paper, by short name."""

_OFFICIAL: Mapping[str, Mapping[str, Any]] = {
    "detr": {"num_queries": 100, "ffn_dim": 2048},
    "deformable_detr": {"use_enc_aux_loss": False},
    "refined_deformable_detr": {"use_enc_aux_loss": False, "refine_single_stage": True},
    "two_stage_deformable_detr": {"use_enc_aux_loss": False, "eff_query_init": False, "eff_specific_head": False},
    "efficient_detr": {"use_enc_aux_loss": False},
    "sparse_detr": {},
}
"""Official settings of each family that neither ``FAMILIES`` fixes nor the defaults give (spec section 1)."""

assert set(_OFFICIAL) == set(FAMILIES)


def find_model(name: str) -> ModelConfig:
    """Return the configuration of a named model, with the number of classes of the official models.

    Args:
        name: FAMILY or FAMILY_BACKBONE, such as "efficient_detr_swin_t". The backbone is one of ``BACKBONES`` or any
            timm model ("sparse_detr_convnext_tiny"); the default is "r50". The suffix "_dc5" dilates its last stage.

    Raises:
        ConfigError: there is no such family. An unknown backbone raises only when the model is built.
    """
    # Longest family first, so that none is mistaken for a shorter family with a backbone.
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
        f"There is no model {name!r}. {hint} Any timm backbone may follow the family, as in sparse_detr_NAME."
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
"""Models of the paper's tables and their relatives, by name."""
