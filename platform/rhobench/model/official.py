"""Weights under the names of the official code: to our model and back (spec sections 1 and 11).

The official state_dict lists its prediction heads up to three times, under ``class_embed.i``,
``transformer.decoder.class_embed.i`` and ``transformer.encoder.class_embed.j``. Head i belongs to decoder layer i for
i < dec_layers, to the query selection for i = dec_layers, and to encoder layer i - dec_layers - 1 after that (without a
query selection one earlier). Where one head is shared, all these names mean the same tensor. DETR has the names of its
own code, and one head without a number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rhobench.config import FAMILIES, BackboneConfig, ModelConfig
from rhobench.config.model_zoo import MODELS
from rhobench.model import build_model
from rhobench.model.backbone import Backbone
from rhobench.model.detector import Detector

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
_LEFTOVERS = ("total_ops", "total_params", "num_batches_tracked")
"""Ends of keys that FLOP counters and unfrozen batch norms leave in a checkpoint; they are no weights."""
_SHOWN = 10
"""Keys that an error lists before it counts the others."""


class WeightsError(ValueError):
    """Weights that do not fit the model they are meant for."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a file and a model did not share."""

    missing: list[str]
    """Official keys that the file lacks; the model keeps its own values. Always empty when strict."""
    ignored: list[str]
    """Keys of the file that were not read: counters left in it, and with ``strict=False`` the unexpected ones."""


def load_official(model: Detector, state_dict: Mapping[str, Tensor], *, strict: bool = True) -> Loaded:
    """Load weights with the official names into ``model``.

    A head that is listed under several names needs only one of them, and the prefix "module." of a data-parallel
    training is taken off.

    Args:
        model: of any family.
        state_dict: official key -> tensor; ``checkpoint["model"]`` of an official checkpoint.
        strict: refuse missing and unexpected keys. Shapes must fit in any case.

    Raises:
        WeightsError: the keys or shapes do not fit; the sentence names them, and the model that they do fit.
    """
    state = without_prefix(state_dict)
    found = _compare(model.state_dict(), model.config, state)
    if found.misfits or (strict and (found.missing or found.unexpected)):
        raise WeightsError(_refusal(found, model.config, state))
    unexpected = model.load_state_dict({key: state[name] for key, name in found.sources.items()}, strict=False)
    assert not unexpected.unexpected_keys
    return Loaded(missing=found.missing, ignored=sorted(found.leftovers + found.unexpected))


def official_state(model: Detector) -> dict[str, Tensor]:
    """The state_dict of ``model`` with the official names, every name of a head included; tensors are not copied."""
    return {name: tensor for key, tensor in model.state_dict().items() for name in official_keys(key, model.config)}


def official_key(key: str, config: ModelConfig) -> str:
    """The first official name of our parameter ``key``; heads are named at the top level (``class_embed.i``)."""
    return official_keys(key, config)[0]


def official_keys(key: str, config: ModelConfig) -> list[str]:
    """All official names of our parameter or buffer ``key``; more than one for a head alone."""
    if head := _HEAD.fullmatch(key):
        return list(_head_keys(head, config))
    for pattern, replacement in _COMMON_RULES + (_DETR_RULES if config.name == "detr" else _DEFORMABLE_RULES):
        if re.fullmatch(pattern, key):
            return [re.sub(pattern, replacement, key)]
    if key.startswith("scorer."):
        raise WeightsError(
            f"The official code has no model.scoring={config.scoring!r}, so its weights have no official names: "
            "it knows 'dam' alone."
        )
    if key.startswith("mask_head."):
        raise WeightsError(
            "The official code has no model.mask_head=True, so the weights of the mask head have no official names."
        )
    raise KeyError(key)


