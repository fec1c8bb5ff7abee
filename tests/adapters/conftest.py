from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SIZES = ((48, 64), (64, 56), (60, 60))
"""(height, width) of the images of the tiny data set."""
NAMES = ("cat", "Traffic_Light", "dog")
"""Names of its categories, whose ids are 2, 5 and 9."""
IDS = (2, 5, 9)

Objects = tuple[Sequence[Sequence[float]], Sequence[int]]
"""Boxes x0 y0 x1 y1, and labels from 0."""


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    small = [random.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8) for h, w in SIZES]
    return [Image.fromarray(p).resize((w, h)) for p, (h, w) in zip(small, SIZES, strict=True)]


@pytest.fixture(scope="session")
def write_data(pictures: list[Image.Image]) -> Callable[[Path, Sequence[Objects]], Path]:
    """Function that writes a data set in whose images a detector has found the objects of the annotations."""

    def write(folder: Path, objects: Sequence[Objects]) -> Path:
        (folder / "images").mkdir(parents=True)
        (folder / "annotations").mkdir()
        images, annotations = [], []
        for number, (picture, (boxes, labels)) in enumerate(zip(pictures, objects, strict=True), start=1):
            picture.save(folder / "images" / f"{number}.png")
            images.append(
                {"id": number, "file_name": f"{number}.png", "width": picture.width, "height": picture.height}
            )
            for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
                x0, y0 = min(max(x0, 0), picture.width - 4), min(max(y0, 0), picture.height - 4)
                box = [x0, y0, max(min(x1, picture.width) - x0, 3), max(min(y1, picture.height) - y0, 3)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": IDS[label],
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": number, "name": name} for number, name in zip(IDS, NAMES, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture(scope="session")
def some_data(write_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    objects: Objects = ([[4.0, 4.0, 30.0, 30.0], [20.0, 10.0, 44.0, 40.0], [2.0, 2.0, 20.0, 40.0]], [0, 1, 2])
    return write_data(tmp_path_factory.mktemp("some") / "data", [objects] * len(SIZES))


@pytest.fixture(scope="session")
def rt_detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny RT-DETR of transformers with random weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("transformers") / "tiny-rt-detr"
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    names = dict(enumerate((*NAMES, "zebra")))
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        id2label=names,
        label2id={name: label for label, name in names.items()},
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 24, 32],
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=32,
        num_queries=20,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        decoder_layers=1,
        decoder_n_points=2,
        hidden_expansion=0.5,
    )
    model = transformers.RTDetrForObjectDetection(config)
    # Class scores that depend on the query, so that boxes and classes have an order worth comparing.
    for name, parameter in model.named_parameters():
        if "class_embed" in name or "enc_score_head" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(folder)
    transformers.RTDetrImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ssd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small SSD of torchvision, random, with their description."""
    from torchvision.models import detection

    torch.manual_seed(0)
    arguments = {"num_classes": 4, "score_thresh": 0.0, "topk_candidates": 20, "detections_per_img": 30}
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, **arguments)
    file = tmp_path_factory.mktemp("torchvision") / "tiny-ssd.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, file)
    described = {
        "model": "ssdlite320_mobilenet_v3_large",
        "arguments": arguments,
        "classes": ["__background__", *NAMES],
    }
    file.with_suffix(".json").write_text(json.dumps(described))
    return file
