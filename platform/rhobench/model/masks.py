"""Mask head: embeddings of image cells and of queries, whose dot products are the mask logits.

Follows MaskFormer (Cheng et al. 2021, section 3.3) and Mask DINO (Li et al. 2023, section 3.2), with two differences.
The cells are computed from the finest encoder map alone, at half its stride, because these detectors have no map of
stride 4 to fuse it with, and cached features have none either. And the position embedding is added to the memory,
because tokens that a sparse encoder does not update carry no information about their position.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from rhobench.config import MASK_STRIDE
from rhobench.model.backbone import STRIDES
from rhobench.model.tokens import TokenGrid

NORM_GROUPS = 8
"""Number of groups of the group norms, as in DETR's mask head."""

assert STRIDES[0] == 2 * MASK_STRIDE  # the finest map is upsampled once


@dataclass(frozen=True, kw_only=True)
class MaskEmbeddings:
    """Factors of the masks of all queries; multiplied only on request, because most queries are background."""

    cells: Tensor
    """(B, D, h, w) cell embeddings at a stride of 4 pixels of the padded input."""
    queries: Tensor
    """(B, Q, D) query embeddings."""
    padding: Tensor
    """(B, h, w) bool, True at padding."""
    sizes: Tensor
    """(B, 2) height and width of each image in pixels of the input, without padding."""

    def logits(self, image: int, queries: Tensor) -> Tensor:
        """Mask logits of the query indices ``queries`` (n,) of one image -> (n, h, w) float32, positive inside."""
        return torch.einsum("nd,dhw->nhw", self.queries[image, queries].float(), self.cells[image].float())


class MaskHead(nn.Module):
    """Two convolutions with an upsampling in between on the finest level, and an MLP on the queries.

    Each convolution halves the channels, as in DETR's mask head, to limit the cost of the finer map.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = dim // 4
        self.coarse, self.fine = _convolution(dim, dim // 2), _convolution(dim // 2, width)
        self.cell_embed = nn.Conv2d(width, width, 1)
        self.query_embed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, width)
        )

    def forward(
        self, memory: Tensor, positions: Tensor, states: Tensor, grid: TokenGrid, mask: Tensor
    ) -> MaskEmbeddings:
        """Embed the cells of the images and the queries.

        Args:
            memory: (B, N, C) output of the encoder.
            positions: (B, N, C) position and level embedding of its tokens.
            states: (B, Q, C) query states after the last decoder layer.
            grid: geometry of the tokens.
            mask: (B, H, W) bool of the images, True at padding.
        """
        (height, width), tokens = grid.shapes[0], grid.level_sizes[0]
        located = memory[:, :tokens] + positions[:, :tokens]
        finest = located.transpose(1, 2).unflatten(2, (height, width))  # (B, C, h / 2, w / 2)
        cells = self.fine(_upsample_2x(self.coarse(finest)))
        padding = grid.padding[:, :tokens].unflatten(1, (height, width))
        valid = ~mask
        return MaskEmbeddings(
            cells=self.cell_embed(cells),
            queries=self.query_embed(states),
            padding=_upsample_2x(padding[:, None].float())[:, 0].bool(),  # interpolation does not accept bool
            sizes=torch.stack((valid[:, :, 0].sum(1), valid[:, 0].sum(1)), dim=1),
        )


def mask_losses(
    masks: MaskEmbeddings,
    targets: list[Tensor],
    pairs: list[tuple[Tensor, Tensor]],
    alpha: float,
    gamma: float,
    num_boxes: float,
) -> dict[str, Tensor]:
    """Compute focal and dice loss of the matched queries on the cells that are not padding (DETR, section 4.4).

    The focal loss of an object is a mean over the cells. Both losses are summed over the objects and divided by
    ``num_boxes``. Targets are fractional: a cell crossed by an object's edge has the share of its area inside.

    Args:
        masks: mask embeddings of the model.
        targets: for each image, (n, h, w) uint8 coverage in 0..255; may be smaller than the grid of a padded batch.
        pairs: for each image, the matched query and object indices, as returned by ``match``.
        alpha: class balance of the focal loss.
        gamma: exponent of the focal loss.
        num_boxes: number of objects that the sums are divided by.

    Returns:
        Scalars ``loss_mask_focal`` and ``loss_mask_dice``.
    """
    focal, dice = [], []
    for image, (target, (queries, objects)) in enumerate(zip(targets, pairs, strict=True)):
        inside = (~masks.padding[image]).float()
        logits = masks.logits(image, queries)  # (n, h, w)
        (height, width), (rows, columns) = logits.shape[1:], target.shape[1:]
        coverage = F.pad(target[objects].float() / 255, (0, width - columns, 0, height - rows))
        cell_losses = sigmoid_focal_loss(logits, coverage, alpha, gamma, "none")
        focal.append((cell_losses * inside).sum() / inside.sum())
        dice.append((1 - dice_coefficient(logits.sigmoid() * inside, coverage * inside)).sum())
    return {
        "loss_mask_focal": torch.stack(focal).sum() / num_boxes,
        "loss_mask_dice": torch.stack(dice).sum() / num_boxes,
    }


def dice_coefficient(predicted: Tensor, target: Tensor) -> Tensor:
    """Dice coefficient of masks (n, h, w) in 0..1 -> (n,), with 1 added to numerator and denominator as in DETR."""
    return (2 * (predicted * target).sum((1, 2)) + 1) / (predicted.sum((1, 2)) + target.sum((1, 2)) + 1)


def _convolution(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(NORM_GROUPS, width), nn.ReLU())


def _upsample_2x(maps: Tensor) -> Tensor:
    # Nearest as in DETR's mask head; the gradient of bilinear upsampling is not deterministic on GPUs.
    return F.interpolate(maps, scale_factor=2.0, mode="nearest")
