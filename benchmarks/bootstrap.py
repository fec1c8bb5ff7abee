"""Time and memory of a bootstrap over images: 1,000 replicates of AP for 5,000 images and 220,000 detections.

    python benchmarks/bootstrap.py [--images 5000] [--detections 220000] [--categories 80] [--repeats 3] [--json]

The detections are simulated at the level of matches; matching itself is done once per detector, by pycocotools, and is
not part of the time. Compilation is reported on its own. One core is used.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import numpy as np
from interval_coverage import Detector, detect, draw_images  # of this folder

from rhobench.statistics.evaluation import Evaluation
from rhobench.statistics.precision import average_precision
from rhobench.statistics.resampling import REPLICATES, resamples


def main() -> None:
    """Run the benchmark and print its times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=220_000)
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = draw_images(options.images, rng, options.categories, objects=7.3, falling=0.97)
    found = 0.9 * len(images.image)
    rate = max(0.0, options.detections - found) / options.images / np.exp(0.045)  # mean of the images' difficulty
    matches = detect(Detector(false_positives=rate), images, rng)
    started = time.perf_counter()
    average_precision(matches)
    compiled = time.perf_counter() - started
    seconds = []
    for _ in range(options.repeats):
        resamples.cache_clear()
        started = time.perf_counter()
        evaluation = Evaluation.of({"bbox": matches})
        seconds.append(time.perf_counter() - started)
    result = {
        "images": options.images,
        "detections": len(matches.image),
        "categories": options.categories,
        "replicates": REPLICATES,
        "seconds": seconds,
        "first_call_seconds": compiled,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "file_mib": len(evaluation.to_bytes()) / 2**20,
    }
    print(
        f"{result['replicates']} replicates of {result['images']:,} images and {result['detections']:,} detections: "
        f"{statistics.median(seconds):.1f} s (first call {compiled:.1f} s), peak {result['peak_mib']:.0f} MiB, "
        f"file {result['file_mib']:.1f} MiB"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
