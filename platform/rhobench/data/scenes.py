"""A generated detection data set in COCO's layout: geometric objects on textured backgrounds.

The class of an object is its shape; colour, texture, size and orientation vary within a class. Objects may occlude one
another and may be cut off by the border of the image, but at least three quarters of the pixels of each stay visible.
As in COCO, the annotated box is the tight box of the visible pixels, ``area`` is their number, and ``segmentation`` is
their run-length encoding. Every image has its own random stream, seeded by (seed, split, index).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rhobench.config import ScenesConfig
from rhobench.data.annotations import DatasetError, annotation_file
from rhobench.data.segmentation import encode_mask

GENERATOR_VERSION = 2
"""Part of the name of a cached data set; increase it whenever the same ScenesConfig generates other bytes."""

MIN_VISIBLE = 0.75
"""Smallest visible share of the pixels of an object; occluded and cut-off pixels are not visible."""
EMPTY_SHARE = 0.04
"""Probability that an image has no object."""
MIN_DIAMETER = 0.1
"""Smallest diameter of an object as a share of the image side; diameters are sampled log-uniformly."""
MAX_TILT = np.pi / 18
"""Largest tilt in radians from an orientation of 0, 90, 180 or 270 degrees, as of most objects in photographs."""
MIN_DIAMETER_PX = 10.0
"""Smallest diameter in pixels at which the shapes can be distinguished."""

Field = NDArray[np.floating[Any]]


def generate_scenes(config: ScenesConfig, out: Path) -> None:
    """Write the splits "train" and "val" into ``out`` (new or empty), with their configuration in ``scenes.json``.

    Raises:
        DatasetError: ``out`` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty; scenes need a new or empty folder, so choose another name.")
    for folder in ("images", "annotations"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    _write_split(config, out, "train", config.train_images, first_image_id=1)
    _write_split(config, out, "val", config.val_images, first_image_id=1 + config.train_images)
    provenance = {"generator": "rhobench.data.scenes", "version": GENERATOR_VERSION, "config": asdict(config)}
    (out / "scenes.json").write_text(json.dumps(provenance, indent=2) + "\n")


def _write_split(config: ScenesConfig, out: Path, split: str, images: int, first_image_id: int) -> None:
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(images):
        pixels, objects = draw_scene(config, split, index)
        image_id, file_name = first_image_id + index, f"{split}_{index:06d}.jpg"
        Image.fromarray(pixels).save(out / "images" / file_name, quality=95)
        records.append({"id": image_id, "file_name": file_name, "width": config.size_px, "height": config.size_px})
        for thing in objects:
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": _category_id(thing.label)}
            seen = {"bbox": thing.box, "area": thing.area, "segmentation": thing.segmentation}
            annotations.append(annotation | seen | {"iscrowd": 0})
    names = list(SHAPES)[: config.num_classes]
    categories = [{"id": _category_id(label), "name": name} for label, name in enumerate(names)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    annotation_file(out, split).write_text(json.dumps(content))


def _category_id(label: int) -> int:
    """Return a category id. As in COCO, ids have gaps, so that code that confuses ids with labels fails."""
    return 3 + 4 * label


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """An object in a scene."""

    label: int
    """Index of the shape in ``SHAPES``."""
    box: list[int]
    """Box of the visible pixels: x, y, width, height in pixels."""
    area: int
    """Number of visible pixels."""
    segmentation: dict[str, Any]
    """Visible pixels as COCO's compressed run-length encoding: "size" (height, width) and "counts"."""
    visible_share: float
    """Share of the pixels of the object, including those outside the image, that is visible."""


def draw_scene(config: ScenesConfig, split: str, index: int) -> tuple[NDArray[np.uint8], list[SceneObject]]:
    """Draw one image (size_px, size_px, 3) and list its objects from the rearmost to the foremost."""
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, *split.encode(), index]))
    canvas = _background(rng, config.size_px)  # (S, S, 3)
    owner = np.zeros(canvas.shape[:2], np.int64)  # 1-based index of the foremost object of each pixel, 0: background
    whole: list[int] = []  # pixels of each object without occlusion and image border
    labels: list[int] = []
    wanted = 0 if rng.random() < EMPTY_SHARE else rng.integers(1, config.max_objects, endpoint=True)
    for _ in range(4 * wanted):  # proposals that occlude too much are rejected
        if len(labels) == wanted:
            break
        proposal = _propose(rng, config)
        window, alpha = proposal.window, proposal.alpha
        mask = alpha >= 0.5
        trial = owner.copy()
        trial[window][mask] = len(whole) + 1
        visible = np.bincount(trial.ravel(), minlength=len(whole) + 2)[1:]
        if (visible < MIN_VISIBLE * np.array([*whole, proposal.pixels])).any():
            continue
        owner = trial
        whole.append(proposal.pixels)
        colours = _contrasting_colours(rng, canvas[window][mask].mean(axis=0))
        fill = _blend(*colours, proposal.texture)
        canvas[window] += alpha[..., None] * (fill - canvas[window])
        labels.append(proposal.label)
    canvas += rng.uniform(0.0, 0.04) * rng.standard_normal(canvas.shape, np.float32)
    objects = [_object(labels[i], owner == i + 1, whole[i]) for i in range(len(labels))]
    return (canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8), objects


