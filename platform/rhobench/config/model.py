"""Configuration of the model: backbone, architecture switches and losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rhobench.config.errors import require, require_at_least, require_shares

Scoring = Literal["dam", "objectness", "random"]
"""Criteria that can select the tokens of a sparse encoder."""

MASK_STRIDE = 4
"""Stride of predicted masks and of their training targets, in pixels of the input."""

NORM_GROUPS = 32
"""Groups of the normalisation that follows each projection of a feature map, as in Deformable DETR."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A backbone from timm."""

    name: str = "resnet50"
    """Name of a timm model that supports ``features_only``. If it has no feature map at stride 8, 16 or 32, as a ViT,
    the map of the nearest stride is resampled."""
    weights: str | None = None
    """Initial weights. None: random. "timm": the pretrained weights of timm, which are downloaded. "package:NAME": the
    checkpoint that the installed Python package NAME ships. Otherwise the path of a .safetensors or .pth file with a
    state_dict, also one of a self-supervised training such as SCRL; `rhobench weights backbone` checks whether a file
    fits."""
    weights_prefix: str | None = None
    """Prefix of the backbone's parameters in the file ``weights``, such as "encoder_q.". None: found by comparing
    names, which fails if the file holds several networks that fit."""
    frozen: Literal["none", "early", "all"] = "early"
    """Part of the backbone that is not trained: "none", "early" (the stem and the first stage, as in the paper) or
    "all"."""
    dilation: bool = False
    """DC5: whether the last stage dilates its convolutions instead of striding, so that its map has stride 16. For
    ResNets and other convolutional timm models that support ``output_stride=16``."""
    max_stride: Literal[8, 16, 32] = 32
    """Stride of the coarsest map that the backbone computes, in pixels. Below 32 its later stages are not built, and
    coarser feature levels are convolutions of the last map."""

    def __post_init__(self) -> None:
        rule = "dilation changes the stage of stride 32, which max_stride removes; set one of the two"
        require(not (self.dilation and self.max_stride < 32), "model.backbone.max_stride", self.max_stride, rule)


FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "detr": {
        "two_stage": False,
        "with_box_refine": False,
        "rho": None,
        "use_enc_aux_loss": False,
        "num_feature_levels": 1,
        "mask_head": False,
    },
    "deformable_detr": {"two_stage": False, "with_box_refine": False, "rho": None},
    "refined_deformable_detr": {"two_stage": False, "with_box_refine": True, "rho": None},
    "two_stage_deformable_detr": {"two_stage": True, "rho": None},
    "efficient_detr": {"two_stage": True, "eff_query_init": True, "eff_specific_head": True, "rho": None},
    "sparse_detr": {"two_stage": True},
}
"""Model families, with the switches that each fixes (spec section 1); all other switches are free."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A DETR, Deformable DETR or Sparse DETR. The switches have the names of the paper and the official code."""

    name: str = "sparse_detr"
    """Model family, one of ``FAMILIES``."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Network that computes the feature maps."""
    with_box_refine: bool = True
    """Whether every layer has its own prediction head; ``use_enc_aux_loss`` implies it. Boxes are refined layer by
    layer with ``two_stage`` or ``refine_single_stage``, not by this switch."""
    two_stage: bool = True
    """Whether the queries are the encoder tokens with the best class score instead of learned embeddings."""
    eff_query_init: bool = True
    """With ``two_stage``: whether a query starts from the features of its token instead of an embedding of its box."""
    eff_specific_head: bool = True
    """With ``two_stage``: whether tokens are ranked by their best class instead of by class 0 only."""
    refine_single_stage: bool = False
    """Whether boxes are also refined without ``two_stage``, as in Deformable DETR's code but not Sparse DETR's."""
    rho: float | None = 0.3
    """Share of the encoder tokens that are updated, in (0, 1]. None: a dense encoder without a scoring network."""
    rho_choices: tuple[float, ...] = ()
    """Values of rho, one of which every training step samples, the same on all workers, so that one training serves
    every rho. A value that is listed twice is sampled twice as often. The model is evaluated at ``rho`` and at
    ``measure.rhos``. Empty: every step uses ``rho``."""
    scoring: Scoring = "dam"
    """Criterion that selects the tokens: "dam", a network that predicts the attention map of the decoder; "objectness",
    the best class score of a detection head on the tokens (both paper, section 3.2); or "random"."""
    use_enc_aux_loss: bool = True
    """Whether every encoder layer but the last has a detection head and a loss."""
    mask_head: bool = False
    """Whether each query also predicts a mask (instance segmentation). Every object of the data needs an outline."""
    num_classes: int | None = None
    """Number of classes of the class head. None: the number of categories in the data set."""
    num_queries: int = 300
    """Number of object queries. With ``two_stage`` they are selected among all encoder tokens."""
    hidden_dim: int = 256
    """Width of the transformer; divisible by 32 and by ``num_heads``."""
    num_heads: int = 8
    """Number of attention heads."""
    num_feature_levels: int = 4
    """Number of feature maps that the encoder reads: strides 8, 16 and 32 of the backbone (up to its ``max_stride``),
    then one convolution of stride 2 for each further map. 1: only the last map of the backbone."""
    num_points: int = 4
    """Sampling points of deformable attention per head and feature level."""
    enc_layers: int = 6
    """Number of encoder layers."""
    dec_layers: int = 6
    """Number of decoder layers."""
    ffn_dim: int = 1024
    """Hidden width of the feed-forward blocks in encoder and decoder."""
    dropout: float = 0.1
    """Dropout probability in the transformer, in [0, 1)."""
    attention_backend: str = "auto"
    """Backend of deformable attention: "auto" (chosen by device), "reference" (plain PyTorch), "cpu" (Numba) or
    "cuda"."""

    def __post_init__(self) -> None:
        self._check_family()
        require(self.rho is None or 0 < self.rho <= 1, "model.rho", self.rho, "it must be in (0, 1] or none")
        require_shares("model.rho_choices", self.rho_choices)
        for name, dense in (("rho_choices", ()), ("scoring", "dam")):
            value = getattr(self, name)
            rule = "model.rho=none updates every token, so none is selected; set model.rho to a number"
            require(self.rho is not None or value == dense, f"model.{name}", value, rule)
        counts = ("num_queries", "num_heads", "num_feature_levels", "num_points", "enc_layers", "dec_layers")
        require_at_least(1, "model", self, "hidden_dim", "ffn_dim", "num_classes", *counts)
        rule = f"it must be divisible by {NORM_GROUPS} (group norm) and by model.num_heads"
        divisible = self.hidden_dim % NORM_GROUPS == 0 and self.hidden_dim % self.num_heads == 0
        require(divisible, "model.hidden_dim", self.hidden_dim, rule)
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "it must be at least 0 and below 1")

    def _check_family(self) -> None:
        """Check that the switches are those of the family, so that no table lists a model under a wrong name."""
        require(self.name in FAMILIES, "model.name", self.name, f"it must be one of {', '.join(FAMILIES)}")
        for switch, fixed in FAMILIES[self.name].items():
            value = getattr(self, switch)
            require(
                value == fixed, f"model.{switch}", value, f"{self.name} requires {fixed!r}; change model.name as well"
            )

    @property
    def shares_head(self) -> bool:
        """Whether all layers share one prediction head (spec section 11)."""
        return not (self.with_box_refine or self.use_enc_aux_loss)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses and of the matching costs (spec section 13)."""

    class_weight: float = 2.0
    """Weight of the classification loss: sigmoid focal loss, or cross-entropy in DETR (its paper: 1)."""
    box_weight: float = 5.0
    """Weight of the L1 loss on normalised boxes (centre x, centre y, width, height)."""
    giou_weight: float = 2.0
    """Weight of the generalised IoU loss, 1 - GIoU."""
    mask_prediction_weight: float = 1.0
    """Weight of the loss of the scoring network against the attention map of the decoder."""
    mask_focal_weight: float = 1.0
    """Weight of the sigmoid focal loss of masks, with ``model.mask_head`` (DETR, section 4.4)."""
    mask_dice_weight: float = 1.0
    """Weight of the dice loss of masks, with ``model.mask_head`` (DETR, section 4.4)."""
    mask_prediction_warmup_steps: int = 0
    """Training steps over which ``mask_prediction_weight`` grows from 0 to its value, since the attention map of an
    untrained decoder is noise. 0: no warm-up."""
    dam_softness: float = 0.0
    """Width of the step from 1 to 0 in the target of the scoring network, as a share of the number of selected tokens.
    0: a hard step, as in the paper. ``rhobench.model.sparsity.dam_target`` explains the purpose of a soft step."""
    focal_alpha: float = 0.25
    """Weight of positives against negatives in the focal loss, alpha, in [0, 1]."""
    no_object_weight: float = 0.1
    """Weight of the class "no object" in the cross-entropy of DETR."""
    class_cost: float = 2.0
    """Weight of the class in the matching cost (DETR paper: 1)."""
    box_cost: float = 5.0
    """Weight of the L1 distance between boxes in the matching cost."""
    giou_cost: float = 2.0
    """Weight of -GIoU in the matching cost."""

    def __post_init__(self) -> None:
        require_at_least(0, "loss", self, *vars(self))
        require(self.focal_alpha <= 1, "loss.focal_alpha", self.focal_alpha, "it must be between 0 and 1")
