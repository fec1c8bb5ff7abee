"""DETR, Deformable DETR and Sparse DETR as PyTorch modules. Knows no Ray, no files of data, no experiment."""

from rhobench.config import ModelConfig
from rhobench.config.model_zoo import MODELS
from rhobench.model.detector import Detector, DetectorOutput
from rhobench.model.detr import DETR
from rhobench.model.sparse_detr import SparseDETR


def build_model(config: ModelConfig) -> Detector:
    """The detector that ``config`` describes, freshly initialised."""
    return DETR(config) if config.name == "detr" else SparseDETR(config)


__all__ = ["DETR", "MODELS", "Detector", "DetectorOutput", "SparseDETR", "build_model"]
