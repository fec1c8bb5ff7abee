"""Multi-scale features of any timm backbone, and their projection to the width of the transformer."""

from __future__ import annotations

import difflib
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
from rhobench.config.model import NORM_GROUPS
from rhobench.config.model_zoo import BACKBONES
from rhobench.model.folding import FoldedBody
from rhobench.model.pretrained import BackboneError, LoadedWeights, load_weights
from rhobench.model.swin import SwinPyramid, create_swin, is_swin

STRIDES = (8, 16, 32)
"""Strides in pixels of the backbone's maps; coarser levels are added by ``Projection``."""
DILATED_STRIDES = (8, 16, 16)
"""Strides in pixels with ``BackboneConfig.dilation`` (DC5)."""
_ANY_SIZE_OPTIONS = {"dynamic_img_size": True, "dynamic_img_pad": True, "strict_img_size": False}
"""Options of timm models that permit images of any size; a model supports some of them or none."""


class NoEarlyStageError(BackboneError):
    """Raised for ``frozen="early"`` if the backbone has no early stage to freeze."""


class Backbone(nn.Module):
    """A timm model as a feature pyramid with frozen batch normalisation (spec section 3).

    If the model has no map at one of the strides, the map with the nearest stride is resampled bilinearly to
    ceil(side / stride). Of several maps with the same stride the deepest are used: of a ViT, those of the last three
    blocks. For a model that accepts only multiples of some size, images are zero-padded further, right and bottom.
    """

    def __init__(self, config: BackboneConfig) -> None:
        """Build the backbone, load its weights and freeze what ``config.frozen`` names.

        Raises:
            BackboneError: timm has no such model, it does not support an option of ``config``, or the weights do not
                fit.
        """
        super().__init__()
        self.config = config
        self.strides = _strides(config)
        body, self.loaded = _create_body(config, self.strides)
        self.body: Any = freeze_batch_norm_2d(body)
        self._folded = FoldedBody(self.body)  # not a module, so that the names of the weights stay those of timm
        info = self.body.feature_info
        chosen = nearest_maps([level["reduction"] for level in info.info], self.strides)
        # timm returns every map once, in ascending order, whereas one map may serve several strides.
        outputs = sorted(set(chosen))
        self._output_indices = [outputs.index(i) for i in chosen]
        self._source_strides: list[int] = info.reduction(chosen)
        self.channels: list[int] = info.channels(chosen)
        self._size_multiple = 1  # images are padded to multiples of it; determined when the model rejects a size
        for parameter in self._frozen_parameters():
            parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps: normalised images (B, 3, H, W) -> maps (B, C_l, H_l, W_l) at ``strides``.

        Raises:
            BackboneError: the model does not accept images of this size.
        """
        # Without gradient ``FoldedBody`` can also reuse the folded weights of a fully frozen backbone.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.frozen != "all"):
            try:
                outputs = self._run_body(images)
            except (AssertionError, RuntimeError, ValueError) as error:  # what timm models raise for a wrong size
                self._size_multiple = self._find_size_multiple(images.shape[2], images.shape[3], error)
                outputs = self._run_body(images)
            maps = [outputs[index] for index in self._output_indices]
            levels = zip(maps, self._source_strides, self.strides, strict=True)
            return [m if source == stride else _resample_to_stride(m, images, stride) for m, source, stride in levels]

    def _run_body(self, images: Tensor) -> list[Tensor]:
        """Maps of the timm model; images are padded to ``_size_multiple`` and the maps cropped accordingly."""
        if images.device.type == "cpu":  # makes convolutions a quarter faster and does not affect other models
            images = images.contiguous(memory_format=torch.channels_last)
        height, width = images.shape[-2:]
        right, bottom = -width % self._size_multiple, -height % self._size_multiple
        if not (right or bottom):
            return _to_channels_first(self.body, self._folded(images))
        maps = _to_channels_first(self.body, self._folded(functional.pad(images, (0, right, 0, bottom))))
        strides = self.body.feature_info.reduction()
        return [m[..., : -(-height // s), : -(-width // s)] for m, s in zip(maps, strides, strict=True)]

    def train(self, mode: bool = True) -> Backbone:
        """Set the training mode; a fully frozen backbone stays in evaluation mode, so that its features are fixed."""
        return super().train(mode and self.config.frozen != "all")

    def _frozen_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters to freeze; for "early", all modules up to the last stage with a stride below 8.

        Modules count in the order of their registration, so the stem is included.
        """
        if self.config.frozen == "none":
            return
        if self.config.frozen == "all":
            yield from self.body.parameters()
            return
        # A stage with a stride below 8 is not early if it delivers the finest map.
        first = min(STRIDES[0], self._source_strides[0])
        early = [level["module"] for level in self.body.feature_info.info if level["reduction"] < first]
        modules = list(self.body.named_modules())
        # timm flattens "stages.0" to "stages_0" in some feature extractors, and puts others inside a wrapper.
        names = [re.sub(r"^(model|body)\.", "", name).replace("_", ".") + "." for name, _ in modules]
        prefixes = tuple(stage.replace("_", ".") + "." for stage in early)
        last = max((i for i, name in enumerate(names) if name.startswith(prefixes)), default=-1)
        if last < 0:
            raise NoEarlyStageError(
                f"{self.config.name!r} has no separate stage with a stride below {STRIDES[0]}, so "
                "model.backbone.frozen='early' freezes nothing: choose 'none' or 'all'."
            )
        for _, module in modules[: last + 1]:
            # Recursion would freeze everything: the body itself is the first of these modules.
            yield from module.parameters(recurse=False)

    def _find_size_multiple(self, height: int, width: int, error: Exception) -> int:
        """Find the number that image sides must be multiples of, after the model failed with ``error``.

        Candidates are tried on a copy on the meta device, which is fast and fails for unsupported sizes only.

        Raises:
            BackboneError: the model accepts images of its native size only.
            Exception: ``error`` itself, if the image size is not its cause.
        """
        with torch.device("meta"):
            meta_body = _create_body(replace(self.config, weights=None), self.strides)[0].eval()
        native: tuple[int, int] = tuple(meta_body.pretrained_cfg["input_size"][1:])
        # If the size passes on its own, or the native size fails as well, the size is not the cause.
        if _accepts_size(meta_body, height, width) or not _accepts_size(meta_body, *native):
            raise error
        # Ascending, so that the least padding is chosen; 14 is the patch size of DINOv2 and of some other ViTs.
        for step in (2, 4, 8, 14, 16, 32, 64, 128, native[0]):
            # Tested at about twice the native size: close to it, rounding hides that a model supports no other size.
            test_size = [step * (2 * side // step + extra) for extra, side in enumerate(native, start=1)]
            # A multiple that the image already satisfies cannot be the one that the model misses.
            if (height % step or width % step) and _accepts_size(meta_body, *test_size):
                return step
        raise BackboneError(
            f"The timm model {self.config.name!r} does not accept images of {height}x{width} pixels, only of "
            f"{native[0]}x{native[1]}: set data.resize_px to that size, or choose another backbone."
        ) from error


def _strides(config: BackboneConfig) -> tuple[int, ...]:
    """Strides of the maps that the backbone delivers, finest first."""
    return DILATED_STRIDES if config.dilation else tuple(stride for stride in STRIDES if stride <= config.max_stride)


def nearest_maps(reductions: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Choose for each of ``strides`` the available map with the nearest stride.

    Args:
        reductions: strides of the available maps, ascending.
        strides: required strides, ascending.

    Returns:
        For each required stride an index into ``reductions``. Distance is the ratio of the strides; of two equally near
        the finer is chosen. If k required strides share a nearest stride, they get the last k maps of that stride in
        order; if there are fewer than k, the first of them is repeated.
    """
    nearest = [min(reductions, key=lambda reduction: abs(math.log2(reduction / stride))) for stride in strides]
    chosen = []
    for i, reduction in enumerate(nearest):
        maps = [index for index, other in enumerate(reductions) if other == reduction]
        still_needed = nearest[i + 1 :].count(reduction)
        chosen.append(maps[max(len(maps) - 1 - still_needed, 0)])
    return chosen


def _to_channels_first(body: Any, maps: list[Tensor]) -> list[Tensor]:
    """Permute the outputs of the timm feature extractor ``body`` to (B, C_l, H_l, W_l).

    Raises:
        RuntimeError: the maps do not have the number of channels that timm documents.
    """
    if Format(getattr(body, "output_fmt", Format.NCHW)) == Format.NHWC:
        maps = [m.permute(0, 3, 1, 2) for m in maps]
    channels = body.feature_info.channels()
    if [m.shape[1] for m in maps] != channels:  # some ViTs reshape their tokens wrongly at unsupported sizes
        raise RuntimeError(f"maps of shapes {[tuple(m.shape) for m in maps]} do not have {channels} channels")
    return maps


def _resample_to_stride(feature: Tensor, images: Tensor, stride: int) -> Tensor:
    """Resample (B, C, h, w) bilinearly to the size that ``images`` have at ``stride``."""
    size = [-(-side // stride) for side in images.shape[-2:]]
    return functional.interpolate(feature, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _accepts_size(meta_body: Any, height: int, width: int) -> bool:
    """Whether ``meta_body``, a model on the meta device, runs on images of this size."""
    try:
        _to_channels_first(meta_body, meta_body(torch.zeros(1, 3, height, width, device="meta")))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def _create_body(config: BackboneConfig, strides: Sequence[int]) -> tuple[Any, LoadedWeights | None]:
    """Create the feature extractor with the weights of ``config``; also return what was loaded from a file."""
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name, timm.list_models(), n=3, cutoff=0.5) or [*BACKBONES.values()]
        raise BackboneError(
            f"timm has no model {config.name!r}. Similar names: {', '.join(near)}. `timm.list_models()` lists all "
            f"models; short names are {', '.join(BACKBONES)}."
        )
    swin = is_swin(config.name)
    if swin and config.dilation:
        raise _dilation_error(config.name)
    pretrained = config.weights == "timm"
    body = create_swin(config.name, pretrained=pretrained) if swin else _create_extractor(config, strides, pretrained)
    loaded = load_weights(body, config) if config.weights not in (None, "timm") else None
    return SwinPyramid(body, outputs=len(strides)) if swin else body, loaded


def _create_extractor(config: BackboneConfig, strides: Sequence[int], pretrained: bool) -> Any:
    """Create a timm feature extractor whose outputs are the maps nearest to ``strides``."""
    options: dict[str, Any] = dict(_ANY_SIZE_OPTIONS, pretrained=pretrained)
    if config.dilation:
        options["output_stride"] = strides[-1]
    body = _create_timm_extractor(config.name, options, outputs=len(STRIDES))
    reductions = [level["reduction"] for level in body.feature_info.info]
    if config.dilation and reductions[-1] != strides[-1]:
        raise _dilation_error(config.name)
    wanted = sorted(set(nearest_maps(reductions, strides)))
    # In nearly every model the wanted maps are the last ones, which the first call has already selected.
    if wanted == list(range(len(reductions)))[-len(STRIDES) :]:
        return body
    if config.max_stride < STRIDES[-1]:
        options["feature_cls"] = "getter"  # the only one of timm's extractors that always drops unused stages
    return _create_timm_extractor(config.name, options, outputs=wanted)


def _create_timm_extractor(name: str, options: dict[str, Any], outputs: int | list[int]) -> Any:
    """Create timm's feature extractor for the last ``outputs`` maps, or for the maps with these indices.

    Options of ``_ANY_SIZE_OPTIONS`` that the model does not support are removed from ``options``.
    """
    while True:
        try:
            return timm.create_model(name, features_only=True, out_indices=outputs, **options)
        except (AssertionError, AttributeError, RuntimeError, TypeError) as error:
            # Unsupported arguments are named in a TypeError, before anything is built, so retrying is cheap.
            unknown = [option for option in _ANY_SIZE_OPTIONS if option in options and f"'{option}'" in str(error)]
            for option in unknown:
                del options[option]
            if unknown:
                continue
            if "output_stride" in options:
                raise _dilation_error(name) from error
            raise BackboneError(f"timm cannot build {name!r} as a feature extractor: {error}") from error


def _dilation_error(name: str) -> BackboneError:
    return BackboneError(
        f"model.backbone.dilation=true needs a timm model that supports output_stride=16, and {name!r} does not: "
        "choose a ResNet, or dilation=false."
    )


class Projection(nn.ModuleList):
    """Projection of every feature level to C channels (spec section 4).

    A 1x1 convolution for each map of the backbone, and a 3x3 convolution of stride 2 for each coarser level, all with
    group normalisation.
    """

    def __init__(self, channels: list[int], dim: int, levels: int) -> None:
        layers = [_projection(c, dim, kernel=1) for c in channels[:levels]]
        # The first added level reads the last map of the backbone itself, not its projection (spec section 4).
        inputs = [channels[-1]] + [dim] * levels
        layers += [_projection(inputs[i], dim, kernel=3) for i in range(levels - len(channels))]
        super().__init__(layers)
        self.from_backbone = min(len(channels), levels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Project maps (B, C_l, H_l, W_l) of the backbone -> maps (B, C, H_l, W_l), one per level, finest first."""
        # Not strict: coarse maps are unused if there are fewer levels; added levels follow if there are more.
        maps = [project(feature) for project, feature in zip(self, features, strict=False)]
        coarsest = features[-1]
        for project in list(self)[self.from_backbone :]:
            coarsest = project(coarsest)
            maps.append(coarsest)
        return maps


def _projection(channels: int, dim: int, *, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, dim, kernel, stride=2 if kernel == 3 else 1, padding=kernel // 2)
    nn.init.xavier_uniform_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.GroupNorm(NORM_GROUPS, dim))
