"""Closed forms of the transformer, compared with models that are built."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhobench.config import FAMILIES, BackboneConfig, ModelConfig
from rhobench.measure.backbone_cost import backbone_cost
from rhobench.measure.flops import count_flops
from rhobench.model import build_model
from rhobench.model.backbone import DILATED_STRIDES
from rhobench.model.backbone import STRIDES as BUILT_STRIDES
from rhobench.model.postprocess import MAX_DETECTIONS
from rhobench.preflight.transformer_cost import (
    MAX_MASKS,
    STRIDES,
    TransformerCost,
    backbone_strides,
    level_shapes,
    token_count,
)

SIZE = (64, 96)

SWITCHES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(sorted(FAMILIES)),
        "num_queries": st.integers(1, 12),
        "hidden_dim": st.sampled_from((32, 64)),
        "num_heads": st.sampled_from((1, 4)),
        "num_points": st.integers(1, 3),
        "num_feature_levels": st.integers(1, 4),
        "enc_layers": st.integers(1, 3),
        "dec_layers": st.integers(1, 3),
        "ffn_dim": st.integers(1, 40),
        "num_classes": st.integers(1, 5),
        "scoring": st.sampled_from(("dam", "objectness", "random")),
        **{name: st.booleans() for name in ("with_box_refine", "eff_query_init", "eff_specific_head", "mask_head")},
        **{name: st.booleans() for name in ("use_enc_aux_loss", "refine_single_stage")},
    }
)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(switches=SWITCHES)
def test_closed_forms_equal_the_built_model(switches: dict[str, Any]) -> None:
    fixed = FAMILIES[switches["name"]]
    if fixed.get("rho", 1) is None:
        switches = {**switches, "scoring": "dam"}
    backbone = BackboneConfig(name="test_resnet", frozen="none")
    config = ModelConfig(**{**switches, **fixed, "backbone": backbone, "attention_backend": "reference"})
    model = build_model(config)
    counted, of_backbone = count_flops(model, *SIZE), backbone_cost(backbone, *SIZE)
    cost, shapes = TransformerCost(model=config, channels=of_backbone.channels), level_shapes(config, *SIZE)
    assert token_count(shapes) == counted.tokens
    own = of_backbone.gflops + cost.operations(shapes, counted.updated_tokens) / 1e9
    assert own == pytest.approx(counted.gflops, rel=1e-12)
    parameters = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("backbone."))
    assert cost.parameters == parameters


def test_constants_are_those_of_the_model() -> None:
    assert STRIDES == BUILT_STRIDES
    assert MAX_MASKS == MAX_DETECTIONS
    assert backbone_strides(ModelConfig(backbone=BackboneConfig(dilation=True))) == DILATED_STRIDES


def test_gigantic_models_are_counted_without_being_built() -> None:
    config = ModelConfig(enc_layers=2**32, hidden_dim=2**20, ffn_dim=2**60, num_classes=1)
    assert TransformerCost(model=config, channels=(1, 1, 1)).parameters > 2**100


def test_levels_end_with_the_first_single_cell() -> None:
    config = ModelConfig(num_feature_levels=10**18)
    assert level_shapes(config, 160, 160) == [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    assert level_shapes(config, 1, 1) == [(1, 1)] * 3
