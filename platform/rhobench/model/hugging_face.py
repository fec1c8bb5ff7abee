"""Conversion of Hugging Face transformers checkpoints to the parameter names of the official code.

Supported are ``DetrForObjectDetection`` and ``DeformableDetrForObjectDetection`` with the names of published and saved
checkpoints ("model.backbone.conv_encoder.model.*") and those of ``state_dict()`` in transformers 5
("model.backbone.model.*"), each with a ResNet of timm or of transformers itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from rhobench.model.official import WeightsError

Replacement = str | Callable[[re.Match[str]], str]

# Rules are applied in order, each to the result of the previous ones.
_RULES: list[tuple[str, Replacement]] = [
    (r"^model\.backbone\.(?:conv_encoder\.)?model\.", "backbone.0.body."),
    # transformers counts stages and convolutions from 0, torchvision and timm from 1.
    (r"body\.embedder\.embedder\.convolution\.", "body.conv1."),
    (r"body\.embedder\.embedder\.normalization\.", "body.bn1."),
    (r"body\.encoder\.stages\.(\d+)\.layers\.", lambda m: f"body.layer{int(m[1]) + 1}."),
    (r"(body\.layer.*)\.layer\.(\d+)\.convolution\.", lambda m: f"{m[1]}.conv{int(m[2]) + 1}."),
    (r"(body\.layer.*)\.layer\.(\d+)\.normalization\.", lambda m: f"{m[1]}.bn{int(m[2]) + 1}."),
    (r"(body\.layer.*)\.shortcut\.convolution\.", r"\1.downsample.0."),
    (r"(body\.layer.*)\.shortcut\.normalization\.", r"\1.downsample.1."),
    (r"^model\.((?:en|de)coder)\.", r"transformer.\1."),
    (r"^model\.(level_embed|reference_points|enc_output|pos_trans)", r"transformer.\1"),
    (r"^model\.input_proj(?:ection)?\.", "input_proj."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"\.(?:mlp\.)?fc([12])\.", r".linear\1."),
    (r"\.o_proj\.", ".out_proj."),
    # Before the rules of the families, which match these names too but number the norms of the decoder.
    (r"(\.encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(\.encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"(\.decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"\.decoder\.layernorm\.", ".decoder.norm."),
]
_DETR_RULES: list[tuple[str, Replacement]] = [
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.encoder_attn\.", ".multihead_attn."),
]
# norm1 follows the attention to the memory: the official norms are not numbered in the order of use (spec section 10).
_DEFORMABLE_RULES: list[tuple[str, Replacement]] = [
    (r"\.self_attn_layer_norm\.", ".norm2."),
    (r"\.encoder_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn\.", ".cross_attn."),
]
_HEAD = re.compile(r"(?:transformer\.decoder\.)?(class_embed|bbox_embed)\.(\d+)\.(.*)")


def is_hugging_face(keys: Iterable[str]) -> bool:
    """Whether ``keys`` are those of a DETR or Deformable DETR of Hugging Face transformers."""
    return any(key.startswith(("model.backbone.", "model.encoder.layers.")) for key in keys)


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights to the official names, for ``load_official``; unknown names are kept.

    Separate query, key and value projections are joined to the single matrix of ``nn.MultiheadAttention``. Heads that
    transformers omits from a file because they are tied to the first are added under their own names.

    Args:
        state_dict: transformers key -> tensor.

    Returns:
        Official key -> tensor; tensors are not copied, except joined projections.

    Raises:
        WeightsError: two keys are names of the same weight.
    """
    # Backbone and encoder have the same prefixes in both families; the classifier has not.
    detr = any(key.startswith("class_labels_classifier.") for key in state_dict)
    rules = _RULES + (_DETR_RULES if detr else _DEFORMABLE_RULES)
    sources: dict[str, str] = {}
    for key in state_dict:
        first = sources.setdefault(_rename(key, rules), key)
        if first != key:
            raise WeightsError(
                f"{first} and {key} are names of the same weight: save the model again with one of them."
            )
    state = _join_projections({name: state_dict[key] for name, key in sources.items()})
    return state if detr else _untie_heads(state)


def _rename(key: str, rules: Iterable[tuple[str, Replacement]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _join_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Concatenate the query, key and value projections of each attention layer to ``in_proj``."""
    joint = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"(.*\.)([qkv])_proj\.(weight|bias)", key)
        parts = [f"{match[1]}{letter}_proj.{match[3]}" for letter in "qkv"] if match else []
        # An incomplete set is left as it is, so that ``load_official`` reports its keys.
        if match and all(part in state for part in parts):
            joint[f"{match[1]}in_proj_{match[3]}"] = torch.cat([state[part] for part in parts])  # (3 * C, C) or (3 * C)
        else:
            joint[key] = tensor
    return joint


def _untie_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add head 0 under the indices of all decoder layers without a head."""
    layers = sorted({m[1] for key in state if (m := re.match(r"transformer\.decoder\.layers\.(\d+)\.", key))})
    heads = {key: m.groups() for key in state if (m := _HEAD.fullmatch(key))}
    present = {(kind, index) for kind, index, _ in heads.values()}
    tied = {
        f"{kind}.{layer}.{rest}": state[key]
        for key, (kind, index, rest) in heads.items()
        for layer in layers
        if index == "0" and (kind, layer) not in present
    }
    return {**state, **tied}
