"""A generated detection data set: geometric objects on textured backgrounds, in COCO's layout.

The class of an object is its shape alone; colour, texture, size and orientation vary within a class. Objects are
drawn in turn and may hide one another, but each keeps at least three quarters of its pixels visible; the border of the
image hides too. As in COCO, the annotated box is the tight box of the visible pixels, ``area`` counts them, and
``segmentation`` lists them, run-length encoded. Every image has its own random stream, seeded by (seed, split, index).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rhobench.config import DataConfig, ScenesConfig
from rhobench.data.annotations import DatasetError, annotation_file
from rhobench.data.cache import build_once, cache_dir
from rhobench.data.check import require_valid
from rhobench.data.masks import encode_mask

GENERATOR_VERSION = 2
"""Part of the name of a cached data set: to be raised whenever the same ScenesConfig gives other bytes."""

MIN_VISIBLE = 0.75
"""Least share of its pixels that an object shows; the image border hides too."""
EMPTY_SHARE = 0.04
"""Share of the images that are meant to have no object."""
DIAMETER_SHARE = (0.1, 1.0)
"""Smallest and largest diameter of an object as a share of the image side; drawn log-uniformly."""
MAX_TILT = np.pi / 18
"""Objects stand, lie or hang, and lean by up to this (radians), as most things in photographs do."""
MIN_DIAMETER_PX = 10.0
"""Shapes cannot be told apart below this."""

Field = NDArray[np.floating[Any]]


def prepare_data(config: DataConfig) -> Path:
    """Return the folder of the data set, checked; the generated one is made in the cache folder on first use.

    Raises:
        DatasetError: ``config.dir`` is not a valid data set.
    """
    if config.dir is not None:
        root = Path(config.dir).expanduser()
        require_valid(root, list(dict.fromkeys((*config.train_splits, config.val_split))))
        return root
    recipe = json.dumps([GENERATOR_VERSION, asdict(config.scenes)], sort_keys=True)
    name = f"scenes-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    return build_once(cache_dir() / name, partial(generate_scenes, config.scenes))


def generate_scenes(config: ScenesConfig, out: Path) -> None:
    """Write the splits "train" and "val" into ``out`` (new or empty), with ``scenes.json`` saying how they were made.

    Raises:
        DatasetError: ``out`` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty; scenes are written into a new folder, so choose another name")
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
    """Ids with gaps, as in COCO: code that mistakes an id for a label fails on this data set too."""
    return 3 + 4 * label


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """An object that was drawn."""

    label: int
    """Index of its shape in SHAPES."""
    box: list[int]
    """x, y, width, height in pixels of what is visible."""
    area: int
    """Its visible pixels."""
    segmentation: dict[str, Any]
    """They themselves, as COCO's compressed run-length encoding: "size" (height, width) and "counts"."""
    visible_share: float
    """Of its pixels, those outside the image included."""


def draw_scene(config: ScenesConfig, split: str, index: int) -> tuple[NDArray[np.uint8], list[SceneObject]]:
    """Draw one image (size_px, size_px, 3) and list its objects from the rearmost to the foremost."""
    rng = np.random.default_rng(np.random.SeedSequence([config.seed, *split.encode(), index]))
    canvas = _background(rng, config.size_px)  # (S, S, 3)
    owner = np.zeros(canvas.shape[:2], np.int64)  # number of the foremost object of each pixel, 0: background
    whole: list[int] = []  # pixels of each object, were it alone and the canvas endless
    labels: list[int] = []
    wanted = 0 if rng.random() < EMPTY_SHARE else rng.integers(1, config.max_objects, endpoint=True)
    for _ in range(4 * wanted):  # some proposals hide too much and are left out
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
    label: int
    window: tuple[slice, slice]
    """Rows and columns of the canvas that the object touches."""
    alpha: Field
    """Its coverage of the window's pixels, 0 to 1."""
    texture: Field
    """Where each pixel of the window lies between the object's two colours, 0 to 1."""
    pixels: int
    """Its pixels, those outside the image included."""


def _propose(rng: np.random.Generator, config: ScenesConfig) -> _Proposal:
    size = config.size_px
    label = int(rng.integers(config.num_classes))
    smallest, largest = max(DIAMETER_SHARE[0] * size, MIN_DIAMETER_PX), DIAMETER_SHARE[1] * size
    radius = np.exp(rng.uniform(np.log(smallest), np.log(largest))) / 2
    centre_x, centre_y = rng.uniform(0, size, 2)
    left, top = int(centre_x - radius) - 1, int(centre_y - radius) - 1
    side = int(2 * radius) + 4
    rows, columns = np.arange(top, top + side), np.arange(left, left + side)
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


# Shapes in the circle of radius 1: (u, v) -> signed distance to the outline, negative inside.


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


def _enlarged_noise(rng: np.random.Generator, size: int, cells: int, how: Image.Resampling) -> Field:
    noise = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(noise.resize((size, size), how))


def _contrasting_colours(rng: np.random.Generator, behind: Field) -> tuple[Field, Field]:
    """Two related colours (3,) that both stand out from the mean colour ``behind`` the object."""
    candidates = rng.random((16, 3))
    away = np.linalg.norm(candidates - behind, axis=1)
    main = candidates[np.argmax(away > 0.5) if (away > 0.5).any() else np.argmax(away)]
    # The second colour lies further away from the background, so a texture never fades into it.
    second = np.clip(main + rng.uniform(0.2, 0.8) * (main - behind) + rng.uniform(-0.3, 0.3, 3), 0, 1)
    return main.astype(np.float32), second.astype(np.float32)


def _blend(first: Field, second: Field, share: Field) -> Field:
    """(3,), (3,), (H, W) -> (H, W, 3)."""
    return (first + share[..., None] * (second - first)).astype(np.float32)
