"""How often the 95 % intervals of simulated detectors hold, and how often equal detectors are called different.

    python benchmarks/interval_coverage.py [--draws 500] [--images 300] [--seeds 3] [--json]

Detectors are simulated at the level of matches: objects, true positives with an IoU, and false positives, with scores;
images differ in difficulty, which all detectors share. A training with another seed is a detector of another quality.
The true value is the mean AP over very many samples of as many images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace

import numpy as np

from rhobench.statistics.difference import between_artifacts, between_trainings
from rhobench.statistics.interval import Interval, image_interval, seed_interval, widened
from rhobench.statistics.matches import AREAS, THRESHOLDS, Matches
from rhobench.statistics.precision import average_precision, coco_stat
from rhobench.statistics.resampling import resamples

SEED_DEVIATION = 0.1
"""Standard deviation of the quality between seeds: about one AP."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A simulated detector."""

    quality: float = 1.0
    """Distance between the mean scores of objects and of false positives in standard deviations."""
    recall: float = 0.9
    """Share of the objects of a typical image that are found at all."""
    false_positives: float = 6.0
    """Mean number of false positives an image."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """A sample of images with objects of several categories."""

    category: np.ndarray
    """(O,) category of each object."""
    image: np.ndarray
    """(O,) image of each object."""
    difficulty: np.ndarray
    """(I,) standard normal numbers."""
    categories: int
    """Number of categories."""


def draw_images(
    count: int, rng: np.random.Generator, categories: int = 5, objects: float = 4.0, falling: float = 0.5
) -> Images:
    """Draw images with a Poisson number of objects, of categories each ``falling`` times as frequent as the last."""
    share = falling ** np.arange(categories)
    image = np.repeat(np.arange(count), rng.poisson(objects, count))
    category = rng.choice(categories, len(image), p=share / share.sum())
    return Images(category=category, image=image, difficulty=rng.standard_normal(count), categories=categories)


def detect(detector: Detector, images: Images, rng: np.random.Generator) -> Matches:
    """Run a simulated detector on images."""
    hard = images.difficulty
    logit = np.log(detector.recall / (1 - detector.recall)) - 0.7 * hard[images.image]
    found = rng.random(len(logit)) < 1 / (1 + np.exp(-logit))
    image, category = images.image[found], images.category[found]
    score = detector.quality - 0.3 * hard[image] + rng.standard_normal(len(image))
    levels = (1 + np.floor(len(THRESHOLDS) * rng.beta(2, 1, len(image)))).astype(int)  # thresholds that the IoU reaches
    false = np.repeat(np.arange(len(hard)), rng.poisson(detector.false_positives * np.exp(0.3 * hard)))
    # Below its IoU a detection is a false positive, as in COCO.
    image = np.concatenate([image, false])
    category = np.concatenate([category, rng.integers(0, images.categories, len(false))])
    score = np.concatenate([score, rng.standard_normal(len(false))])
    hits = np.concatenate([(1 << levels) - 1, np.zeros(len(false), int)]).astype(np.uint16)
    order = np.lexsort((-score, category))
    pairs, objects = np.unique(np.stack([images.category, images.image]), axis=1, return_counts=True)
    return Matches(
        categories=tuple(f"class {k}" for k in range(images.categories)),
        image_ids=np.arange(len(hard)),
        first=np.searchsorted(category[order], np.arange(images.categories + 1)).astype(np.int64),
        image=image[order].astype(np.int32),
        hits=np.tile(hits[order], (len(AREAS), 1)),
        ignored=np.zeros((len(AREAS), len(order)), np.uint16),
        object_category=pairs[0].astype(np.int32),
        object_image=pairs[1].astype(np.int32),
        objects=np.tile(objects, (len(AREAS), 1)).astype(np.int32),
    )


def ap(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """AP of a simulated evaluation under each row of weights."""
    values = coco_stat(average_precision(matches, weights), 0)
    assert values is not None
    return values


def spread_of(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP of a simulated evaluation on resamples, as an ``Evaluation`` keeps it."""
    return widened(ap(matches, weights), matches.images_with_objects()[0])


def train(detector: Detector, seeds: int, rng: np.random.Generator) -> list[Detector]:
    """Detectors of several trainings."""
    return [replace(detector, quality=detector.quality + SEED_DEVIATION * step) for step in rng.standard_normal(seeds)]


def simulate(
    draws: int, images: int, seeds: int, replicates: int, rng: np.random.Generator, true_samples: int = 4000
) -> dict[str, float]:
    """Shares of the draws in which intervals hold and in which equal detectors are called different.

    Args:
        draws: number of simulated studies.
        images: images of each study.
        seeds: trainings of each of two equal configurations.
        replicates: resamples of the images.
        rng: source of all random numbers.
        true_samples: samples of images over which the true AP is averaged.
    """
    detector, weights = Detector(), resamples(images, replicates)
    truth = _true_ap([detector] * true_samples, images, rng)
    truth_over_seeds = _true_ap(train(detector, true_samples, rng), images, rng)
    counts = dict.fromkeys(("image interval", "seed interval", "artifacts differ", "trainings differ"), 0)
    for _ in range(draws):
        sample = draw_images(images, rng)
        pair = [detect(detector, sample, rng) for _ in range(2)]
        values, spread = [float(ap(m)[0]) for m in pair], [spread_of(m, weights) for m in pair]
        counts["image interval"] += _holds(image_interval(values[0], spread[0]), truth)
        counts["artifacts differ"] += between_artifacts(*values, tuple(spread)).differs()
        sides = [[detect(d, sample, rng) for d in train(detector, seeds, rng)] for _ in range(2)]
        means = [np.array([ap(m)[0] for m in side]) for side in sides]
        spreads = [np.stack([spread_of(m, weights) for m in side]) for side in sides]
        counts["seed interval"] += _holds(seed_interval(means[0], spreads[0]), truth_over_seeds)
        counts["trainings differ"] += between_trainings(*means, tuple(spreads)).differs()
    return {name: count / draws for name, count in counts.items()}


def _true_ap(detectors: list[Detector], images: int, rng: np.random.Generator) -> float:
    """Mean AP over detectors, each on a sample of images of its own."""
    return float(np.mean([ap(detect(detector, draw_images(images, rng), rng)) for detector in detectors]))


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def main() -> None:
    """Simulate and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shares = simulate(
        options.draws, options.images, options.seeds, options.replicates, np.random.default_rng(options.seed)
    )
    for name, share in shares.items():
        print(f"{name:20} {100 * share:.1f} %")
    if options.json:
        print(json.dumps(shares))


if __name__ == "__main__":
    main()
