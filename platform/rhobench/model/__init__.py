"""DETR, Deformable DETR and Sparse DETR as PyTorch modules, independent of Ray, datasets and experiments."""

from rhobench.config import ModelConfig
from rhobench.config.model_zoo import MODELS
from rhobench.model.detector import Detector, DetectorOutput
from rhobench.model.detr import DETR
from rhobench.model.sparse_detr import SparseDETR


def build_model(config: ModelConfig) -> Detector:
    """Build the detector that ``config`` describes, with newly initialised transformer weights.

    Raises:
        ValueError: ``config.num_classes`` is None.
        BackboneError: the backbone does not exist or its weights do not fit.
    """
    return DETR(config) if config.name == "detr" else SparseDETR(config)


__all__ = ["DETR", "MODELS", "Detector", "DetectorOutput", "SparseDETR", "build_model"]
