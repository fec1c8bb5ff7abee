"""Numerical parity of DETR and Deformable DETR with Hugging Face transformers, an independent implementation.

Also covers the conversion of names: each model has a ResNet of timm or of transformers, and its weights come as the
state_dict in memory and as the file written by ``save_pretrained``, which has the names of published checkpoints.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rhobench.config.model_zoo import find_model
from rhobench.inference.convert_weights import import_weights
from rhobench.measure.artifact import load_artifact
from rhobench.model import Detector, build_model
from rhobench.model.hugging_face import is_hugging_face, to_official
from rhobench.model.official import WeightsError, load_official

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

CLASSES, DIM, HEADS, LAYERS, FFN, QUERIES = 5, 64, 4, 2, 48, 12
TOLERANCE = 1e-4
FAMILIES: dict[str, dict[str, bool]] = {
    "detr": {},
    "deformable_detr": {},
    "refined_deformable_detr": {"with_box_refine": True},
    "two_stage_deformable_detr": {"with_box_refine": True, "two_stage": True},
}
"""Our families, with the corresponding options of transformers."""


def build_theirs(family: str, backbone: str) -> Any:
    """A small model of transformers with a ResNet-18 of "timm" or of "transformers"."""
    kind = "Detr" if family == "detr" else "DeformableDetr"
    fields: dict[str, Any] = {
        "num_labels": CLASSES,
        "d_model": DIM,
        "num_queries": QUERIES,
        "two_stage_num_proposals": QUERIES,
        "use_pretrained_backbone": False,
        **{f"{part}_layers": LAYERS for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": HEADS for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": FFN for part in ("encoder", "decoder")},
        **FAMILIES[family],
    }
    if family == "detr":
        del fields["two_stage_num_proposals"]
    if backbone == "timm":
        fields |= {"use_timm_backbone": True, "backbone": "resnet18"}
    else:
        stages = ["stage4"] if family == "detr" else ["stage2", "stage3", "stage4"]
        resnet18 = transformers.ResNetConfig(
            hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", out_features=stages
        )
        fields |= {"use_timm_backbone": False, "backbone_config": resnet18}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**fields)
    return getattr(transformers, f"{kind}ForObjectDetection")(config).eval()


def build_ours(family: str) -> Detector:
    config = replace(
        find_model(f"{family}_resnet18"),
        num_classes=CLASSES,
        num_queries=QUERIES,
        hidden_dim=DIM,
        num_heads=HEADS,
        enc_layers=LAYERS,
        dec_layers=LAYERS,
        ffn_dim=FFN,
    )
    torch.manual_seed(1)
    return build_model(config).eval()


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Randomise all weights, because initial values such as zero offsets or equal norms would hide errors."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif name.endswith("sampling_offsets.bias"):
            tensor.add_(0.3 * noise)
        elif tensor.dim() == 1:
            tensor.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
        elif "embed" in name and "bbox" not in name and "class" not in name:
            tensor.copy_(noise)
        else:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)


def separate_heads(model: Any) -> None:
    """Untie heads that transformers 5 ties although each layer should have its own, as in published checkpoints."""
    for heads in (model.class_embed, model.bbox_embed):
        for index, head in enumerate(heads):
            heads[index] = copy.deepcopy(head)
    if model.config.with_box_refine:
        model.model.decoder.bbox_embed = model.bbox_embed
    if model.config.two_stage:
        model.model.decoder.class_embed = model.class_embed


def images_and_mask() -> tuple[Tensor, Tensor]:
    """Two images of different sizes, padded to one: (2, 3, 96, 160) and (2, 96, 160), True at padding."""
    mask = torch.zeros(2, 96, 160, dtype=torch.bool)
    mask[1, 70:], mask[1, :, 100:] = True, True
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(3))
    return images.masked_fill(mask[:, None], 0.0), mask


@torch.no_grad()
def largest_difference(ours: Detector, theirs: Any) -> float:
    """Largest absolute difference of the logits and boxes of the last layer."""
    images, mask = images_and_mask()
    found, wanted = ours(images, mask).prediction, theirs(pixel_values=images, pixel_mask=(~mask).long())
    assert wanted.logits.std() > 0.5
    assert wanted.pred_boxes.std() > 0.05
    return max((found.logits - wanted.logits).abs().max().item(), (found.boxes - wanted.pred_boxes).abs().max().item())


@pytest.fixture(scope="module", params=[(f, b) for f in FAMILIES for b in ("timm", "transformers")], ids="-".join)
def theirs(request: pytest.FixtureRequest) -> Any:
    family, backbone = request.param
    model = build_theirs(family, backbone)
    if FAMILIES[family]:
        separate_heads(model)
    randomise(model)
    model.family = family
    return model


def test_both_predict_the_same(theirs: Any) -> None:
    ours = build_ours(theirs.family)
    load_official(ours, to_official(theirs.state_dict()))
    assert largest_difference(ours, theirs) < TOLERANCE


def test_the_saved_file_has_the_weights_of_the_model(theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert is_hugging_face(saved)
    assert any(key.startswith("model.backbone.conv_encoder.model.") for key in saved)
    from_file, from_memory = build_ours(theirs.family), build_ours(theirs.family)
    load_official(from_file, to_official(saved))
    load_official(from_memory, to_official(theirs.state_dict()))
    pairs = zip(from_file.state_dict().items(), from_memory.state_dict().values(), strict=True)
    assert [key for (key, a), b in pairs if not torch.equal(a, b)] == []


@pytest.mark.parametrize("family", ["deformable_detr", "refined_deformable_detr"])
def test_heads_tied_by_transformers_are_untied(family: str, tmp_path: Path) -> None:
    """transformers 5 saves a single class head, even for models with box refinement."""
    model = build_theirs(family, "timm")
    randomise(model)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "class_embed.1.weight" not in saved
    ours = build_ours(family)
    load_official(ours, to_official(saved))
    assert largest_difference(ours, model) < TOLERANCE


def test_a_missing_query_projection_is_reported() -> None:
    state = build_theirs("detr", "timm").state_dict()
    del state["model.decoder.layers.1.self_attn.q_proj.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: .*layers\.1\.self_attn\.in_proj_bias; 2 unexpected"):
        load_official(build_ours("detr"), to_official(state))


def test_a_weight_under_two_names_is_rejected() -> None:
    state = build_theirs("detr", "timm").state_dict()
    key = "model.encoder.layers.0.mlp.fc1.bias"
    with pytest.raises(WeightsError, match=r"mlp\.fc1\.bias and .*layers\.0\.fc1\.bias are names of the same"):
        to_official(state | {key.replace("mlp.", ""): state[key]})


def test_a_moved_sampling_point_is_detected() -> None:
    theirs = build_theirs("deformable_detr", "timm")
    randomise(theirs)
    ours = build_ours("deformable_detr")
    load_official(ours, to_official(theirs.state_dict()))
    ours.get_parameter("decoder.layers.1.cross_attn.sampling_offsets.bias").data[0] += 0.5
    assert largest_difference(ours, theirs) > 10 * TOLERANCE


def test_a_published_checkpoint_is_imported(tmp_path: Path) -> None:
    """DETR as ``from_pretrained`` would download it: default sizes, COCO's 91 classes, pytorch_model.bin."""
    config = transformers.DetrConfig(
        num_labels=91, use_timm_backbone=True, backbone="resnet18", use_pretrained_backbone=False
    )
    published = transformers.DetrForObjectDetection(config).eval()
    torch.save(published.state_dict(), tmp_path / "pytorch_model.bin")
    imported = import_weights(tmp_path / "pytorch_model.bin", "detr_resnet18", tmp_path / "detr.safetensors")
    assert imported.layout == "transformers"
    artifact = load_artifact(tmp_path / "detr.safetensors")
    assert artifact.categories.names[1] == "person"
    images, mask = images_and_mask()
    with torch.no_grad():
        wanted = published(pixel_values=images, pixel_mask=(~mask).long()).logits
        assert (artifact.model(images, mask).prediction.logits - wanted).abs().max() < TOLERANCE
