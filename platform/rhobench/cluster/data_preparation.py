"""Prepare data that several runs share, before the first of them starts: generated scenes and cached features."""

from __future__ import annotations

import traceback
from typing import Any

import torch

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.data import prepare_data
from rhobench.measure.process import configure_process
from rhobench.training.loaders import open_images, open_training_data
from rhobench.training.loop import build_detector


def prepare(config: dict[str, Any], threads: int) -> str | None:
    """Fill the cache folder of this node for a run; return None, or the traceback of an error, which is never empty.

    An error does not end the sweep: each run that meets it again records it as the reason of its failure.
    """
    configure_process(threads)
    run = from_dict(RunConfig, config)
    try:
        images = open_images(run, prepare_data(run.data))
        if run.train.cache_features:
            torch.manual_seed(run.seed)  # cached features depend on the weights, which may be random
            open_training_data(run, images, build_detector(run, images[0].categories), lambda note: None)
    except Exception:
        return traceback.format_exc()  # its last line has the type of an error without words, too
    return None
