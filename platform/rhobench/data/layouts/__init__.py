"""Layouts of data sets as people have them, recognised by their files and read as COCO's dictionaries."""

from rhobench.data.layouts.dataset import SourceDataset, read_dataset
from rhobench.data.layouts.find import find_layout
from rhobench.data.layouts.source import Layout, SourceSplit

__all__ = ["Layout", "SourceDataset", "SourceSplit", "find_layout", "read_dataset"]
