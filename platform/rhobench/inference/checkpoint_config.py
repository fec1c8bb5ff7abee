"""Model configuration and categories of an external checkpoint, from its arguments and weights."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rhobench.config import FAMILIES, ModelConfig
from rhobench.config.model_zoo import BACKBONES, COCO_CLASSES
from rhobench.config.paths import with_values
from rhobench.data import Categories
from rhobench.data.annotations import read_annotations
from rhobench.inference.external_checkpoint import ExternalCheckpoint
from rhobench.model import MODELS
from rhobench.model.official import WeightsError

_SWITCHES = ("with_box_refine", "two_stage", "eff_query_init", "eff_specific_head")
_FIELDS = {
    **{name: name for name in (*_SWITCHES, "rho", "use_enc_aux_loss", "hidden_dim", "enc_layers", "dec_layers")},
    **{name: name for name in ("num_queries", "num_feature_levels", "dropout")},
    "nheads": "num_heads",
    "dim_feedforward": "ffn_dim",
    "enc_n_points": "num_points",
    "dec_n_points": "num_points",
}
"""Argument of the official code -> field of ``ModelConfig``."""

UNUSED_CLASS = "N/A"
"""Name of a class index that is no category, as DETR names the unused ids of COCO."""


def resolve_config(
    config: ModelConfig, name: str, checkpoint: ExternalCheckpoint, file: Path, rho: float | None
) -> tuple[ModelConfig, list[str]]:
    """Determine the configuration of the model in a checkpoint.

    Args:
        config: configuration of the named model; the arguments and weights of the checkpoint take precedence.
        name: name of the model, for messages.
        checkpoint: contents of the file.
        file: path of the file, for messages.
        rho: share of updated tokens given by the user; None if not given.

    Returns:
        The configuration, and notes on values that the checkpoint does not contain.

    Raises:
        WeightsError: the arguments of the checkpoint contradict ``config``, ``rho`` or each other.
    """
    if rho is not None and config.rho is None:
        raise WeightsError(f"--rho {rho} does not apply: {name} has a dense encoder. Omit --rho.")
    fields = _fields_from_args(checkpoint.args, file)
    if contradiction := next(_contradictions(config, checkpoint.args), None):
        trained, expected = contradiction
        better = next((n for n, c in MODELS.items() if not any(_contradictions(c, checkpoint.args))), None)
        hint = f"use --model {better}" if better else "choose a matching --model"
        raise WeightsError(
            f"{file} was trained with {trained} according to its args, but {name} has {expected}: {hint}."
        )
    if rho is not None and fields.get("rho", rho) != rho:
        raise WeightsError(
            f"{file} was trained with rho={fields['rho']} according to its args, not with --rho {rho}: omit --rho."
        )
    notes = []
    if config.rho is not None and rho is None and "rho" not in fields:
        notes.append(f"the file does not contain rho: assuming {config.rho}; set another value with --rho")
    config = with_values(config, fields | ({"rho": rho} if rho is not None else {}))
    # Sizes found in the weights depend on the number of layers, hence the second step; args take precedence.
    return with_values(config, _fields_from_weights(config, checkpoint.state) | fields), notes


def identify_model(checkpoint: ExternalCheckpoint, file: Path) -> str:
    """Name of the model in ``rhobench.model.MODELS`` that a checkpoint holds, by the arguments of its training.

    Raises:
        WeightsError: the checkpoint does not contain them, or no named model has them.
    """
    if "backbone" not in checkpoint.args:
        raise WeightsError(
            f"{file} does not contain the arguments of its training, so its model is unknown: import it with "
            "`rhobench weights import --model MODEL` and use the result instead."
        )
    known = (name for name, config in MODELS.items() if not any(_contradictions(config, checkpoint.args)))
    if found := next(known, None):
        return found
    raise WeightsError(f"{file} holds none of the models {', '.join(MODELS)} according to its args.")


def _fields_from_args(args: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Fields of ``ModelConfig`` that the arguments of the training determine.

    Raises:
        WeightsError: two arguments give different values for one field.
    """
    fields: dict[str, Any] = {}
    for argument, field in _FIELDS.items():
        if argument not in args:
            continue
        value = args[argument] or None if field == "rho" else args[argument]  # officially, rho = 0 is a dense encoder
        if fields.setdefault(field, value) != value:
            raise WeightsError(
                f"{file} has args.{argument}={value!r}, but {field}={fields[field]!r} by another argument."
            )
    return fields


