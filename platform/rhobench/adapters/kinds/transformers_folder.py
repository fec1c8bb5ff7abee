"""Detectors of Hugging Face transformers: a folder with model and image processor, as ``save_pretrained`` writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError

from rhobench.adapters.foreign_detector import AdapterError, ForeignDetector, FoundObjects, LoadRequest, require_package

KIND = "transformers"
TAKES = "a folder with config.json, preprocessor_config.json and weights, as save_pretrained writes it"

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_NO_NAME = re.compile(r"LABEL_\d+")
"""Names that transformers gives to classes without a name."""


def recognises(path: Path) -> bool:
    """Whether ``path`` is a folder with a config.json."""
    return path.is_dir() and (path / "config.json").is_file()


def load(request: LoadRequest) -> TransformersDetector:
    """Load model and image processor; nothing is downloaded, and no code in the folder is run.

    Raises:
        AdapterError: a file is missing, the model is no object detector, or not all of its weights are in the folder.
    """
    folder = request.path
    if request.engine not in (None, "pytorch"):
        raise AdapterError(f"--engine {request.engine} does not run a folder of transformers: omit it.")
    if not recognises(folder):
        raise AdapterError(f"{folder} is not a folder of transformers: it has no config.json.")
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise AdapterError(
            f"{folder} has no weights ({' or '.join(_WEIGHTS)}): a model with random weights has no AP worth comparing."
        )
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise AdapterError(
            f"{folder} has no preprocessor_config.json, so the size and scale of its input are unknown: save the image "
            "processor of the model to the same folder."
        )
    transformers = require_package("transformers", KIND)
    transformers.utils.logging.disable_progress_bar()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model, report = transformers.AutoModelForObjectDetection.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, use_safetensors=None
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise AdapterError(f"{folder} cannot be loaded as an object detector of transformers: {first}") from error
    random = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if random:
        raise AdapterError(
            f"{folder} lacks weights of {len(random)} parameters, such as {random[0]}, which would be random: "
            "train the model, or give a folder with all of its weights."
        )
    if not hasattr(processor, "post_process_object_detection"):
        raise AdapterError(f"The image processor {type(processor).__name__} in {folder} does not return boxes.")
    return TransformersDetector(model.to(request.device).eval(), processor)


class TransformersDetector(ForeignDetector):
    """A detector with the preprocessing and post-processing of its image processor."""

    packages = ("torch", "transformers")

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.architecture = type(model).__name__
        names = {int(label): str(name) for label, name in model.config.id2label.items()}
        unnamed = all(_NO_NAME.fullmatch(name) for name in names.values())
        self.classes = {label: None if unnamed else name for label, name in names.items()}
        self.params_m = sum(p.numel() for p in model.parameters()) / 1e6
        self.precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(model.dtype, "fp32")

    def prepare(self, image: Image.Image) -> tuple[Any, list[tuple[int, int]]]:
        """Pixels, and their mask if the model has one, on the device; with the original size."""
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device, self.model.dtype)
        return inputs, [(image.height, image.width)]

    def detect(self, prepared: tuple[Any, list[tuple[int, int]]]) -> FoundObjects:
        """Run the model and the post-processing of transformers, without a threshold of the score."""
        inputs, sizes = prepared
        outputs = self.model(**inputs)
        (found,) = self.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        return FoundObjects(found["boxes"], found["scores"], found["labels"])
