"""Names of the official model's parameters, and how they map to ours (spec section 11).

The official state_dict lists its prediction heads up to three times, under ``class_embed.i``,
``transformer.decoder.class_embed.i`` and ``transformer.encoder.class_embed.j``. Head i belongs to decoder layer i for
i < dec_layers, to the query selection for i = dec_layers, and to encoder layer i - dec_layers - 1 after that.
"""

from __future__ import annotations

import re

from rhobench.config import ModelConfig

_RULES = [
    (r"backbone\.body\.(.*)", r"backbone.0.body.\1"),
    (r"projection\.(.*)", r"input_proj.\1"),
    (r"level_embed", r"transformer.level_embed"),
    (r"token_norm\.project\.(.*)", r"transformer.enc_output.\1"),
    (r"token_norm\.norm\.(.*)", r"transformer.enc_output_norm.\1"),
    (r"scorer\.local\.(.*)", r"transformer.enc_mask_predictor.layer1.\1"),
    (r"scorer\.score\.(.*)", r"transformer.enc_mask_predictor.layer2.\1"),
    (r"query_selector\.position_proj\.(.*)", r"transformer.pos_trans.\1"),
    (r"query_selector\.position_norm\.(.*)", r"transformer.pos_trans_norm.\1"),
    (r"decoder\.layers\.(\d+)\.self_norm\.(.*)", r"transformer.decoder.layers.\1.norm2.\2"),
    (r"decoder\.layers\.(\d+)\.cross_norm\.(.*)", r"transformer.decoder.layers.\1.norm1.\2"),
    (r"decoder\.layers\.(\d+)\.ffn_norm\.(.*)", r"transformer.decoder.layers.\1.norm3.\2"),
    (r"((?:en|de)coder\.layers\..*)", r"transformer.\1"),
]
_HEAD = re.compile(r"(?:decoder\.heads\.(\d+)|(query_selector)\.head|encoder\.aux_heads\.(\d+))\.(.*)")


def official_key(key: str, config: ModelConfig) -> str:
    """The official name of our parameter ``key``; heads are named at the top level (``class_embed.i``)."""
    if head := _HEAD.fullmatch(key):
        decoder, selector, encoder, rest = head.groups()
        index = int(decoder) if decoder else config.dec_layers + (0 if selector else 1 + int(encoder))
        # The official box head counts its linear layers, ours counts the activations between them too.
        part = re.sub(r"^box\.(\d+)", lambda m: f"bbox_embed.{index}.layers.{int(m[1]) // 2}", rest)
        return part.replace("classify", f"class_embed.{index}")
    for pattern, replacement in _RULES:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    raise KeyError(key)
