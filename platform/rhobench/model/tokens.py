"""Flattening of the feature levels to one token sequence, and the geometry of the tokens (spec sections 4 and 6).

Tokens are ordered by level, then by row, then by column.
Shapes: B images, N tokens over all levels, L levels, C channels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rhobench.model.positions import map_positions

PROPOSAL_SIZE = 0.05
"""Width and height of the proposal boxes of the finest level, relative to the image; doubled with each level."""
PROPOSAL_BORDER = 0.01
"""Proposals with a coordinate closer than this to 0 or 1 are invalid (spec section 6)."""

GRIDS_KEPT = 4
"""Geometries of images without padding that are kept for further images of the same size."""


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """Geometry of the token sequences of a batch; a function of sizes and masks, not of features."""

    shapes: tuple[tuple[int, int], ...]
    """(height, width) of each level."""
    padding: Tensor
    """(B, N) bool, True at padding."""
    valid_ratios: Tensor
    """(B, L, 2) share of each level's width and height that is not padding."""
    reference_points: Tensor
    """(B, N, L, 2) xy centre of each token, relative to the width and height of every padded level."""
    positions: Tensor
    """(B, N, C) sine embedding of the position, without level embedding."""
    proposals: Tensor
    """(B, N, 4) logits of the cxcywh proposal box of each token; +inf at ``blank`` tokens."""
    blank: Tensor
    """(B, N) bool, True at tokens without a valid proposal: padding, and cells too close to the image border."""
    has_padding: bool
    """Whether any token is padding."""

    @property
    def level_sizes(self) -> list[int]:
        """Number of tokens of each level."""
        return [h * w for h, w in self.shapes]


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Flatten feature maps (B, C, H_l, W_l) to tokens (B, N, C)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def token_grid(
    mask: Tensor,
    shapes: Sequence[tuple[int, int]],
    dim: int,
    *,
    has_padding: bool | None = None,
    position_shift: float = -0.5,
) -> TokenGrid:
    """Compute the geometry of the tokens of a padded batch of images.

    Args:
        mask: (B, H, W) bool of the images, True at padding.
        shapes: (height, width) of each feature level.
        dim: number of channels C of the position embedding.
        has_padding: whether ``mask`` is True anywhere. None: determined from it, with a device synchronisation.
        position_shift: offset of the position embedding in cells, as in ``map_positions``.
    """
    batch, has_padding = len(mask), bool(mask.any()) if has_padding is None else has_padding
    if has_padding:
        return _compute_grid(mask, tuple(shapes), dim, position_shift, has_padding=True)
    # All images have the same geometry, so it is computed for one and expanded.
    size: tuple[int, int] = (mask.shape[1], mask.shape[2])
    # Neither a trace nor a copy without data may fill the cache.
    cached = mask.device.type != "meta" and not torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    compute = _grid_without_padding if cached else _grid_without_padding.__wrapped__
    return _expanded(compute(size, tuple(shapes), dim, position_shift, mask.device), batch)


@functools.lru_cache(maxsize=GRIDS_KEPT)
def _grid_without_padding(
    size: tuple[int, int], shapes: tuple[tuple[int, int], ...], dim: int, position_shift: float, device: torch.device
) -> TokenGrid:
    """Geometry of one image of ``size`` (height, width) without padding."""
    with torch.inference_mode(False), torch.no_grad():  # training may use what an evaluation has put into the cache
        mask = torch.zeros(1, *size, dtype=torch.bool, device=device)
        return _compute_grid(mask, shapes, dim, position_shift, has_padding=False)


def _expanded(grid: TokenGrid, batch: int) -> TokenGrid:
    """Repeat the geometry of one image for ``batch`` images, without a copy."""
    tensors: dict[str, Any] = {name: value for name, value in vars(grid).items() if isinstance(value, Tensor)}
    return replace(grid, **{name: value.expand(batch, *value.shape[1:]) for name, value in tensors.items()})


def _compute_grid(
    mask: Tensor, shapes: tuple[tuple[int, int], ...], dim: int, position_shift: float, *, has_padding: bool
) -> TokenGrid:
    # Nearest interpolation, the default, as in the official code (spec section 2).
    level_masks = [F.interpolate(mask[:, None].float(), size=shape)[:, 0].bool() for shape in shapes]
    valid_sizes = torch.stack([_valid_size(m) for m in level_masks], dim=1)  # (B, L, 2)
    sizes = valid_sizes.new_tensor([(w, h) for h, w in shapes])  # (L, 2)
    valid_ratios = valid_sizes / sizes

    centres = [_cell_centres(shape, mask.device) for shape in shapes]  # each (n_l, 2), in cells
    reference = torch.cat([c / valid_sizes[:, i, None] for i, c in enumerate(centres)], dim=1)  # (B, N, 2)
    padding = torch.cat([m.flatten(1) for m in level_masks], dim=1)
    sides = torch.cat([c.new_full((len(c), 2), PROPOSAL_SIZE * 2.0**i) for i, c in enumerate(centres)])
    boxes = torch.cat((reference, sides.expand_as(reference)), dim=-1)  # (B, N, 4)
    inside = ((boxes > PROPOSAL_BORDER) & (boxes < 1 - PROPOSAL_BORDER)).all(-1)
    blank = padding | ~inside
    return TokenGrid(
        shapes=shapes,
        padding=padding,
        valid_ratios=valid_ratios,
        reference_points=reference[:, :, None] * valid_ratios[:, None],
        positions=torch.cat([map_positions(m, dim, position_shift) for m in level_masks], dim=1),
        # Beyond the image the logit is NaN, but such tokens are blank.
        proposals=torch.log(boxes / (1 - boxes)).masked_fill(blank[..., None], float("inf")),
        blank=blank,
        has_padding=has_padding,
    )


class TokenNorm(nn.Module):
    """Linear layer and LayerNorm applied to tokens before they are scored.

    The scorer and the query selection share this module, as in the official code (spec section 7.1).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, grid: TokenGrid) -> Tensor:
        """Project tokens (B, N, C) -> (B, N, C).

        Blank tokens are zeroed first, so that all become the same vector; it is not zero (spec section 6).
        """
        return self.norm(self.project(tokens.masked_fill(grid.blank[..., None], 0.0)))


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Gather the rows ``index`` (B, k) of ``tokens`` (B, N, ...) -> (B, k, ...)."""
    trailing = tokens.shape[2:]
    return tokens.gather(1, index.view(*index.shape, *[1] * len(trailing)).expand(-1, -1, *trailing))


def _valid_size(mask: Tensor) -> Tensor:
    """(B, 2) width and height without padding, counted along the first row and column of ``mask`` (B, H, W)."""
    # Images are padded at the right and bottom only, so no other row or column has more valid cells.
    return torch.stack(((~mask[:, 0, :]).sum(1), (~mask[:, :, 0]).sum(1)), dim=-1).float()


def _cell_centres(shape: tuple[int, int], device: torch.device) -> Tensor:
    """(H * W, 2) xy centres of the cells of a map, in cells."""
    height, width = shape
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32) + 0.5,
        torch.arange(width, device=device, dtype=torch.float32) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y), dim=-1).flatten(0, 1)