def without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the "module." that a data-parallel wrapper puts before every key."""
    wrapped = all(key.startswith("module.") for key in state_dict)
    return {key.removeprefix("module.") if wrapped else key: tensor for key, tensor in state_dict.items()}


def _head_keys(head: re.Match[str], config: ModelConfig) -> Iterator[str]:
    decoder, selector, encoder, part = head.groups()
    # The official box head counts its linear layers, ours counts the activations between them too.
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
    # The decoder needs the box heads to refine, and whatever has the query selection's head has all of them.
    in_decoder = config.two_stage or (config.refine_single_stage and kind == "bbox_embed")
    yield from (f"{kind}.{i}.{rest}" for i in indices)
    if in_decoder:
        yield from (f"transformer.decoder.{kind}.{i}.{rest}" for i in indices)
    if encoder:
        yield f"transformer.encoder.{kind}.{encoder}.{rest}"


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """A state_dict with official names beside the parameters of a model."""

    sources: dict[str, str]
    """Our key -> the key of the file that it is read from."""
    missing: list[str]
    unexpected: list[str]
    leftovers: list[str]
    misfits: list[str]
    """What is wrong with a key that is there, in words."""

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misfits)


def _compare(ours: Mapping[str, Tensor], config: ModelConfig, state: Mapping[str, Tensor]) -> _Comparison:
    sources: dict[str, str] = {}
    missing: list[str] = []
    misfits: list[str] = []
    known: set[str] = set()
    for key, tensor in ours.items():
        names = official_keys(key, config)
        known.update(names)
        there = [name for name in names if name in state]
        if there:
            sources[key] = there[0]
            misfits += _misfits(tensor, there, state)
        else:
            missing.append(names[0])
    others = sorted(set(state) - known)
    return _Comparison(
        sources=sources,
        missing=missing,
        unexpected=[key for key in others if not key.endswith(_LEFTOVERS)],
        leftovers=[key for key in others if key.endswith(_LEFTOVERS)],
        misfits=misfits,
    )


def _misfits(wanted: Tensor, names: list[str], state: Mapping[str, Tensor]) -> Iterator[str]:
    first, *others = names
    given = state[first]
    if given.shape != wanted.shape or given.is_floating_point() != wanted.is_floating_point():
        yield f"{first} is {_describe(given)} and not {_describe(wanted)}"
    elif not wanted.is_floating_point() and not wanted.is_meta and not torch.equal(given, wanted.to(given)):
        yield f"{first} is another table of indices than the model computes with"
    for other in others:
        if not torch.equal(given, state[other]):
            yield f"{first} and {other} differ, though the model has one tensor for both"


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _refusal(found: _Comparison, config: ModelConfig, state: Mapping[str, Tensor]) -> str:
    lists = {"missing": found.missing, "unexpected": found.unexpected, "wrong": found.misfits}
    wrong = "; ".join(f"{len(keys)} {kind}: {_shorten(keys)}" for kind, keys in lists.items() if keys)
    better = next((name for name, other in _others(config) if _fits(other, state)), None)
    hint = f" These are the weights of {better}." if better else ""
    return f"The weights do not fit {config.name} on {config.backbone.name}: {wrong}.{hint}"


def _shorten(keys: Iterable[str]) -> str:
    listed = list(keys)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _others(config: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    """Models that the user may have meant, as the sentence calls them; first this one with the other heads."""
    if "use_enc_aux_loss" not in FAMILIES[config.name]:
        switched = not config.use_enc_aux_loss
        yield f"this model with use_enc_aux_loss={switched}", replace(config, use_enc_aux_loss=switched)
    for name, named in MODELS.items():
        named = replace(named, num_classes=config.num_classes)
        yield name, named
        if named.use_enc_aux_loss:
            yield f"{name} with use_enc_aux_loss=False", replace(named, use_enc_aux_loss=False)


def _fits(config: ModelConfig, state: Mapping[str, Tensor]) -> bool:
    # Most candidates fail by their backbone, which is built sooner than the whole model.
    of_backbone = all(f"backbone.0.body.{key}" in state for key in _backbone_keys(config.backbone))
    return of_backbone and _compare(_shapes(config), config, state).fits


@functools.cache
def _backbone_keys(config: BackboneConfig) -> list[str]:
    with torch.device("meta"):
        return list(Backbone(replace(config, weights=None)).body.state_dict())


@functools.cache
def _shapes(config: ModelConfig) -> dict[str, Tensor]:
    """The state_dict of a model, without memory."""
    with torch.device("meta"):
        return build_model(replace(config, backbone=replace(config.backbone, weights=None))).state_dict()
