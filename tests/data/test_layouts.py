"""Every layout gives the same data set; nothing is written into the folder of the user."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layout_writers import NAMES, WRITERS, Splits, coco_splits, drawn_splits, write_coco, write_csv, write_json
from layout_writers import write_roboflow as roboflow
from layout_writers import write_voc as voc
from layout_writers import write_yolo as yolo
from PIL import Image

from rhobench.config import DataConfig
from rhobench.data import DatasetError, check_dataset, convert_dataset, find_layout, prepare_data, prepare_folder
from rhobench.data.annotations import Annotations, read_split
from rhobench.data.coco import CocoDetection
from rhobench.data.transforms import Flip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path / "cache"))


def prepared(root: Path, split: str = "train") -> Annotations:
    return read_split(prepare_data(DataConfig(dir=str(root))), split, masks=False)


def facts(found: Annotations) -> tuple:
    """What a training depends on, apart from ids."""
    names = [file.name for file in found.files]
    arrays = (found.sizes, found.labels, found.boxes, found.counts)
    return names, found.categories.names, [array.tolist() for array in arrays]


def listing(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*"))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_layout_gives_the_same_annotations(tmp_path_factory, seed):
    splits = drawn_splits(seed)
    folder = tmp_path_factory.mktemp("layouts")
    for split in ("train", "val"):
        expected = facts(prepared(write_coco(folder / "COCO", splits), split))
        for name, write in WRITERS.items():
            root = write(folder / name, splits)
            before = listing(root)
            found = prepared(root, split)
            assert facts(found) == expected, name
            assert all(file.is_file() for file in found.files)
            assert listing(root) == before, "the folder of the user stays as it is"


def test_csv_has_its_classes_in_alphabetical_order(tmp_path: Path):
    splits = drawn_splits()
    found, expected = prepared(write_csv(tmp_path / "csv", splits)), prepared(write_coco(tmp_path / "coco", splits))
    assert found.categories.names == tuple(sorted(NAMES))
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert [sorted(NAMES)[i] for i in found.labels] == [NAMES[i] for i in expected.labels]


@pytest.mark.parametrize("folder", ["images", "{split}", "{split}2017", "images/{split}", "images/{split}2017"])
def test_the_folders_of_images_that_coco_uses(tmp_path: Path, folder: str):
    root = write_coco(tmp_path / "data", drawn_splits(), folder)
    assert all(file.is_file() for file in prepared(root).files)
    assert prepare_folder(DataConfig(dir=str(root))).folder == root, "read in place"


def test_splits_with_the_year_of_coco_and_without(tmp_path: Path):
    contents = coco_splits(drawn_splits())
    for split, images in drawn_splits().items():
        write_json(tmp_path / f"annotations/instances_{split}2017.json", contents[split])
        for image in images:
            image.write(tmp_path / split / image.name)
    config = DataConfig(dir=str(tmp_path), train_splits=("train2017",), val_split="val2017")
    assert prepare_data(config) == tmp_path


@pytest.mark.parametrize(
    ("files", "images", "layout"),
    [
        ({"all": "annotations.json"}, "images", "a COCO file beside its images"),
        ({"all": "_annotations.coco.json"}, ".", "a COCO file beside its images"),
        ({"all": "labels.json"}, "data", "a COCO file beside its images"),
        ({"all": "annotations/instances.json"}, "images", "a COCO file beside its images"),
        ({"train": "train.json", "val": "valid.json"}, "images", "COCO files beside their images"),
        (
            {"train": "annotations/train.json", "val": "annotations/val.json"},
            "images",
            "COCO files beside their images",
        ),
    ],
)
def test_json_files_beside_folders_of_images(tmp_path: Path, files, images, layout):
    splits = drawn_splits()
    contents = coco_splits({"all": splits["train"]} if "all" in files else splits)
    for split, file in files.items():
        write_json(tmp_path / file, contents[split])
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES}))  # of another kind
    for drawn in splits.values():
        for image in drawn:
            image.write(tmp_path / images / image.name)
    found = find_layout(tmp_path)
    assert (found.name, set(found.splits)) == (layout, set(files))
    config = DataConfig(dir=str(tmp_path), val_share=0.5)
    assert len(read_split(prepare_data(config), "train", masks=False).files) == (3 if "all" in files else 6)


def test_yolo_as_roboflow_exports_it(tmp_path: Path):
    """Paths that begin with ../, folders by split, outlines among the boxes, images without a label file."""
    splits = drawn_splits()
    for split, images in splits.items():
        for image in images:
            folder = tmp_path / {"val": "valid"}.get(split, split)
            image.write(folder / "images" / image.name)
            (folder / "labels").mkdir(exist_ok=True)
            if image is not images[0]:
                outline = "0 0.25 0.25 0.75 0.25 0.75 0.5"
                (folder / "labels" / f"{Path(image.name).stem}.txt").write_text(f"{outline}\n\n1 0.5 0.5 1 1\n")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: {0: a, 1: b}\n"
    )
    config = DataConfig(dir=str(tmp_path))
    found = read_split(prepare_data(config), "train", masks=False)
    assert found.counts.tolist() == [0, 2, 2, 2, 2, 2]
    width, height = found.sizes[1, ::-1]
    assert found.boxes[0].tolist() == [0.25 * width, 0.25 * height, 0.75 * width, 0.5 * height]
    assert found.boxes[1].tolist() == [0, 0, width, height]
    notes = prepare_folder(config).notes
    assert any("1 image without a label file: train_000.png; they are read as background" in note for note in notes)
    assert any("there is no folder of the split test, which is left out" in note for note in notes)
    assert not [problem for problem in check_dataset(tmp_path) if problem.level == "error"]


@pytest.mark.parametrize("divided", [True, False])
def test_yolo_as_annotation_tools_write_it(tmp_path: Path, divided: bool):
    """With classes.txt instead of data.yaml."""
    splits = drawn_splits()
    root = yolo(tmp_path / "data", splits)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\n".join(NAMES))
    if divided:
        assert facts(prepared(root)) == facts(prepared(write_coco(tmp_path / "coco", splits)))
        return
    for file in [*root.glob("*/*/*.png"), *root.glob("*/*/*.txt")]:
        file.rename(file.parents[1] / file.name)
    for folder in root.glob("*/*/"):
        folder.rmdir()
    assert len(read_split(prepare_data(DataConfig(dir=str(root), val_share=0.5)), "train", masks=False).files) == 5


@pytest.mark.parametrize("prefix", ["/home/anna/project/", "C:\\data\\", "./", "images/", "images\\"])
@pytest.mark.parametrize("layout", ["COCO", "loose"])
def test_images_are_found_where_they_are_now(tmp_path: Path, prefix: str, layout: str):
    def elsewhere(contents) -> None:
        for content in contents.values():
            for image in content["images"]:
                image["file_name"] = prefix + image["file_name"]

    splits = drawn_splits()
    root = write_coco(tmp_path / "data", splits, change=elsewhere)
    if layout == "loose":
        for split in splits:
            (root / f"annotations/instances_{split}.json").rename(root / f"{split}.json")
    assert facts(prepared(root)) == facts(prepared(write_coco(tmp_path / "coco", splits)))
    assert by_name(root) == ("anna" in prefix or "C:" in prefix)


def by_name(root: Path) -> bool:
    return any("images found by name in" in problem.message for problem in check_dataset(root))


def test_keypoints_of_yolo_are_left_out(tmp_path: Path):
    splits = drawn_splits()
    root = yolo(tmp_path / "data", splits)
    for file in root.glob("labels/*/*.txt"):
        file.write_text("\n".join(f"{line} 0.5 0.5 2 0.25 0.5 1" for line in file.read_text().splitlines()))
    with (root / "data.yaml").open("a") as stream:
        stream.write("kpt_shape: [2, 3]\n")
    assert facts(prepared(root)) == facts(prepared(write_coco(tmp_path / "coco", splits)))


def test_yolo_with_a_list_of_files_and_a_path_of_another_machine(tmp_path: Path):
    splits = drawn_splits()
    root = yolo(tmp_path / "data", splits)
    (root / "train.txt").write_text("\n".join(f"./images/train/{image.name}" for image in splits["train"]))
    names = ", ".join(NAMES)
    (root / "data.yaml").write_text(f"path: /nowhere/data\ntrain: train.txt\nval: [images/val]\nnames: [{names}]\n")
    assert facts(prepared(root)) == facts(prepared(write_coco(tmp_path / "coco", splits)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 many", r"1 label line that are not made of numbers: train_001.txt:1 \(0 0.5 0.5 many\)"),
        ("7 0.5 0.5 0.1 0.1", "1 label line of an unknown class: train_001.txt:1 .* classes are 0 to 2"),
        ("0 30 40 10 10", "1 label line with numbers outside 0 to 1: .* probably pixels"),
        ("0 nan 0.5 0.1 0.1", "1 label line with numbers outside 0 to 1"),
        ("0 0.5 0.5 0.1 0.1 0.9", "1 label line with neither a box nor an outline: .* may be predictions"),
    ],
)
def test_wrong_lines_of_yolo_are_one_error_a_kind(tmp_path: Path, line, message):
    root = yolo(tmp_path, drawn_splits())
    (root / "labels/train/train_001.txt").write_text(line)
    (problem,) = [p for p in check_dataset(root) if p.level == "error"]
    assert re.search(message, problem.message)
    with pytest.raises(DatasetError, match="label line"):
        prepare_data(DataConfig(dir=str(root)))


def test_voc_as_roboflow_exports_it(tmp_path: Path):
    """XML files beside the images of each split, without a list of classes; sizes that a tool wrote as 0."""
    splits = drawn_splits()
    root = voc(tmp_path / "voc", splits)
    for split, images in splits.items():
        for image in images:
            folder = tmp_path / "flat" / {"val": "valid"}.get(split, split)
            image.write(folder / image.name)
            xml = (root / "Annotations" / f"{Path(image.name).stem}.xml").read_text()
            (folder / f"{Path(image.name).stem}.xml").write_text(
                xml.replace(f"<width>{image.size[0]}<", "<width>0<").replace(
                    "</bndbox>", "</bndbox><difficult>1</difficult>"
                )
            )
    found, expected = prepared(tmp_path / "flat"), prepared(write_coco(tmp_path / "coco", splits))
    assert found.categories.names == tuple(sorted(NAMES))
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.sizes, expected.sizes)
    assert any("marked as difficult" in note for note in prepare_folder(DataConfig(dir=str(tmp_path / "flat"))).notes)


def test_the_files_of_the_voc_challenges_count_pixels_from_1(tmp_path: Path):
    splits = drawn_splits()
    root = voc(tmp_path / "voc", splits)
    for file in root.glob("Annotations/*.xml"):
        source = "<annotation><source><database>The VOC2007 Database</database></source>"
        file.write_text(file.read_text().replace("<annotation>", source))
    moved, expected = prepared(root), prepared(write_coco(tmp_path / "coco", splits))
    np.testing.assert_array_equal(moved.boxes[:, :2], (expected.boxes[:, :2] - 1).clip(0))
    np.testing.assert_array_equal(moved.boxes[:, 2:], expected.boxes[:, 2:])


def test_wrong_files_of_voc_are_one_error_a_kind(tmp_path: Path):
    root = voc(tmp_path, drawn_splits())
    first, second, third, *_ = sorted(root.glob("Annotations/train*.xml"))
    first.write_text("<annotation><object></annotation>")
    (root / "JPEGImages" / f"{second.stem}.png").unlink()
    third.write_text(third.read_text().replace("<xmin>", "<xmin>left"))
    messages = [p.message for p in check_dataset(root, ["train"]) if p.level == "error"]
    assert len(messages) == 3
    for message, part in zip(
        messages, ("no valid XML: train_000.xml", "same name: train_001.xml", "bndbox"), strict=True
    ):
        assert part in message


@pytest.mark.parametrize("layout", ["COCO, other ids", "Roboflow COCO export", "YOLO", "Pascal VOC"])
def test_a_converted_data_set_is_the_same_and_valid(tmp_path: Path, layout: str):
    root = WRITERS[layout](tmp_path / "source", drawn_splits())
    name, counts, _ = convert_dataset(root, tmp_path / "out")
    assert name in layout
    assert {split: images for split, (images, _) in counts.items()} == {"train": 6, "val": 4}
    config = DataConfig(dir=str(tmp_path / "out"))
    assert prepare_data(config) == tmp_path / "out", "COCO's own layout"
    assert facts(prepared(tmp_path / "out")) == facts(prepared(root))
    assert not [p for p in check_dataset(tmp_path / "out", depth="pixels") if p.level != "note"]
    original = {file.name: file.read_bytes() for file in root.rglob("*.png")}
    assert {file.name: file.read_bytes() for file in (tmp_path / "out/images").rglob("*.png")} == original
    with pytest.raises(DatasetError, match="is not empty; choose a new or empty folder"):
        convert_dataset(root, tmp_path / "out")


def test_files_of_the_same_name_in_different_folders_are_kept_apart(tmp_path: Path):
    image = drawn_splits()["train"][0]
    content = coco_splits({"train": [image, image]})["train"]
    for folder, record in zip("ab", content["images"], strict=True):
        record["file_name"] = f"{folder}/{image.name}"
        image.write(tmp_path / "data" / record["file_name"])
    write_json(tmp_path / "data/train.json", content)
    convert_dataset(tmp_path / "data", tmp_path / "out")
    assert len(list((tmp_path / "out/images/train").iterdir())) == 2


@pytest.mark.parametrize("layout", WRITERS)
def test_a_conversion_is_made_once_for_the_same_content(tmp_path: Path, layout: str):
    root = WRITERS[layout](tmp_path / "data", drawn_splits())
    config = DataConfig(dir=str(root))
    folder = prepare_data(config)
    assert prepare_data(config) == folder
    if folder == root:
        return
    file = next(f for f in sorted(root.rglob("*")) if f.suffix in (".json", ".txt", ".xml") and "train" in str(f))
    file.write_text(file.read_text() + "\n")
    assert prepare_data(config) != folder


def held_out(root: Path, share: float = 0.25, seed: int = 0) -> set[str]:
    folder = prepare_data(DataConfig(dir=str(root), val_share=share, val_seed=seed))
    names = {split: {f.name for f in read_split(folder, split, masks=False).files} for split in ("train", "val")}
    assert not names["train"] & names["val"]
    return names["val"]


def test_images_are_held_out_by_seed_in_every_layout(tmp_path: Path):
    splits: Splits = {"train": drawn_splits(train=20)["train"]}
    chosen = {name: held_out(write(tmp_path / name, splits)) for name, write in WRITERS.items()}
    assert len(set(map(frozenset, chosen.values()))) == 1
    root = tmp_path / "COCO"
    assert len(held_out(root)) == 5
    assert held_out(root, seed=1) != held_out(root)
    assert held_out(root, share=0.01) < held_out(root, share=0.25), "at least one, and the same ones first"
    notes = prepare_folder(DataConfig(dir=str(root), val_share=0.25)).notes
    assert any("5 of 20 images held out as val by seed 0" in note for note in notes)
    with pytest.raises(DatasetError, match=r"splits: train\. .* hold out images with data.val_share=0.2"):
        prepare_data(DataConfig(dir=str(root)))


def test_nothing_is_held_out_of_a_data_set_with_a_validation_split(tmp_path: Path):
    root = roboflow(tmp_path / "data", drawn_splits())
    shares = (DataConfig(dir=str(root), val_share=share) for share in (0.0, 0.5))
    assert len({json.dumps(facts(read_split(prepare_data(c), "val", masks=False))) for c in shares}) == 1


def test_an_unknown_folder_is_described(tmp_path: Path):
    with pytest.raises(DatasetError, match="is not a folder"):
        find_layout(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DatasetError, match=r"expected annotations/instances_SPLIT.json .* it holds notes.txt\.$"):
        find_layout(tmp_path)
    yolo(tmp_path / "unpacked", drawn_splits())
    with pytest.raises(DatasetError, match="unpacked is a data set: give that folder"):
        find_layout(tmp_path)


def messages(root: Path, part: str) -> list[str]:
    return [f"{problem.level}: {problem.message}" for problem in check_dataset(root) if part in problem.message]


def test_nothing_is_left_out_in_silence(tmp_path: Path):
    splits = drawn_splits()
    extra = splits["train"][0].image()
    root = yolo(tmp_path / "yolo", splits)
    (root / "labels/train/lost.txt").write_text("0 0.5 0.5 0.1 0.1")
    (message,) = messages(root, "1 label file without an image: lost.txt")
    assert message.startswith("warning")
    root = voc(tmp_path / "voc", splits)
    with (root / "ImageSets/Main/val.txt").open("a") as stream:
        stream.write("\nlost  1")
    (message,) = messages(root, "1 name without an XML file: lost")
    assert message.startswith("error")
    for file in (root / "ImageSets/Main").iterdir():
        file.rename(root / file.name)
    (root / "ImageSets/Main").rmdir()
    for file in root.glob("Annotations/*.xml"):
        file.rename(root / "JPEGImages" / file.name)
    (root / "Annotations").rmdir()
    extra.save(root / "JPEGImages/extra.png")
    (message,) = messages(root, "1 image without an XML file: extra.png; they are left out")
    root = write_csv(tmp_path / "csv", splits)
    extra.save(root / "train/extra.png")
    (message,) = messages(root, "1 image that no line names: extra.png; they are left out")
    assert message.startswith("note")


def test_shares_of_yolo_refer_to_the_turned_image(tmp_path: Path):
    splits: Splits = {
        split: [image for image in images if image.size[0] != image.size[1]] for split, images in drawn_splits().items()
    }
    root = yolo(tmp_path / "yolo", splits)
    exif = Image.Exif()
    exif[0x0112] = 8
    for images in splits.values():
        for image in images:
            file = next(root.rglob(image.name))
            image.image().transpose(Image.Transpose.ROTATE_270).save(file, exif=exif)
    expected = write_coco(tmp_path / "coco", splits)
    assert facts(prepared(root)) == facts(prepared(expected))
    config = DataConfig(dir=str(root))
    turned, plain = (
        CocoDetection(config, prepare_data(replace(config, dir=str(r))), ["train"], train=False)
        for r in (root, expected)
    )
    assert torch.equal(turned[0, Flip.NONE].image, plain[0, Flip.NONE].image)
