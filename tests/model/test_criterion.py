from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rhobench.config import FAMILIES, LossConfig
from rhobench.model import Detector, criterion
from rhobench.model.boxes import inverse_sigmoid
from rhobench.model.criterion import losses, prediction_sets, weighted_sum
from rhobench.model.heads import Prediction
from rhobench.model.matcher import NonFiniteError, Objects, match, match_sets, matching_cost
from rhobench.model.set_losses import set_losses

Build = Callable[..., Detector]
Make = Callable[[int], Objects]
CONFIG = LossConfig()


def random_prediction(images: int, count: int, seed: int = 0) -> Prediction:
    generator = torch.Generator().manual_seed(seed)
    boxes = 0.1 + 0.4 * torch.rand(images, count, 4, generator=generator)
    return Prediction(torch.randn(images, count, 5, generator=generator), boxes)


def random_objects(count: int, seed: int) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    return Objects(
        torch.randint(5, (count,), generator=generator), 0.1 + 0.4 * torch.rand(count, 4, generator=generator)
    )


@given(predictions=st.integers(1, 5), wanted=st.integers(0, 4), seed=st.integers(0, 999))
def test_no_other_assignment_is_cheaper(predictions: int, wanted: int, seed: int) -> None:
    prediction, objects = random_prediction(1, predictions, seed), random_objects(wanted, seed + 1)
    ((rows, columns),) = match(prediction, [objects], CONFIG)
    cost = matching_cost(prediction, objects.labels[None], objects.boxes[None], CONFIG)[0]
    small, large = sorted((predictions, wanted))
    pick = cost if predictions <= wanted else cost.T  # the shorter side first
    cheapest = min(
        sum(pick[i, j].item() for i, j in enumerate(chosen)) for chosen in itertools.permutations(range(large), small)
    )
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows) == small
    assert cost[rows, columns].sum().item() == pytest.approx(cheapest, abs=1e-4)


def test_matching_does_not_depend_on_the_rest_of_the_batch() -> None:
    prediction, objects = random_prediction(3, 6), [random_objects(n, n) for n in (2, 5, 0)]
    together = match(prediction, objects, CONFIG)
    for i in range(3):
        ((rows, columns),) = match(
            Prediction(prediction.logits[i : i + 1], prediction.boxes[i : i + 1]), objects[i : i + 1], CONFIG
        )
        assert (rows.tolist(), columns.tolist()) == tuple(t.tolist() for t in together[i])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_rejected(broken: float) -> None:
    prediction = random_prediction(2, 4)
    prediction.boxes[1, 2, 0] = broken
    with pytest.raises(NonFiniteError, match=r"NaN or infinite values. Lower train.lr"):
        match(prediction, [random_objects(2, 0), random_objects(1, 1)], CONFIG)


def test_perfect_predictions_have_no_box_loss_and_little_class_loss() -> None:
    objects = random_objects(3, 0)
    logits = torch.full((1, 3, 5), -12.0).scatter(2, objects.labels.view(1, 3, 1), 12.0)
    prediction = Prediction(logits, objects.boxes[None])
    (terms,) = set_losses([prediction], [objects], [match(prediction, [objects], CONFIG)], CONFIG, num_boxes=3)
    assert terms["loss_bbox"].item() == 0
    assert terms["loss_giou"].item() == pytest.approx(0, abs=1e-6)
    assert terms["loss_ce"].item() < 1e-9


def test_losses_equal_a_hand_computation() -> None:
    """One box moved by 0.1 in x, one class at a probability of 1/2 and one negative at 1/2."""
    objects = Objects(torch.tensor([1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    prediction = Prediction(torch.zeros(1, 1, 2), torch.tensor([[[0.6, 0.5, 0.2, 0.2]]]))
    pairs = [(torch.tensor([0]), torch.tensor([0]))]
    (terms,) = set_losses([prediction], [objects], [pairs], CONFIG, num_boxes=2)
    focal = (0.25 + 0.75) * 0.25 * 0.6931472  # alpha-weighted, (1 - p)^2 = p^2 = 1/4, -ln(1/2)
    expected = {"loss_ce": focal / 2, "loss_bbox": 0.1 / 2, "loss_giou": (1 - 1 / 3) / 2}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-6)


def test_every_loss_is_weighted_once_and_metrics_are_not(
    build: Build, images: Tensor, unpadded: Tensor, objects: Make
) -> None:
    output = build()(images, unpadded, with_aux=True)
    terms = losses(output, [objects(2), objects(3)], CONFIG, num_boxes=5)
    suffixes = [suffix for suffix, _ in prediction_sets(output)]
    assert sorted(suffixes) == ["", "_0", "_enc", "_enc_0"]
    weights = {f"{name}{s}": w for name, w in (("loss_ce", 2), ("loss_bbox", 5), ("loss_giou", 2)) for s in suffixes}
    weights["loss_mask_prediction"] = 1
    assert set(weights) == {name for name in terms if name.startswith("loss_")}
    marked = {name: 10.0**i for i, name in enumerate(weights)}  # so that a term left out or counted twice shows
    expected = sum(weight * marked[name] for name, weight in weights.items())
    numbers = {name: torch.tensor(marked.get(name, -1.0), dtype=torch.float64) for name in terms}
    assert weighted_sum(numbers, CONFIG).item() == expected


@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (8, 1)], ids=["one empty", "all empty", "more than queries"])
@pytest.mark.parametrize("rho", [0.3, None])
def test_every_trained_parameter_gets_a_finite_gradient(
    build: Build, images: Tensor, padded: Tensor, objects: Make, counts: tuple[int, int], rho: float | None
) -> None:
    """For any number of objects: data-parallel training stops at a parameter without a gradient."""
    model = build(rho=rho, num_queries=6).train()
    terms = losses(model(images, padded), [objects(n) for n in counts], CONFIG, num_boxes=sum(counts))
    assert all(term.isfinite() for term in terms.values())
    weighted_sum(terms, CONFIG).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert [name for name, p in trained.items() if p.grad is not None and not p.grad.isfinite().all()] == []


