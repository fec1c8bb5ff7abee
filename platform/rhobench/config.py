"""Every dataclass that a run is made of.

All are frozen and keyword-only; units stand in the field names. A variant is ``dataclasses.replace(...)`` or
``rhobench.config_tree.with_value(config, "train.epochs", 3)``. The defaults are the official training of Sparse DETR
(spec sections 11 to 15), so an experiment writes down only where it departs from the paper. The crops and sizes
of training images are off until asked for: ``OFFICIAL_AUGMENTATION``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A configuration path or value that does not exist or is not allowed."""


Scoring = Literal["dam", "objectness", "random"]
"""What may choose the tokens of a sparse encoder."""

MASK_STRIDE = 4
"""Pixels of the model's input, across and down, for one cell of its masks and of the masks that they learn from."""


def require(allowed: bool, name: str, value: object, rule: str) -> None:
    """Raise ConfigError, with the field's name, its value and the rule that it breaks, unless it is allowed."""
    if not allowed:
        raise ConfigError(f"{name}={value!r} is not allowed: {rule}.")


def _require_shares(name: str, values: tuple[float, ...]) -> None:
    require(all(0 < value <= 1 for value in values), name, values, "it lists shares in (0, 1]")


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
        _require_shares("model.rho_choices", self.rho_choices)
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


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """A generated detection data set; the same numbers give the same bytes."""

    train_images: int = 2000
    """Images of the split "train"."""
    val_images: int = 300
    """Images of the split "val"."""
    size_px: int = 160
    """Height and width."""
    num_classes: int = 6
    """Classes of objects, 6 to 10."""
    max_objects: int = 5
    """Most objects of one image."""
    seed: int = 0
    """Seed of the generator; not the seed of the training."""

    def __post_init__(self) -> None:
        images = (1, 10**6)
        ranges = {"train_images": images, "val_images": images, "size_px": (64, 2048)}
        ranges |= {"num_classes": (6, 10), "max_objects": (1, 50), "seed": (0, 2**63 - 1)}
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            require(low <= value <= high, f"data.scenes.{name}", value, f"it is {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on and scored on: a folder with images/ and annotations/instances_SPLIT.json."""

    dir: str | None = None
    """The folder. None: generate ``scenes`` into the cache folder."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """The generated data set, used when ``dir`` is None."""
    train_splits: tuple[str, ...] = ("train",)
    """Splits that are joined for training."""
    val_split: str = "val"
    """Split that is scored."""
    resize_px: tuple[int, int] | None = None
    """(height, width) that every image is resized to, or None: by side lengths."""
    short_side_px: int = 800
    """Shorter side after resizing, when ``resize_px`` is None."""
    max_side_px: int = 1333
    """Longest side after resizing, when ``resize_px`` is None."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue (0 to 1) that the backbone was trained with."""
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of red, green and blue that the backbone was trained with."""
    hflip: bool = True
    """Mirror training images left to right half of the time."""
    vflip: bool = False
    """Mirror training images top to bottom half of the time."""
    scales_px: tuple[int, ...] = ()
    """Shorter sides, of which training draws one for each image; with ``resize_px``, that size is scaled to it. Empty:
    training images have the size of those that are scored."""
    crop_prob: float = 0.0
    """Share of the training images of which a random part is taken, which is then resized as a whole image is."""
    crop_scales_px: tuple[int, ...] = (400, 500, 600)
    """Shorter sides, of which one is drawn for an image before a part is taken."""
    crop_px: tuple[int, int] = (384, 600)
    """Shortest and longest side of the part, as far as the image reaches."""
    brightness: float = 0.0
    """Training images are darker or brighter by up to this share of their values."""
    contrast: float = 0.0
    """Their contrast is lower or higher by up to this share."""
    saturation: float = 0.0
    """Their colours are paler or stronger by up to this share."""
    loader_workers: int = 0
    """DataLoader processes of each training worker."""

    def __post_init__(self) -> None:
        for name in ("crop_prob", "brightness", "contrast", "saturation"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "it is a share from 0 to 1")
        for name in ("scales_px", "crop_scales_px", "crop_px"):
            sides = getattr(self, name)
            require(all(side >= 1 for side in sides), f"data.{name}", sides, "sides are at least 1 pixel")
        for name in ("resize_px", "pixel_std"):
            values = getattr(self, name)
            require(values is None or min(values) > 0, f"data.{name}", values, "its values must be positive")
        for name in ("short_side_px", "max_side_px"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "it must be at least 1")
        require(self.loader_workers >= 0, "data.loader_workers", self.loader_workers, "it must not be negative")
        require(bool(self.train_splits), "data.train_splits", self.train_splits, "name at least one split")
        for split in (*self.train_splits, self.val_split):
            rule = "a split is what stands between instances_ and .json in the name of a file"
            require(split != "" and "/" not in split, "data.train_splits or data.val_split", split, rule)
        rule = "the shortest side comes first"
        require(self.crop_px[0] <= self.crop_px[1], "data.crop_px", self.crop_px, rule)
        rule = f"data.crop_prob={self.crop_prob} needs at least one"
        require(bool(self.crop_scales_px) or not self.crop_prob, "data.crop_scales_px", self.crop_scales_px, rule)

    @property
    def augmentation(self) -> dict[str, Any]:
        """The fields, with their values, that make training images differ from scored ones by more than mirroring."""
        fields = ("scales_px", "crop_prob", "brightness", "contrast", "saturation")
        return {name: getattr(self, name) for name in fields if getattr(self, name)}


OFFICIAL_AUGMENTATION: Mapping[str, Any] = {"scales_px": tuple(range(480, 801, 32)), "crop_prob": 0.5}
"""``DataConfig(**OFFICIAL_AUGMENTATION)`` trains on images drawn as in the official training (spec section 15)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training (spec section 14)."""

    epochs: int = 50
    """Passes over the training images."""
    batch_size: int = 16
    """Images of one optimiser step, over all workers together."""
    lr: float = 2e-4
    """Learning rate at a batch of ``lr_batch_size``."""
    lr_backbone: float = 2e-5
    """The same of the backbone."""
    lr_rule: Literal["constant", "linear", "sqrt"] = "constant"
    """How both follow ``batch_size``: not at all, by its ratio to ``lr_batch_size``, or by the root of that ratio, as
    in the official training; see ``rates``."""
    lr_batch_size: int = 16
    """Images of the step that ``lr`` and ``lr_backbone`` are given for. "constant" does not read it."""
    lr_linear_proj_mult: float = 0.1
    """Factor on ``lr`` for the layers that predict sampling offsets."""
    weight_decay: float = 1e-4
    """AdamW's decay, on every parameter."""
    schedule: Literal["step", "cosine"] = "step"
    """"step": x0.1 at ``lr_drop_epoch``. "cosine": to zero at the end."""
    lr_drop_epoch: int = 40
    """Epoch at which "step" drops."""
    warmup_fraction: float = 0.0
    """Share of all steps with linear warm-up."""
    clip_norm: float = 0.1
    """Largest total gradient norm."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """"bf16", "fp16": the model runs under autocast, and fp16 with a loss scale. Sampling locations, losses, matching
    and the weights stay in fp32. Fast only where the processor has instructions for it."""
    micro_batch_size: int | None = None
    """Images that a worker computes at once; their gradients are added up to the whole batch. None: all its images. One
    worker alone takes fewer from the step on in which its GPU runs out of memory, and warns of it."""
    ema_decay: float | None = None
    """Decay of the moving average of the weights, such as 0.9997, which is then scored and kept in place of the last
    weights. None: no average."""
    fork_from: str | None = None
    """Folder of another run, finished or not, whose weights the training starts from; see ``--fork``."""
    checkpoint_every_seconds: float = 300.0
    """Seconds between checkpoints within an epoch; 0: after every step. One is written after every epoch anyway."""
    cache_features: bool = False
    """Compute the features of a fully frozen backbone once, in fp16 on disk, and train from them."""
    eval_every_epochs: int = 1
    """Score the validation split every so many epochs, and always after the last."""
    num_workers: int = 1
    """Training workers (processes). More than one goes through Ray Train."""
    cpus_per_worker: int = 1
    """CPU cores, and threads, of each worker."""
    gpus_per_worker: float = 0.0
    """GPUs of each worker."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every_epochs", "num_workers", "cpus_per_worker", "lr_drop_epoch"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "it must be at least 1")
        require(self.lr_batch_size >= 1, "train.lr_batch_size", self.lr_batch_size, "it must be at least 1")
        for name in ("lr", "clip_norm"):
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "it must be positive")
        not_negative = ("lr_backbone", "lr_linear_proj_mult", "weight_decay", "gpus_per_worker")
        for name in (*not_negative, "checkpoint_every_seconds"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "it must not be negative")
        rule = "it is a decay between 0 and 1, or none"
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "train.ema_decay", self.ema_decay, rule)
        require(0 <= self.warmup_fraction < 1, "train.warmup_fraction", self.warmup_fraction, "it is a share below 1")
        rule = f"train.batch_size={self.batch_size} must be divisible by it"
        require(self.batch_size % self.num_workers == 0, "train.num_workers", self.num_workers, rule)
        share, size = self.batch_size // self.num_workers, self.micro_batch_size
        rule = f"it must divide the {share} images of a worker (train.batch_size over train.num_workers), or be none"
        require(size is None or (size >= 1 and share % size == 0), "train.micro_batch_size", size, rule)

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates that the steps really have before the schedule, by parameter group (spec section 14)."""
        ratio = self.batch_size / self.lr_batch_size
        factor = {"constant": 1.0, "linear": ratio, "sqrt": ratio**0.5}[self.lr_rule]
        lr = self.lr * factor
        return {"base": lr, "backbone": self.lr_backbone * factor, "linear_proj": lr * self.lr_linear_proj_mult}


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How the trained artifact is measured: at which rho, and how its latency, alone on the machine."""

    rhos: tuple[float, ...] = ()
    """Shares at which it is scored, counted and timed beside ``model.rho``: train once, measure many."""
    batch_size: int = 1
    """Images of one call."""
    warmup_iterations: int = 10
    """Calls before the first sample."""
    iterations: int = 60
    """Timed calls of each artifact."""
    rounds: int = 3
    """The timed calls are made in so many rounds, in which the artifacts take turns."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "iterations", "rounds"):
            require(getattr(self, name) >= 1, f"measure.{name}", getattr(self, name), "it must be at least 1")
        rule = "it must not be negative"
        require(self.warmup_iterations >= 0, "measure.warmup_iterations", self.warmup_iterations, rule)
        _require_shares("measure.rhos", self.rhos)
        rule = "it lists different shares"
        require(len(set(self.rhos)) == len(self.rhos), "measure.rhos", self.rhos, rule)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run: everything that decides its result."""

    experiment: str
    """Name of the experiment that the run belongs to."""
    seed: int = 0
    """Seed of initialisation, data order and augmentation; plus the rank of a worker, of its dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    data: DataConfig = field(default_factory=DataConfig)
    """On what."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How."""
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    """How cost is measured afterwards."""

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "it is 0 to 4294967295")
        varied = ", ".join(f"data.{name}={value!r}" for name, value in self.data.augmentation.items())
        rule = f"features are kept of images and their mirror images alone; set it to false, or take back {varied}"
        cached = self.train.cache_features
        require(not (cached and varied), "train.cache_features", cached, rule)
        rule = "a model with model.rho=none updates every token at any cost; leave it empty"
        require(self.model.rho is not None or not self.measure.rhos, "measure.rhos", self.measure.rhos, rule)
        backbone = self.model.backbone
        allowed = backbone.weights_prefix is None or backbone.weights not in (None, "timm")
        rule = f"model.backbone.weights={backbone.weights!r} names no file that it could be looked for in"
        require(allowed, "model.backbone.weights_prefix", backbone.weights_prefix, rule)


EXECUTION = frozenset(
    {
        "data.loader_workers",
        "train.micro_batch_size",
        "train.checkpoint_every_seconds",
        "train.num_workers",
        "train.cpus_per_worker",
        "train.gpus_per_worker",
    }
)
"""Paths in ``RunConfig`` that say how a run is executed: they change its numbers by rounding and random draws alone.
A run keeps its identity when they change, so that it can be continued on another number of machines."""
