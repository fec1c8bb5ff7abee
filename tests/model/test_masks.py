"""The mask head: its output, its losses, and that models without it are unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rhobench.config import ConfigError, LossConfig, ModelConfig
from rhobench.model import Detector
from rhobench.model.criterion import losses, weighted_sum
from rhobench.model.masks import MaskEmbeddings, mask_losses
from rhobench.model.matcher import Objects
from rhobench.model.official import WeightsError, official_state
from rhobench.model.postprocess import MASK_CHUNK_SIZE, detection_masks

Build = Callable[..., Detector]

FAMILIES = {
    "sparse": {},
    "dense": {"name": "efficient_detr", "rho": None},
    "one stage": {"name": "deformable_detr", "rho": None, "two_stage": False, "with_box_refine": False},
}


def masked(objects: Objects) -> Objects:
    """Return the objects with their boxes as masks, on the cells of an image of 64 x 96 pixels."""
    centre, side = (objects.boxes * torch.tensor([24, 16, 24, 16])).split(2, dim=1)
    low, high = centre - side / 2, centre + side / 2
    x, y = torch.arange(24) + 0.5, torch.arange(16) + 0.5
    across = (x > low[:, :1]) & (x < high[:, :1])
    down = (y > low[:, 1:]) & (y < high[:, 1:])
    return objects._replace(masks=255 * (down[:, :, None] & across[:, None]).to(torch.uint8))


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_every_query_has_a_mask_on_the_cells_of_the_padded_image(
    build: Build, images: Tensor, padded: Tensor, changes: dict
) -> None:
    with torch.inference_mode():
        masks = build(mask_head=True, **changes)(images, padded).masks
    assert masks is not None
    assert masks.cells.shape == (2, 8, 16, 24)
    assert masks.queries.shape == (2, 12, 8)
    assert masks.sizes.tolist() == [[64, 96], [64, 48]]
    assert torch.equal(masks.padding[1], padded[1, ::4, ::4])
    assert not masks.padding[0].any()
    chosen = masks.logits(1, torch.tensor([3, 0]))
    expected = (masks.queries[1, [3, 0]] @ masks.cells[1].flatten(1)).unflatten(1, (16, 24))
    torch.testing.assert_close(chosen, expected)
    assert masks.logits(0, torch.arange(0)).shape == (0, 16, 24)


def test_images_of_odd_sizes_have_four_cells_per_token(build: Build) -> None:
    with torch.inference_mode():
        masks = build(mask_head=True)(torch.randn(1, 3, 75, 101)).masks
    assert masks.cells.shape[2:] == (2 * 10, 2 * 13)
    assert masks.sizes.tolist() == [[75, 101]]


def test_the_mask_head_does_not_change_the_detections(build: Build, images: Tensor) -> None:
    plain, masking = build(), build(mask_head=True)
    own = {name for name in masking.state_dict() if name.startswith("mask_head.")}
    assert set(masking.state_dict()) - own == set(plain.state_dict())
    assert own
    masking.load_state_dict(plain.state_dict(), strict=False)
    with torch.inference_mode():
        without, with_head = plain(images), masking(images)
    assert without.masks is None
    assert torch.equal(without.prediction.boxes, with_head.prediction.boxes)
    assert torch.equal(without.prediction.logits, with_head.prediction.logits)


def test_detr_has_no_mask_head() -> None:
    detr = {"name": "detr", "rho": None, "two_stage": False, "with_box_refine": False, "use_enc_aux_loss": False}
    with pytest.raises(ConfigError, match=r"model.mask_head=True is not allowed: detr requires False"):
        ModelConfig(**detr, num_feature_levels=1, mask_head=True)


def test_the_official_layout_has_no_mask_head(build: Build) -> None:
    with pytest.raises(WeightsError, match=r"no model.mask_head=True"):
        official_state(build(mask_head=True))


def embeddings(padded_columns: int = 0) -> MaskEmbeddings:
    """Two images with 5 queries on 6 x 8 cells, whose last columns are padding."""
    generator = torch.Generator().manual_seed(3)
    cells, queries = torch.randn(2, 4, 6, 8, generator=generator), torch.randn(2, 5, 4, generator=generator)
    padding = torch.zeros(2, 6, 8, dtype=torch.bool)
    padding[:, :, 8 - padded_columns :] = True
    sizes = torch.tensor([[24, 32 - 4 * padded_columns]] * 2)
    return MaskEmbeddings(cells=cells, queries=queries, padding=padding, sizes=sizes)


def test_losses_equal_their_formulas() -> None:
    """DETR, section 4.4, and Lin et al. 2017, equation 5, for the focal loss; in float64, cell by cell."""
    masks = embeddings(padded_columns=3)
    generator = torch.Generator().manual_seed(4)
    targets = [torch.randint(256, (n, 6, 5), generator=generator, dtype=torch.uint8) for n in (3, 1)]
    pairs = [(torch.tensor([4, 1]), torch.tensor([2, 0])), (torch.tensor([0]), torch.tensor([0]))]
    focal = dice = 0.0
    for image, (queries, objects) in enumerate(pairs):
        for query, number in zip(queries, objects, strict=True):
            logits = torch.einsum("d,dhw->hw", masks.queries[image, query].double(), masks.cells[image].double())[:, :5]
            p, t = logits.sigmoid(), targets[image][number].double() / 255
            cross_entropy = -t * p.log() - (1 - t) * (1 - p).log()
            p_t, alpha_t = p * t + (1 - p) * (1 - t), 0.3 * t + 0.7 * (1 - t)
            focal += float((alpha_t * (1 - p_t) ** 2 * cross_entropy).mean())
            dice += float(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    found = mask_losses(masks, targets, pairs, 0.3, 2.0, num_boxes=4.0)
    assert found["loss_mask_focal"].item() == pytest.approx(focal / 4, rel=1e-5)
    assert found["loss_mask_dice"].item() == pytest.approx(dice / 4, rel=1e-5)


def test_padding_does_not_change_the_losses() -> None:
    masks = embeddings(padded_columns=2)
    targets = [torch.full((1, 6, 6), 128, dtype=torch.uint8)] * 2
    pairs = [(torch.tensor([2]), torch.tensor([0]))] * 2
    first = mask_losses(masks, targets, pairs, 0.25, 2.0, 2.0)
    elsewhere = replace(masks, cells=torch.cat((masks.cells[..., :6], 99 + 0 * masks.cells[..., 6:]), dim=-1))
    second = mask_losses(elsewhere, targets, pairs, 0.25, 2.0, 2.0)
    assert first == second
    inside = replace(masks, cells=masks.cells.flip(3))
    assert mask_losses(inside, targets, pairs, 0.25, 2.0, 2.0) != first


def test_gradients_reach_the_head_and_what_it_reads(
    build: Build, images: Tensor, padded: Tensor, objects: Callable[[int], Objects]
) -> None:
    model, config = build(mask_head=True).train(), LossConfig(mask_focal_weight=2.0, mask_dice_weight=3.0)
    terms = losses(model(images, padded), [masked(objects(3)), masked(objects(0))], config, 3.0)
    alone = {name: value for name, value in terms.items() if name.startswith(("loss_mask_focal", "loss_mask_dice"))}
    total = weighted_sum(alone, config)
    assert total.item() == pytest.approx(2 * terms["loss_mask_focal"].item() + 3 * terms["loss_mask_dice"].item())
    total.backward()
    for name, parameter in model.mask_head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for part in (model.encoder.layers, model.decoder.layers, model.projection[0]):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_a_batch_without_objects_gives_every_parameter_a_gradient(build: Build, images: Tensor) -> None:
    """Data-parallel training waits for the gradient of every parameter."""
    model = build(mask_head=True).train()
    empty = masked(Objects(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)))
    terms = losses(model(images), [empty, empty], LossConfig(), 1.0)
    assert (terms["loss_mask_focal"].item(), terms["loss_mask_dice"].item()) == (0, 0)
    weighted_sum(terms, LossConfig()).backward()
    assert all(p.grad is not None for p in model.mask_head.parameters())


def test_losses_are_float32_under_autocast(build: Build, images: Tensor, objects: Callable[[int], Objects]) -> None:
    model = build(mask_head=True).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
    assert output.masks.cells.dtype == torch.bfloat16
    terms = losses(output, [masked(objects(2)), masked(objects(1))], LossConfig(), 3.0)
    assert terms["loss_mask_focal"].dtype == terms["loss_mask_dice"].dtype == torch.float32


def test_masks_at_the_size_of_the_image_are_the_resized_logits() -> None:
    masks = embeddings()
    queries = torch.tensor([1, 3, 1, 0])
    found = dict(zip(*next(iter(detection_masks(masks, 1, queries, (48, 64)))), strict=True))
    assert sorted(int(query) for query in found) == [0, 1, 3]
    for query, mask in found.items():
        logits = masks.logits(1, query[None])[None]
        enlarged = F.interpolate(logits, (48, 64), mode="bilinear", align_corners=False)[0, 0]
        sure = enlarged.abs() > 1e-4
        assert torch.equal(mask[sure], enlarged[sure] > 0)


def test_masks_of_a_padded_image_are_cut_where_the_image_ends() -> None:
    """The image fills 23 of 24 rows and 21 of 32 columns; the logits of padded cells must have no effect."""
    masks = replace(embeddings(), sizes=torch.tensor([[23, 21]] * 2))
    ((_, found),) = detection_masks(masks, 0, torch.arange(5), (46, 42))
    logits = masks.logits(0, torch.arange(5))[None, :, :, :6]  # 6 cells hold 21 columns
    input_size = F.interpolate(logits, scale_factor=8.0, mode="bilinear", align_corners=False)[0, :, :46, :42]
    sure = input_size.abs() > 1e-4
    assert torch.equal(found[sure], (input_size > 0)[sure])


def test_masks_are_computed_in_chunks() -> None:
    masks = replace(embeddings(), queries=torch.randn(2, 20, 4))
    parts = list(detection_masks(masks, 0, torch.arange(20).flip(0), (10, 10)))
    assert [len(shapes) for _, shapes in parts] == [MASK_CHUNK_SIZE, MASK_CHUNK_SIZE, 20 - 2 * MASK_CHUNK_SIZE]
    assert torch.cat([queries for queries, _ in parts]).tolist() == list(range(20))
    assert next(detection_masks(masks, 0, torch.arange(0), (10, 10)))[1].shape == (0, 10, 10)
