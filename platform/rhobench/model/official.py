"""Conversion between the parameter names of the official code and of this package (spec sections 1 and 11).

The official state_dict lists its prediction heads up to three times: as ``class_embed.i``,
``transformer.decoder.class_embed.i`` and ``transformer.encoder.class_embed.j``. Head i belongs to decoder layer i for
i < dec_layers, to the query selection for i = dec_layers, and to encoder layer i - dec_layers - 1 beyond that (without
query selection, to encoder layer i - dec_layers). A shared head is one tensor under all these names. DETR uses the
names of its own official code, with a single unnumbered head.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rhobench.config import FAMILIES, BackboneConfig, ModelConfig
from rhobench.config.model_zoo import MODELS
from rhobench.config.phrases import listed
from rhobench.model import build_model
from rhobench.model.backbone import Backbone
from rhobench.model.detector import Detector

# Regular expressions: key of this package -> official key. Norms are numbered in the order of their definition in the
# official code, which for the deformable decoder is not the order of their use (spec section 10).
_COMMON_RULES = [
    (r"backbone\.body\.(.*)", r"backbone.0.body.\1"),
    (r"projection\.(.*)", r"input_proj.\1"),
    (r"queries\.embed\.(.*)", r"query_embed.\1"),
    (r"encoder\.layers\.(\d+)\.norm\.(.*)", r"transformer.encoder.layers.\1.norm1.\2"),
    (r"encoder\.layers\.(\d+)\.ffn\.norm\.(.*)", r"transformer.encoder.layers.\1.norm2.\2"),
    (r"decoder\.layers\.(\d+)\.ffn\.norm\.(.*)", r"transformer.decoder.layers.\1.norm3.\2"),
    (r"((?:en|de)coder)\.layers\.(\d+)\.ffn\.(.*)", r"transformer.\1.layers.\2.\3"),
]
_DETR_RULES = [
    (r"encoder\.layers\.(\d+)\.attention\.attend\.(.*)", r"transformer.encoder.layers.\1.self_attn.\2"),
    (r"decoder\.layers\.(\d+)\.self_norm\.(.*)", r"transformer.decoder.layers.\1.norm1.\2"),
    (r"decoder\.layers\.(\d+)\.cross_norm\.(.*)", r"transformer.decoder.layers.\1.norm2.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attn\.attend\.(.*)", r"transformer.decoder.layers.\1.multihead_attn.\2"),
    (r"(decoder\.(?:layers|norm)\..*)", r"transformer.\1"),
]
_DEFORMABLE_RULES = [
    (r"level_embed", r"transformer.level_embed"),
    (r"token_norm\.project\.(.*)", r"transformer.enc_output.\1"),
    (r"token_norm\.norm\.(.*)", r"transformer.enc_output_norm.\1"),
    (r"scorer\.local\.(.*)", r"transformer.enc_mask_predictor.layer1.\1"),
    (r"scorer\.score\.(.*)", r"transformer.enc_mask_predictor.layer2.\1"),
    (r"query_selector\.position_proj\.(.*)", r"transformer.pos_trans.\1"),
    (r"query_selector\.position_norm\.(.*)", r"transformer.pos_trans_norm.\1"),
    (r"queries\.reference_points\.(.*)", r"transformer.reference_points.\1"),
    (r"encoder\.layers\.(\d+)\.attention\.(.*)", r"transformer.encoder.layers.\1.self_attn.\2"),
    (r"decoder\.layers\.(\d+)\.self_norm\.(.*)", r"transformer.decoder.layers.\1.norm2.\2"),
    (r"decoder\.layers\.(\d+)\.cross_norm\.(.*)", r"transformer.decoder.layers.\1.norm1.\2"),
    (r"(decoder\.layers\..*)", r"transformer.\1"),
]
_HEAD = re.compile(r"(?:decoder\.heads\.(\d+)|(query_selector)\.head|encoder\.aux_heads\.(\d+))\.(.*)")
_NON_WEIGHT_SUFFIXES = ("total_ops", "total_params", "num_batches_tracked")
"""Suffixes of checkpoint keys that are not weights: those of FLOP counters and of the counters of batch norms."""


class WeightsError(ValueError):
    """Raised for weights that cannot be read or do not fit the model."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """Keys on which a checkpoint and the model it was loaded into differ."""

    missing: list[str]
    """Official keys that the checkpoint lacks; the model keeps its values. Always empty with ``strict=True``."""
    ignored: list[str]
    """Keys of the checkpoint that were not loaded: counters and, with ``strict=False``, unexpected keys."""


def load_official(model: Detector, state_dict: Mapping[str, Tensor], *, strict: bool = True) -> LoadResult:
    """Load weights with official names into ``model``.

    Of a head that is listed under several names, one is enough. The prefix "module." of data-parallel training is
    removed.

    Args:
        model: a detector of any family.
        state_dict: official key -> tensor, such as ``checkpoint["model"]`` of an official checkpoint.
        strict: reject missing and unexpected keys. Shapes must always fit.

    Raises:
        WeightsError: keys or shapes do not fit; the message lists them and, if there is one, the named model that the
            weights do fit. ``model`` is unchanged.
    """
    state = without_prefix(state_dict)
    keys = _compare_keys(model.state_dict(), model.config, state)
    if keys.mismatches or (strict and (keys.missing or keys.unexpected)):
        raise WeightsError(_mismatch_message(keys, model.config, state))
    # Not strict: missing keys were judged above, and are permitted without ``strict``.
    incompatible = model.load_state_dict({key: state[name] for key, name in keys.sources.items()}, strict=False)
    assert not incompatible.unexpected_keys
    return LoadResult(missing=keys.missing, ignored=sorted(keys.non_weights + keys.unexpected))


def official_state(model: Detector) -> dict[str, Tensor]:
    """Return the state_dict of ``model`` under official names, heads under all of theirs; tensors are not copied.

    Raises:
        WeightsError: the model has weights that the official code does not have.
    """
    return {name: tensor for key, tensor in model.state_dict().items() for name in official_keys(key, model.config)}


def official_key(key: str, config: ModelConfig) -> str:
    """Return the first official name of the parameter ``key``; for heads that is the top-level ``class_embed.i``."""
    return official_keys(key, config)[0]


def official_keys(key: str, config: ModelConfig) -> list[str]:
    """Return all official names of the parameter or buffer ``key``; only heads have more than one.

    Raises:
        WeightsError: the official code has no such weight.
        KeyError: no model of this package has such a key.
    """
    if head := _HEAD.fullmatch(key):
        return list(_head_keys(head, config))
    # The first match counts, so special rules precede general ones: "ffn.norm" precedes "ffn".
    for pattern, replacement in _COMMON_RULES + (_DETR_RULES if config.name == "detr" else _DEFORMABLE_RULES):
        if re.fullmatch(pattern, key):
            return [re.sub(pattern, replacement, key)]
    if key.startswith("scorer."):
        raise WeightsError(
            f"The official code has no model.scoring={config.scoring!r}, only 'dam', so the weights of the scorer have "
            "no official names."
        )
    if key.startswith("mask_head."):
        raise WeightsError(
            "The official code has no model.mask_head=True, so the weights of the mask head have no official names."
        )
    raise KeyError(key)


def without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix "module." that a data-parallel wrapper adds to every key."""
    # A wrapper prefixes every key; if only some have the prefix, it is part of their names.
    wrapped = all(key.startswith("module.") for key in state_dict)
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in state_dict.items()}


