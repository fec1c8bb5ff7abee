from __future__ import annotations

import re
from pathlib import Path

import pytest

from rhobench.data import DatasetError, check_dataset, require_valid


def test_a_valid_data_set_has_no_problems(content, write_split):
    root = write_split(content)  # one of its boxes leaves the image by half a pixel, which is rounding
    assert check_dataset(root, ["train"]) == []
    require_valid(root, ["train"])


@pytest.mark.parametrize(
    ("section", "index", "field", "value", "expected"),
    [
        ("annotations", 0, "category_id", 5, "annotation 1 has the unknown category 5"),
        ("annotations", 1, "image_id", 77, "annotation 2 is of the unknown image 77"),
        ("annotations", 1, "id", 1, "2 annotations have the id 1"),
        ("images", 0, "id", 10, "2 images have the id 10"),
        ("categories", 0, "id", 4, "2 categories have the id 4"),
        (
            "annotations",
            0,
            "bbox",
            [50, 4, 12, 8],
            r"annotation 1 of image 20 \(b\.png\): box .* 60 x 40 image by 2 px",
        ),
        ("annotations", 0, "bbox", [-1.5, 4, 12, 8], "leaves the 60 x 40 image by 1.5 px"),
        ("annotations", 0, "bbox", [6, 4, float("nan"), 8], "annotation 1 .* finite numbers"),
        ("annotations", 0, "bbox", [6, 4, float("inf"), 8], "annotation 1 .* finite numbers"),
        ("annotations", 0, "area", float("nan"), "annotation 1 .* finite numbers"),
        ("annotations", 0, "bbox", [6, 4, 12], "annotation 1 .* finite numbers"),
        ("annotations", 0, "bbox", "6 4 12 8", r"annotations\[0\] has \"bbox\" = '6 4 12 8', of the wrong type"),
        ("images", 1, "width", 0, "image 10 is 0 x 80 pixels"),
        ("images", 1, "width", None, r"images\[1\] has \"width\" = None"),
        ("images", 1, "file_name", "z.png", r"image 10 has no file .*images/z\.png"),
    ],
)
def test_every_error_says_where(content, write_split, section, index, field, value, expected):
    content[section][index][field] = value
    problems = check_dataset(write_split(content), ["train"])
    matching = [problem for problem in problems if re.search(expected, problem.message)]
    assert [problem.level for problem in matching] == ["error"]
    assert "instances_train.json" in matching[0].message


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("annotations", "area"),
        ("annotations", "iscrowd"),
        ("annotations", "bbox"),
        ("images", "width"),
        ("images", "id"),
    ],
)
def test_missing_fields(content, write_split, section, field):
    del content[section][0][field]
    (problem,) = check_dataset(write_split(content), ["train"])
    assert f'{section}[0] has no "{field}"' in problem.message


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_and_empty_sections(content, write_split, section):
    (problem,) = check_dataset(write_split({**content, section: []}), ["train"])
    assert f'"{section}" is empty' in problem.message
    del content[section]
    (problem,) = check_dataset(write_split(content), ["train"])
    assert f'no list "{section}"' in problem.message


@pytest.mark.parametrize("whole", [[], "text", 3, None])
def test_json_of_another_kind(write_split, whole):
    (problem,) = check_dataset(write_split(whole), ["train"])
    assert "not an object" in problem.message


def test_warnings_do_not_stop_a_run(content, write_split):
    content["annotations"][0] |= {"id": 0, "bbox": [6, 4, 0, 8]}
    root = write_split(content)
    problems = check_dataset(root, ["train"])
    assert [problem.level for problem in problems] == ["warning", "warning"]
    assert "number annotations from 1" in problems[0].message
    assert "has no area" in problems[1].message
    require_valid(root, ["train"])


def test_missing_files_and_folders(content, write_split, tmp_path):
    (problem,) = check_dataset(tmp_path / "nowhere", ["train"])
    assert "is not a folder" in problem.message
    root = write_split(content)
    (problem,) = check_dataset(root, ["val"])
    assert re.search(r"instances_val\.json cannot be read \(No such file", problem.message)
    (root / "annotations" / "instances_train.json").write_text('{"images": [')
    (problem,) = check_dataset(root, ["train"])
    assert "is not valid json" in problem.message
    write_split(content)
    (root / "images").rename(root / "pictures")
    (problem,) = check_dataset(root, ["train"])
    assert f"{root / 'train'} is missing" in problem.message


def test_splits_must_share_their_categories(content, write_split):
    write_split(content)
    content["categories"][0]["name"] = "lynx"
    (problem,) = check_dataset(write_split(content, "val"), ["train", "val"])
    assert "different categories" in problem.message


def test_require_valid_tells_the_first_and_counts_the_rest(content, write_split):
    content["annotations"][0]["category_id"] = 5
    content["annotations"][1]["image_id"] = 77
    root = write_split(content)
    with pytest.raises(DatasetError, match=r"unknown category 5.*\(1 more; run `rhobench data check .*` to see all\)"):
        require_valid(root, ["train"])


def test_real_data_sets_are_valid(coco_mini: Path, bccd: Path):
    assert check_dataset(coco_mini, ["val"]) == []
    assert check_dataset(bccd, ["train", "val", "test"]) == []
