"""Multi-scale features from any timm backbone, and their projection to the width of the transformer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.layers import Format, freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn import functional

from rhobench.config import BackboneConfig
from rhobench.config.model_zoo import BACKBONES
from rhobench.model.folding import FoldedBody
from rhobench.model.pretrained import BackboneError, LoadedWeights, load_weights
from rhobench.model.swin import SwinPyramid, create_swin, is_swin

STRIDES = (8, 16, 32)
"""Strides of the maps that the encoder reads; further levels are made by the projection."""
DILATED_STRIDES = (8, 16, 16)
"""The same with ``BackboneConfig.dilation`` (DC5)."""
_ANY_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True, "strict_img_size": False}
"""What timm's models call the wish to be given images of any size. Each model knows some of these, or none."""


class NoEarlyStageError(BackboneError):
    """A backbone of which ``frozen="early"`` would freeze nothing."""


class Backbone(nn.Module):
    """A timm model as a feature pyramid, with batch normalisation frozen as in every DETR (spec section 3).

    A backbone without a map at one of the strides gives its map of the nearest stride there, resampled bilinearly to
    ceil(side / stride). From several maps of one stride the last are taken: a ViT gives its last three blocks. One
    that takes multiples of some size only is given images with more zeros at the right and bottom.
    """

    def __init__(self, config: BackboneConfig) -> None:
        """Build the backbone and load its weights.

        Raises:
            BackboneError: timm has no such model, it cannot do what ``config`` asks, or the weights do not fit.
        """
        super().__init__()
        self.config = config
        self.strides = DILATED_STRIDES if config.dilation else STRIDES
        body, self.loaded = _create(config, self.strides)
        self.body: Any = freeze_batch_norm_2d(body)
        self._folded = FoldedBody(self.body)
        info = self.body.feature_info
        chosen = nearest_maps([level["reduction"] for level in info.info], self.strides)
        outputs = sorted(set(chosen))
        self._sources = [outputs.index(i) for i in chosen]
        self._source_strides: list[int] = info.reduction(chosen)
        self.channels: list[int] = info.channels(chosen)
        self._multiple = 1  # that the sides of the images are padded to; found when the body refuses a size
        for parameter in self._frozen_parameters():
            parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images -> maps (B, C_l, H_l, W_l) at ``strides``.

        Raises:
            BackboneError: the model does not take images of this size.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.frozen != "all"):
            try:
                outputs = self._outputs(images)
            except (AssertionError, RuntimeError, ValueError) as error:
                self._multiple = self._find_multiple(images.shape[2], images.shape[3], error)
                outputs = self._outputs(images)
            return [
                _at_stride(outputs[source], images, stride) if stride != source_stride else outputs[source]
                for source, source_stride, stride in zip(self._sources, self._source_strides, self.strides, strict=True)
            ]

    def _outputs(self, images: Tensor) -> list[Tensor]:
        """The body's maps of ``images``, of which it sees a padded copy where it must."""
        if images.device.type == "cpu":  # convolutions of this layout are a quarter faster, other models indifferent
            images = images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[-2:]
        across, down = -width % self._multiple, -height % self._multiple
        if not (across or down):
            return _channels_first(self.body, self._folded(images))
        maps = _channels_first(self.body, self._folded(functional.pad(images, (0, across, 0, down))))
        strides = self.body.feature_info.reduction()
        return [m[..., : -(-height // s), : -(-width // s)] for m, s in zip(maps, strides, strict=True)]

    def train(self, mode: bool = True) -> Backbone:
        """A wholly frozen backbone stays in evaluation mode: its features must not depend on who asks."""
        return super().train(mode and self.config.frozen != "all")

    def _frozen_parameters(self) -> Iterator[nn.Parameter]:
        """ "early": everything up to the last stage with a stride below those of the maps, in order of registration."""
        if self.config.frozen == "none":
            return
        if self.config.frozen == "all":
            yield from self.body.parameters()
            return
        first = min(STRIDES[0], self._source_strides[0])
        early = [level["module"] for level in self.body.feature_info.info if level["reduction"] < first]
        modules = list(self.body.named_modules())
        # timm flattens "stages.0" to "stages_0" in some feature extractors, and puts others inside a wrapper.
        names = [re.sub(r"^(model|body)\.", "", name).replace("_", ".") + "." for name, _ in modules]
        prefixes = tuple(stage.replace("_", ".") + "." for stage in early)
        last = max((i for i, name in enumerate(names) if name.startswith(prefixes)), default=-1)
        if last < 0:
            raise NoEarlyStageError(
                f"{self.config.name!r} has no stage of its own with a stride below {STRIDES[0]}, so "
                "model.backbone.frozen='early' freezes nothing: choose 'none' or 'all'."
            )
        for _, module in modules[: last + 1]:
            yield from module.parameters(recurse=False)

    def _find_multiple(self, height: int, width: int, error: Exception) -> int:
        """What the sides must be multiples of, if the size of the images is why the body failed.

        A twin without weights tells: it runs in no time, and fails for the same sizes but for no other reason.
        """
        with torch.device("meta"):
            twin = _create(replace(self.config, weights=None), self.strides)[0].eval()
        native: tuple[int, int] = tuple(twin.pretrained_cfg["input_size"][1:])
        if _takes(twin, height, width) or not _takes(twin, *native):
            raise error
        for step in (2, 4, 8, 14, 16, 32, 64, 128, native[0]):
            # Far from the native size, because near it rounding hides that a model takes no other.
            above = [step * (2 * side // step + more) for more, side in enumerate(native, start=1)]
            if (height % step or width % step) and _takes(twin, *above):
                return step
        raise BackboneError(
            f"timm's {self.config.name!r} cannot take images of {height}x{width}, only of {native[0]}x{native[1]}: "
            "set data.resize_px to that, or choose another backbone."
        ) from error


def nearest_maps(reductions: Sequence[int], strides: Sequence[int]) -> list[int]:
    """For each of the ascending ``strides`` the index of the map to take.

    Args:
        reductions: strides of the maps that there are, ascending.
        strides: strides that are wanted, ascending.

    Returns:
        Indices into ``reductions``. Strides are near by their ratio; of two equally near the finer is taken. Where
        k wanted strides fall on one, they take its last k maps in order, or its first again where there are fewer.
    """
    nearest = [min(reductions, key=lambda reduction: abs(math.log2(reduction / stride))) for stride in strides]
    chosen = []
    for i, reduction in enumerate(nearest):
        maps = [index for index, other in enumerate(reductions) if other == reduction]
        takers_after = nearest[i + 1 :].count(reduction)
        chosen.append(maps[max(len(maps) - 1 - takers_after, 0)])
    return chosen


def _channels_first(body: Any, maps: list[Tensor]) -> list[Tensor]:
    """What the timm feature extractor ``body`` gave, as (B, C_l, H_l, W_l)."""
    if Format(getattr(body, "output_fmt", Format.NCHW)) == Format.NHWC:
        maps = [m.permute(0, 3, 1, 2) for m in maps]
    channels = body.feature_info.channels()
    if [m.shape[1] for m in maps] != channels:  # at sizes they were not made for, some ViTs reshape tokens wrongly
        raise RuntimeError(f"maps of shapes {[tuple(m.shape) for m in maps]} do not have {channels} channels")
    return maps


def _at_stride(feature: Tensor, images: Tensor, stride: int) -> Tensor:
    size = [-(-side // stride) for side in images.shape[-2:]]
    return functional.interpolate(feature, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _takes(twin: Any, height: int, width: int) -> bool:
    """Whether ``twin``, on the meta device, runs on images of this size."""
    try:
        _channels_first(twin, twin(torch.zeros(1, 3, height, width, device="meta")))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def _create(config: BackboneConfig, strides: Sequence[int]) -> tuple[Any, LoadedWeights | None]:
    """The feature extractor with the weights of ``config``, and what it took from a file."""
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name.split('.')[0].split('_')[0]}*")[:5]
        hint = f" Near: {', '.join(near)}." if near else ""
        known = f"`timm.list_models()` lists all; short names are {', '.join(BACKBONES)}."
        raise BackboneError(f"timm has no model {config.name!r}.{hint} {known}")
    swin = is_swin(config.name)
    if swin and config.dilation:
        raise _not_dilated(config.name)
    pretrained = config.weights == "timm"
    body = create_swin(config.name, pretrained=pretrained) if swin else _extractor(config, strides, pretrained)
    loaded = load_weights(body, config) if config.weights not in (None, "timm") else None
    return SwinPyramid(body) if swin else body, loaded


def _extractor(config: BackboneConfig, strides: Sequence[int], pretrained: bool) -> Any:
    """A timm feature extractor that gives the maps nearest to ``strides``."""
    options: dict[str, Any] = dict(_ANY_SIZE, pretrained=pretrained)
    if config.dilation:
        options["output_stride"] = strides[-1]
    body = _build(config.name, options, outputs=len(strides))
    reductions = [level["reduction"] for level in body.feature_info.info]
    if config.dilation and reductions[-1] != strides[-1]:
        raise _not_dilated(config.name)
    wanted = sorted(set(nearest_maps(reductions, strides)))
    # Nearly every model has the maps that are wanted last, and is built once.
    if wanted == list(range(len(reductions)))[-len(strides) :]:
        return body
    return _build(config.name, options, outputs=wanted)


def _build(name: str, options: dict[str, Any], outputs: int | list[int]) -> Any:
    """timm's feature extractor for its last ``outputs`` maps, or for those with these indices.

    Options of ``_ANY_SIZE`` that the model does not know are dropped from ``options``.
    """
    while True:
        try:
            return timm.create_model(name, features_only=True, out_indices=outputs, **options)
        except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
            # A TypeError names the arguments that the model does not know, and comes before anything is built.
            unknown = [option for option in _ANY_SIZE if option in options and f"'{option}'" in str(error)]
            for option in unknown:
                del options[option]
            if unknown:
                continue
            if "output_stride" in options:
                raise _not_dilated(name) from error
            raise BackboneError(f"timm cannot build {name!r} as a feature extractor: {error}") from error


def _not_dilated(name: str) -> BackboneError:
    return BackboneError(
        f"model.backbone.dilation=true needs a model that timm builds with output_stride=16, and {name!r} is not one: "
        "choose a ResNet, or dilation=false."
    )


class Projection(nn.ModuleList):
    """Brings every level to C channels: 1x1 convolutions, and a 3x3 of stride 2 for each level below the backbone's."""

    def __init__(self, channels: list[int], dim: int, levels: int) -> None:
        layers = [_projection(c, dim, kernel=1) for c in channels[:levels]]
        # The first extra level reads the raw last map, not its projection (spec section 4).
        inputs = [channels[-1]] + [dim] * levels
        layers += [_projection(inputs[i], dim, kernel=3) for i in range(levels - len(channels))]
        super().__init__(layers)
        self.from_backbone = min(len(channels), levels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps (B, C_l, H_l, W_l) -> maps (B, C, H_l, W_l), one for each level."""
        maps = [project(feature) for project, feature in zip(self, features, strict=False)]
        below = features[-1]
        for project in list(self)[self.from_backbone :]:
            below = project(below)
            maps.append(below)
        return maps


def _projection(channels: int, dim: int, *, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, dim, kernel, stride=2 if kernel == 3 else 1, padding=kernel // 2)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.GroupNorm(32, dim))
