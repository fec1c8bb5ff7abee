"""Data sets as labelling tools really write them: what follows is derived, what is wrong is one sentence a kind."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layout_writers import NAMES, Splits, coco_splits, drawn_splits, with_content, write_coco, write_json
from layout_writers import write_roboflow as roboflow
from layout_writers import write_yolo as yolo
from PIL import Image

from rhobench.config import DataConfig
from rhobench.data import DatasetError, Problem, check_dataset, prepare_data
from rhobench.data.annotations import read_split
from rhobench.data.coco import CocoDetection
from rhobench.data.transforms import Flip

SHARED = Path(__file__).parents[3] / "shared" / "cases" / "make_datasets.py"
SPLITS = drawn_splits()
FILES = ("instances_train.json", "instances_val.json")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))


def each_box(content: dict[str, Any], change: Callable[[list, tuple[int, int]], list]) -> None:
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for annotation in content["annotations"]:
        annotation["bbox"] = change(annotation["bbox"], sizes[annotation["image_id"]])


def corners(content: dict[str, Any]) -> None:
    each_box(content, lambda box, size: [box[0], box[1], box[0] + box[2], box[1] + box[3]])


def shares(content: dict[str, Any]) -> None:
    each_box(content, lambda b, size: [b[0] / size[0], b[1] / size[1], b[2] / size[0], b[3] / size[1]])


def minimal(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]


def floats(content: dict[str, Any]) -> None:
    for category in content["categories"]:
        category["id"] = float(category["id"])
    for annotation in content["annotations"]:
        annotation |= {key: float(annotation[key]) for key in ("category_id", "image_id")}


def polygons(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        x, y, w, h = annotation.pop("bbox")
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def only_crowds(content: dict[str, Any]) -> None:
    if content["images"][0]["file_name"].startswith("train"):
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1


def saved(save: Callable[[Image.Image, Path], None]) -> Callable[[Path], Path]:
    """A writer of COCO's layout whose images are stored by ``save``."""

    def write(root: Path) -> Path:
        write_coco(root, SPLITS)
        for images in SPLITS.values():
            for image in images:
                save(image.image(), root / "images" / image.name)
        return root

    return write


def turned(image: Image.Image, file: Path) -> None:
    if image.width == image.height:  # whose size does not tell whether it is turned
        return
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)


def deep(image: Image.Image, file: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256).save(file)


ACCEPTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "minimal_keys": (with_content(SPLITS, minimal), "the area of .* annotations; iscrowd = 0 of .* annotations"),
    "roboflow": (lambda root: roboflow(root, SPLITS), "left out the parent category things, which no object has"),
    "yolo": (lambda root: yolo(root, SPLITS), ""),
    "exif": (saved(turned), "stored turned and annotated as viewers show them"),
    "sixteen_bit": (saved(deep), "more than 8 bits a pixel: .*; the upper 8 bits are read"),
    "float_ids": (with_content(SPLITS, floats), "whole numbers as ids of images; whole numbers as ids of categories"),
    "polygons_only": (with_content(SPLITS, polygons), "the box of .* annotations from the segmentation"),
}
"""Cases that are accepted, with a note."""

REFUSED: dict[str, tuple[Callable[[Path], Path], str, int]] = {
    "normalised_boxes": (with_content(SPLITS, shares), "probably shares of the image", 2),
    "corner_boxes": (with_content(SPLITS, corners), "all boxes are probably x1, y1, x2, y2", 2),
    "only_crowds": (with_content(SPLITS, only_crowds), "all .* annotations are crowds, .* nothing to learn", 1),
}
"""Cases that are refused, with the guess of the cause and the number of files that have it."""


def by_level(problems: list[Problem], level: str) -> list[str]:
    return [problem.message for problem in problems if problem.level == level]


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_follows_from_the_rest_is_derived_with_one_note_a_file(tmp_path: Path, case: str) -> None:
    write, phrase = ACCEPTED[case]
    root = write(tmp_path / "data")
    problems = check_dataset(root, depth="pixels")
    assert by_level(problems, "error") + by_level(problems, "warning") == []
    notes = by_level(problems, "note")
    matching = [note for note in notes if re.search(phrase, note)]
    assert len(matching) == (1 if case == "roboflow" else 2) or not phrase
    assert len(notes) <= 2
    config = DataConfig(dir=str(root), resize_px=(64, 64))
    expected = read_split(write_coco(tmp_path / "expected", SPLITS), "train", masks=False)
    found = read_split(prepare_data(config), "train", masks=False)
    assert found.boxes.tolist() == expected.boxes.tolist()
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.sizes.tolist() == expected.sizes.tolist()
    # The pixels are those of the drawn images.
    images = CocoDetection(config, prepare_data(config), ["train"], train=False)
    plain = CocoDetection(config, tmp_path / "expected", ["train"], train=False)
    for index in range(len(images)):
        pixels, wanted = images[index, Flip.NONE].image, plain[index, Flip.NONE].image
        if case == "sixteen_bit":
            assert 0 < pixels.std() < 2, "neither white nor black"
            pixels, wanted = pixels.mean(), wanted.mean()
        assert abs(pixels - wanted).max() < 0.2


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_one_sentence_a_kind(tmp_path: Path, case: str) -> None:
    write, guess, files = REFUSED[case]
    root = write(tmp_path)
    errors = by_level(check_dataset(root), "error")
    assert len(errors) == files
    for message, file in zip(errors, FILES, strict=False):
        assert file in message
        assert re.search(guess, message)
        assert len(message) < 700
    with pytest.raises(DatasetError, match=guess):
        prepare_data(DataConfig(dir=str(root)))


