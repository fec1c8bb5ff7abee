"""FLOP and parameter counts compared with closed formulas and with the official counter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from rhobench.config.model_zoo import find_model
from rhobench.measure.flop_rules import OFFICIAL, STANDARD
from rhobench.measure.flops import CountError, FlopCount, count_call, count_flops, count_parameters, meta_copy
from rhobench.measure.sizes import SizeCosts, mean_flops
from rhobench.model import Detector, build_model

Count = Callable[..., FlopCount]

SIZE = (64, 96)
LEVELS = ((8, 12), (4, 6), (2, 3), (1, 2))
TOKENS = sum(h * w for h, w in LEVELS)
C, FFN, LAYERS, POINTS, HEADS = 32, 48, 2, 4, 4

EXPECTED = {
    ("deformable_detr_r50", None, (850, 1040)): 172.932308,
    ("two_stage_deformable_detr_r50", None, (850, 1040)): 177.371074,
    ("efficient_detr_r50", None, (850, 1040)): 177.331369,
    ("sparse_detr_r50", 0.1, (800, 1066)): 105.354609,
    ("sparse_detr_r50", 0.5, (800, 1066)): 135.594664,
    ("sparse_detr_r50", 0.5, (480, 641)): 51.161103,
    ("efficient_detr_swin_t", None, (850, 1040)): 184.797282,
    ("sparse_detr_swin_t", 0.1, (800, 1066)): 113.420418,
}
"""GFLOPs of the official counter (spec section 17), with more digits from its closed form."""


@pytest.fixture(scope="module")
def named() -> Iterator[Callable[[str], Detector]]:
    """Function that returns a model by name, without weights, each built once."""
    built: dict[str, Detector] = {}

    def of(name: str) -> Detector:
        if name not in built:
            built[name] = meta_copy(build_model(find_model(name)))
        return built[name]

    yield of
    built.clear()


@pytest.fixture
def count(build: Callable[..., Detector]) -> Count:
    """Function that counts the small detector; keywords change its configuration."""
    return lambda name="standard", **changes: count_flops(build(**changes), *SIZE, count=name)


def encoder_gflops(updated: int) -> float:
    """Cost by spec section 17: 2 operations per multiply-add, 5 multiply-adds per sample and channel."""
    reads = len(LEVELS) * POINTS
    value = TOKENS * C * C
    offsets_and_weights = updated * C * 3 * HEADS * reads
    sampling = 5 * updated * C * reads
    output = updated * C * C
    feed_forward = 2 * updated * C * FFN
    return 2 * LAYERS * (value + offsets_and_weights + sampling + output + feed_forward) / 1e9


@pytest.mark.parametrize(("name", "rho", "size"), EXPECTED)
def test_official_counts_equal_the_official_counter(
    named: Callable[[str], Detector], name: str, rho: float | None, size: tuple[int, int]
) -> None:
    model = named(name)
    model.rho = rho
    cost = count_flops(model, *size, count="official")
    assert cost.gflops == pytest.approx(EXPECTED[name, rho, size], abs=1e-6)
    assert sum(cost.parts.values()) == pytest.approx(cost.gflops, rel=1e-12)


def test_official_counts_can_include_the_auxiliary_heads(named: Callable[[str], Detector]) -> None:
    model = named("sparse_detr_r50")
    model.rho = 0.1
    assert count_flops(model, 800, 1066, count="official", encoder_aux=True).gflops == pytest.approx(106.740, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "total", "trainable", "published"),
    [
        ("deformable_detr_r50", 40069665, 39847265, 39847265),
        ("two_stage_deformable_detr_r50", 41181529, 40959129, 40959129),
        ("efficient_detr_r50", 41049689, 40827289, 40827289),
        ("sparse_detr_r50", 41937205, 41714805, 40934810),
        ("sparse_detr_swin_t", 42480239, 42176153, 41396158),
    ],
)
def test_parameters_are_those_of_the_official_model(
    named: Callable[[str], Detector], name: str, total: int, trainable: int, published: int
) -> None:
    parameters = count_parameters(named(name))
    assert (parameters.total, parameters.trainable, parameters.published) == (total, trainable, published)


@pytest.mark.parametrize("rho", [None, 0.1, 0.3, 0.5, 1.0])
def test_the_encoder_cost_equals_its_formula(count: Count, rho: float | None) -> None:
    cost = count(rho=rho, use_enc_aux_loss=False, name="standard")
    updated = TOKENS if rho is None else min(int(TOKENS * rho) + 1, TOKENS)
    assert (cost.tokens, cost.updated_tokens) == (TOKENS, updated)
    assert cost.parts["encoder"] == pytest.approx(encoder_gflops(updated), rel=1e-12)


@pytest.mark.parametrize("convention", ["standard", "official"])
def test_rho_changes_the_cost_of_the_encoder_alone(count: Count, convention: str) -> None:
    low, high = count(convention, rho=0.1), count(convention, rho=0.5)
    assert {part for part in low.parts if low.parts[part] != high.parts[part]} == {"encoder"}
    assert low.params_m == high.params_m


@pytest.mark.parametrize("convention", ["standard", "official"])
def test_the_total_is_the_sum_of_the_named_parts(count: Count, convention: str) -> None:
    cost = count(convention)
    names = {"backbone", "projections", "scorer", "encoder", "query selection", "decoder", "heads"}
    assert set(cost.parts) == names
    assert cost.gflops == pytest.approx(sum(cost.parts.values()), rel=1e-12)
    assert all(part > 0 for part in cost.parts.values())


def test_detr_has_no_sparse_parts() -> None:
    config = replace(find_model("detr_r50"), num_queries=5, hidden_dim=32, ffn_dim=32, enc_layers=1, dec_layers=1)
    cost = count_flops(build_model(config), *SIZE)
    assert set(cost.parts) == {"backbone", "projections", "encoder", "decoder", "heads"}
    assert cost.own_rules == ()


def test_a_count_names_its_convention_and_own_rules(count: Count) -> None:
    standard, official = count("standard"), count("official")
    assert (standard.count, standard.own_rules) == ("standard", ("grid_sampler_2d",))
    assert official.count == "official"
    assert set(official.own_rules) == {"grid_sampler_2d", "native_group_norm", "native_layer_norm"}
    assert "2 for each multiply-add" in STANDARD.description
    assert "1 for each multiply-add" in OFFICIAL.description


def test_heads_that_only_losses_need_are_not_counted(count: Count) -> None:
    with_heads, without = count(use_enc_aux_loss=True), count(use_enc_aux_loss=False)
    assert with_heads.gflops == without.gflops
    assert with_heads.params_m > without.params_m


def test_counting_does_not_modify_the_model(build: Callable[..., Detector]) -> None:
    model = build(attention_backend="cpu").train()
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    count_flops(model, *SIZE, count="official")
    assert model.training
    assert len(model.get_submodule("encoder.aux_heads")) == 1
    for name, tensor in model.state_dict(keep_vars=True).items():
        same, value = before[name]
        assert tensor is same
        assert torch.equal(tensor, value)
        assert tensor.requires_grad == same.requires_grad


def test_wrong_sizes_and_conventions_are_named(count: Count, build: Callable[..., Detector]) -> None:
    with pytest.raises(CountError, match="0x96"):
        count_flops(build(), 0, 96)
    with pytest.raises(CountError, match=r"'fvcore'.*standard, official"):
        count("fvcore")
    with pytest.raises(CountError, match="'standard' has none"):
        count_flops(build(), *SIZE, encoder_aux=True)


SIZES = [(320, 427), (427, 320), (320, 427), (333, 500), (321, 481)]


@pytest.fixture
def shallow(build: Callable[..., Detector]) -> Callable[..., Detector]:
    """The small detector with one layer each: its passes are short."""
    return lambda **changes: build(enc_layers=1, dec_layers=1, use_enc_aux_loss=False, **changes)


def counted(model: Detector, rho: float | None, convention: str) -> float:
    """Mean GFLOPs over ``SIZES``, by one pass for each."""
    model.rho = rho
    return sum(count_flops(model, *size, count=convention).gflops for size in SIZES) / len(SIZES)


def test_the_mean_over_sizes_is_that_of_single_counts_with_shared_passes(
    shallow: Callable[..., Detector],
) -> None:
    costs = SizeCosts(shallow(rho=0.3), SIZES, count="official")
    passes = costs.passes
    assert costs.has_closed_form
    own, low, high = (costs.mean_gflops(SIZES, rho) for rho in (None, 0.2, 0.7))
    assert low < own < high
    assert costs.passes == passes < 16
    assert high == pytest.approx(counted(shallow(rho=0.3), 0.7, "official"), rel=1e-12)


def test_mean_flops_gives_every_rho(shallow: Callable[..., Detector]) -> None:
    model = shallow(rho=None, num_feature_levels=1)
    assert mean_flops(model, SIZES) == {None: pytest.approx(counted(model, None, "standard"), rel=1e-12)}


def test_a_backbone_without_closed_form_is_counted_size_by_size(shallow: Callable[..., Detector]) -> None:
    model = shallow(rho=None, num_feature_levels=1)
    model.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0][..., : inputs[0].shape[-1] * 5 // 7],))
    costs = SizeCosts(model, SIZES)
    assert not costs.has_closed_form
    assert costs.mean_gflops(SIZES) == pytest.approx(counted(model, None, "standard"), rel=1e-12)


def test_a_rho_for_a_dense_model_is_rejected(shallow: Callable[..., Detector]) -> None:
    dense = SizeCosts(shallow(rho=None, num_feature_levels=1), SIZES[:1])
    with pytest.raises(CountError, match="has no rho"):
        dense.mean_gflops(SIZES, 0.3)
    with pytest.raises(CountError, match="at least one"):
        dense.mean_gflops([])


@pytest.mark.parametrize("name", ["standard", "official"])
def test_masks_are_a_separate_part_with_the_product_of_each_detection(count: Count, name: str) -> None:
    plain, masked = count(name), count(name, mask_head=True)
    coarse, fine = 8 * 12, 16 * 24  # cells before and after the enlargement
    multiply_adds = 9 * (32 * 16 * coarse + 16 * 8 * fine) + 8 * 8 * fine + 10 * (32 * 32 * 2 + 32 * 8) + 10 * 8 * fine
    norms = 5 * (16 * coarse + 8 * fine)
    expected = 2 * multiply_adds if name == "standard" else multiply_adds + norms
    assert masked.parts["masks"] == pytest.approx(expected / 1e9)
    assert masked.gflops - plain.gflops == pytest.approx(expected / 1e9)
    assert "masks" not in plain.parts
    assert {part: n for part, n in masked.parts.items() if part != "masks"} == pytest.approx(plain.parts)


def test_operations_of_other_models_are_counted_by_the_same_rules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    images = torch.rand(1, 3, 4, 4)
    assert count_call(lambda: model(images)) == 2 * (3 * 9 * 8 * 16 + 8 * 16 * 5)
    grid = torch.rand(1, 2, 5, 2)
    assert count_call(lambda: nn.functional.grid_sample(images, grid, align_corners=False)) == 2 * 5 * 3 * 10


def test_our_models_count_alike_as_models_of_others(build: Callable[..., Detector]) -> None:
    model = build()
    model.get_submodule("encoder").aux_heads = nn.ModuleList()
    assert count_call(lambda: model(torch.rand(1, 3, 96, 128))) == round(count_flops(model, 96, 128).gflops * 1e9)


def test_operations_of_an_unknown_library_are_not_counted() -> None:
    from torchvision.ops import deform_conv2d, nms

    images, weight, offset = torch.rand(1, 3, 8, 8), torch.rand(4, 3, 3, 3), torch.zeros(1, 18, 6, 6)
    assert count_call(lambda: deform_conv2d(images, offset, weight)) is None
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert count_call(lambda: nms(boxes, torch.ones(1), 0.5)) == 0
