from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.models.swin_transformer import window_partition
from torch import Tensor

from rhobench.config import BackboneConfig
from rhobench.model.backbone import Backbone
from rhobench.model.swin import MASKED, create_swin, is_swin, shift_mask

TINY = "swin_tiny_patch4_window7_224"
# Output of the official backbone for the weights of `fill` and the image of `noise`: height and width of each map, and
# the first four channels of the first cell and of the last, which is next to the padding.
OFFICIAL = {
    (20, 33): [  # every map is smaller than a window: shifting stays on
        ((3, 5), [-0.7634, -1.7148, -0.2406, 1.4693], [1.1943, 0.8068, -0.3303, -0.1637]),
        ((2, 3), [0.4874, 0.5404, -0.4517, -1.7476], [0.7895, 0.5106, -1.6405, -0.5937]),
        ((1, 2), [-0.2759, 0.6837, 1.2001, 0.3594], [0.4967, -0.6986, -0.0711, -0.5580]),
    ],
    (75, 91): [  # patches, merging and windows all need padding
        ((10, 12), [-1.3786, -0.6685, -0.0795, 0.8737], [0.1361, 0.0032, -0.4481, -0.1577]),
        ((5, 6), [0.9946, 0.6641, -1.0986, -0.8441], [-0.0614, -1.0372, -1.8265, 1.7284]),
        ((3, 3), [0.5750, 0.0755, 0.1913, 0.5840], [0.4751, 1.0547, -0.0940, -1.4623]),
    ],
    (160, 224): [
        ((20, 28), [-0.2893, -1.3519, -0.0888, -0.1677], [-0.4079, 0.0666, 0.3179, 0.5696]),
        ((10, 14), [1.4479, -1.5435, -0.1801, -0.6729], [2.1587, -1.2682, -1.8294, -0.7592]),
        ((5, 7), [0.5848, 1.5716, 0.8492, 0.8842], [0.3687, 0.2513, 1.2155, 0.3863]),
    ],
}


@torch.no_grad()
def fill(body: torch.nn.Module) -> None:
    for key, tensor in body.state_dict().items():
        if tensor.is_floating_point():
            generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
            draw = torch.from_numpy(generator.standard_normal(tensor.shape, dtype=np.float32))
            if tensor.ndim == 1:
                tensor.copy_(0.1 * draw + key.endswith("weight"))
            else:
                tensor.copy_(draw if "table" in key else draw / math.sqrt(math.prod(tensor.shape[1:])))


def noise(height: int, width: int) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(height * 1000 + width))
    return torch.from_numpy(generator.standard_normal((1, 3, height, width), dtype=np.float32))


@pytest.fixture(scope="module")
def swin() -> Backbone:
    backbone = Backbone(BackboneConfig(name=TINY)).eval()
    fill(backbone.body)
    return backbone


@pytest.mark.parametrize("size", OFFICIAL, ids=str)
def test_maps_equal_the_official_ones_at_any_size(swin: Backbone, size: tuple[int, int]) -> None:
    with torch.no_grad():
        maps = swin(noise(*size))
    for feature, (shape, first, last) in zip(maps, OFFICIAL[size], strict=True):
        assert feature.shape[2:] == shape
        torch.testing.assert_close(feature[0, :4, 0, 0], torch.tensor(first), rtol=0, atol=2e-4)
        torch.testing.assert_close(feature[0, :4, -1, -1], torch.tensor(last), rtol=0, atol=2e-4)


def test_maps_do_not_depend_on_the_batch_size(swin: Backbone) -> None:
    """Windows of several images share one mask."""
    images = torch.cat((noise(61, 45), noise(61, 45).flip(3)))
    with torch.no_grad():
        together = swin(images)
        for i in range(2):
            for alone, batched in zip(swin(images[i : i + 1]), together, strict=True):
                torch.testing.assert_close(alone[0], batched[i], rtol=1e-4, atol=1e-5)


def test_parameter_counts_equal_the_official_ones(swin: Backbone) -> None:
    """Spec section 11: 304,086 parameters of the Swin-T models are frozen, all in the backbone."""
    counts = {flag: sum(p.numel() for p in swin.parameters() if p.requires_grad == flag) for flag in (True, False)}
    assert counts == {True: 27_216_420, False: 304_086}
    frozen = {name for name, p in swin.body.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in swin.body.named_parameters() if n.startswith(("patch_embed.", "layers.0."))}


