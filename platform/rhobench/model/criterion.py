"""Everything that is minimised (spec section 13). The names of the terms are the official ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from rhobench.config import LossConfig
from rhobench.model.boxes import generalized_iou, to_xyxy
from rhobench.model.detector import DetectorOutput
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings, mask_losses
from rhobench.model.matcher import Objects, match
from rhobench.model.sparsity import dam_correlation, dam_target, decoder_attention_map, mask_prediction_loss

FOCAL_GAMMA = 2.0


def prediction_sets(output: DetectorOutput) -> Iterator[tuple[str, Prediction]]:
    """Every set of predictions that has a loss of its own, with the suffix of its terms."""
    yield "", output.prediction
    yield from ((f"_{depth}", prediction) for depth, prediction in enumerate(output.decoder_aux))
    if output.token_prediction is not None:
        yield "_enc", output.token_prediction
    yield from ((f"_enc_{depth}", prediction) for depth, prediction in enumerate(output.encoder_aux))
    if output.scorer_prediction is not None:
        yield "_backbone", output.scorer_prediction


def losses(
    output: DetectorOutput, objects: Sequence[Objects], config: LossConfig, num_boxes: float
) -> dict[str, Tensor]:
    """Unweighted loss terms, and logged numbers without gradient; all in float32, as are the costs of the matching.

    Args:
        output: of the model in training mode (``with_aux=True``).
        objects: one for each image.
        config: matching costs, focal alpha and softness of the scoring network's target.
        num_boxes: objects of the batch, averaged over the training workers; at least 1 is used.
    """
    num_boxes = max(num_boxes, 1.0)
    terms: dict[str, Tensor] = {}
    for suffix, predicted in prediction_sets(output):
        # Autocast leaves half precision here: 8 bits of a logit are not enough for a sum over thousands of tokens.
        prediction = predicted._replace(logits=predicted.logits.float(), boxes=predicted.boxes.float())
        wanted = [_without_class(o) for o in objects] if suffix == "_enc" and output.objectness_only else objects
        pairs = match(prediction, wanted, config)
        found = set_losses(prediction, wanted, pairs, config, num_boxes)
        terms |= {name + suffix: value for name, value in found.items()}
        terms["cardinality_error" + suffix] = cardinality_error(prediction, wanted)
        if not suffix:
            terms["class_error"] = class_error(prediction, wanted, pairs)
            if output.masks is not None:
                terms |= _mask_losses(output.masks, objects, pairs, config, num_boxes)
    if output.selection is not None:
        dam = decoder_attention_map(output.samplings, output.grid.shapes)
        if output.scored_by == "dam":
            target = dam_target(dam, output.selection, output.grid.padding, config.dam_softness)
            terms["loss_mask_prediction"] = mask_prediction_loss(output.selection, target)
        terms |= dam_correlation(dam, output.selection, output.grid.level_sizes)
    return terms


def weighted_sum(terms: dict[str, Tensor], config: LossConfig, step: int | None = None) -> Tensor:
    """What is minimised: every ``loss_*`` term times its weight.

    Args:
        terms: of ``losses``.
        config: the weights.
        step: optimiser steps taken before this one, for a weight that warms up; None: after all warm-up.
    """
    warmup = config.mask_prediction_warmup_steps
    # Never 0, so that every parameter of the scorer has a gradient.
    grown = 1.0 if step is None or step >= warmup else (step + 1) / warmup
    weights = {
        "loss_ce": config.class_weight,
        "loss_bbox": config.box_weight,
        "loss_giou": config.giou_weight,
        "loss_mask_prediction": config.mask_prediction_weight * grown,
        "loss_mask_focal": config.mask_focal_weight,
        "loss_mask_dice": config.mask_dice_weight,
    }
    weighted = [
        weight * value
        for name, value in terms.items()
        for prefix, weight in weights.items()
        if name == prefix or name.startswith(prefix + "_")
    ]
    return torch.stack(weighted).sum()


def set_losses(
    prediction: Prediction,
    objects: Sequence[Objects],
    pairs: Sequence[tuple[Tensor, Tensor]],
    config: LossConfig,
    num_boxes: float,
) -> dict[str, Tensor]:
    """Class, L1 and GIoU loss of one set of predictions.

    Each is summed and divided by ``num_boxes``, except DETR's cross-entropy, which is a mean over the predictions.
    """
    image, row = _matched_rows(pairs)
    labels = torch.cat([o.labels[columns] for o, (_, columns) in zip(objects, pairs, strict=True)])
    boxes = torch.cat([o.boxes[columns] for o, (_, columns) in zip(objects, pairs, strict=True)])
    matched = prediction.boxes[image, row]
    if prediction.softmax:
        class_loss = _cross_entropy(prediction.logits, (image, row), labels, config.no_object_weight)
    else:
        one_hot = torch.zeros_like(prediction.logits)
        one_hot[image, row, labels] = 1.0
        focal = sigmoid_focal_loss(prediction.logits, one_hot, config.focal_alpha, FOCAL_GAMMA, "sum")
        class_loss = focal / num_boxes
    return {
        "loss_ce": class_loss,
        "loss_bbox": (matched - boxes).abs().sum() / num_boxes,
        "loss_giou": (1 - generalized_iou(to_xyxy(matched), to_xyxy(boxes))).sum() / num_boxes,
    }


def _cross_entropy(logits: Tensor, matched: tuple[Tensor, Tensor], labels: Tensor, no_object_weight: float) -> Tensor:
    """Weighted mean over all predictions (B, n, classes + 1), of which those not ``matched`` are "no object"."""
    no_object = logits.shape[-1] - 1
    target = torch.full(logits.shape[:2], no_object, device=logits.device)
    target[matched] = labels
    weight = logits.new_ones(no_object + 1)
    weight[no_object] = no_object_weight
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight)


def _mask_losses(
    masks: MaskEmbeddings,
    objects: Sequence[Objects],
    pairs: list[tuple[Tensor, Tensor]],
    config: LossConfig,
    num_boxes: float,
) -> dict[str, Tensor]:
    targets = [wanted.masks for wanted in objects if wanted.masks is not None]
    assert len(targets) == len(objects), "a model with mask_head learns from objects with masks"
    return mask_losses(masks, targets, pairs, config.focal_alpha, FOCAL_GAMMA, num_boxes)


def _without_class(objects: Objects) -> Objects:
    return Objects(torch.zeros_like(objects.labels), objects.boxes)


@torch.no_grad()
def class_error(prediction: Prediction, objects: Sequence[Objects], pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Percentage of matched predictions whose best class is wrong; 100 without objects."""
    labels = torch.cat([o.labels[columns] for o, (_, columns) in zip(objects, pairs, strict=True)])
    correct = prediction.logits[_matched_rows(pairs)].argmax(-1) == labels
    return 100 - 100 * correct.float().sum() / max(len(labels), 1)


@torch.no_grad()
def cardinality_error(prediction: Prediction, objects: Sequence[Objects]) -> Tensor:
    """Distance between the count of predictions whose best class is not the last one and the count of objects.

    A left-over of DETR's "no object" class, kept because the official logs carry it (spec section 13).
    """
    counts = (prediction.logits.argmax(-1) != prediction.logits.shape[-1] - 1).sum(1)
    wanted = counts.new_tensor([len(o.labels) for o in objects])
    return (counts - wanted).abs().float().mean()


def _matched_rows(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Image and prediction index of every match of the batch."""
    image = torch.cat([torch.full_like(rows, i) for i, (rows, _) in enumerate(pairs)])
    return image, torch.cat([rows for rows, _ in pairs])
