"""Detection data: COCO data sets, generated scenes, augmentation and the validation of a data set."""

from rhobench.data.annotations import Categories, DatasetError, UnreadableImageError, annotation_file
from rhobench.data.cache import build_once
from rhobench.data.check import Problem, check_dataset, require_valid
from rhobench.data.coco import Batch, CocoDetection, Key, Sample, Target, collate
from rhobench.data.scenes import generate_scenes, prepare_data
from rhobench.data.transforms import Flip, flips

__all__ = [
    "Batch",
    "Categories",
    "CocoDetection",
    "DatasetError",
    "Flip",
    "Key",
    "Problem",
    "Sample",
    "Target",
    "UnreadableImageError",
    "annotation_file",
    "build_once",
    "check_dataset",
    "collate",
    "flips",
    "generate_scenes",
    "prepare_data",
    "require_valid",
]
