"""Multi-scale features from any timm backbone, and their projection to the width of the transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from rhobench.config import BackboneConfig
from rhobench.model.pretrained import BackboneError, load_weights

STRIDES = (8, 16, 32)
"""Strides of the maps that the encoder reads; further levels are made by the projection."""


class Backbone(nn.Module):
    """A timm model as a feature pyramid, with batch normalisation frozen as in every DETR (spec section 3)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        body = _create(config)
        if config.weights not in (None, "timm"):
            load_weights(body, config)
        self.body = freeze_batch_norm_2d(body)
        self.channels: list[int] = body.feature_info.channels()
        for parameter in self._frozen_parameters():
            parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images -> maps (B, C_l, H_l, W_l) at strides 8, 16 and 32."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.frozen != "all"):
            maps = self.body(images)
        # Some timm models, Swin among them, give their maps channels last.
        return [
            m if m.shape[1] == channels else m.permute(0, 3, 1, 2)
            for m, channels in zip(maps, self.channels, strict=True)
        ]

    def train(self, mode: bool = True) -> Backbone:
        """A wholly frozen backbone stays in evaluation mode: its features must not depend on who asks."""
        return super().train(mode and self.config.frozen != "all")

    def _frozen_parameters(self) -> Iterator[nn.Parameter]:
        """ "early": everything up to the last stage with a stride below 8, in the order of registration."""
        named = list(self.body.named_parameters())
        if self.config.frozen == "none":
            return
        if self.config.frozen == "all":
            yield from (p for _, p in named)
            return
        early = [info["module"] for info in self.body.feature_info.info if info["reduction"] < STRIDES[0]]
        # timm flattens "stages.0" to "stages_0" in some feature extractors.
        prefixes = tuple(f"{stage}." for name in early for stage in (name, name.replace(".", "_")))
        last = max((i for i, (name, _) in enumerate(named) if name.startswith(prefixes)), default=-1)
        if last < 0:
            raise BackboneError(
                f"{self.config.name!r} has no stage of its own with a stride below {STRIDES[0]}, so "
                "model.backbone.frozen='early' freezes nothing: choose 'none' or 'all'."
            )
        yield from (p for _, p in named[: last + 1])


def _create(config: BackboneConfig) -> Any:
    """The timm feature extractor whose outputs have the strides of ``STRIDES``."""
    if config.name not in timm.list_models():
        near = timm.list_models(f"*{config.name.split('.')[0].split('_')[0]}*")[:5]
        hint = f" Near: {', '.join(near)}." if near else ""
        raise BackboneError(f"timm has no model {config.name!r}.{hint} `timm.list_models()` lists all.")
    try:
        probe = timm.create_model(config.name, features_only=True)
    except (AttributeError, RuntimeError) as error:
        raise BackboneError(f"timm's {config.name!r} does not support features_only: {error}") from error
    reductions = probe.feature_info.reduction()
    if not set(STRIDES) <= set(reductions):
        raise BackboneError(f"{config.name!r} has features at strides {reductions}, but {list(STRIDES)} are needed.")
    return timm.create_model(
        config.name,
        features_only=True,
        out_indices=[probe.feature_info.out_indices[reductions.index(stride)] for stride in STRIDES],
        pretrained=config.weights == "timm",
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
