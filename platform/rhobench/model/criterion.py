"""The training losses and their weighted sum (spec section 13), under the names of the official code."""

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
"""Exponent of the focal losses of classes and masks."""


def prediction_sets(output: DetectorOutput) -> Iterator[tuple[str, Prediction]]:
    """Yield every set of predictions that is matched and trained separately, with the suffix of its loss names.

    The suffixes are those of spec section 13: none for the last decoder layer, ``_<layer>`` for the others, ``_enc``
    for the query selection, ``_enc_<layer>`` for the encoder layers and ``_backbone`` for objectness scoring.
    """
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
    """Compute the unweighted losses and the logged metrics of a batch.

    All terms and the matching costs are computed in float32, also under autocast.

    Args:
        output: output of the model with ``with_aux=True``.
        objects: ground truth of each image.
        config: matching costs, focal alpha and softness of the scoring network's target.
        num_boxes: number of objects in the batch, averaged over the training workers; values below 1 count as 1.

    Returns:
        Scalars by name: ``loss_*`` with gradient; ``class_error``, ``cardinality_error*`` and ``corr_*`` without.

    Raises:
        NonFiniteError: a prediction is not finite.
    """
    num_boxes = max(num_boxes, 1.0)
    terms: dict[str, Tensor] = {}
    for suffix, raw in prediction_sets(output):
        # bfloat16 keeps 8 bits of a logit, too few for a sum over thousands of tokens.
        prediction = raw._replace(logits=raw.logits.float(), boxes=raw.boxes.float())
        targets = [_class_agnostic(o) for o in objects] if suffix == "_enc" and output.objectness_only else objects
        pairs = match(prediction, targets, config)
        set_terms = set_losses(prediction, targets, pairs, config, num_boxes)
        terms |= {name + suffix: value for name, value in set_terms.items()}
        terms["cardinality_error" + suffix] = cardinality_error(prediction, targets)
        if not suffix:
            terms["class_error"] = class_error(prediction, targets, pairs)
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
    """Sum the ``loss_*`` terms with their weights: the quantity that training minimises.

    Args:
        terms: output of ``losses``.
        config: the weights.
        step: number of optimiser steps completed before this one, for weights that warm up; None: warm-up is over.

    Returns:
        A scalar.
    """
    warmup = config.mask_prediction_warmup_steps
    # Starts above 0: data-parallel training requires a gradient for every parameter of the scorer.
    warmup_factor = 1.0 if step is None or step >= warmup else (step + 1) / warmup
    weights = {
        "loss_ce": config.class_weight,
        "loss_bbox": config.box_weight,
        "loss_giou": config.giou_weight,
        "loss_mask_prediction": config.mask_prediction_weight * warmup_factor,
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
    """Compute the classification, L1 and GIoU losses of one set of predictions (spec section 13).

    Args:
        prediction: n predictions for each image.
        objects: ground truth of each image.
        pairs: output of ``match``.
        config: focal alpha, or the weight of "no object" for a softmax.
        num_boxes: number of objects that the sums are divided by.

    Returns:
        Scalars ``loss_ce``, ``loss_bbox`` and ``loss_giou``. Each is a sum divided by ``num_boxes``, except the
        cross-entropy of DETR, which is a weighted mean over the predictions.
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
    """Weighted mean cross-entropy over all predictions (B, n, classes + 1); unmatched ones are "no object"."""
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
    targets = [o.masks for o in objects if o.masks is not None]
    assert len(targets) == len(objects), "training with model.mask_head needs objects with masks"
    return mask_losses(masks, targets, pairs, config.focal_alpha, FOCAL_GAMMA, num_boxes)


def _class_agnostic(objects: Objects) -> Objects:
    """The same boxes, all of class 0."""
    return Objects(torch.zeros_like(objects.labels), objects.boxes)


@torch.no_grad()
def class_error(prediction: Prediction, objects: Sequence[Objects], pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Percentage of matched predictions whose highest-scoring class is wrong; 100 if there are no objects."""
    labels = torch.cat([o.labels[columns] for o, (_, columns) in zip(objects, pairs, strict=True)])
    correct = prediction.logits[_matched_rows(pairs)].argmax(-1) == labels
    return 100 - 100 * correct.float().sum() / max(len(labels), 1)


@torch.no_grad()
def cardinality_error(prediction: Prediction, objects: Sequence[Objects]) -> Tensor:
    """Mean absolute difference between the number of predicted and of annotated objects per image.

    A prediction counts as an object if its highest-scoring class is not the last one. This assumes DETR's "no object"
    class; it is kept for models without one because the official logs contain it (spec section 13).
    """
    counts = (prediction.logits.argmax(-1) != prediction.logits.shape[-1] - 1).sum(1)
    targets = counts.new_tensor([len(o.labels) for o in objects])
    return (counts - targets).abs().float().mean()


def _matched_rows(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Image index and prediction index of every matched pair of the batch, for advanced indexing."""
    image = torch.cat([torch.full_like(rows, i) for i, (rows, _) in enumerate(pairs)])
    return image, torch.cat([rows for rows, _ in pairs])
