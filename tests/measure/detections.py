"""Made-up detections on the objects of a COCO file, in realistic numbers: hits, wrong classes, duplicates, ties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rhobench.data.segmentation import encode_mask
from rhobench.measure.accuracy import Detection


def made_up_detections(file: Path, seed: int, *, noise: float = 0.05, per_image: int = 40) -> list[Detection]:
    """Detections of every second to last object, moved and scaled, and random boxes; one image in eight has none."""
    rng = np.random.default_rng(seed)
    content = json.loads(file.read_text())
    categories = [c["id"] for c in content["categories"]]
    by_image: dict[int, list[Any]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    found = []
    for image in content["images"]:
        if rng.random() < 1 / 8:
            continue
        size = np.array([image["width"], image["height"]] * 2)
        for annotation in by_image.get(image["id"], []):
            for _ in range(rng.integers(0, 4)):
                box = np.array(annotation["bbox"]) * (1 + noise * rng.standard_normal(4))
                category = annotation["category_id"] if rng.random() < 0.8 else rng.choice(categories)
                found.append(_detection(image["id"], category, box, rng.beta(3, 2)))
        boxes = rng.random((per_image, 4)) * size * [1, 1, 0.5, 0.5]
        found += [_detection(image["id"], rng.choice(categories), box, rng.beta(1, 4)) for box in boxes]
    return found


def with_masks(file: Path, found: list[Detection]) -> list[Detection]:
    """The detections with the ellipses in their boxes as segmentations."""
    sizes = {i["id"]: (i["height"], i["width"]) for i in json.loads(file.read_text())["images"]}
    return [one | {"segmentation": encode_mask(_ellipse(one["bbox"], sizes[one["image_id"]]))} for one in found]


def _detection(image: int, category: int, box: np.ndarray, score: float) -> Detection:
    # Two decimals give ties between scores.
    values = np.maximum(box, [0, 0, 1, 1]).round(1).tolist()
    return {"image_id": image, "category_id": int(category), "bbox": values, "score": round(float(score), 2)}


def _ellipse(box: list[float], size: tuple[int, int]) -> np.ndarray:
    x, y, width, height = box
    rows, columns = np.ogrid[: size[0], : size[1]]
    return ((columns - x - width / 2) / width) ** 2 + ((rows - y - height / 2) / height) ** 2 < 0.25


def write_crowded(file: Path, images: int, seed: int) -> Path:
    """COCO file with polygons, crowds, images without objects, and a category without objects."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(1, images + 1):
        for _ in range(rng.choice([0, 2, 5, 9])):
            x, y, w, h = (rng.random(4) * [150, 110, 90, 70] + [0, 0, 4, 4]).round(1).tolist()
            crowd = rng.random() < 0.15
            mask = np.zeros((200, 260), bool)
            mask[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = True
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice([2, 5, 11])),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd),
                    "segmentation": encode_mask(mask) if crowd else polygon,
                }
            )
    content = {
        "images": [{"id": i, "width": 260, "height": 200, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in (11, 5, 2, 7)],
        "annotations": annotations,
    }
    file.write_text(json.dumps(content))
    return file
