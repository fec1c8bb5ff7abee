from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rhobench.config import FAMILIES, ConfigError, LossConfig
from rhobench.config.model_zoo import find_model
from rhobench.model import DETR, MODELS, Detector, build_model
from rhobench.model.criterion import losses, weighted_sum
from rhobench.model.matcher import Objects
from rhobench.model.postprocess import detections

Build = Callable[..., Detector]
Make = Callable[[int], Objects]

SINGLE_STAGE: dict[str, Any] = {"two_stage": False, "rho": None, "use_enc_aux_loss": False}
SMALL: dict[str, dict[str, Any]] = {
    "detr": {**SINGLE_STAGE, "with_box_refine": False, "num_feature_levels": 1},
    "deformable_detr": {**SINGLE_STAGE, "with_box_refine": False},
    "refined_deformable_detr": SINGLE_STAGE,
    "two_stage_deformable_detr": {"eff_query_init": False, "eff_specific_head": False, "rho": None},
    "efficient_detr": {"rho": None},
    "sparse_detr": {},
}

TRAINABLE = {
    "deformable_detr_r50": 39_847_265,
    "two_stage_deformable_detr_r50": 40_959_129,
    "efficient_detr_r50": 40_827_289,
    "sparse_detr_r50": 41_714_805,
    "deformable_detr_swin_t": 40_308_613,
    "two_stage_deformable_detr_swin_t": 41_420_477,
    "efficient_detr_swin_t": 41_288_637,
    "sparse_detr_swin_t": 42_176_153,
    "sparse_detr_swin_b": 101_872_485,
}
"""Trainable parameters by spec sections 3 and 11; of sparse models with auxiliary heads."""
FROZEN = {"r50": 222_400, "swin_t": 304_086, "swin_b": 536_520}


def test_all_families_are_covered() -> None:
    assert set(SMALL) == set(FAMILIES)


@pytest.mark.parametrize("family", SMALL)
def test_every_parameter_of_every_family_gets_a_gradient(
    build: Build, images: Tensor, padded: Tensor, objects: Make, family: str
) -> None:
    model = build(name=family, **SMALL[family]).train()
    terms = losses(model(images, padded), [objects(3), objects(0)], LossConfig(), num_boxes=3)
    weighted_sum(terms, LossConfig()).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert trained
    assert not without


@pytest.mark.parametrize("family", SMALL)
def test_auxiliary_heads_do_not_change_the_prediction(
    build: Build, images: Tensor, padded: Tensor, family: str
) -> None:
    model = build(name=family, **SMALL[family])
    lean, full = model(images, padded, with_aux=False), model(images, padded, with_aux=True)
    torch.testing.assert_close(lean.prediction.logits, full.prediction.logits)
    torch.testing.assert_close(lean.prediction.boxes, full.prediction.boxes)
    assert (len(lean.decoder_aux), len(full.decoder_aux)) == (0, 1)


@pytest.mark.parametrize("family", SMALL)
def test_no_mask_means_no_padding(build: Build, images: Tensor, unpadded: Tensor, family: str) -> None:
    model = build(name=family, **SMALL[family])
    given, left_out = model(images, unpadded), model(images)
    assert torch.equal(given.prediction.boxes, left_out.prediction.boxes)
    assert torch.equal(given.prediction.logits, left_out.prediction.logits)


@pytest.mark.parametrize("family", SMALL)
def test_every_family_runs_on_the_meta_device(build: Build, images: Tensor, family: str) -> None:
    model = build(name=family, **SMALL[family])
    expected = model(images, with_aux=True)
    shapes = model.to("meta")(images.to("meta"), with_aux=True)
    assert shapes.prediction.logits.shape == expected.prediction.logits.shape
    assert (shapes.selection is None) == (expected.selection is None)
    if expected.selection is not None:
        assert shapes.selection.index.shape == expected.selection.index.shape


@pytest.mark.parametrize(("name", "parameters"), TRAINABLE.items())
def test_parameter_counts_equal_the_official_ones(name: str, parameters: int) -> None:
    model = build_model(MODELS[name])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == next(count for backbone, count in FROZEN.items() if name.endswith(backbone))


