"""Detection data: COCO data sets, generated scenes, augmentation and the validation of a data set.

What needs torch is imported by its module: ``rhobench.data.coco``, ``augmentation``, ``masks`` and ``transforms``.
"""

from rhobench.data.annotations import Categories, DatasetError, UnreadableImageError, annotation_file
from rhobench.data.cache import build_once
from rhobench.data.check import check_dataset
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

__all__ = [
    "Categories",
    "DatasetError",
    "PreparedFolder",
    "Problem",
    "UnreadableImageError",
    "annotation_file",
    "build_once",
    "check_dataset",
    "convert_dataset",
    "describe_source",
    "find_layout",
    "generate_scenes",
    "prepare_data",
    "prepare_folder",
]
