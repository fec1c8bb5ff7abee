"""Training images per second and core: ours beside the official transforms, on the same parts, sizes and flips.

    python benchmarks/decode.py DIR [--images 100] [--rounds 7] [--json]

Both read each file of the folder, decode it, and give the normalised float32 tensor of what ``sample_view`` drew for it
by the official rule. The official transforms are Pillow's and torchvision's, in the order of spec section 15. They take
turns, image by image, in one process on one thread. Time is that of the processor, so that other work on the machine
counts little.
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
from rhobench.data import Flip
from rhobench.data.augmentation import View, augment, sample_view
from rhobench.data.transforms import decode

CONFIG = DataConfig(**OFFICIAL_AUGMENTATION)
Drawn = tuple[Path, Flip, View]
NO_BOXES = torch.zeros(0, 4)


def ours(file: Path, flip: Flip, view: View) -> Tensor:
    """The image as rhobench trains on it."""
    return augment(decode(file), NO_BOXES, flip, view, CONFIG)[0]


def official(file: Path, flip: Flip, view: View) -> Tensor:
    """The same by Pillow, ToTensor and Normalize."""
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
    """The file's pixels and nothing else: the part that no transform can save."""
    return decode(file)


CONTENDERS: dict[str, Callable[[Path, Flip, View], Tensor | Image.Image]] = {
    "official": official,
    "ours": ours,
    "decoding alone": decoded,
}


def draw_all(files: list[Path]) -> list[Drawn]:
    """What the first epoch of seed 0 would draw; every other image is mirrored."""
    drawn = []
    for number, file in enumerate(files):
        with Image.open(file) as image:
            drawn.append((file, Flip(number % 2), sample_view(CONFIG, image.height, image.width, 0, number)))
    return drawn


def time_rounds(drawn: list[Drawn], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each contender, (rounds, images); a round before them warms up."""
    seconds = {name: np.zeros((rounds + 1, len(drawn))) for name in CONTENDERS}
    for turn in range(rounds + 1):
        for number, one in enumerate(drawn):
            for name, contender in CONTENDERS.items():
                started = time.thread_time()
                contender(*one)
                seconds[name][turn, number] = time.thread_time() - started
    return {name: taken[1:] for name, taken in seconds.items()}


def pixel_differences(drawn: list[Drawn]) -> tuple[float, float]:
    """Largest and mean difference between ours and official, in levels of 255."""
    levels = torch.tensor(CONFIG.pixel_std)[:, None, None] * 255
    differences = [(ours(*one) - official(*one)).abs() * levels for one in drawn]
    return max(float(d.max()) for d in differences), statistics.mean(float(d.mean()) for d in differences)


def result(drawn: list[Drawn], rounds: int) -> dict[str, object]:
    """All numbers, for the table and as JSON: milliseconds are medians over the rounds of the mean over the images."""
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
    """For people."""
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
        f"difference of pixels: at most {measured['max_difference_levels']:.2f} levels of 255, "
        f"mean {measured['mean_difference_levels']:.4f}"
    )


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of image files")
    parser.add_argument("--images", type=int, default=100, help="the first so many files by name (default: 100)")
    parser.add_argument("--rounds", type=int, default=7, help="passes over them (default: 7)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    files = sorted(f for f in arguments.folder.iterdir() if f.suffix.lower() in Image.registered_extensions())
    if not files:
        parser.error(f"there is no image in {arguments.folder}")
    torch.set_num_threads(1)
    measured = result(draw_all(files[: arguments.images]), arguments.rounds)
    print_table(measured)
    if arguments.json:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