def _head_keys(head: re.Match[str], config: ModelConfig) -> Iterator[str]:
    """Yield the official names of a parameter of a prediction head, a match of ``_HEAD``."""
    decoder, selector, encoder, part = head.groups()
    # The official box head numbers its linear layers only, ours also the activations between them.
    part = re.sub(r"^box\.(\d+)", lambda m: f"bbox_embed.layers.{int(m[1]) // 2}", part)
    kind, _, rest = part.replace("classify", "class_embed").partition(".")
    if config.name == "detr":
        yield f"{kind}.{rest}"
        return
    token_head = config.dec_layers
    if encoder:
        indices = [token_head + config.two_stage + int(encoder)]
    elif selector:
        indices = [token_head]
    else:
        indices = list(range(token_head + config.two_stage)) if config.shares_head else [int(decoder)]
    # The official decoder holds the box heads if it refines boxes, and all heads if queries are selected.
    in_decoder = config.two_stage or (config.refine_single_stage and kind == "bbox_embed")
    yield from (f"{kind}.{i}.{rest}" for i in indices)
    if in_decoder:
        yield from (f"transformer.decoder.{kind}.{i}.{rest}" for i in indices)
    if encoder:
        yield f"transformer.encoder.{kind}.{encoder}.{rest}"


@dataclass(frozen=True, kw_only=True)
class _KeyComparison:
    """Comparison of a state_dict with official names to the parameters of a model."""

    sources: dict[str, str]
    """Key of the model -> official key that it is loaded from."""
    missing: list[str]
    """Official keys that the state_dict lacks."""
    unexpected: list[str]
    """Keys of the state_dict that the model lacks."""
    non_weights: list[str]
    """Keys of the state_dict that are counters."""
    mismatches: list[str]
    """Descriptions of tensors with a wrong shape, type or value."""

    @property
    def fits(self) -> bool:
        """Whether the state_dict can be loaded strictly."""
        return not (self.missing or self.unexpected or self.mismatches)