def test_the_mask_loss_trains_the_scorer_and_not_the_decoder(
    build: Build, images: Tensor, unpadded: Tensor, objects: Make
) -> None:
    model = build().train()
    losses(model(images, unpadded), [objects(2), objects(2)], CONFIG, 4)["loss_mask_prediction"].backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"scorer", "token_norm", "level_embed", "projection", "backbone"}


def test_the_weight_of_the_mask_loss_warms_up_over_steps() -> None:
    terms = {"loss_mask_prediction": torch.tensor(3.0), "loss_bbox": torch.tensor(1.0)}
    config = replace(CONFIG, mask_prediction_weight=2.0, mask_prediction_warmup_steps=4)
    totals = [weighted_sum(terms, config, step).item() for step in (0, 1, 3, 4, 100)]
    assert totals == [5 + 6 * share for share in (0.25, 0.5, 1, 1, 1)]
    assert weighted_sum(terms, config).item() == 11
    assert weighted_sum(terms, CONFIG, 0).item() == 8


def test_a_soft_target_changes_only_the_mask_loss(
    build: Build, images: Tensor, unpadded: Tensor, objects: Make
) -> None:
    output, wanted = build()(images, unpadded, with_aux=True), [objects(2), objects(3)]
    hard, soft = (losses(output, wanted, replace(CONFIG, dam_softness=s), 5) for s in (0.0, 0.5))
    assert {name for name in hard if not torch.equal(hard[name], soft[name])} == {"loss_mask_prediction"}


def test_set_losses_are_inverse_to_num_boxes(build: Build, images: Tensor, unpadded: Tensor, objects: Make) -> None:
    output, wanted = build()(images, unpadded, with_aux=True), [objects(2), objects(3)]
    one, two = (losses(output, wanted, CONFIG, num_boxes=n) for n in (5, 10))
    for name in (n for n in one if n.startswith("loss_") and n != "loss_mask_prediction"):
        torch.testing.assert_close(one[name], 2 * two[name])
    torch.testing.assert_close(one["loss_mask_prediction"], two["loss_mask_prediction"])


def test_box_loss_pulls_the_matched_query_to_its_object() -> None:
    logits = inverse_sigmoid(torch.full((1, 1, 4), 0.3)).requires_grad_()
    prediction = Prediction(torch.zeros(1, 1, 5), logits.sigmoid())
    wanted = Objects(torch.tensor([0]), torch.full((1, 4), 0.5))
    (terms,) = set_losses([prediction], [wanted], [match(prediction, [wanted], CONFIG)], CONFIG, num_boxes=1)
    terms["loss_bbox"].backward()
    assert logits.grad is not None
    assert (logits.grad < 0).all()


@pytest.mark.parametrize("switches", [{}, {"rho": None}, {"eff_specific_head": False}, {"name": "detr"}], ids=str)
@pytest.mark.parametrize("counts", [(2, 3), (0, 4), (0, 0)])
def test_losses_do_not_depend_on_how_sets_are_grouped(
    build: Build,
    images: Tensor,
    padded: Tensor,
    objects: Make,
    monkeypatch: pytest.MonkeyPatch,
    switches: dict[str, object],
    counts: tuple[int, int],
) -> None:
    if switches.get("name") == "detr":
        switches = {**FAMILIES["detr"], **switches}
    model = build(**switches).train()
    output, wanted = model(images, padded, with_aux=True), [objects(n) for n in counts]
    results = []
    for size in (1, 40, 2**14):  # each set alone, some together, all together
        monkeypatch.setattr(criterion, "GROUP_PREDICTIONS", size)
        model.zero_grad()
        terms = losses(output, wanted, CONFIG, num_boxes=sum(counts))
        weighted_sum(terms, CONFIG).backward(retain_graph=True)
        results.append((terms, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    for terms, gradients in results[1:]:
        assert terms.keys() == results[0][0].keys()
        torch.testing.assert_close(terms, {name: results[0][0][name] for name in terms})
        torch.testing.assert_close(gradients, results[0][1], rtol=1e-4, atol=1e-5)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    counts=st.lists(st.integers(0, 4), min_size=2, max_size=2),
)
def test_sets_are_matched_as_each_alone(sizes: list[int], counts: list[int]) -> None:
    predictions = [random_prediction(2, size, seed) for seed, size in enumerate(sizes)]
    objects = [random_objects(count, count) for count in counts]
    for prediction, pairs in zip(predictions, match_sets(predictions, objects, CONFIG), strict=True):
        alone = match(prediction, objects, CONFIG)
        assert [(r.tolist(), c.tolist()) for r, c in pairs] == [(r.tolist(), c.tolist()) for r, c in alone]
