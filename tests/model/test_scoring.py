from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rhobench.config import LossConfig
from rhobench.model import Detector
from rhobench.model.criterion import losses, prediction_sets, weighted_sum
from rhobench.model.matcher import Objects
from rhobench.model.official import WeightsError, official_state
from rhobench.model.scoring import RandomScorer
from rhobench.model.tokens import TokenNorm, token_grid

Build = Callable[..., Detector]
Make = Callable[[int], Objects]
SCORINGS = ("dam", "objectness", "random")
CHOICES = (0.1, 0.25, 0.5, 1.0)


def kept(model: Detector, images: Tensor, mask: Tensor) -> list[list[int]]:
    """The token indices that each image owns, in ascending order."""
    selection = model(images, mask).selection
    assert selection is not None
    return [sorted(row[own].tolist()) for row, own in zip(selection.index, selection.owned, strict=True)]


@pytest.mark.parametrize("scoring", SCORINGS)
def test_every_parameter_gets_a_gradient_with_every_scorer(
    build: Build, images: Tensor, padded: Tensor, objects: Make, scoring: str
) -> None:
    model = build(scoring=scoring).train()
    model.begin_step(0, 0)
    terms = losses(model(images, padded), [objects(3), objects(0)], LossConfig(), num_boxes=3)
    weighted_sum(terms, LossConfig(), step=0).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert ("loss_mask_prediction" in terms) == (scoring == "dam")
    assert ("loss_ce_backbone" in terms) == (scoring == "objectness")
    assert 0 < terms["corr_mask_attn_map_dec_all"] < 1


def test_objectness_selects_tokens_by_their_highest_class_score(
    build: Build, images: Tensor, unpadded: Tensor, objects: Make
) -> None:
    model = build(scoring="objectness")
    torch.nn.init.normal_(model.get_parameter("scorer.head.classify.weight"))
    output = model(images, unpadded, with_aux=True)
    assert output.scorer_prediction is not None
    best = output.scorer_prediction.logits.amax(-1)
    assert torch.equal(output.selection.index, best.topk(output.selection.index.shape[1], dim=1).indices)
    lean = model(images, unpadded, with_aux=False)
    assert lean.scorer_prediction is None
    assert torch.equal(lean.selection.index, output.selection.index)


def test_objectness_learns_from_the_objects_and_not_from_the_decoder(
    build: Build, images: Tensor, unpadded: Tensor, objects: Make
) -> None:
    model = build(scoring="objectness").train()
    terms = losses(model(images, unpadded), [objects(2), objects(2)], LossConfig(), 4)
    sum(value for name, value in terms.items() if name.endswith("_backbone")).backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"scorer", "token_norm", "level_embed", "projection", "backbone"}
    assert "_backbone" in dict(prediction_sets(model(images, unpadded)))


def test_random_tokens_are_the_same_for_every_image_batch_and_device(
    build: Build, images: Tensor, unpadded: Tensor
) -> None:
    model = build(scoring="random")
    together = kept(model, images, unpadded)
    assert together[0] == together[1]
    assert kept(model, images[1:].flip(3), unpadded[1:]) == [together[0]]
    assert kept(copy.deepcopy(model), images, unpadded) == together
    assert kept(build(scoring="random"), images, unpadded) == together, "the seed of the run decides"
    other = build(scoring="random")
    other.load_state_dict(model.state_dict() | {"scorer.key": torch.tensor(1)})
    assert kept(other, images, unpadded) != together


def test_random_scores_do_not_depend_on_padding() -> None:
    scorer, norm, sizes = RandomScorer().eval(), TokenNorm(32), ((8, 12), (4, 6))
    small = token_grid(torch.zeros(1, 64, 96, dtype=torch.bool), sizes, 32)
    larger = token_grid(torch.zeros(1, 96, 128, dtype=torch.bool), ((12, 16), (6, 8)), 32)
    scores = [
        scorer(torch.zeros(1, sum(g.level_sizes), 32), norm, g, with_aux=False).logits[0] for g in (small, larger)
    ]
    for (height, width), a, b, wide in zip(
        sizes, scores[0].split(small.level_sizes), scores[1].split(larger.level_sizes), (16, 8), strict=True
    ):
        assert torch.equal(a.view(height, width), b.view(-1, wide)[:height, :width])


