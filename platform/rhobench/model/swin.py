"""Swin Transformer (V1) as a feature pyramid, numerically equal to the official detection backbone (spec section 3).

The layers are those of timm, so that its pretrained weights load; the forward pass is reimplemented. timm rolls a map
before padding it to whole windows and disables shifting for maps smaller than a window, so its results differ from the
official ones at sizes that are not multiples of the window. Parameters and buffers have the official names.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import FeatureInfo, is_model_in_modules
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional

OUTPUT_STAGES = (1, 2, 3)
"""Stages whose outputs are the maps of strides 8, 16 and 32."""
# Finite, as in the official code; exp(-100) vanishes in the sum of a softmax.
MASKED = -100.0
"""Added to the attention score of two cells that are adjacent only because the map was rolled."""
_DROP_PATH_RATES = {"swin_small": 0.3, "swin_base": 0.5, "swin_large": 0.1}
"""Official rates of stochastic depth; all other variants have 0.2."""


def is_swin(name: str) -> bool:
    """Whether the timm model ``name`` is a Swin Transformer V1."""
    return is_model_in_modules(name, ["swin_transformer"])


def create_swin(name: str, *, pretrained: bool = False) -> nn.Module:
    """Create the timm model without classifier, with the official rate of stochastic depth (spec section 3)."""
    family = "_".join(name.split("_")[:2])
    return timm.create_model(
        name,
        pretrained=pretrained,
        num_classes=0,
        strict_img_size=False,
        always_partition=True,  # pad maps smaller than the window instead of shrinking the window
        drop_path_rate=_DROP_PATH_RATES.get(family, 0.2),
    )


class SwinPyramid(nn.Module):
    """Swin feature pyramid: the maps of ``OUTPUT_STAGES`` or the first of them, each with its own LayerNorm."""

    def __init__(self, model: Any, outputs: int = len(OUTPUT_STAGES)) -> None:
        """Build the pyramid from the layers of ``model``, created by ``create_swin``.

        Args:
            model: model whose layers are used; its final norm is dropped.
            outputs: number of maps; stages after the last of them are dropped.
        """
        super().__init__()
        self.output_stages = OUTPUT_STAGES[:outputs]
        self.feature_info = FeatureInfo(model.feature_info, self.output_stages)
        self.patch_embed: Any = model.patch_embed
        # timm merges patches at the beginning of a stage, the official code at the end of the previous one.
        stages = model.layers[: self.output_stages[-1] + 1]
        merges = [stage.downsample for stage in stages][1:]
        self.layers = nn.ModuleList(
            SwinStage(stage.blocks, merge) for stage, merge in zip(stages, [*merges, None], strict=True)
        )
        for stage, channels in zip(self.output_stages, self.feature_info.channels(), strict=True):
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> maps (B, C_l, ceil(H / s), ceil(W / s)) for the first of the strides s = 8, 16, 32."""
        x = self.patch_embed(_pad_to_multiple(images, self.patch_embed.patch_size))  # (B, H/4, W/4, C)
        maps = []
        stage: Any
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in self.output_stages:
                maps.append(self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)  # patch merging reads the map before the output norm
        return maps


class SwinStage(nn.Module):
    """Swin blocks of one stride, together with the patch merging after them as in the official layout."""

    def __init__(self, blocks: Any, downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks: Any = blocks  # a sequence of timm's SwinTransformerBlock
        self.downsample = downsample
        for block in blocks:
            block.attn.fused_attn = True
            # timm does not save this table; the official state_dict contains it.
            block.attn.register_buffer("relative_position_index", block.attn.relative_position_index)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks: (B, H, W, C) -> (B, H, W, C). Patch merging is left to the caller."""
        window = self.blocks[0].window_size
        height, width = (-(-side // w) * w for side, w in zip(x.shape[1:3], window, strict=True))
        # One mask for all blocks, because those that shift do so by half a window.
        mask = shift_mask(height, width, window, x)
        for block in self.blocks:
            x = x + block.drop_path1(_shifted_attention(block, block.norm1(x), mask))
            x = x + block.drop_path2(block.mlp(block.norm2(x)))
        return x


def _shifted_attention(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Pad, roll, attend within windows, roll back and crop: (B, H, W, C) -> (B, H, W, C).

    Padded cells take part in the attention, as in the official code (spec section 3).
    """
    height, width = x.shape[1:3]
    shift, window = block.shift_size, block.window_size
    x = functional.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    padded_height, padded_width = x.shape[1:3]
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
    windows = window_partition(x, window).flatten(1, 2)  # (B * windows, cells, C)
    # The mask is computed on the padded map, so in shifted windows padded cells count as part of the border regions.
    windows = block.attn(windows, mask=mask if any(shift) else None)
    x = window_reverse(windows.unflatten(1, window), window, padded_height, padded_width)
    if any(shift):
        x = x.roll(shift, dims=(1, 2))
    return x[:, :height, :width].contiguous()


def shift_mask(height: int, width: int, window: tuple[int, int], like: Tensor) -> Tensor:
    """Additive attention mask of shifted windows; it separates cells from opposite borders of the map.

    Args:
        height: height of the padded map in cells, a multiple of the window height.
        width: width of the padded map in cells, a multiple of the window width.
        window: (height, width) of a window in cells.
        like: tensor whose device and dtype the mask gets.

    Returns:
        (windows, cells, cells) with values 0 or ``MASKED``.
    """
    rows, columns = (
        (torch.arange(side, device=like.device) >= side - w).long()
        + (torch.arange(side, device=like.device) >= side - w // 2)
        for side, w in ((height, window[0]), (width, window[1]))
    )
    regions = 3 * rows[:, None] + columns  # (H, W): nine regions, up to four in one shifted window
    cells = window_partition(regions[None, ..., None], window).flatten(1)  # (windows, cells)
    apart = cells[:, None] != cells[:, :, None]
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, MASKED)


def _pad_to_multiple(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad images (B, 3, H, W) at the right and bottom to multiples of ``size``."""
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % size[1], 0, -height % size[0]))
