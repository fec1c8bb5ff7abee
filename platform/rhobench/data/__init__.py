"""Detection data: COCO data sets, generated scenes, augmentation and the validation of a data set."""

from rhobench.data.annotations import Categories, DatasetError, UnreadableImageError, annotation_file
from rhobench.data.cache import build_once
from rhobench.data.check import check_dataset
from rhobench.data.coco import Batch, CocoDetection, Key, Sample, Target, collate
from rhobench.data.layouts import find_layout
from rhobench.data.preparation import (
    PreparedFolder,
    convert_dataset,
    describe_source,
    prepare_data,
    prepare_folder,
)
from rhobench.data.problem import Problem
from rhobench.data.scenes import generate_scenes
from rhobench.data.transforms import Flip, flips

__all__ = [
    "Batch",
    "Categories",
    "CocoDetection",
    "DatasetError",
    "Flip",
    "Key",
    "PreparedFolder",
    "Problem",
    "Sample",
    "Target",
    "UnreadableImageError",
    "annotation_file",
    "build_once",
    "check_dataset",
    "collate",
    "convert_dataset",
    "describe_source",
    "find_layout",
    "flips",
    "generate_scenes",
    "prepare_data",
    "prepare_folder",
]
