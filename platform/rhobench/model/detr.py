"""DETR: one feature map, dense attention, and a softmax over the classes and "no object"."""

from __future__ import annotations

from torch import Tensor, nn

from rhobench.config import ModelConfig
from rhobench.model.decoder import Decoder
from rhobench.model.detector import Detector, DetectorOutput
from rhobench.model.encoder import Encoder
from rhobench.model.layers import init_transformer_weights
from rhobench.model.queries import LearnedQueries
from rhobench.model.tokens import flatten_levels, token_grid


class DETR(Detector):
    """DETR (Carion et al. 2020) on the last map of the backbone: stride 32, or 16 with dilation ("DC5")."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.projection = nn.Conv2d(self.backbone.channels[-1], config.hidden_dim, 1)
        self.encoder = Encoder(config, self.num_classes)
        self.queries = LearnedQueries(config)
        self.decoder = Decoder(config, self.num_classes)
        # Projection, queries and heads keep PyTorch's defaults, as in DETR's code.
        for part in (self.encoder.layers, self.decoder.layers):
            init_transformer_weights(part)

    def detect(
        self, features: list[Tensor], mask: Tensor, *, has_padding: bool | None = None, with_aux: bool | None = None
    ) -> DetectorOutput:
        """Project, encode and decode the last of ``features``; arguments as in ``Detector.detect``."""
        with_aux = self.training if with_aux is None else with_aux
        last = self.projection(features[-1])  # (B, C, h, w)
        shape, dim = (last.shape[2], last.shape[3]), self.config.hidden_dim
        # No shift: the half cell is a change of Deformable DETR, and DETR's weights are trained without it.
        grid = token_grid(mask, [shape], dim, has_padding=has_padding, position_shift=0.0)
        source = flatten_levels([last])  # (B, h*w, C)
        memory, _ = self.encoder(source, grid.positions, grid, None, with_aux=False)
        queries = self.queries(len(source))
        decoded = self.decoder(queries, memory, grid, with_aux=with_aux)
        return DetectorOutput(
            prediction=decoded.predictions[-1],
            grid=grid,
            source=source,
            memory=memory,
            selection=None,
            queries=queries,
            samplings=decoded.samplings,
            states=decoded.states,
            references=decoded.references,
            decoder_aux=decoded.predictions[:-1],
        )