@dataclass(frozen=True, kw_only=True)
class _Proposal:
    """An object that is drawn if it does not occlude too much."""

    label: int
    """Index of the shape in ``SHAPES``."""
    window: tuple[slice, slice]
    """Rows and columns of the canvas that the object touches."""
    alpha: Field
    """Coverage of each pixel of the window by the object, 0 to 1."""
    texture: Field
    """Blend between the two colours of the object at each pixel of the window, 0 to 1."""
    pixels: int
    """Number of pixels of the object, including those outside the image."""


def _propose(rng: np.random.Generator, config: ScenesConfig) -> _Proposal:
    size = config.size_px
    label = int(rng.integers(config.num_classes))
    smallest, largest = max(MIN_DIAMETER * size, MIN_DIAMETER_PX), config.max_diameter * size
    radius = np.exp(rng.uniform(np.log(smallest), np.log(largest))) / 2
    centre_x, centre_y = rng.uniform(0, size, 2)
    left, top = int(centre_x - radius) - 1, int(centre_y - radius) - 1
    side = int(2 * radius) + 4  # a margin for the antialiased outline
    rows, columns = np.arange(top, top + side), np.arange(left, left + side)
    # + 0.5, because pixels are sampled at their centres.
    x = ((columns + 0.5 - centre_x) / radius).astype(np.float32)[None, :]
    y = ((rows + 0.5 - centre_y) / radius).astype(np.float32)[:, None]
    turn = rng.integers(4) * np.pi / 2 + rng.uniform(-MAX_TILT, MAX_TILT)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = cos * x + sin * y, cos * y - sin * x  # (side, side) each: the object's own axes
    distance = list(SHAPES.values())[label](u, v)
    alpha = np.clip(0.5 - radius * distance, 0, 1).astype(np.float32)
    texture = FILLS[rng.integers(len(FILLS))](u, v, rng.uniform(3, 9))
    inside = np.ix_((rows >= 0) & (rows < size), (columns >= 0) & (columns < size))
    return _Proposal(
        label=label,
        window=(slice(max(top, 0), top + side), slice(max(left, 0), left + side)),
        alpha=alpha[inside],
        texture=texture[inside],
        pixels=int((alpha >= 0.5).sum()),
    )


def _object(label: int, visible: NDArray[np.bool_], pixels: int) -> SceneObject:
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
    area = int(visible.sum())
    segmentation = encode_mask(visible)
    return SceneObject(label=label, box=box, area=area, segmentation=segmentation, visible_share=area / pixels)


# Shapes inside the unit circle: (u, v) -> signed distance to the outline, negative inside.


def _polygon(u: Field, v: Field, sides: int) -> Field:
    sector = 2 * np.pi / sides
    angle = (np.arctan2(v, u) + sector / 2) % sector - sector / 2
    return np.hypot(u, v) * np.cos(angle) - np.cos(sector / 2)


def _star(u: Field, v: Field) -> Field:
    sector, inner = 2 * np.pi / 5, 0.42
    angle = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)  # 0 at a tip, sector / 2 at a notch
    edge = np.array([inner * np.cos(sector / 2) - 1, inner * np.sin(sector / 2)])
    across, along = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (np.hypot(u, v) * np.cos(angle) - 1) * across + np.hypot(u, v) * np.sin(angle) * along


