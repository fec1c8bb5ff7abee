from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from rhobench.config import BackboneConfig
from rhobench.config.errors import ConfigError
from rhobench.model.backbone import STRIDES, Backbone, nearest_maps
from rhobench.model.pretrained import BackboneError

EVEN, ODD = (160, 224), (157, 131)


def backbone(name: str, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig(name=name, **({"frozen": "none"} | options))).eval()


def on_meta(name: str, **options: Any) -> Backbone:
    """Backbone on the meta device: enough for shapes, and instant for large models."""
    with torch.device("meta"):
        return backbone(name, **options)


def noise(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [EVEN, ODD], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_efficientnet",
        "regnetx_002",
        "pvt_v2_b0",
        "test_mambaout",  # channels-last maps
        "test_vit",  # one stride: 16
        "eva02_tiny_patch14_224",  # one stride: 14
        "efficientvit_m0",  # strides 16, 32, 64
        "crossvit_tiny_240",  # strides 12 and 17
    ],
)
def test_maps_have_strides_8_16_and_32(name: str, size: tuple[int, int]) -> None:
    model = backbone(name)
    with torch.no_grad():
        maps = model(noise(*size))
    wanted = [(1, c, *(math.ceil(s / stride) for s in size)) for c, stride in zip(model.channels, STRIDES, strict=True)]
    assert [tuple(m.shape) for m in maps] == wanted
    assert all(m.isfinite().all() for m in maps)


@pytest.mark.parametrize("name", ["test_convnext", "hrnet_w18_small", "swinv2_tiny_window8_256", "vgg11"])
def test_a_map_with_the_right_stride_is_not_resampled(name: str) -> None:
    """Even though ConvNeXt and VGG round the sides of their maps down."""
    ours = on_meta(name)(torch.zeros(1, 3, *EVEN, device="meta"))
    assert [tuple(m.shape[2:]) for m in ours] == [(20, 28), (10, 14), (5, 7)]
    if name == "test_convnext":
        assert [tuple(m.shape[2:]) for m in backbone(name)(noise(*ODD))] == [(19, 16), (9, 8), (4, 4)]


