"""Tiny random models of ``transformers`` with deformable attention, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _resnet(**changes: Any) -> Any:
    from transformers import ResNetConfig

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    return ResNetConfig(**sizes, layer_type="basic", out_features=["stage2", "stage3", "stage4"], **changes)


def _rt_detr_backbone() -> Any:
    from transformers import RTDetrResNetConfig

    return RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def _swin(**changes: Any) -> Any:
    from transformers import SwinConfig

    return SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, **changes)


_RT_DETR = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [8, 16, 16],
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": 10,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 0,
}


def deformable_detr() -> nn.Module:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    config = DeformableDetrConfig(
        backbone_config=_resnet(),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
    )
    return DeformableDetrForObjectDetection(config)


def rt_detr() -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    return RTDetrForObjectDetection(RTDetrConfig(backbone_config=_rt_detr_backbone(), **_RT_DETR))


def rt_detr_v2() -> nn.Module:
    from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection

    return RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=_rt_detr_backbone(), **_RT_DETR))


def d_fine() -> nn.Module:
    from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

    backbone = HGNetV2Config(
        hidden_sizes=[8, 8, 16, 16],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    # Levels with different numbers of points, as in the published models
    return DFineForObjectDetection(DFineConfig(backbone_config=backbone, decoder_n_points=[3, 6, 3], **_RT_DETR))


def mask2former() -> nn.Module:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    features = [f"stage{stage}" for stage in range(1, 5)]
    config = Mask2FormerConfig(
        backbone_config=_swin(out_features=features),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=2,
        decoder_layers=2,
        dim_feedforward=16,
        num_attention_heads=2,
        num_queries=10,
    )
    return Mask2FormerForUniversalSegmentation(config)


def oneformer() -> nn.Module:
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    features = [f"stage{stage}" for stage in range(1, 5)]
    config = OneFormerConfig(
        backbone_config=_swin(out_features=features),
        conv_dim=32,
        mask_dim=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=2,
        decoder_layers=2,
        query_dec_layers=1,
        dim_feedforward=16,
        num_attention_heads=2,
        num_queries=10,
        task_seq_len=4,
        is_training=False,
    )
    return OneFormerForUniversalSegmentation(config)


def grounding_dino() -> nn.Module:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection

    text = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = GroundingDinoConfig(
        backbone_config=_swin(out_features=["stage2", "stage3", "stage4"]),
        text_config=text,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=10,
        max_text_len=8,
    )
    return GroundingDinoForObjectDetection(config)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    builder.__name__: builder
    for builder in (deformable_detr, rt_detr, rt_detr_v2, d_fine, mask2former, oneformer, grounding_dino)
}
"""Functions that build the models, by the name of the model's folder in ``transformers``."""


def build(name: str) -> nn.Module:
    """Build a model with the same random weights at every call; no bias or offset is zero."""
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def inputs_of(name: str) -> dict[str, Tensor]:
    """Inputs of a model: two images of 64x96, and tasks or captions if it needs them.

    Not one image: the backward pass of PyTorch's batch normalisation is wrong on a CPU for one image and a gradient
    whose first stride is not the size of the image (seen in 2.14.1), as in D-FINE, whose value is not projected.
    """
    random = torch.Generator().manual_seed(0)
    inputs = {"pixel_values": torch.randn(2, 3, 64, 96, generator=random)}
    if name == "oneformer":
        inputs["task_inputs"] = torch.randint(0, 50, (2, 4), generator=random)
    if name == "grounding_dino":
        inputs["input_ids"] = torch.tensor([[101, 7, 1012, 102]] * 2) % 50
    return inputs


def outputs_of(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Logits with boxes or masks; -inf, the logit of an absent word, is replaced by 0."""
    found = model(**inputs)
    names = ("logits", "pred_boxes", "class_queries_logits", "masks_queries_logits")
    return [found[name].masked_fill(found[name].isinf(), 0) for name in names if name in found]
