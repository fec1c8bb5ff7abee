"""The training losses and their weighted sum (spec section 13), under the names of the official code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rhobench.config import LossConfig
from rhobench.model.detector import DetectorOutput
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings, mask_losses
from rhobench.model.matcher import Objects, Pairs, match_sets
from rhobench.model.set_losses import FOCAL_GAMMA, cardinality_errors, class_error, set_losses
from rhobench.model.sparsity import dam_correlation, dam_target, decoder_attention_map, mask_prediction_loss

GROUP_PREDICTIONS = 2**14
"""Predictions of all images together that are matched and trained in one group of sets."""


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


def _groups(output: DetectorOutput) -> Iterator[tuple[list[str], list[Prediction]]]:
    """Yield the sets of predictions in groups whose losses are computed together, in float32.

    Small sets are grouped, because the overhead of an operation outweighs its work. A set of ``GROUP_PREDICTIONS`` is
    better alone: joining it would only copy it and push its costs out of the cache.
    """
    suffixes, group, size = list[str](), list[Prediction](), 0
    for suffix, raw in prediction_sets(output):
        # bfloat16 keeps 8 bits of a logit, too few for a sum over thousands of tokens.
        prediction = raw._replace(logits=raw.logits.float(), boxes=raw.boxes.float())
        count = prediction.logits.shape[0] * prediction.logits.shape[1]
        if suffix == "_enc" and output.objectness_only:  # it has targets of its own
            yield [suffix], [prediction]
            continue
        if group and size + count > GROUP_PREDICTIONS:
            yield suffixes, group
            suffixes, group, size = [], [], 0
        suffixes, group, size = [*suffixes, suffix], [*group, prediction], size + count
    # Never empty: a group is yielded in the loop only when another set follows, and the first set has no suffix.
    yield suffixes, group


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
    for suffixes, predictions in _groups(output):
        class_agnostic = suffixes == ["_enc"] and output.objectness_only
        targets = [_class_agnostic(o) for o in objects] if class_agnostic else objects
        pairs = match_sets(predictions, targets, config)
        set_terms = set_losses(predictions, targets, pairs, config, num_boxes)
        errors = cardinality_errors(predictions, targets)
        for suffix, own, error in zip(suffixes, set_terms, errors, strict=True):
            terms |= {name + suffix: value for name, value in own.items()}
            terms["cardinality_error" + suffix] = error
        # Masks are predicted after the last decoder layer only, and the official code logs the class error there only.
        if "" in suffixes:
            position = suffixes.index("")
            terms["class_error"] = class_error(predictions[position], targets, pairs[position])
            if output.masks is not None:
                terms |= _mask_losses(output.masks, objects, pairs[position], config, num_boxes)
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
    # All sets of predictions have the same weights (spec section 13), so names are compared up to the suffix.
    weighted = [
        weight * value
        for name, value in terms.items()
        for prefix, weight in weights.items()
        if name == prefix or name.startswith(prefix + "_")
    ]
    return torch.stack(weighted).sum()


def _mask_losses(
    masks: MaskEmbeddings,
    objects: Sequence[Objects],
    pairs: Pairs,
    config: LossConfig,
    num_boxes: float,
) -> dict[str, Tensor]:
    targets = [o.masks for o in objects if o.masks is not None]
    assert len(targets) == len(objects), "training with model.mask_head needs objects with masks"
    return mask_losses(masks, targets, pairs, config.focal_alpha, FOCAL_GAMMA, num_boxes)


def _class_agnostic(objects: Objects) -> Objects:
    """The same boxes, all of class 0."""
    return Objects(torch.zeros_like(objects.labels), objects.boxes)