def test_a_vit_returns_its_last_blocks_resampled() -> None:
    model = backbone("test_vit")
    reference = timm.create_model("test_vit", features_only=True, dynamic_img_size=True, out_indices=3).eval()
    reference.load_state_dict(model.body.state_dict())
    with torch.no_grad():
        ours, blocks = model(noise(*EVEN)), reference(noise(*EVEN))
    sizes = [(20, 28), (10, 14), (5, 7)]
    for feature, block, size in zip(ours, blocks, sizes, strict=True):
        expected = functional.interpolate(block, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(feature, expected)


@pytest.mark.parametrize(
    ("reductions", "chosen"),
    [
        ([2, 4, 8, 16, 32], [2, 3, 4]),
        ([4, 8, 16, 32, 64], [1, 2, 3]),
        ([16] * 12, [9, 10, 11]),
        ([8, 8, 16, 32, 64], [1, 2, 3]),  # the deeper of two
        ([4, 8, 16], [1, 2, 2]),
        ([16, 32, 64], [0, 0, 1]),
        ([4, 16, 32], [0, 1, 2]),  # 4 and 16 are equally near 8: the finer
    ],
)
def test_the_nearest_maps_are_chosen(reductions: list[int], chosen: list[int]) -> None:
    assert nearest_maps(reductions, STRIDES) == chosen


@given(st.lists(st.integers(1, 64), min_size=1, max_size=14).map(sorted))
def test_maps_are_chosen_in_order_of_depth(reductions: list[int]) -> None:
    chosen = nearest_maps(reductions, STRIDES)
    assert chosen == sorted(chosen)
    for index, stride in zip(chosen, STRIDES, strict=True):
        ratio = max(reductions[index] / stride, stride / reductions[index])
        assert all(ratio <= max(other / stride, stride / other) * (1 + 1e-9) for other in reductions)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("test_vit_relpos", EVEN, "does not accept images of 160x224 pixels, only of 160x160.*data.resize_px"),
        ("pit_ti_224", EVEN, "only of 224x224"),
    ],
)
def test_an_unsupported_image_size_is_reported(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        on_meta(name)(torch.zeros(1, 3, *size, device="meta"))


@pytest.mark.parametrize(
    ("name", "multiple"),
    [
        ("hrnet_w18_small", 32),
        ("test_maxvit", 160),
        ("vit_small_r26_s32_224", 32),  # timm silently returns wrong maps
    ],
)
def test_images_are_padded_to_the_multiple_that_a_model_needs(name: str, multiple: int) -> None:
    backbone, images = on_meta(name), torch.zeros(1, 3, *ODD, device="meta")
    for _ in range(2):  # the second call knows the multiple
        maps = backbone(images)
        assert [m.shape[-2:] for m in maps] == [tuple(-(-side // s) for side in ODD) for s in (8, 16, 32)]
    padded = -(-torch.tensor(ODD) // multiple) * multiple
    assert backbone(torch.zeros(1, 3, *padded.tolist(), device="meta"))[2].shape[-2:] == tuple((padded // 32).tolist())


def test_padding_for_the_backbone_equals_padding_the_image() -> None:
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(name="test_maxvit", frozen="none")).eval()
    images = torch.randn(1, 3, 150, 130)
    filled = torch.nn.functional.pad(images, (0, 30, 0, 10))
    for ours, expected in zip(backbone(images), backbone(filled), strict=True):
        assert torch.equal(ours, expected[..., : ours.shape[2], : ours.shape[3]])


@pytest.mark.parametrize("name", ["test_maxvit", "test_vit_relpos", "pit_ti_224"])
def test_a_model_of_fixed_size_accepts_that_size(name: str) -> None:
    model = on_meta(name)
    side = model.body.pretrained_cfg["input_size"][1]
    maps = model(torch.zeros(1, 3, side, side, device="meta"))
    assert [m.shape[1] for m in maps] == model.channels


def test_other_errors_of_the_model_are_reraised() -> None:
    with pytest.raises(RuntimeError, match="channels") as caught:
        backbone("test_resnet")(torch.zeros(1, 4, 64, 64))
    assert not isinstance(caught.value, BackboneError)


def test_dilation_keeps_the_last_stage_at_stride_16() -> None:
    """DC5 is the ResNet of torchvision with ``replace_stride_with_dilation``, as used by DETR and its successors."""
    model = backbone("resnet50", dilation=True)
    reference = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    reference.load_state_dict(model.body.state_dict(), strict=False)
    x, expected = noise(75, 91), []
    with torch.no_grad():
        maps = model(x)
        for name, layer in list(reference.named_children())[:8]:
            x = layer(x)
            expected += [x] if name in ("layer2", "layer3", "layer4") else []
    assert [tuple(m.shape[2:]) for m in maps] == [(10, 12), (5, 6), (5, 6)]
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "hrnet_w18_small", "dla34"])
def test_a_backbone_without_dilation_is_reported(name: str) -> None:
    with pytest.raises(BackboneError, match=f"dilation=true needs .*output_stride=16, and '{name}' does not"):
        on_meta(name, dilation=True)


@pytest.mark.parametrize(
    ("name", "last_frozen", "first_trained"),
    [
        ("resnet50", "layer1.2.conv3.weight", "layer2.0.conv1.weight"),
        ("convnext_atto", "stages_0.blocks.1.mlp.fc2.bias", "stages_1.downsample.0.weight"),
        ("cspnext_tiny", "model.stages.0.1.final_conv.conv.weight", "model.stages.1.0.conv.weight"),
        ("vgg11", "features_8.bias", "features_11.weight"),  # its maps follow a layer without parameters
        ("swin_tiny_patch4_window7_224", "layers.0.downsample.reduction.weight", "layers.1.blocks.0.norm1.weight"),
    ],
)
def test_early_freezes_the_stem_and_what_follows_up_to_stride_4(
    name: str, last_frozen: str, first_trained: str
) -> None:
    trained = {key: p.requires_grad for key, p in on_meta(name, frozen="early").body.named_parameters()}
    keys = list(trained)
    assert list(trained.values()) == sorted(trained.values())  # the frozen ones come first
    assert (keys[keys.index(first_trained) - 1], trained[last_frozen], trained[first_trained]) == (
        last_frozen,
        False,
        True,
    )


@pytest.mark.parametrize("name", ["test_vit", "sequencer2d_s"])
def test_a_backbone_without_an_early_stage_cannot_freeze_it(name: str) -> None:
    with pytest.raises(BackboneError, match="'early' freezes nothing: choose 'none' or 'all'"):
        on_meta(name, frozen="early")


def test_resnet_keeps_the_names_of_timm() -> None:
    """Artifacts and the conversion to official names rely on them."""
    state, reference = backbone("test_resnet").state_dict(), timm.create_model("test_resnet").state_dict()
    reference = {key: value for key, value in reference.items() if not key.startswith("fc.")}
    assert {key for key in reference if "num_batches" not in key} == {key.removeprefix("body.") for key in state}
    assert all(key.startswith("body.") for key in state)


def test_a_name_may_carry_the_tag_of_its_weights() -> None:
    assert on_meta("resnet18.a1_in1k").channels == [128, 256, 512]
    with pytest.raises(BackboneError, match=r"timm cannot build 'resnet18.nobody' as a feature extractor"):
        on_meta("resnet18.nobody")


def test_a_model_with_the_usual_strides_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    create, built = timm.create_model, []

    def count(*args: Any, **options: Any) -> Any:
        built.append(create(*args, **options))
        return built[-1]

    monkeypatch.setattr(timm, "create_model", count)
    for name in ("test_resnet", "test_vit", "resnet18"):
        on_meta(name)
    assert len(built) == 3


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("stride", [8, 16])
def test_stages_beyond_the_coarsest_map_are_not_built(name: str, stride: int) -> None:
    whole, pruned = backbone(name), backbone(name, max_stride=stride)
    values = {_timm_name(name): value for name, value in whole.state_dict().items()}
    pruned.load_state_dict({name: values[_timm_name(name)] for name in pruned.state_dict()})
    with torch.no_grad():
        maps, expected = pruned(noise(*ODD)), whole(noise(*ODD))
    assert len(maps) == {8: 1, 16: 2}[stride]
    for ours, theirs in zip(maps, expected, strict=False):
        torch.testing.assert_close(ours, theirs)
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in whole.parameters()) / 1.5


def _timm_name(name: str) -> str:
    """Name of a tensor without the differences between the extractors of timm."""
    return name.replace("body.model.", "body.").replace("_", ".")


def test_a_pruned_backbone_has_no_last_stage_to_dilate() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.backbone\.max_stride=16 is not allowed: dilation changes the stage of stride 32"
    ):
        BackboneConfig(dilation=True, max_stride=16)
