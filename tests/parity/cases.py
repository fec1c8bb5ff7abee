"""A parity case: output of the official model for synthetic weights, and output of our model for the same weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synthetic import fill_array, make_images, make_targets, pad_batch

from rhobench.config import BackboneConfig, LossConfig, ModelConfig
from rhobench.model import DetectorOutput, build_model
from rhobench.model.criterion import losses, prediction_sets, weighted_sum
from rhobench.model.matcher import Objects, match
from rhobench.model.official import official_key
from rhobench.model.postprocess import detections
from rhobench.model.sparsity import dam_target, decoder_attention_map

OFFICIAL_BACKBONES = {"resnet50": "resnet50", "swin-t": "swin_tiny_patch4_window7_224"}
ORIGINAL_SIZES = [[480, 640], [500, 333], [375, 500]]
"""Height and width of the images before resizing in pixels, for cases that do not contain them."""


@dataclass(frozen=True)
class Case:
    """One pair of golden files, NAME.npz and NAME.json."""

    file: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(self.file.with_suffix(".json").read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.file))

    @property
    def family(self) -> str:
        flags = self.meta["config"]
        if flags["rho"]:
            return "sparse_detr"
        if flags["two_stage"]:
            efficient = flags["eff_query_init"] and flags["eff_specific_head"]
            return "efficient_detr" if efficient else "two_stage_deformable_detr"
        return "refined_deformable_detr" if flags["with_box_refine"] else "deformable_detr"

    @property
    def model_config(self) -> ModelConfig:
        flags = self.meta["config"]
        switches = ("with_box_refine", "two_stage", "eff_query_init", "eff_specific_head")
        return ModelConfig(
            name=self.family,
            backbone=BackboneConfig(name=OFFICIAL_BACKBONES[flags["backbone"]], dilation=flags["dilation"]),
            **{name: flags[name] for name in switches},
            rho=flags["rho"] or None,
            use_enc_aux_loss=flags["use_enc_aux_loss"],
            num_classes=91,
            num_queries=flags["num_queries"],
            hidden_dim=flags["hidden_dim"],
            num_heads=flags["nheads"],
            enc_layers=flags["enc_layers"],
            dec_layers=flags["dec_layers"],
            ffn_dim=flags["dim_feedforward"],
            dropout=flags["dropout"],
            num_feature_levels=flags["num_feature_levels"],
            num_points=flags["dec_n_points"],
        )


@dataclass(frozen=True)
class Result:
    """Output of our model for a case, under the names of the golden file."""

    arrays: dict[str, np.ndarray]
    losses: dict[str, float]
    total_loss: float
    grad_norms: dict[str, float]
    total_grad_norm: float


@torch.no_grad()
def fill(model: torch.nn.Module, config: ModelConfig, salt: str) -> None:
    """Set all weights of ``model`` to their synthetic values."""
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(fill_array(official_key(key, config), tuple(tensor.shape), salt)))


def run(case: Case) -> Result:
    """Run forward, losses and backward in evaluation mode, as the golden files were created."""
    config = case.model_config
    model = build_model(config).eval()
    fill(model, config, case.meta["salt"])
    images, mask = pad_batch(make_images(case.meta["image_sizes"]))
    objects = [Objects(*target) for target in make_targets(case.meta["target_counts"])]
    features = model.backbone(images)
    output = model.detect(features, mask, with_aux=True)
    terms = losses(output, objects, LossConfig(), sum(case.meta["target_counts"]))
    total = weighted_sum(terms, LossConfig())
    total.backward()
    norms = {_trained_key(key, config): p.grad.norm() for key, p in model.named_parameters() if p.grad is not None}
    sizes = torch.tensor(case.meta.get("original_sizes", ORIGINAL_SIZES[: len(objects)]))
    arrays = _arrays(output, objects, mask, sizes) | {f"backbone{i}_ch8": f[:, :8] for i, f in enumerate(features)}
    return Result(
        arrays={k: v.detach().numpy() for k, v in arrays.items()},
        losses={k: v.item() for k, v in terms.items()},
        total_loss=total.item(),
        grad_norms={k: v.item() for k, v in norms.items()},
        total_grad_norm=torch.stack(list(norms.values())).norm().item(),
    )


def _trained_key(key: str, config: ModelConfig) -> str:
    """Name in the official ``named_parameters()``, which lists two-stage heads under encoder and decoder."""
    name = official_key(key, config)
    kind, _, rest = name.partition(".")
    if kind not in ("class_embed", "bbox_embed"):
        return name
    index, _, rest = rest.partition(".")
    first_encoder_head = config.dec_layers + config.two_stage
    if int(index) >= first_encoder_head:
        return f"transformer.encoder.{kind}.{int(index) - first_encoder_head}.{rest}"
    return f"transformer.decoder.{kind}.{index}.{rest}" if config.two_stage else name


def _arrays(
    output: DetectorOutput, objects: list[Objects], mask: torch.Tensor, sizes: torch.Tensor
) -> dict[str, torch.Tensor]:
    grid, queries = output.grid, output.queries
    result = {
        "pred_logits": output.prediction.logits,
        "pred_boxes": output.prediction.boxes,
        "spatial_shapes": torch.tensor(grid.shapes),
        "input_mask": mask,
        "valid_ratios": grid.valid_ratios,
        "mask_flatten": grid.padding,
        "src_flatten_ch8": output.source[..., :8],
        "pos_flatten_every": grid.positions[..., :: grid.positions.shape[-1] // 8],
        "memory_ch8": output.memory[..., :8],
        "memory_norm": output.memory.norm(dim=-1),
        "memory_unchanged": (output.memory == output.source).all(-1),
        "dec_init_reference": queries.reference,
        "dec_init_tgt_ch8": queries.content[..., :8],
        "dec_query_pos_ch8": queries.positions[..., :8],
        "hs_ch8": torch.stack(output.states)[..., :8],
        "inter_references": torch.stack(output.references),
    }
    names = {"": "final", "_enc": "enc"}
    for suffix, prediction in prediction_sets(output):
        kind = suffix.replace("_enc_", "encaux").replace("_enc", "enc")
        kind = f"aux{kind[1:]}" if kind.startswith("_") else kind
        names[suffix] = names.get(suffix, kind)
        if suffix:
            result |= {f"{kind}_logits": prediction.logits, f"{kind}_boxes": prediction.boxes}
        binary = suffix == "_enc" and output.objectness_only
        wanted = [Objects(torch.zeros_like(o.labels), o.boxes) for o in objects] if binary else objects
        for image, pairs in enumerate(match(prediction, wanted, LossConfig())):
            result[f"match_{names[suffix]}_img{image}"] = torch.stack(pairs, dim=1)
    if output.token_prediction is not None:
        logits = output.token_prediction.logits
        result |= {
            "enc_objectness": logits[..., 0] if output.objectness_only else logits.amax(-1),
            "query_token_index": queries.tokens,
            "proposal_invalid": grid.blank,
        }
    dam = result["dam"] = decoder_attention_map(output.samplings, grid.shapes)
    if output.selection is not None:
        selection = output.selection
        result |= {
            "mask_prediction": selection.logits,
            "sparse_token_nums": selection.counts,
            "topk_tokens_by_score": selection.index,
            "dam_target": dam_target(dam, selection, grid.padding),
        }
        for image, (index, count) in enumerate(zip(selection.index, selection.counts, strict=True)):
            result[f"updated_tokens_sorted_img{image}"] = index[:count].sort().values
    found = detections(output.prediction, sizes)
    for image in range(len(objects)):
        result[f"post_scores_img{image}"] = found.scores[image]
        result[f"post_labels_img{image}"] = found.labels[image]
        result[f"post_boxes_img{image}"] = found.boxes[image]
    return result
