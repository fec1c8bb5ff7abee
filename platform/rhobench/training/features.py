"""Disk cache of the features of a frozen backbone, computed once for all runs of a sweep.

The forward pass of a frozen backbone is most of the work of a small detector and gives the same result in every epoch.
The features of every (image, flip) are stored in fp16 in memory-mapped files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch.utils.data import Dataset

from rhobench.config import DataConfig, RunConfig
from rhobench.config.cache import cache_dir
from rhobench.config.conversion import to_dict
from rhobench.data import build_once
from rhobench.data.coco import CocoDetection, Key, Sample, Target
from rhobench.data.transforms import Flip
from rhobench.model.backbone import Backbone
from rhobench.model.pretrained import weights_file
from rhobench.training.batches import FeatureBatch

BACKBONE_BATCH = 16
"""Images per backbone call while the cache is built."""
CACHE_VERSION = 2
"""Version of the files in a cache folder; part of the folder's hash."""

FeatureSample = tuple[list[np.ndarray], tuple[int, int], Target]
"""Feature maps (C_l, H_l, W_l) in fp16, (height, width) of the image in pixels, and its annotated objects."""


class FeatureDataset(Dataset[FeatureSample]):
    """A ``CocoDetection`` without augmentation whose samples are cached backbone features instead of images."""

    def __init__(self, folder: Path, flips: Sequence[Flip]) -> None:
        self.flips = tuple(flips)
        meta = json.loads((folder / "meta.json").read_text())
        self.image_size: tuple[int, int] = tuple(meta["image_size"])
        # Memory-mapped, so that the runs of a machine share the pages and a file may exceed the memory.
        self.maps = [np.load(folder / f"level{i}.npy", mmap_mode="r") for i in range(meta["levels"])]
        # Other users may be able to write to the cache folder, so only torch's restricted unpickler reads from it.
        fields = torch.load(folder / "targets.pt", weights_only=True)
        self.targets = [Target(**target) for target in fields]

    def __len__(self) -> int:
        return len(self.targets) // len(self.flips)

    def __getitem__(self, key: Key | tuple[int, Flip]) -> FeatureSample:
        index, flip, _ = Key(*key)
        row = index * len(self.flips) + self.flips.index(flip)
        return [m[row] for m in self.maps], self.image_size, self.targets[row]


def collate_features(samples: Sequence[FeatureSample]) -> FeatureBatch:
    """Stack samples into a batch in fp32."""
    levels = zip(*(maps for maps, _, _ in samples), strict=True)
    # np.stack copies, so that no tensor refers to the read-only file.
    features = [torch.from_numpy(np.stack(level)).float() for level in levels]
    mask = torch.zeros(len(samples), *samples[0][1], dtype=torch.bool)
    return FeatureBatch(features, mask, tuple(target for _, _, target in samples))


def cached_features(
    config: RunConfig,
    dataset: CocoDetection,
    backbone: Backbone,
    on_progress: Callable[[str], None] = lambda text: None,
) -> FeatureDataset:
    """Open the cached features of a dataset; compute them first if the cache has none.

    Args:
        config: configuration of the run; its backbone must be entirely frozen and its images of one size.
        dataset: images and the flips that are used.
        backbone: backbone with its weights loaded.
        on_progress: called with a line of progress.

    Raises:
        ValueError: the backbone is trained, or the images have several sizes.
    """
    if config.model.backbone.frozen != "all":
        raise ValueError(
            "train.cache_features=true requires model.backbone.frozen=all: the features of a trained backbone change."
        )
    folder = cache_dir() / f"features-{_cache_key(config, dataset)}"
    # In evaluation mode, because neither drop path nor the rest of a batch may influence what is cached.
    build_once(folder, lambda target: _compute(target, dataset, backbone.eval(), on_progress))
    return FeatureDataset(folder, dataset.flips)


def _cache_key(config: RunConfig, dataset: CocoDetection) -> str:
    """Hash of everything the cache depends on: backbone, weights, images, their size and flips, presence of masks.

    Augmentation settings are left out, because a run with augmentation cannot use cached features.
    """
    digest = hashlib.sha256(bytes([CACHE_VERSION]))
    # Flips and files are hashed below as such, and the number of loader processes has no effect on the features.
    hashed = {"hflip", "vflip", "loader_workers", "train_splits", "val_split", "dir", "scenes"}
    augmentation = {"scales_px", "crop_prob", "crop_scales_px", "crop_px", "brightness", "contrast", "saturation"}
    data = {k: v for k, v in to_dict(config.data).items() if k not in hashed | augmentation}
    digest.update(json.dumps([to_dict(config.model.backbone), data, [int(f) for f in dataset.flips]]).encode())
    weights = config.model.backbone.weights
    if weights not in (None, "timm"):
        # By content: another file may appear under the same name.
        digest.update(weights_file(weights or "").read_bytes())
    elif weights is None:
        digest.update(str(config.seed).encode())  # random weights depend on the seed
    if dataset.has_masks:
        digest.update(b"masks")  # the cached targets then include them
    # Size and modification time identify the files; hashing the content of every image would be slow.
    for file in (*dataset.annotation_files, *dataset.files):
        if file.exists():  # reading a missing image raises the error
            state = file.stat()
            digest.update(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def _compute(folder: Path, dataset: CocoDetection, backbone: Backbone, on_progress: Callable[[str], None]) -> None:
    """Write the features and targets of all (image, flip) into a cache folder."""
    keys = [(index, flip) for index in range(len(dataset)) for flip in dataset.flips]
    maps: list[np.memmap] = []
    targets: list[Target] = []
    size: tuple[int, int] | None = None
    for start in range(0, len(keys), BACKBONE_BATCH):
        samples = [dataset[key] for key in keys[start : start + BACKBONE_BATCH]]
        size = _common_size(samples, size, dataset.config)
        features = backbone(torch.stack([s.image for s in samples]))
        if not maps:
            maps = [
                open_memmap(folder / f"level{i}.npy", "w+", np.float16, (len(keys), *f.shape[1:]))
                for i, f in enumerate(features)
            ]
        for level, feature in zip(maps, features, strict=True):
            level[start : start + len(samples)] = feature.half().numpy()
        targets += [s.target for s in samples]
        on_progress(f"backbone features {start + len(samples)}/{len(keys)}")
    for level in maps:
        level.flush()
    torch.save([vars(target) for target in targets], folder / "targets.pt")
    (folder / "meta.json").write_text(json.dumps({"levels": len(maps), "image_size": size}))


def _common_size(samples: list[Sample], size: tuple[int, int] | None, config: DataConfig) -> tuple[int, int]:
    """Check that all samples have ``size``, or the size of the first one if it is None, and return it."""
    for sample in samples:
        height, width = sample.image.shape[1:]
        size = size or (height, width)
        if (height, width) != size:
            raise ValueError(
                f"train.cache_features=true requires images of one size, but image {sample.target.image_id} is "
                f"{height}x{width} after resizing and others are {size[0]}x{size[1]}: set data.resize_px "
                f"(it is {config.resize_px})."
            )
    assert size is not None
    return size
