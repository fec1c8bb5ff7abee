from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from rhobench.config import DataConfig
from rhobench.data import DatasetError, Problem, check_dataset, prepare_folder


def require_valid(root: Path) -> None:
    prepare_folder(DataConfig(dir=str(root), val_split="train"))


def unwanted(problems: list[Problem]) -> list[Problem]:
    """All but the notes."""
    return [problem for problem in problems if problem.level != "note"]


def test_a_valid_data_set_has_no_problems(content, write_split):
    root = write_split(content)  # one of its boxes exceeds the image by half a pixel, a rounding error
    assert unwanted(check_dataset(root, ["train"])) == []
    require_valid(root)


@pytest.mark.parametrize(
    ("section", "index", "field", "value", "expected"),
    [
        ("annotations", 0, "category_id", 5, r"1 annotation of an unknown category: annotation 1 \(category 5\)"),
        ("annotations", 1, "image_id", 77, r"1 annotation of an unknown image: annotation 2 \(image 77\)"),
        ("annotations", 1, "id", 1, r"1 ids of annotations are repeated: 1 \(2 times\)"),
        ("images", 0, "id", 10, r"1 ids of images are repeated: 10 \(2 times\)"),
        ("categories", 0, "id", 4, r"1 ids of categories are repeated: 4 \(2 times\)"),
        (
            "annotations",
            0,
            "bbox",
            [50, 4, 12, 8],
            r"1 box of 4 beyond the image; .*; annotation 1 \(image 20, b\.png, 60 x 40\) has .*, 2 px too far",
        ),
        ("annotations", 0, "bbox", [-1.5, 4, 12, 8], "1 box of 4 beyond .* 1.5 px too far"),
        ("annotations", 0, "bbox", [6, 4, float("nan"), 8], "annotation 1 .* finite numbers"),
        ("annotations", 0, "bbox", [6, 4, float("inf"), 8], "annotation 1 .* finite numbers"),
        ("annotations", 0, "area", float("nan"), "annotation 1 .* finite numbers"),
        ("annotations", 0, "bbox", [6, 4, 12], "annotation 1 .* finite numbers"),
        (
            "annotations",
            0,
            "bbox",
            "6 4 12 8",
            r"annotations have a \"bbox\" of the wrong type: annotations\[0\] = '6 4 12 8'",
        ),
        ("images", 1, "width", -1, "1 image without a size: image 10 is -1 x 80 pixels"),
        ("images", 1, "file_name", "z.png", r"image 10 has no file .*images/z\.png"),
    ],
)
def test_every_error_names_its_place(content, write_split, section, index, field, value, expected):
    content[section][index][field] = value
    problems = check_dataset(write_split(content), ["train"])
    matching = [problem for problem in problems if re.search(expected, problem.message)]
    assert [problem.level for problem in matching] == ["error"]
    assert "instances_train.json" in matching[0].message


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("annotations", "bbox"),
        ("annotations", "category_id"),
        ("images", "id"),
        ("images", "file_name"),
    ],
)
def test_missing_fields(content, write_split, section, field):
    del content[section][0][field]
    (problem,) = unwanted(check_dataset(write_split(content), ["train"]))
    assert f'1 of {len(content[section])} {section} have no "{field}": {section}[0]; add it' in problem.message


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_and_empty_sections(content, write_split, section):
    (problem,) = check_dataset(write_split({**content, section: []}), ["train"])
    assert f'"{section}" is empty' in problem.message
    del content[section]
    (problem,) = check_dataset(write_split(content), ["train"])
    assert f'no list "{section}"' in problem.message


@pytest.mark.parametrize("whole", [[], "text", 3, None])
def test_json_that_is_not_an_object(write_split, whole):
    (problem,) = check_dataset(write_split(whole), ["train"])
    assert "not an object" in problem.message


def test_warnings_do_not_stop_a_run(content, write_split):
    content["annotations"][0] |= {"id": 0, "bbox": [6, 4, 0, 8]}
    root = write_split(content)
    (problem,) = unwanted(check_dataset(root, ["train"]))
    assert problem.level == "warning"
    assert "1 box without area" in problem.message
    require_valid(root)


