"""The share of the encoder's tokens that the decoder reads (paper, preliminary study)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from rhobench.data.transforms import Flip
from rhobench.inference.evaluate import evaluated_images
from rhobench.measure.artifact import ArtifactError, load_artifact
from rhobench.model.sparsity import decoder_attention_map


@torch.inference_mode()
def referenced_share(
    file: Path, data: Path, split: str, on_image: Callable[[int, int], None], short_side_px: int | None = None
) -> float:
    """Mean over images of the share of tokens whose weight in the decoder's attention map is above zero.

    Args:
        file: artifact of a model with deformable attention.
        data: folder of a data set.
        split: name of the split.
        on_image: called with the number of finished images and of all.
        short_side_px: length of the shorter side after resizing; None: as trained.

    Raises:
        ArtifactError: the file is no artifact, or its decoder has no sampling points.
    """
    artifact = load_artifact(file)
    images, _ = evaluated_images(artifact, data, split, short_side_px)
    shares = []
    for index in range(len(images)):
        output = artifact.model(images[index, Flip.NONE].image[None], with_aux=True)
        if not output.samplings:
            raise ArtifactError(f"{file} is a {artifact.config.model.name}, whose decoder has no sampling points.")
        dam = decoder_attention_map(output.samplings, output.grid.shapes)  # (1, N)
        shares.append(float((dam > 0).double().mean()))
        on_image(index + 1, len(images))
    return sum(shares) / len(shares)