def _contradictions(config: ModelConfig, args: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield where the arguments name another family or backbone than ``config``: "name=value" of both."""
    expected: dict[str, Any] = {"backbone": config.backbone.name, "dilation": config.backbone.dilation}
    # The eff_* switches have no effect without two_stage, so any value is consistent.
    expected |= {switch: getattr(config, switch) for switch in _SWITCHES if config.two_stage or "eff" not in switch}
    # A family determines only whether there is a rho, which is compared below.
    expected |= {field: fixed for field, fixed in FAMILIES[config.name].items() if field != "rho"}
    trained = dict(args)
    if "backbone" in trained:
        short = str(trained["backbone"]).replace("-", "_")  # the official "swin-t" is "swin_t" here
        trained["backbone"] = BACKBONES.get(short, short)
    for name, value in expected.items():
        if trained.get(name, value) != value:
            yield f"{name}={args[name]}", f"{name}={value}"
    if "rho" in args and bool(args["rho"]) != (config.rho is not None):
        yield f"rho={args['rho']}", f"rho={config.rho}"


def _fields_from_weights(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of ``ModelConfig`` that the names and shapes of the weights determine."""
    fields: dict[str, Any] = {}
    if "class_embed.weight" in state:
        fields["num_classes"] = len(state["class_embed.weight"]) - 1  # DETR has a row for "no object"
    for name in ("transformer.decoder.class_embed.0.weight", "class_embed.0.weight"):
        if name in state:
            fields["num_classes"] = len(state[name])
    if "query_embed.weight" in state:
        fields["num_queries"] = len(state["query_embed.weight"])
    if "use_enc_aux_loss" not in FAMILIES[config.name]:
        # Heads of the encoder are numbered after those of the decoder and of the query selection.
        first = f"class_embed.{config.dec_layers + config.two_stage}.weight"
        fields["use_enc_aux_loss"] = first in state or "transformer.encoder.class_embed.0.weight" in state
    # With ``with_box_refine`` alone the code of Sparse DETR does not refine boxes, and its decoder has no box heads
    # (spec section 1).
    if config.name == "refined_deformable_detr":
        fields["refine_single_stage"] = any(key.startswith("transformer.decoder.bbox_embed.") for key in state)
    return fields


def resolve_categories(num_classes: int, annotations: Path | None) -> Categories:
    """Determine the category id and name of every class index.

    In the official code, class indices are raw category ids; indices without a category get a placeholder name. If the
    annotations have exactly ``num_classes`` categories, class indices instead count them in the order of their ids.

    Args:
        num_classes: number of class logits.
        annotations: COCO json of the training data. None: COCO for 91 classes, otherwise numbered names.

    Raises:
        WeightsError: the annotations cannot be read, or have too few or too large ids.
    """
    names: dict[int, str] = {}
    if annotations is not None:
        names = _category_names(annotations)
        if len(names) == num_classes:
            return Categories(tuple(sorted(names)), tuple(names[i] for i in sorted(names)))
        if not names or max(names) >= num_classes:
            raise WeightsError(
                f"{annotations} has {len(names)} categories with ids up to {max(names, default=0)}, but the weights "
                f"have {num_classes} classes: give the annotations that they were trained on."
            )
    elif num_classes == COCO_CLASSES:
        text = importlib.resources.files("rhobench.data").joinpath("coco_categories.json").read_text()
        names = {category["id"]: category["name"] for category in json.loads(text)}
    placeholder = UNUSED_CLASS if names else "class {}"
    return Categories(tuple(range(num_classes)), tuple(names.get(i, placeholder.format(i)) for i in range(num_classes)))


def _category_names(annotations: Path) -> dict[int, str]:
    """Category id -> name of a COCO json."""
    try:
        return {category["id"]: category["name"] for category in read_annotations(annotations)["categories"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{annotations} is not a COCO json with categories ({error!r}): give the annotations of the training data."
        ) from error
