"""Swin (V1) as the official detection backbone computes it, at any image size (spec section 3).

The layers are timm's, so its pretrained weights load; the way through them is ours. timm rolls a map before it pads it
to whole windows, and switches shifting off where a map is smaller than a window: at sizes that are not multiples of the
window its numbers are not the official ones. Parameters and buffers have the official names.
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
"""Stages with maps at strides 8, 16 and 32."""
MASKED = -100.0
"""Added to the attention score of two cells that are neighbours only because the map was rolled."""
_DROP_PATH_RATES = {"swin_small": 0.3, "swin_base": 0.5, "swin_large": 0.1}


def is_swin(name: str) -> bool:
    """Whether timm's model ``name`` is a Swin of the first version."""
    return is_model_in_modules(name, ["swin_transformer"])


def create_swin(name: str, *, pretrained: bool = False) -> nn.Module:
    """The timm model without its classifier, with the official rates of stochastic depth: 0.2 for the tiny Swin."""
    family = "_".join(name.split("_")[:2])
    return timm.create_model(
        name,
        pretrained=pretrained,
        num_classes=0,
        strict_img_size=False,
        always_partition=True,  # a map smaller than the window is padded to it, not given a window of its own
        drop_path_rate=_DROP_PATH_RATES.get(family, 0.2),
    )


class SwinPyramid(nn.Module):
    """Maps of the last three stages, each through a layer norm of its own."""

    def __init__(self, model: Any) -> None:
        """Take over the layers of ``model``, which ``create_swin`` made; its last norm is not needed."""
        super().__init__()
        self.feature_info = FeatureInfo(model.feature_info, OUTPUT_STAGES)
        self.patch_embed: Any = model.patch_embed
        merges = [stage.downsample for stage in model.layers][1:]
        self.layers = nn.ModuleList(
            SwinStage(stage.blocks, merge) for stage, merge in zip(model.layers, [*merges, None], strict=True)
        )
        for stage, channels in zip(OUTPUT_STAGES, self.feature_info.channels(), strict=True):
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps (B, C_l, ceil(H / s), ceil(W / s)) for the strides s of 8, 16 and 32."""
        x = self.patch_embed(_pad_to_multiple(images, self.patch_embed.patch_size))  # (B, H/4, W/4, C)
        maps = []
        stage: Any
        for i, stage in enumerate(self.layers):
            x = stage(x)
            if i in OUTPUT_STAGES:
                maps.append(self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)  # reads the map without the norm of the output
        return maps


class SwinStage(nn.Module):
    """Blocks at one stride and, as in the official layout, the merging of patches that follows them."""

    def __init__(self, blocks: Any, downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks: Any = blocks  # a sequence of timm's SwinTransformerBlock
        self.downsample = downsample
        for block in blocks:
            block.attn.fused_attn = True
            # timm computes this table when it builds the module; the official state_dict holds it.
            block.attn.register_buffer("relative_position_index", block.attn.relative_position_index)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), before the merging."""
        window = self.blocks[0].window_size
        height, width = (-(-side // w) * w for side, w in zip(x.shape[1:3], window, strict=True))
        mask = shift_mask(height, width, window, x)
        for block in self.blocks:
            x = x + block.drop_path1(_shifted_attention(block, block.norm1(x), mask))
            x = x + block.drop_path2(block.mlp(block.norm2(x)))
        return x


def _shifted_attention(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Pad, roll, attend in windows, roll back, crop: (B, H, W, C) -> (B, H, W, C). Padded cells take part."""
    height, width = x.shape[1:3]
    shift, window = block.shift_size, block.window_size
    x = functional.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    padded_height, padded_width = x.shape[1:3]
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), dims=(1, 2))
    windows = window_partition(x, window).flatten(1, 2)  # (B * windows, cells, C)
    windows = block.attn(windows, mask=mask if any(shift) else None)
    x = window_reverse(windows.unflatten(1, window), window, padded_height, padded_width)
    if any(shift):
        x = x.roll(shift, dims=(1, 2))
    return x[:, :height, :width].contiguous()


def shift_mask(height: int, width: int, window: tuple[int, int], like: Tensor) -> Tensor:
    """What is added to the scores in shifted windows, so that cells from opposite borders do not see each other.

    Args:
        height: of the padded map, a multiple of the window's.
        width: of the padded map, a multiple of the window's.
        window: height and width of a window.
        like: gives device and dtype.

    Returns:
        (windows, cells, cells): 0 or ``MASKED``.
    """
    rows, columns = (
        (torch.arange(side, device=like.device) >= side - w).long()
        + (torch.arange(side, device=like.device) >= side - w // 2)
        for side, w in ((height, window[0]), (width, window[1]))
    )
    regions = 3 * rows[:, None] + columns  # (H, W): nine regions, of which a shifted window may hold four
    cells = window_partition(regions[None, ..., None], window).flatten(1)  # (windows, cells)
    apart = cells[:, None] != cells[:, :, None]
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, MASKED)


def _pad_to_multiple(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros at the right and bottom."""
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % size[1], 0, -height % size[0]))