def _compare_keys(ours: Mapping[str, Tensor], config: ModelConfig, state: Mapping[str, Tensor]) -> _KeyComparison:
    """Compare ``state``, with official names, to ``ours``, the state_dict of a model of ``config``."""
    sources: dict[str, str] = {}
    missing: list[str] = []
    mismatches: list[str] = []
    known: set[str] = set()
    for key, tensor in ours.items():
        names = official_keys(key, config)
        known.update(names)
        present = [name for name in names if name in state]
        if present:
            sources[key] = present[0]
            mismatches += _tensor_mismatches(tensor, present, state)
        else:
            missing.append(names[0])
    others = sorted(set(state) - known)
    return _KeyComparison(
        sources=sources,
        missing=missing,
        unexpected=[key for key in others if not key.endswith(_NON_WEIGHT_SUFFIXES)],
        non_weights=[key for key in others if key.endswith(_NON_WEIGHT_SUFFIXES)],
        mismatches=mismatches,
    )


def _tensor_mismatches(expected: Tensor, names: list[str], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what is wrong with the tensors ``names`` of ``state``, all loaded into the tensor ``expected``."""
    first, *others = names
    tensor = state[first]
    if tensor.shape != expected.shape or tensor.is_floating_point() != expected.is_floating_point():
        yield f"{first} is {_describe(tensor)} instead of {_describe(expected)}"
    # Integer buffers are constant tables. On the meta device, where candidate models are built, they have no values.
    elif not expected.is_floating_point() and not expected.is_meta and not torch.equal(tensor, expected.to(tensor)):
        yield f"{first} differs from the index table of the model"
    for other in others:
        if not torch.equal(tensor, state[other]):
            yield f"{first} and {other} differ, but are one tensor in the model"


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _mismatch_message(keys: _KeyComparison, config: ModelConfig, state: Mapping[str, Tensor]) -> str:
    """Describe the differences, and name the model that the weights do fit if there is one."""
    lists = {"missing": keys.missing, "unexpected": keys.unexpected, "wrong": keys.mismatches}
    problems = "; ".join(f"{len(items)} {kind}: {listed(items)}" for kind, items in lists.items() if items)
    # Lazily, because every candidate that is tried has to be built.
    better = next((name for name, other in _candidate_models(config) if _is_compatible(other, state)), None)
    hint = f" These are the weights of {better}." if better else ""
    return f"The weights do not fit {config.name} on {config.backbone.name}: {problems}.{hint}"


def _candidate_models(config: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    """Yield models that the weights may belong to with their description; first this one with the switch flipped."""
    if "use_enc_aux_loss" not in FAMILIES[config.name]:
        switched = not config.use_enc_aux_loss
        yield f"this model with use_enc_aux_loss={switched}", replace(config, use_enc_aux_loss=switched)
    for name, named in MODELS.items():
        named = replace(named, num_classes=config.num_classes)  # the weights may be of any dataset
        yield name, named
        if named.use_enc_aux_loss:
            yield f"{name} with use_enc_aux_loss=False", replace(named, use_enc_aux_loss=False)


def _is_compatible(config: ModelConfig, state: Mapping[str, Tensor]) -> bool:
    """Whether ``state`` can be loaded strictly into a model of ``config``."""
    # The backbone rules out most candidates, and is built faster than the whole model.
    has_backbone = all(f"backbone.0.body.{key}" in state for key in _backbone_keys(config.backbone))
    return has_backbone and _compare_keys(_meta_state_dict(config), config, state).fits


# Cached, because many candidates share a backbone.
@functools.cache
def _backbone_keys(config: BackboneConfig) -> list[str]:
    with torch.device("meta"):
        return list(Backbone(replace(config, weights=None)).body.state_dict())


@functools.cache
def _meta_state_dict(config: ModelConfig) -> dict[str, Tensor]:
    """State_dict of a model on the meta device, which takes no memory."""
    with torch.device("meta"):
        return build_model(replace(config, backbone=replace(config.backbone, weights=None))).state_dict()