def test_state_dict_has_the_official_layout(swin: Backbone) -> None:
    state = swin.body.state_dict()
    assert len(state) == 187
    assert {key.split(".")[0] for key in state} == {"patch_embed", "layers", "norm1", "norm2", "norm3"}
    assert state["layers.0.downsample.reduction.weight"].shape == (192, 384)  # timm: layers.1.downsample
    assert not any(key.startswith("layers.3.downsample") for key in state)
    index = state["layers.2.blocks.5.attn.relative_position_index"]
    assert (index.dtype, index.shape) == (torch.int64, (49, 49))
    assert (index[0, 0], index[0, 48], index[48, 0]) == (84, 0, 168)


def test_timm_weights_load_from_a_file(tmp_path: Path) -> None:
    state = timm.create_model(TINY).state_dict()
    save_file(state, tmp_path / "swin.safetensors")
    body = Backbone(BackboneConfig(name=TINY, weights=str(tmp_path / "swin.safetensors"))).body
    loaded = body.state_dict()
    for theirs, ours in (
        ("patch_embed.proj.weight", "patch_embed.proj.weight"),
        ("layers.1.downsample.norm.weight", "layers.0.downsample.norm.weight"),
        ("layers.3.blocks.1.mlp.fc2.bias", "layers.3.blocks.1.mlp.fc2.bias"),
    ):
        assert torch.equal(loaded[ours], state[theirs])


def test_stochastic_depth_also_acts_in_the_frozen_stage(swin: Backbone) -> None:
    """Spec section 3: its rate grows from 0 to 0.2 over the blocks, and freezing does not disable it."""
    blocks = [block for stage in swin.body.layers for block in stage.blocks]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.2, 12))
    assert all(block.drop_path1.training for block in swin.train().body.layers[0].blocks)
    assert not any(block.drop_path1.training for block in swin.eval().body.layers[0].blocks)


@pytest.mark.parametrize(("name", "rate"), [("swin_small_patch4_window7_224", 0.3), ("swin_s3_tiny_224", 0.2)])
def test_larger_swins_drop_more_paths(name: str, rate: float) -> None:
    with torch.device("meta"):
        model = create_swin(name)
    assert model.layers[-1].blocks[-1].drop_path2.drop_prob == pytest.approx(rate)  # type: ignore[union-attr,index]


@pytest.mark.parametrize("name", ["swin_base_patch4_window12_384", "swin_s3_tiny_224"])
def test_other_windows_run_on_the_meta_device(name: str) -> None:
    """Needed to count cost without weights; Swin-S3 has windows of two sizes."""
    with torch.device("meta"):
        backbone = Backbone(BackboneConfig(name=name))
        maps = backbone(torch.zeros(1, 3, 801, 1066))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, math.ceil(801 / stride), math.ceil(1066 / stride))
        for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


def test_only_swin_v1_is_recognised() -> None:
    assert is_swin(TINY)
    assert is_swin(f"{TINY}.ms_in1k")
    assert not is_swin("swinv2_tiny_window8_256")


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([(7, 7), (4, 4), (5, 3)]))
@settings(max_examples=25)
def test_shifted_windows_mask_cells_that_were_not_neighbours(rows: int, columns: int, window: tuple[int, int]) -> None:
    """Two cells are unmasked exactly if they are as far apart in the map as in the window."""
    height, width = rows * window[0], columns * window[1]
    mask = shift_mask(height, width, window, torch.zeros(1))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack((y, x), -1).roll((-(window[0] // 2), -(window[1] // 2)), dims=(0, 1))
    inside = torch.stack((y % window[0], x % window[1]), -1)

    def distances(cells: Tensor) -> Tensor:
        flat = window_partition(cells[None], window).flatten(1, 2)  # (windows, cells, 2)
        return flat[:, :, None] - flat[:, None]

    neighbours = (distances(places) == distances(inside)).all(-1)
    assert torch.equal(mask, torch.where(neighbours, 0.0, MASKED))
