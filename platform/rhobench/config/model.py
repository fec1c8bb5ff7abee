"""A model: its backbone, its switches, its losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rhobench.config.errors import require, require_shares

Scoring = Literal["dam", "objectness", "random"]
"""What may choose the tokens of a sparse encoder."""

MASK_STRIDE = 4
"""Pixels of the model's input, across and down, for one cell of its masks and of the masks that they learn from."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """A backbone from timm."""

    name: str = "resnet50"
    """Any timm model that supports ``features_only``. Where it has no map at stride 8, 16 or 32, as a ViT, its map of
    the nearest stride is resampled."""
    weights: str | None = None
    """None: random. "timm": timm's pretrained weights (downloads). "package:NAME": the checkpoint that the installed
    Python package NAME ships. Otherwise the path of a .safetensors or .pth file: a state_dict or a checkpoint that
    holds one, also of a self-supervised training such as SCRL; `rhobench weights backbone` says what fits."""
    weights_prefix: str | None = None
    """What stands before the backbone's names in that file, such as "encoder_q.". None: found by comparing names.
    Needed where a file holds several networks that fit."""
    frozen: Literal["none", "early", "all"] = "early"
    """Which part gets no gradient: nothing, the stem and first stage (as in the paper), or everything."""
    dilation: bool = False
    """DC5: the last stage dilates its convolutions instead of its stride, and stays at stride 16. For ResNets and
    other convolutional timm models that know ``output_stride=16``."""


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
"""Model families and the switches that each fixes (spec section 1); the others are free."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """DETR, Deformable DETR or Sparse DETR. The names of the switches are those of the paper and the official code."""

    name: str = "sparse_detr"
    """Family, one of ``FAMILIES``, which says what switches it fixes."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """Where the features come from."""
    with_box_refine: bool = True
    """A prediction head of its own for every layer. It is ``two_stage`` that refines boxes layer by layer."""
    two_stage: bool = True
    """The queries are the encoder tokens with the best class score, not learned embeddings."""
    eff_query_init: bool = True
    """With ``two_stage``: a query starts with the features of its token, not with an embedding of its box."""
    eff_specific_head: bool = True
    """With ``two_stage``: tokens compete by their best class, not by class 0 alone."""
    refine_single_stage: bool = False
    """Refine boxes also without ``two_stage``, as the code of Deformable DETR does and that of Sparse DETR does not."""
    rho: float | None = 0.3
    """Share of the encoder tokens that are updated, in (0, 1]. None: the dense encoder, without a scoring network."""
    rho_choices: tuple[float, ...] = ()
    """Shares of which each training step draws one, the same on all workers, so that one training serves every rho.
    One that is listed twice is drawn twice as often. The model is scored at ``rho`` and at ``measure.rhos``. Empty:
    every step has ``rho``."""
    scoring: Scoring = "dam"
    """What chooses the tokens: a network that predicts the decoder's attention map, the best class score of a detection
    head on the tokens (both in paper section 3.2), or chance."""
    use_enc_aux_loss: bool = True
    """Detection heads and losses on every encoder layer but the last."""
    mask_head: bool = False
    """Instance segmentation: a mask for each query, beside its box. Every object of the data needs a segmentation."""
    num_classes: int | None = None
    """Classes of the class head. None: as many as the data set has categories."""
    num_queries: int = 300
    """Object queries, chosen among all tokens."""
    hidden_dim: int = 256
    """Width of the transformer; divisible by 32 and by num_heads."""
    num_heads: int = 8
    """Attention heads."""
    num_feature_levels: int = 4
    """Feature maps given to the encoder: the backbone's strides 8, 16, 32, then one convolution of stride 2 each.
    1: the last map alone."""
    num_points: int = 4
    """Sampling points per head and level."""
    enc_layers: int = 6
    """Encoder layers."""
    dec_layers: int = 6
    """Decoder layers."""
    ffn_dim: int = 1024
    """Hidden width of the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout probability in the transformer."""
    attention_backend: str = "auto"
    """Backend of deformable attention: "auto" (by device), "reference" (plain PyTorch), "cpu" (Numba) or "cuda"."""

    def __post_init__(self) -> None:
        self._check_family()
        require(self.rho is None or 0 < self.rho <= 1, "model.rho", self.rho, "it is a share in (0, 1], or none")
        require_shares("model.rho_choices", self.rho_choices)
        for name, dense in (("rho_choices", ()), ("scoring", "dam")):
            value = getattr(self, name)
            rule = "with model.rho=none every token is updated and none is chosen; give a rho"
            require(self.rho is not None or value == dense, f"model.{name}", value, rule)
        counts = ("num_queries", "num_heads", "num_feature_levels", "num_points", "enc_layers", "dec_layers")
        for name in ("hidden_dim", *counts):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "it must be at least 1")
        rule = "it must be divisible by 32 (group norm) and by model.num_heads"
        require(
            self.hidden_dim % 32 == 0 and self.hidden_dim % self.num_heads == 0,
            "model.hidden_dim",
            self.hidden_dim,
            rule,
        )
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "it is a probability below 1")

    def _check_family(self) -> None:
        """The name tells the truth, so that no table shows one model under the name of another."""
        near = f"there are {', '.join(FAMILIES)}"
        require(self.name in FAMILIES, "model.name", self.name, near)
        for switch, fixed in FAMILIES[self.name].items():
            value = getattr(self, switch)
            require(value == fixed, f"model.{switch}", value, f"{self.name} has {fixed!r}; change model.name with it")

    @property
    def shares_head(self) -> bool:
        """Whether all layers predict with the same weights (spec section 11)."""
        return not (self.with_box_refine or self.use_enc_aux_loss)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses and of the matching costs (spec section 13)."""

    class_weight: float = 2.0
    """Sigmoid focal loss, or DETR's cross-entropy (its paper: 1)."""
    box_weight: float = 5.0
    """L1 on normalised cxcywh."""
    giou_weight: float = 2.0
    """1 - GIoU."""
    mask_prediction_weight: float = 1.0
    """Scoring network against the decoder's attention map."""
    mask_focal_weight: float = 1.0
    """With ``model.mask_head``: sigmoid focal loss of the masks (DETR, section 4.4)."""
    mask_dice_weight: float = 1.0
    """With ``model.mask_head``: dice loss of the masks (DETR, section 4.4)."""
    mask_prediction_warmup_steps: int = 0
    """Training steps over which that weight grows to its value: the attention map of a new decoder is noise."""
    dam_softness: float = 0.0
    """Width of the step from 1 to 0 in the scoring network's target, as a share of the tokens that it marks. 0: a hard
    step, as in the paper; ``model.sparsity.dam_target`` says what a soft one is good for."""
    focal_alpha: float = 0.25
    """Balance of positives in the focal loss."""
    no_object_weight: float = 0.1
    """Weight of the class "no object" in DETR's cross-entropy."""
    class_cost: float = 2.0
    """Matching cost of the class (DETR's paper: 1)."""
    box_cost: float = 5.0
    """Matching cost of the L1 distance."""
    giou_cost: float = 2.0
    """Matching cost of -GIoU."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(isinstance(value, bool) or value >= 0, f"loss.{name}", value, "it must not be negative")
        require(self.focal_alpha <= 1, "loss.focal_alpha", self.focal_alpha, "it is a share from 0 to 1")
