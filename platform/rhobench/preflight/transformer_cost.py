"""Operations and parameters of the transformer of a detector in closed form, without building it.

Operations are those of ``rhobench.measure.flops`` by the convention "standard": 2 for each multiply-add of a forward
pass for one image, with the heads that detections need. Everything after the backbone is included; the backbone, which
may be any network of timm, is not. Integers of any size are allowed, so that a model that no machine could hold is
recognised before any of it is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rhobench.config import ModelConfig

Shape = tuple[int, int]
"""(height, width) of a feature map in cells."""

STRIDES = (8, 16, 32)
"""Strides in pixels of the maps of a backbone; with dilation the last one is 16."""

MAX_MASKS = 100
"""Detections of an image whose masks are computed."""


def backbone_strides(model: ModelConfig) -> tuple[int, ...]:
    """Return the strides in pixels of the maps of the backbone, finest first."""
    if model.backbone.dilation:
        return (8, 16, 16)
    return tuple(stride for stride in STRIDES if stride <= model.backbone.max_stride)


def level_shapes(model: ModelConfig, height: int, width: int, maps: Sequence[Shape] | None = None) -> list[Shape]:
    """Return the shapes of the feature levels of an image, finest first.

    Levels after the first one of a single cell, which would only repeat it, are omitted.

    Args:
        model: configuration of the model.
        height: height of the image in pixels.
        width: width of the image in pixels.
        maps: shapes of the maps of the backbone; None: the sides of the image divided by the strides, rounded up.
    """
    maps = maps or [(-(-height // stride), -(-width // stride)) for stride in backbone_strides(model)]
    levels = [(rows, columns) for rows, columns in maps]  # those of an answer are lists
    if model.name == "detr":
        return levels[-1:]
    del levels[model.num_feature_levels :]
    while len(levels) < model.num_feature_levels and levels[-1] != (1, 1):
        rows, columns = levels[-1]
        levels.append((-(-rows // 2), -(-columns // 2)))
    return levels


def token_count(shapes: Sequence[Shape]) -> int:
    """Return the number of encoder tokens on levels of these shapes."""
    return sum(rows * columns for rows, columns in shapes)


@dataclass(frozen=True, kw_only=True)
class TransformerCost:
    """Closed forms for one model whose number of classes is known."""

    model: ModelConfig
    """Configuration of the model."""
    channels: Sequence[int]
    """Channels of the maps of the backbone, finest first."""

    @property
    def parameters(self) -> int:
        """Parameters of everything after the backbone."""
        model, dim = self.model, self.model.hidden_dim
        norm, encoder_attention = 2 * dim, self._memory_attention_parameters()
        decoder_layer = _dense_attention(dim) + encoder_attention + self._ffn_parameters() + 2 * norm
        total = model.enc_layers * (encoder_attention + norm + self._ffn_parameters())
        total += model.dec_layers * decoder_layer + self._decoder_heads * self._head_parameters()
        if model.name == "detr":
            return total + _linear(self.channels[-1], dim) + model.num_queries * dim + norm
        total += self._projection_parameters() + model.num_feature_levels * dim
        total += (model.enc_layers - 1) * self._head_parameters() if model.use_enc_aux_loss else 0
        total += self._scorer_parameters() + self._query_parameters()
        return total + (self._mask_head_parameters() if model.mask_head else 0)

    def operations(self, shapes: Sequence[Shape], updated: float | None = None) -> float:
        """Operations of a forward pass for one image.

        Args:
            shapes: (height, width) of the feature levels.
            updated: tokens that the encoder updates; None: all.
        """
        return 2 * self._multiply_adds(shapes, token_count(shapes) if updated is None else updated)

    def _multiply_adds(self, shapes: Sequence[Shape], updated: float) -> float:
        model, dim, queries = self.model, self.model.hidden_dim, self.model.num_queries
        tokens, box = token_count(shapes), 2 * dim**2 + 4 * dim
        classes = self._classes * dim
        self_attention = 4 * queries * dim**2 + 2 * queries**2 * dim
        total = model.enc_layers * (self._attention(updated, tokens) + 2 * updated * dim * model.ffn_dim)
        total += model.dec_layers * (
            self_attention + self._attention(queries, tokens) + 2 * queries * dim * model.ffn_dim
        )
        refined = model.dec_layers if model.two_stage or model.refine_single_stage else 1
        total += queries * (refined * box + classes)
        if model.name == "detr":
            return total + tokens * self.channels[-1] * dim
        total += self._projection(shapes)
        if model.rho is not None and model.scoring != "random":
            scorer = dim**2 + dim * (dim // 2) + (dim // 2) * (dim // 4) + dim // 4
            total += tokens * (dim**2 + (scorer if model.scoring == "dam" else classes))
        if model.two_stage:
            width = dim if model.eff_query_init else 2 * dim
            total += tokens * (dim**2 + classes) + queries * (box + 2 * dim * width)
        else:
            total += queries * 2 * dim
        return total + (self._masks(token_count(shapes[:1])) if model.mask_head else 0)

    @property
    def _classes(self) -> int:
        assert self.model.num_classes is not None
        return self.model.num_classes + (self.model.name == "detr")  # with "no object"

    @property
    def _decoder_heads(self) -> int:
        return 1 if self.model.shares_head else self.model.dec_layers

    @property
    def _samples(self) -> int:
        """Samples of deformable attention for one query, over all heads."""
        return self.model.num_heads * self.model.num_feature_levels * self.model.num_points

    def _attention(self, queries: float, tokens: int) -> float:
        """Multiply-adds of the attention of ``queries`` to the memory."""
        dim = self.model.hidden_dim
        if self.model.name == "detr":
            return 2 * (queries + tokens) * dim**2 + 2 * queries * tokens * dim
        # A sample is interpolated from 4 cells and multiplied by its weight, in the channels of one head.
        sampled = 5 * (dim // self.model.num_heads) * self._samples
        return tokens * dim**2 + queries * (dim**2 + 3 * dim * self._samples + sampled)

    def _projection(self, shapes: Sequence[Shape]) -> int:
        dim, kept = self.model.hidden_dim, min(len(self.channels), len(shapes))
        areas = [rows * columns for rows, columns in shapes]
        total = sum(area * channels * dim for area, channels in zip(areas[:kept], self.channels, strict=False))
        inputs = [self.channels[-1]] + [dim] * len(shapes)
        return total + sum(9 * area * width * dim for area, width in zip(areas[kept:], inputs, strict=False))

    def _masks(self, cells: int) -> int:
        dim, width = self.model.hidden_dim, self.model.hidden_dim // 4
        fine = 4 * cells  # the mask has half the stride of the finest level
        maps = 9 * cells * dim * (dim // 2) + fine * (9 * (dim // 2) * width + width**2)
        shown = min(MAX_MASKS, self.model.num_queries)
        return maps + self.model.num_queries * (2 * dim**2 + dim * width) + shown * width * fine

    def _memory_attention_parameters(self) -> int:
        dim = self.model.hidden_dim
        if self.model.name == "detr":
            return _dense_attention(dim)
        return 2 * _linear(dim, dim) + _linear(dim, 3 * self._samples)

    def _ffn_parameters(self) -> int:
        dim, hidden = self.model.hidden_dim, self.model.ffn_dim
        return _linear(dim, hidden) + _linear(hidden, dim) + 2 * dim

    def _head_parameters(self) -> int:
        dim = self.model.hidden_dim
        return _linear(dim, self._classes) + 2 * _linear(dim, dim) + _linear(dim, 4)

    def _projection_parameters(self) -> int:
        dim, levels, maps = self.model.hidden_dim, self.model.num_feature_levels, len(self.channels)
        total = sum(_linear(channels, dim) + 2 * dim for channels in self.channels[:levels])
        if levels > maps:
            total += _linear(9 * self.channels[-1], dim) + 2 * dim
            total += (levels - maps - 1) * (_linear(9 * dim, dim) + 2 * dim)
        return total

    def _scorer_parameters(self) -> int:
        model, dim = self.model, self.model.hidden_dim
        if model.rho is None or model.scoring == "random":
            return 0
        if model.scoring == "objectness":
            return self._head_parameters()
        local = 2 * dim + _linear(dim, dim)
        return local + _linear(dim, dim // 2) + _linear(dim // 2, dim // 4) + _linear(dim // 4, 1)

    def _query_parameters(self) -> int:
        model, dim = self.model, self.model.hidden_dim
        if not model.two_stage:
            return model.num_queries * 2 * dim + _linear(dim, 2)
        width = dim if model.eff_query_init else 2 * dim
        head = 0 if model.shares_head else self._head_parameters()
        token_norm = _linear(dim, dim) + 2 * dim
        return token_norm + head + _linear(2 * dim, width) + 2 * width

    def _mask_head_parameters(self) -> int:
        dim, width = self.model.hidden_dim, self.model.hidden_dim // 4
        maps = _linear(9 * dim, dim // 2) + dim + _linear(9 * (dim // 2), width) + 2 * width + _linear(width, width)
        return maps + 2 * _linear(dim, dim) + _linear(dim, width)


def _linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer or of a convolution with ``inputs`` values per output."""
    return (inputs + 1) * outputs


def _dense_attention(dim: int) -> int:
    """Parameters of multi-head attention."""
    return 4 * _linear(dim, dim)