def test_random_scores_are_uniform_and_distinct() -> None:
    scorer = RandomScorer().eval()
    grid = token_grid(torch.zeros(1, 800, 1066, dtype=torch.bool), ((100, 134), (50, 67), (25, 34), (13, 17)), 32)
    tokens = torch.zeros(2, sum(grid.level_sizes), 32, dtype=torch.bfloat16)
    scores = scorer(tokens, TokenNorm(32), grid, with_aux=False).logits
    shares = torch.histc(scores[0], bins=10, min=0, max=1) / scores.shape[1]
    assert (shares - 0.1).abs().max() < 0.01
    assert len(scores[0].unique()) > 0.99 * scores.shape[1]
    for level in scores[0].split(grid.level_sizes):  # no level is preferred
        assert level.mean() == pytest.approx(0.5, abs=0.05)


def test_random_tokens_change_with_every_step_in_training_only(build: Build, images: Tensor, unpadded: Tensor) -> None:
    model = build(scoring="random")
    fixed = kept(model, images, unpadded)
    model.train()

    def at(seed: int, step: int) -> list[list[int]]:
        model.begin_step(seed, step)
        return kept(model, images, unpadded)

    assert at(0, 1) == at(0, 1)
    assert len({str(tokens) for tokens in (at(0, 1), at(0, 2), at(1, 1), fixed)}) == 4
    model.eval()
    assert kept(model, images, unpadded) == fixed


def test_the_rho_of_a_step_depends_only_on_seed_and_step(build: Build, images: Tensor, unpadded: Tensor) -> None:
    """So that all workers agree, and a resumed training draws what an uninterrupted one would."""
    model, other = build(rho_choices=CHOICES).train(), build(rho_choices=CHOICES).train()

    def drawn(model: Detector, seed: int, step: int) -> float | None:
        model.begin_step(seed, step)
        return model.active_rho

    first = [drawn(model, 0, step) for step in range(400)]
    torch.manual_seed(99)
    assert [drawn(other, 0, step) for step in reversed(range(400))] == first[::-1]
    assert [drawn(model, 1, step) for step in range(400)] != first
    counts = Counter(first)
    assert set(counts) == set(CHOICES)
    assert all(abs(count / 400 - 0.25) < 0.08 for count in counts.values())


def test_a_rho_listed_twice_is_drawn_twice_as_often(build: Build) -> None:
    model, counts = build(rho_choices=(0.1, 0.1, 1.0)).train(), Counter[float | None]()
    for step in range(600):
        model.begin_step(0, step)
        counts[model.active_rho] += 1
    assert set(counts) == {0.1, 1.0}
    assert counts[0.1] == pytest.approx(400, abs=40)


def test_training_updates_the_drawn_share_and_evaluation_the_configured_one(
    build: Build, images: Tensor, unpadded: Tensor
) -> None:
    model = build(rho=0.3, rho_choices=CHOICES).train()
    seen = set()
    for step in range(20):
        model.begin_step(0, step)
        assert model.active_rho is not None
        assert len(kept(model, images, unpadded)[0]) == min(int(128 * model.active_rho) + 1, 128)
        seen.add(model.active_rho)
    assert seen == set(CHOICES)
    model.eval()
    for rho in (0.3, 0.05):
        model.rho = rho
        assert len(kept(model, images, unpadded)[0]) == int(128 * rho) + 1


def test_a_training_step_without_begin_step_is_reported(build: Build, images: Tensor, unpadded: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"call begin_step\(seed, step\) before forward"):
        build(rho_choices=CHOICES).train()(images, unpadded)


@pytest.mark.parametrize("scoring", SCORINGS[1:])
def test_other_scorers_have_no_official_names(build: Build, scoring: str) -> None:
    with pytest.raises(WeightsError, match=f"no model.scoring='{scoring}'"):
        official_state(build(scoring=scoring))
