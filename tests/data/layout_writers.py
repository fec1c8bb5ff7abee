"""Small data sets of drawn images, written in the layouts in which people have them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("red", "white", "blue")
"""Not in alphabetical order."""


@dataclass(frozen=True)
class Drawn:
    """One image with its objects."""

    name: str
    size: tuple[int, int]
    """(width, height) in pixels."""
    objects: list[tuple[int, tuple[int, int, int, int]]]
    """Number of the class and x, y, width, height of each object."""
    content: bytes = field(repr=False, default=b"")
    """Bytes of the image file; drawn if empty."""

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.content:
            file.write_bytes(self.content)
            return
        self.image().save(file)

    def image(self) -> Image.Image:
        width, height = self.size
        pixels = np.random.default_rng(len(self.objects)).integers(0, 60, (height, width, 3), dtype=np.uint8)
        for label, (x, y, w, h) in self.objects:
            pixels[y : y + h, x : x + w, label] += 150
        return Image.fromarray(pixels)


Splits = dict[str, list[Drawn]]


def drawn_splits(seed: int = 0, train: int = 6, val: int = 4) -> Splits:
    """Random images; every class occurs in both splits."""
    rng = random.Random(seed)
    splits: Splits = {}
    for split, count in (("train", train), ("val", val)):
        splits[split] = []
        for number in range(count):
            width, height = rng.choice([(96, 64), (64, 96), (80, 80)])
            objects = []
            for label in [number % 3, *rng.choices(range(3), k=rng.randrange(3))]:
                w, h = rng.randrange(12, 40), rng.randrange(12, 40)
                objects.append((label, (rng.randrange(width - w + 1), rng.randrange(height - h + 1), w, h)))
            splits[split].append(Drawn(f"{split}_{number:03d}.png", (width, height), objects))
    return splits


def coco_splits(splits: Splits, first_category: int = 1) -> dict[str, dict[str, Any]]:
    """COCO's dictionary of each split."""
    contents, image_id, annotation_id = {}, 1, 1
    for split, images in splits.items():
        records, annotations = [], []
        for image in images:
            width, height = image.size
            records.append({"id": image_id, "file_name": image.name, "width": width, "height": height})
            for label, (x, y, w, h) in image.objects:
                annotation = {"id": annotation_id, "image_id": image_id, "category_id": first_category + label}
                annotations.append(annotation | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
                annotation_id += 1
            image_id += 1
        categories = [{"id": first_category + n, "name": name, "supercategory": "c"} for n, name in enumerate(NAMES)]
        contents[split] = {"images": records, "annotations": annotations, "categories": categories}
    return contents


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_coco(root: Path, splits: Splits, folder: str = "images", change: Callable[[Any], None] | None = None) -> Path:
    """COCO's layout; ``change`` edits the dictionaries of all splits."""
    contents = coco_splits(splits)
    if change is not None:
        change(contents)
    for split, content in contents.items():
        write_json(root / f"annotations/instances_{split}.json", content)
    for split, images in splits.items():
        for image in images:
            image.write(root / folder.format(split=split) / image.name)
    return root


def write_shuffled(root: Path, splits: Splits) -> Path:
    """COCO's layout with other ids and another order of images and annotations."""

    def shuffle(contents: dict[str, Any]) -> None:
        rng = random.Random(7)
        for content in contents.values():
            new = dict(
                zip([i["id"] for i in content["images"]], rng.sample(range(10**5), len(content["images"])), strict=True)
            )
            for image in content["images"]:
                image["id"] = new[image["id"]]
            for annotation in content["annotations"]:
                annotation["image_id"] = new[annotation["image_id"]]
                annotation["id"] += 500
            rng.shuffle(content["images"])
            # By image, since the order of the objects of an image is the order in which losses are summed.
            order = {image["id"]: rng.random() for image in content["images"]}
            content["annotations"].sort(key=lambda annotation: order[annotation["image_id"]])

    return write_coco(root, splits, change=shuffle)


def write_roboflow(root: Path, splits: Splits) -> Path:
    """Roboflow's COCO export: ids from 0, a parent category that nothing uses."""
    for split, content in coco_splits(splits).items():
        folder = root / {"val": "valid"}.get(split, split)
        for category in content["categories"]:
            category["supercategory"] = "things"
        content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        first = content["annotations"][0]["id"]
        for annotation in content["annotations"]:
            annotation["id"] -= first
        write_json(folder / "_annotations.coco.json", content)
        for image in splits[split]:
            image.write(folder / image.name)
    return root


def write_yolo(root: Path, splits: Splits, digits: int = 6) -> Path:
    """YOLO with images/SPLIT, labels/SPLIT and data.yaml."""
    for split, images in splits.items():
        for image in images:
            width, height = image.size
            lines = [
                " ".join([str(label), *(f"{v:.{digits}f}" for v in _centred(box, width, height))])
                for label, box in image.objects
            ]
            image.write(root / "images" / split / image.name)
            label_file = root / "labels" / split / f"{Path(image.name).stem}.txt"
            label_file.parent.mkdir(parents=True, exist_ok=True)
            label_file.write_text("\n".join(lines))
    places = "".join(f"{split}: images/{split}\n" for split in splits)
    (root / "data.yaml").write_text(f"path: .\n{places}names: [{', '.join(NAMES)}]\n")
    return root


def _centred(box: Sequence[int], width: int, height: int) -> tuple[float, ...]:
    x, y, w, h = box
    return (x + w / 2) / width, (y + h / 2) / height, w / width, h / height


def write_voc(root: Path, splits: Splits) -> Path:
    """Pascal VOC with lists of the splits and of the classes."""
    for split, images in splits.items():
        for image in images:
            image.write(root / "JPEGImages" / image.name)
            objects = "".join(
                f"<object><name>{NAMES[label]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax>"
                f"<ymax>{y + h}</ymax></bndbox></object>"
                for label, (x, y, w, h) in image.objects
            )
            size = f"<size><width>{image.size[0]}</width><height>{image.size[1]}</height><depth>3</depth></size>"
            file = root / "Annotations" / f"{Path(image.name).stem}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"<annotation><filename>{image.name}</filename>{size}{objects}</annotation>")
        lists = root / "ImageSets/Main" / f"{split}.txt"
        lists.parent.mkdir(parents=True, exist_ok=True)
        lists.write_text("\n".join(Path(image.name).stem for image in images))
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


def write_csv(root: Path, splits: Splits) -> Path:
    """CSV files as TensorFlow's tools write them; classes are in alphabetical order."""
    for split, images in splits.items():
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for image in images:
            image.write(root / split / image.name)
            for label, (x, y, w, h) in image.objects:
                lines.append(f"{image.name},{image.size[0]},{image.size[1]},{NAMES[label]},{x},{y},{x + w},{y + h}")
        (root / split / "_annotations.csv").write_text("\n".join(lines))
    return root


WRITERS: dict[str, Callable[[Path, Splits], Path]] = {
    "COCO": write_coco,
    "COCO, other ids": write_shuffled,
    "Roboflow COCO export": write_roboflow,
    "YOLO": write_yolo,
    "Pascal VOC": write_voc,
}
"""Layouts that keep the order of the classes."""


def with_content(splits: Splits, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Path]:
    """A writer of COCO's layout whose splits are changed one by one."""

    def write(root: Path) -> Path:
        return write_coco(root, splits, change=lambda contents: [change(content) for content in contents.values()])

    return write


def copied(splits: Splits) -> Splits:
    return copy.deepcopy(splits)