def _rectangle(u: Field, v: Field, half_length: float, half_width: float) -> Field:
    return np.maximum(np.abs(u) - half_length, np.abs(v) - half_width)


def _heart(u: Field, v: Field) -> Field:
    side, lobe = 0.55, 0.55  # a square standing on its corner, with a half disc on each of its two upper sides
    square = _rectangle((u + v) / np.sqrt(2), (u - v) / np.sqrt(2), side, side)
    shift = side / np.sqrt(2)
    return np.minimum(square, np.hypot(np.abs(u) - shift, v + shift) - lobe)


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda u, v: np.hypot(u, v) - 1,
    "square": partial(_polygon, sides=4),
    "triangle": partial(_polygon, sides=3),
    "star": _star,
    "cross": lambda u, v: np.minimum(_rectangle(u, v, 0.95, 0.3), _rectangle(v, u, 0.95, 0.3)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.77) - 0.23,
    "bar": lambda u, v: _rectangle(u, v, 0.96, 0.28),
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 1, 0.8 - np.hypot(u - 0.5, v)),
    "heart": _heart,
    "hourglass": lambda u, v: np.maximum((np.abs(v) - 0.9 * np.abs(u)) / 1.35, np.abs(u) - 0.74),
}

FILLS: tuple[Callable[[Field, Field, float], Field], ...] = (
    lambda u, v, frequency: np.zeros_like(u),
    lambda u, v, frequency: np.clip((u + 1) / 2, 0, 1),
    lambda u, v, frequency: _wave(frequency * u),
    lambda u, v, frequency: _wave(frequency * u) * _wave(frequency * v),
)
"""Textures of objects: plain, shaded, striped, spotted."""


def _wave(phase: Field) -> Field:
    return (np.sin(phase) + 1) / 2


def _background(rng: np.random.Generator, size: int) -> Field:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    along = np.float32(np.cos(turn)) * axis[None, :] + np.float32(np.sin(turn)) * axis[:, None]
    frequency = np.exp(rng.uniform(np.log(4), np.log(60)))
    pattern: Field
    kind = rng.integers(5)
    if kind == 0:
        pattern = (along + 1.5) / 3
    elif kind == 1:
        pattern = _wave(frequency * along)
    elif kind == 2:
        pattern = _wave(frequency * np.hypot(axis[None, :] - rng.uniform(-1, 1), axis[:, None] - rng.uniform(-1, 1)))
    elif kind == 3:
        pattern = _enlarged_noise(rng, size, int(rng.integers(4, 24)), Image.Resampling.NEAREST)
    else:
        pattern = _enlarged_noise(rng, size, int(rng.integers(30, 80)), Image.Resampling.BICUBIC)
    clouds = sum(_enlarged_noise(rng, size, cells, Image.Resampling.BICUBIC) / 3 for cells in (3, 6, 12))
    share = rng.uniform(0.3, 0.9)
    first, second = rng.uniform(0.1, 0.9, (2, 3))
    return _blend(first, first + rng.uniform(0.4, 1.0) * (second - first), share * pattern + (1 - share) * clouds)


def _enlarged_noise(rng: np.random.Generator, size: int, cells: int, resampling: Image.Resampling) -> Field:
    noise = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(noise.resize((size, size), resampling))


def _contrasting_colours(rng: np.random.Generator, behind: Field) -> tuple[Field, Field]:
    """Sample two related colours (3,) that both contrast with the mean colour ``behind`` the object."""
    candidates = rng.random((16, 3))
    away = np.linalg.norm(candidates - behind, axis=1)
    main = candidates[np.argmax(away > 0.5) if (away > 0.5).any() else np.argmax(away)]
    # The second colour is farther from the background than the first, so a texture never blends into it.
    second = np.clip(main + rng.uniform(0.2, 0.8) * (main - behind) + rng.uniform(-0.3, 0.3, 3), 0, 1)
    return main.astype(np.float32), second.astype(np.float32)


def _blend(first: Field, second: Field, share: Field) -> Field:
    """Blend two colours (3,) by a share (H, W) to an image (H, W, 3)."""
    return (first + share[..., None] * (second - first)).astype(np.float32)
