"""Benchmark training transforms per core: rhobench against the official ones, on the same crops, sizes and flips.

    python benchmarks/decode.py DIR [--images 100] [--rounds 7] [--json]

Both read and decode each file of the folder and return the normalised float32 tensor of the view that ``sample_view``
draws for it by the official rule. The official transforms are those of Pillow and torchvision, in the order of spec
section 15. Both alternate, image by image, in one process on one thread. CPU time is measured, so that other load on
the machine has little influence.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from rhobench.config import OFFICIAL_AUGMENTATION, DataConfig
from rhobench.data.augmentation import View, augment, sample_view
from rhobench.data.pixels import decode
from rhobench.data.transforms import Flip

CONFIG = DataConfig(**OFFICIAL_AUGMENTATION)
Drawn = tuple[Path, Flip, View]
NO_BOXES = torch.zeros(0, 4)


def ours(file: Path, flip: Flip, view: View) -> Tensor:
    """Apply the transforms of rhobench."""
    return augment(decode(file), NO_BOXES, flip, view, CONFIG)[0]


def official(file: Path, flip: Flip, view: View) -> Tensor:
    """Apply the official transforms: Pillow, ToTensor and Normalize."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    if flip:
        image = functional.hflip(image)
    if view.crop is not None:
        image = functional.resize(image, list(view.crop.resized))
        image = functional.crop(image, view.crop.top, view.crop.left, view.crop.height, view.crop.width)
    image = functional.resize(image, list(view.size))
    return functional.normalize(functional.to_tensor(image), list(CONFIG.pixel_mean), list(CONFIG.pixel_std))


def decoded(file: Path, flip: Flip, view: View) -> Image.Image:
    """Decode the file without any transform, the part that both have in common."""
    return decode(file)


CONTENDERS: dict[str, Callable[[Path, Flip, View], Tensor | Image.Image]] = {
    "official": official,
    "ours": ours,
    "decoding alone": decoded,
}


def draw_views(files: list[Path]) -> list[Drawn]:
    """Draw the views of the first epoch with seed 0; every other image is flipped."""
    drawn = []
    for number, file in enumerate(files):
        with Image.open(file) as image:
            drawn.append((file, Flip(number % 2), sample_view(CONFIG, image.height, image.width, 0, file.name)))
    return drawn


def time_rounds(drawn: list[Drawn], rounds: int) -> dict[str, np.ndarray]:
    """CPU seconds of each contender, (rounds, images), after one warm-up round."""
    seconds = {name: np.zeros((rounds + 1, len(drawn))) for name in CONTENDERS}
    for turn in range(rounds + 1):
        for number, one in enumerate(drawn):
            for name, contender in CONTENDERS.items():
                started = time.thread_time()
                contender(*one)
                seconds[name][turn, number] = time.thread_time() - started
    return {name: taken[1:] for name, taken in seconds.items()}


def pixel_differences(drawn: list[Drawn]) -> tuple[float, float]:
    """Largest and mean difference between rhobench and the official transforms, in levels of 255."""
    levels = torch.tensor(CONFIG.pixel_std)[:, None, None] * 255
    differences = [(ours(*one) - official(*one)).abs() * levels for one in drawn]
    return max(float(d.max()) for d in differences), statistics.mean(float(d.mean()) for d in differences)


def result(drawn: list[Drawn], rounds: int) -> dict[str, object]:
    """All results, for the table and as JSON; milliseconds are medians over rounds of the means over images."""
    cropped = np.array([view.crop is not None for _, _, view in drawn])
    seconds = time_rounds(drawn, rounds)
    subsets = {"all": np.ones_like(cropped), "whole": ~cropped, "cropped": cropped}
    rows = []
    for name, chosen in subsets.items():
        ms = {k: float(np.median(taken[:, chosen].mean(axis=1))) * 1e3 for k, taken in seconds.items() if chosen.any()}
        if ms:
            ratio = ms["official"] / ms["ours"]
            rows.append({"images": name, "count": int(chosen.sum()), "ms": ms, "times_as_fast": ratio})
    largest, mean = pixel_differences(drawn)
    return {"rounds": rounds, "rows": rows, "max_difference_levels": largest, "mean_difference_levels": mean}


def print_table(measured: dict[str, object]) -> None:
    """Print the results as a table."""
    print(
        f"{'images':>8} {'count':>6} {'official ms':>12} {'ours ms':>9} {'decoding ms':>12} {'ours/s':>8} {'ratio':>7}"
    )
    for row in measured["rows"]:  # type: ignore[attr-defined]
        ms = row["ms"]
        print(
            f"{row['images']:>8} {row['count']:>6} {ms['official']:>12.2f} {ms['ours']:>9.2f} "
            f"{ms['decoding alone']:>12.2f} {1e3 / ms['ours']:>8.0f} {row['times_as_fast']:>7.2f}"
        )
    print(
        f"pixel difference: at most {measured['max_difference_levels']:.2f} levels of 255, "
        f"mean {measured['mean_difference_levels']:.4f}"
    )


def main() -> None:
    """Parse the arguments, run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of image files")
    parser.add_argument("--images", type=int, default=100, help="number of files, sorted by name (default: 100)")
    parser.add_argument("--rounds", type=int, default=7, help="passes over the files (default: 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    files = sorted(f for f in arguments.folder.iterdir() if f.suffix.lower() in Image.registered_extensions())
    if not files:
        parser.error(f"DIR {arguments.folder} contains no image")
    torch.set_num_threads(1)
    measured = result(draw_views(files[: arguments.images]), arguments.rounds)
    print_table(measured)
    if arguments.json:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