def test_boxes_are_refined_only_where_the_official_code_does(build: Build, images: Tensor) -> None:
    """``with_box_refine`` alone gives each layer a head but does not refine references (spec section 1)."""

    def references(**changes: Any) -> list[Tensor]:
        model = build(name="refined_deformable_detr", **SINGLE_STAGE, **changes)
        torch.nn.init.normal_(model.get_parameter("decoder.heads.0.box.4.weight"))
        return model(images).references

    first, second = references()
    assert first.shape[-1] == 2
    assert torch.equal(first, second)
    first, second = references(refine_single_stage=True)
    assert first.shape[-1] == second.shape[-1] == 4


def test_boxes_of_single_stage_queries_start_small(build: Build, images: Tensor) -> None:
    """A bias of -2 on width and height remains only in single-stage models (spec section 11)."""
    assert build(name="deformable_detr", **SMALL["deformable_detr"])(images).prediction.boxes[..., 2:].max() < 0.13
    two_stage = build(name="efficient_detr", rho=None)
    assert not two_stage.get_parameter("decoder.heads.0.box.4.bias").any()


def test_queries_are_selected_by_class_0_without_eff_specific_head(
    build: Build, images: Tensor, unpadded: Tensor, objects: Make
) -> None:
    model = build(name="two_stage_deformable_detr", **SMALL["two_stage_deformable_detr"])
    torch.nn.init.normal_(model.get_parameter("query_selector.head.classify.weight"))
    output = model(images, unpadded, with_aux=True)
    assert output.token_prediction is not None
    best = output.token_prediction.logits[..., 0].topk(12, dim=1).indices
    assert torch.equal(output.queries.tokens, best)
    relabelled = [Objects((o.labels + 1) % 5, o.boxes) for o in (objects(2), objects(3))]
    first, second = (
        losses(output, wanted, LossConfig(), num_boxes=5)["loss_ce_enc"]
        for wanted in ([objects(2), objects(3)], relabelled)
    )
    assert torch.equal(first, second)


def test_detr_uses_the_last_map_without_its_padding(build: Build, images: Tensor, padded: Tensor) -> None:
    model = build(name="detr", **SMALL["detr"])
    assert isinstance(model, DETR)
    features = model.backbone(images)
    changed = [torch.randn_like(features[0]), torch.randn_like(features[1]), features[2].clone()]
    output = model.detect(changed, padded)
    assert output.grid.shapes == ((2, 3),)
    assert output.prediction.logits.shape == (2, 12, 6)  # 5 classes and "no object"
    assert torch.equal(output.prediction.boxes, model.detect(features, padded).prediction.boxes)
    changed[2][1, :, :, 2:] += 1.0
    torch.testing.assert_close(model.detect(changed, padded).prediction.boxes, output.prediction.boxes)


def test_detr_gives_each_query_one_class(build: Build, images: Tensor, objects: Make) -> None:
    prediction = build(name="detr", **SMALL["detr"])(images).prediction
    found = detections(prediction, torch.tensor([[64, 96], [64, 96]]))
    assert found.scores.shape == (2, 12)
    assert (found.labels < 5).all()
    best = prediction.logits.softmax(-1)[..., :5].amax(-1)
    assert torch.equal(found.scores, best.sort(descending=True).values)


def test_detr_weights_no_object_less(build: Build, images: Tensor, objects: Make) -> None:
    output = build(name="detr", **SMALL["detr"])(images, with_aux=True)
    wanted = [objects(2), objects(1)]
    even, light = (losses(output, wanted, LossConfig(no_object_weight=w), 3)["loss_ce"] for w in (1.0, 0.1))
    log_probability = output.prediction.logits.log_softmax(-1)
    assert even != light
    silent = losses(output, [objects(0), objects(0)], LossConfig(), 1)
    torch.testing.assert_close(silent["loss_ce"], -log_probability[..., -1].mean())
    assert silent["loss_bbox"] == 0


@pytest.mark.parametrize(
    ("name", "family", "backbone"),
    [
        ("sparse_detr_swin_b", "sparse_detr", "swin_base_patch4_window7_224"),
        ("two_stage_deformable_detr_convnext_tiny", "two_stage_deformable_detr", "convnext_tiny"),
        ("detr", "detr", "resnet50"),
    ],
)
def test_models_are_resolved_by_name(name: str, family: str, backbone: str) -> None:
    config = find_model(name)
    assert (config.name, config.backbone.name, config.num_classes) == (family, backbone, 91)


def test_a_misspelt_model_name_suggests_the_nearest() -> None:
    assert find_model("detr_r50_dc5").backbone.dilation
    with pytest.raises(ConfigError, match=r"no model 'sparce_detr_r50'. Did you mean 'sparse_detr_r50'\?"):
        find_model("sparce_detr_r50")
