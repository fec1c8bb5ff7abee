from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "decode.py"


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)


def test_both_transforms_agree_and_the_json_is_complete(tmp_path: Path) -> None:
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((640, 480)).save(tmp_path / f"{number}.jpg")
    done = benchmark(tmp_path, "--rounds", 2, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["max_difference_levels"] < 2.01
    everything, whole, cropped = measured["rows"]
    assert (everything["images"], everything["count"]) == ("all", 6)
    assert whole["count"] + cropped["count"] == 6
    for row in measured["rows"]:
        assert row["ms"]["official"] > row["ms"]["decoding alone"] > 0
        assert row["times_as_fast"] == row["ms"]["official"] / row["ms"]["ours"]


def test_a_folder_without_images_is_rejected(tmp_path: Path) -> None:
    done = benchmark(tmp_path)
    assert done.returncode == 2
    assert f"DIR {tmp_path} contains no image" in done.stderr
