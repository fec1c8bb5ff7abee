"""Masks of the queries: an embedding for each cell of the image, one for each query, and their product.

As in MaskFormer (Cheng et al. 2021, section 3.3) and Mask DINO (Li et al. 2023, section 3.2), with two differences. The
cells come from the encoder's finest map alone, at half its stride: these detectors have no map at stride 4 to fuse it
with, and cached features have none either. And they get the sine embedding of their place, since tokens that a sparse
encoder leaves as they were do not know where they are.
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

GROUPS = 8
"""Of the group norms, as in DETR's mask head."""

assert STRIDES[0] == 2 * MASK_STRIDE  # the finest map, enlarged once


@dataclass(frozen=True, kw_only=True)
class MaskEmbeddings:
    """The masks of all queries, multiplied out only for those that are asked for: most queries are background."""

    cells: Tensor
    """(B, D, h, w), at a stride of 4 pixels of the padded input."""
    queries: Tensor
    """(B, Q, D)."""
    padding: Tensor
    """(B, h, w) bool, True at padding."""
    sizes: Tensor
    """(B, 2) height and width of each image in pixels of the input, without padding."""

    def logits(self, image: int, queries: Tensor) -> Tensor:
        """The masks of ``queries`` (n,) of one image of the batch -> (n, h, w) float32, positive inside."""
        return torch.einsum("nd,dhw->nhw", self.queries[image, queries].float(), self.cells[image].float())


class MaskHead(nn.Module):
    """Two convolutions on the finest level, an enlargement between them, and three linear layers on the queries.

    Each convolution halves the channels, as in DETR's mask head, so that the finer map costs no more than the coarser.
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
        """Embed cells and queries.

        Args:
            memory: (B, N, C) of the encoder.
            positions: (B, N, C) of its tokens.
            states: (B, Q, C) of the last decoder layer.
            grid: geometry of the tokens.
            mask: (B, H, W) bool of the images, True at padding.
        """
        (height, width), tokens = grid.shapes[0], grid.level_sizes[0]
        located = memory[:, :tokens] + positions[:, :tokens]
        finest = located.transpose(1, 2).unflatten(2, (height, width))  # (B, C, h / 2, w / 2)
        cells = self.fine(_twice(self.coarse(finest)))
        padding = grid.padding[:, :tokens].unflatten(1, (height, width))
        shown = ~mask
        return MaskEmbeddings(
            cells=self.cell_embed(cells),
            queries=self.query_embed(states),
            padding=_twice(padding[:, None].float())[:, 0].bool(),
            sizes=torch.stack((shown[:, :, 0].sum(1), shown[:, 0].sum(1)), dim=1),
        )


def mask_losses(
    masks: MaskEmbeddings,
    targets: list[Tensor],
    pairs: list[tuple[Tensor, Tensor]],
    alpha: float,
    gamma: float,
    num_boxes: float,
) -> dict[str, Tensor]:
    """Focal and dice loss of the matched queries (DETR, section 4.4), on the cells that are not padding.

    The focal loss of an object is a mean over the cells. Both are summed over the objects and divided by ``num_boxes``.
    Targets are shares of a cell, so an edge within a cell is learnt as one.

    Args:
        masks: of the model.
        targets: of each image, (n, h, w) uint8 from 0 to 255; they may end before the grid does.
        pairs: of each image, the matched queries and objects.
        alpha: balance of the focal loss.
        gamma: its exponent.
        num_boxes: objects of the batch.
    """
    focal, dice = [], []
    for image, (target, (queries, objects)) in enumerate(zip(targets, pairs, strict=True)):
        inside = (~masks.padding[image]).float()
        logits = masks.logits(image, queries)  # (n, h, w)
        (height, width), (rows, columns) = logits.shape[1:], target.shape[1:]
        wanted = F.pad(target[objects].float() / 255, (0, width - columns, 0, height - rows))
        cells = sigmoid_focal_loss(logits, wanted, alpha, gamma, "none")
        focal.append((cells * inside).sum() / inside.sum())
        dice.append((1 - dice_coefficient(logits.sigmoid() * inside, wanted * inside)).sum())
    return {
        "loss_mask_focal": torch.stack(focal).sum() / num_boxes,
        "loss_mask_dice": torch.stack(dice).sum() / num_boxes,
    }


def dice_coefficient(found: Tensor, wanted: Tensor) -> Tensor:
    """Twice the overlap over the sum of the areas, with 1 more in both as in DETR; (n, h, w) in 0..1 -> (n,)."""
    return (2 * (found * wanted).sum((1, 2)) + 1) / (found.sum((1, 2)) + wanted.sum((1, 2)) + 1)


def _convolution(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(GROUPS, width), nn.ReLU())


def _twice(maps: Tensor) -> Tensor:
    # Nearest, as in DETR's mask head: the gradient of a bilinear enlargement does not repeat bit for bit on GPUs.
    return F.interpolate(maps, scale_factor=2.0, mode="nearest")
