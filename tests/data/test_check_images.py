from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rhobench.config import DataConfig
from rhobench.data import DatasetError, Problem, check_dataset, inspection
from rhobench.data.coco import CocoDetection
from rhobench.data.inspection import inspect_image
from rhobench.data.transforms import Flip


def unwanted(root: Path, depth) -> list[Problem]:
    return [problem for problem in check_dataset(root, ["train"], depth=depth) if problem.level != "note"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("depth", ["headers", "pixels"])
def test_valid_files_have_no_problems(content, write_split, depth):
    root = write_split(content)
    seen = []
    check_dataset(root, ["train", "train"], depth=depth, on_progress=lambda done, files: seen.append((done, files)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert unwanted(root, depth) == []


@pytest.mark.parametrize("depth", ["headers", "pixels"])
def test_a_file_of_another_size_than_annotated(content, write_split, depth):
    root = write_split(content)
    noise(25, 40).save(root / "images" / "a.png")
    (problem,) = unwanted(root, depth)
    assert problem.level == "error"
    assert re.search(r"image 10 is annotated as 50 x 80 pixels, but .*a\.png has 25 x 40", problem.message)
    assert unwanted(root, "json") == []  # no file is opened


@pytest.mark.parametrize("depth", ["headers", "pixels"])
def test_images_that_viewers_rotate(content, write_split, depth):
    root = write_split(content)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(50, 80).save(root / "images" / "a.png", "JPEG", exif=exif)
    (problem,) = unwanted(root, depth)
    assert problem.level == "warning"
    assert "1 image annotated with the stored size although viewers turn them: a.png (EXIF orientation 6)" in (
        problem.message
    )
    noise(80, 50).save(root / "images" / "a.png", "JPEG", exif=exif)  # annotated as a viewer showed it
    assert unwanted(root, depth) == []
    notes = [problem.message for problem in check_dataset(root, ["train"], depth=depth) if problem.level == "note"]
    assert any("1 image stored turned and annotated as viewers show them: a.png" in message for message in notes)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_images_without_rotation_have_no_problems(content, write_split, orientation):
    root = write_split(content)
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(50, 80).save(root / "images" / "a.png", "JPEG", exif=exif)
    assert unwanted(root, "pixels") == []


def test_an_interruption_does_not_wait_for_the_last_file(tmp_path, monkeypatch):
    files = [tmp_path / f"{number}.png" for number in range(400)]
    for file in files:
        noise(64, 64).save(file)
    opened = []

    def counted(file: Path, pixels: bool) -> inspection.ImageInfo:
        opened.append(file)
        return inspect_image(file, pixels)

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "inspect_image", counted)
    with pytest.raises(KeyboardInterrupt):
        inspection.inspect_images(files, True, stop)
    assert len(opened) < len(files)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_files_are_found_by_decoding(content, write_split, kind):
    root = write_split(content)
    file = root / "images" / "a.png"
    noise(50, 80).save(file, kind)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(0.9 * len(whole))])
    assert unwanted(root, "headers") == []
    (problem,) = unwanted(root, "pixels")
    assert problem.level == "error"
    assert re.search(r"1 image that cannot be read: image 10, .*a\.png \(.*truncated", problem.message)


@pytest.mark.parametrize("damage", [b"", b"no image", b"\xff\xd8\xff"])
@pytest.mark.parametrize("depth", ["headers", "pixels"])
def test_files_that_are_not_images(content, write_split, damage, depth):
    root = write_split(content)
    (root / "images" / "a.png").write_bytes(damage)
    (problem,) = unwanted(root, depth)
    assert problem.level == "error"
    assert "1 image that cannot be read: image 10" in problem.message


def test_a_missing_file_is_one_problem(content, write_split):
    root = write_split(content)
    (root / "images" / "a.png").unlink()
    (problem,) = unwanted(root, "pixels")
    assert "1 image without a file: image 10 has no file" in problem.message


def test_duplicates_under_other_names(content, write_split):
    root = write_split(content)
    content["images"][2] |= {"file_name": "d.png", "width": 60, "height": 40}
    write_split(content)
    (root / "images" / "d.png").write_bytes((root / "images" / "b.png").read_bytes())
    assert unwanted(root, "headers") == []
    (problem,) = unwanted(root, "pixels")
    assert problem.level == "warning"
    assert "b.png = d.png" in problem.message


def test_duplicates_in_another_split(content, write_split, tmp_path):
    write_split(content, "train", folder="train")
    write_split(content, "val", folder="val")
    problems = check_dataset(tmp_path, ["train", "val"], depth="pixels")
    (problem,) = [problem for problem in problems if problem.level != "note"]
    assert re.search(r"instances_train\.json and .*instances_val\.json share 3 images: b\.png", problem.message)


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["PNG", "JPEG"]), damages=st.integers(1, 20))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning:PIL")
def test_files_pass_the_check_if_and_only_if_they_can_be_trained_on(content, write_split, seed, kind, damages):
    root = write_split(content)
    file = root / "images" / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 1
    noise(50, 80).save(file, kind, exif=exif)
    damaged, rng = bytearray(file.read_bytes()), random.Random(seed)
    for _ in range(damages):
        damaged[int(len(damaged) * rng.random() ** 3)] = rng.randrange(256)  # mostly in the header
    file.write_bytes(damaged)
    info = inspect_image(file, pixels=True)
    try:
        CocoDetection(DataConfig(resize_px=(8, 8)), root, ["train"], train=True)[0, Flip.NONE]
        refused = False
    except DatasetError:
        refused = True
    assert refused == (info.size != (50, 80))