def test_missing_files_and_folders(content, write_split, tmp_path):
    (problem,) = check_dataset(tmp_path / "nowhere", ["train"])
    assert "is not a folder" in problem.message
    root = write_split(content)
    (problem,) = check_dataset(root, ["val"])
    assert re.search(r"instances_val\.json is missing; this data set has the splits: train", problem.message)
    (root / "annotations" / "instances_train.json").write_text('{"images": [')
    (problem,) = check_dataset(root, ["train"])
    assert "is not valid JSON" in problem.message
    write_split(content)
    (root / "images").rename(root / "pictures")
    (problem,) = unwanted(check_dataset(root, ["train"]))
    assert f"{root / 'train'} is missing" in problem.message


def test_splits_must_share_their_categories(content, write_split):
    write_split(content)
    content["categories"][0]["name"] = "lynx"
    problems = check_dataset(write_split(content, "val"), ["train", "val"])
    (problem,) = [problem for problem in problems if problem.level == "error"]
    assert "different categories" in problem.message


def test_the_first_error_is_raised_and_the_rest_counted(content, write_split):
    content["annotations"][0]["category_id"] = 5
    content["annotations"][1]["image_id"] = 77
    root = write_split(content)
    with pytest.raises(DatasetError, match=r"unknown image.* 1 further error: list with `rhobench data check .*`\."):
        require_valid(root)


def test_gaps_in_category_ids_are_noted(content, write_split):
    (problem,) = [p for p in check_dataset(write_split(content), ["train"]) if "with gaps" in p.message]
    assert problem.level == "note"
    assert "category ids run from 4 to 9 with gaps, the first at 5; labels are numbered 0 to 1" in problem.message
    content["categories"][0]["id"] = content["annotations"][0]["category_id"] = 5
    assert not [p for p in check_dataset(write_split(content), ["train"]) if "with gaps" in p.message]


def test_a_gap_between_distant_ids_is_found_immediately(content, write_split):
    content["categories"][0]["id"] = content["annotations"][0]["category_id"] = 10**12
    assert "the first at 5" in " ".join(p.message for p in check_dataset(write_split(content), ["train"]))


def test_unused_categories_and_images_without_objects_are_noted(content, write_split):
    content["categories"].append({"id": 3, "name": "owl"})
    notes = [p.message for p in check_dataset(write_split(content), ["train"]) if p.level == "note"]
    assert any("no object has the category owl" in message for message in notes)
    assert any("1 image without objects: 30 (c.png)" in message for message in notes)


def test_images_that_contain_only_crowds(content, write_split):
    content["annotations"][1]["iscrowd"] = 1
    (problem,) = unwanted(check_dataset(write_split(content), ["train"]))
    assert problem.level == "warning"
    assert "1 image with nothing but crowds: 10 (a.png)" in problem.message


def test_more_objects_than_queries(content, write_split):
    root = write_split(content)
    assert unwanted(check_dataset(root, ["train"], num_queries=2)) == []
    (problem,) = unwanted(check_dataset(root, ["train"], num_queries=1))
    assert problem.level == "warning"
    assert "20 (b.png) with 2" in problem.message  # the crowd does not count
    assert "set model.num_queries to 2 or more" in problem.message


def test_an_image_in_two_splits(content, write_split):
    write_split(content)
    more = {**content, "images": content["images"][:1], "annotations": content["annotations"][:1]}
    problems = unwanted(check_dataset(write_split(more, "val"), ["train", "val"]))
    assert {problem.level for problem in problems} == {"warning"}
    (problem,) = [problem for problem in problems if "share" in problem.message]
    assert re.search(r"instances_train\.json and .*instances_val\.json share 1 image: b\.png", problem.message)


def test_an_image_that_is_listed_twice(content, write_split):
    content["images"].append({**content["images"][0], "id": 40})
    (problem,) = unwanted(check_dataset(write_split(content), ["train"]))
    assert "b.png = b.png" in problem.message


def test_splits_in_separate_folders_may_use_the_same_file_names(content, write_split, tmp_path):
    write_split(content, "train", folder="train")
    write_split(content, "val", folder="val")
    for number, file in enumerate((tmp_path / "val").iterdir()):
        Image.effect_noise(Image.open(file).size, 10 + number).save(file)
    assert unwanted(check_dataset(tmp_path, ["train", "val"], depth="pixels")) == []


def test_real_data_sets_are_valid(coco_mini: Path, bccd: Path):
    assert unwanted(check_dataset(coco_mini, ["val"], depth="pixels")) == []
    assert unwanted(check_dataset(bccd, ["train", "val", "test"], depth="pixels")) == []