@given(seed=st.integers(0, 10**6), kind=st.sampled_from([corners, shares, minimal, floats, polygons]))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kinds_are_told_by_their_sentence_in_other_data_sets(tmp_path_factory, seed, kind) -> None:
    splits = drawn_splits(seed, train=8, val=4)
    root = with_content(splits, kind)(tmp_path_factory.mktemp("data"))
    problems = check_dataset(root, ["train"])
    errors = by_level(problems, "error")
    if kind in (corners, shares):
        (message,) = errors
        assert ("x1, y1, x2, y2" if kind is corners else "shares of the image") in message
    else:
        assert errors == []
        assert sum("derived from the rest" in note for note in by_level(problems, "note")) == 1


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_part_of_the_derivable_fields_may_be_missing(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("data")

    def thin_out(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            for key in data.draw(st.sets(st.sampled_from(["id", "area", "iscrowd", "bbox"]))):
                del annotation[key]
        text_ids = data.draw(st.booleans())
        for record in content["images"]:
            for key in data.draw(st.sets(st.sampled_from(["width", "height"]))):
                record[key] = data.draw(st.sampled_from([0, None]))
            if text_ids:
                record["id"] = f"image-{record['id']}"
        for annotation in content["annotations"] if text_ids else ():
            annotation["image_id"] = f"image-{annotation['image_id']}"

    root = with_content(SPLITS, thin_out)(folder / "data")
    assert by_level(check_dataset(root), "error") == []
    found = read_split(prepare_data(DataConfig(dir=str(root))), "train", masks=True)
    expected = read_split(write_coco(folder / "expected", SPLITS), "train", masks=False)
    for name in ("boxes", "labels", "sizes", "counts"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert [file.name for file in found.files] == [file.name for file in expected.files]


def test_categories_that_are_permuted_between_splits(tmp_path: Path) -> None:
    def permute(contents: dict[str, Any]) -> None:
        first, second, _ = contents["val"]["categories"]
        first["id"], second["id"] = second["id"], first["id"]

    root = write_coco(tmp_path, SPLITS, change=permute)
    (message,) = by_level(check_dataset(root), "error")
    assert "the same names with other ids: red is 1 and 2, white is 2 and 1" in message


def test_a_class_that_is_missing_in_a_split(tmp_path: Path) -> None:
    def remove(contents: dict[str, Any]) -> None:
        val = contents["val"]
        val["annotations"] = [a for a in val["annotations"] if a["category_id"] != 3]

    root = write_coco(tmp_path, SPLITS, change=remove)
    (message,) = by_level(check_dataset(root), "warning")
    assert "the split val has no object of blue (" in message
    assert prepare_data(DataConfig(dir=str(root))) == root, "a warning stops no training"


def test_centres_and_swapped_sides_are_guessed(tmp_path: Path) -> None:
    splits = drawn_splits(train=30)

    def centres(content: dict[str, Any]) -> None:
        each_box(content, lambda b, size: [b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3]])

    def swapped(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["width"], image["height"] = image["height"], image["width"]

    for number, (kind, guess) in enumerate(((centres, "probably the centre"), (swapped, "of the turned images"))):
        root = with_content(splits, kind)(tmp_path / str(number))
        assert guess in by_level(check_dataset(root, ["train"]), "error")[0]


def test_a_parent_category_with_objects_is_kept(tmp_path: Path) -> None:
    root = roboflow(tmp_path, SPLITS)
    file = root / "train/_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 0
    write_json(file, content)
    found = read_split(prepare_data(DataConfig(dir=str(root))), "train", masks=False)
    assert found.categories.names == ("things", *NAMES)


def test_reading_takes_time_in_proportion_to_the_annotations(tmp_path: Path) -> None:
    """A factor of 8 in size is one of 64 in time if any step compares all pairs."""

    def seconds(repeats: int) -> float:
        splits: Splits = {"train": SPLITS["train"]}
        content = coco_splits(splits)["train"]
        content["annotations"] = [
            {k: v for k, v in a.items() if k != "area"} | {"id": number * 100 + a["id"]}
            for number in range(repeats)
            for a in content["annotations"]
        ]
        root = write_coco(tmp_path / str(repeats), splits)
        write_json(root / "annotations/instances_train.json", content)
        started = time.process_time()
        check_dataset(root, ["train"], num_queries=10**6)
        return time.process_time() - started

    seconds(100)
    small, large = (min(seconds(repeats) for _ in range(2)) for repeats in (200, 1600))
    assert large < 32 * small


@pytest.mark.skipif(not SHARED.is_file(), reason="make_datasets.py is not next to the repository")
def test_the_cases_of_real_images(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_datasets", SHARED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    assert set(module.CASES) == ACCEPTED.keys() | REFUSED.keys()
    for case in module.CASES:
        problems = check_dataset(tmp_path / case, depth="headers")
        errors = by_level(problems, "error")
        assert len(errors) == (REFUSED[case][2] if case in REFUSED else 0), case
        if case in ACCEPTED:
            assert len(by_level(problems, "note")) == {"roboflow": 1, "yolo": 0}.get(case, 2), case
            prepare_data(DataConfig(dir=str(tmp_path / case)))
    expected = read_split(prepare_data(DataConfig(dir=str(tmp_path / "exif"))), "train", masks=False)
    for case in ("minimal_keys", "roboflow", "yolo", "float_ids", "polygons_only"):
        found = read_split(prepare_data(DataConfig(dir=str(tmp_path / case))), "train", masks=False)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
