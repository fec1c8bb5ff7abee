from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from rhobench.config import DataConfig
from rhobench.data import DatasetError, UnreadableImageError
from rhobench.data.annotations import read_annotations
from rhobench.data.coco import CocoDetection, Sample, Target, collate
from rhobench.data.transforms import Flip

SMALL = DataConfig(resize_px=(32, 32))


def test_ids_become_contiguous_labels_and_back(content, write_split):
    categories = CocoDetection(SMALL, write_split(content), ["train"], train=True).categories
    assert categories.as_records() == [{"label": 0, "id": 4, "name": "dog"}, {"label": 1, "id": 9, "name": "cat"}]
    assert [categories.to_label(category_id) for category_id in (4, 9)] == [0, 1]
    assert [categories.to_id(label) for label in (0, 1)] == [4, 9]
    with pytest.raises(KeyError, match="category id 5"):
        categories.to_label(5)


def test_targets(content, write_split):
    degenerate = {"id": 5, "image_id": 20, "category_id": 9, "bbox": [5, 5, 0, 7], "area": 0, "iscrowd": 0}
    content["annotations"].append(degenerate)
    dataset = CocoDetection(SMALL, write_split(content), ["train"], train=False)
    assert len(dataset) == 3
    assert dataset.image_ids == [10, 20, 30]
    target = dataset[1, Flip.NONE].target
    assert target.image_id == 20
    assert target.original_size == (40, 60)
    assert target.labels.tolist() == [1, 0]  # neither the crowd nor the box without an area
    expected = torch.tensor([[12 / 60, 8 / 40, 12 / 60, 8 / 40], [0.75, 0.625, 0.5, 0.75]])  # the second was clamped
    torch.testing.assert_close(target.boxes, expected)
    empty = dataset[2, Flip.NONE].target
    assert empty.labels.shape == (0,)
    assert empty.labels.dtype == torch.int64
    assert empty.boxes.shape == (0, 4)


def test_flips_are_for_training_only(content, write_split):
    root = write_split(content)
    training = CocoDetection(SMALL, root, ["train"], train=True)
    boxes, mirrored = (training[0, flip].target.boxes for flip in (Flip.NONE, Flip.HORIZONTAL))
    torch.testing.assert_close(mirrored, torch.tensor([1, 0, 0, 0]) + torch.tensor([-1, 1, 1, 1]) * boxes)
    with pytest.raises(AssertionError):
        CocoDetection(SMALL, root, ["train"], train=False)[0, Flip.HORIZONTAL]


def test_concatenated_splits(content, write_split):
    write_split(content)
    more = {**content, "images": content["images"][:1], "annotations": content["annotations"][:1]}
    dataset = CocoDetection(SMALL, write_split(more, "val"), ["train", "val"], train=True)
    assert dataset.image_ids == [10, 20, 30, 20]
    assert [len(dataset[index, Flip.NONE].target.labels) for index in range(4)] == [1, 2, 0, 1]
    assert [file.name for file in dataset.annotation_files] == ["instances_train.json", "instances_val.json"]


def test_splits_with_different_categories_are_refused(content, write_split):
    write_split(content)
    content["categories"][0]["name"] = "lynx"
    with pytest.raises(DatasetError, match=r"instances_val\.json has other categories than .*instances_train\.json"):
        CocoDetection(SMALL, write_split(content, "val"), ["train", "val"], train=True)


def test_the_layout_that_coco_ships(content, write_split):
    root = write_split(content, "val2017", folder="val2017")
    dataset = CocoDetection(SMALL, root, ["val2017"], train=False)
    assert dataset[0, Flip.NONE].image.shape == (3, 32, 32)


def test_a_missing_split_is_reported_with_the_existing_ones(content, write_split):
    with pytest.raises(DatasetError, match=r"instances_vla\.json is missing; this data set has the splits: train"):
        CocoDetection(SMALL, write_split(content), ["vla"], train=False)


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_malformed_json_names_the_file_and_the_check(content, write_split, section):
    del content[section]
    with pytest.raises(DatasetError, match=r"instances_train\.json .*rhobench data check"):
        CocoDetection(SMALL, write_split(content), ["train"], train=True)


def test_a_missing_image_is_named(content, write_split):
    root = write_split(content)
    (root / "images" / "a.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"a\.png is missing"):
        CocoDetection(SMALL, root, ["train"], train=True)[0, Flip.NONE]


def test_an_image_of_another_size_than_annotated_is_refused(content, write_split):
    root = write_split(content)
    Image.new("RGB", (25, 40)).save(root / "images" / "a.png")
    with pytest.raises(DatasetError, match="25 x 40 pixels, but is annotated as 50 x 80"):
        CocoDetection(SMALL, root, ["train"], train=True)[0, Flip.NONE]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused(content, write_split, kind):
    root = write_split(content)
    dataset = CocoDetection(SMALL, root, ["train"], train=True)
    file = root / "images" / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (80, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    whole = file.read_bytes()
    for share in (0.0, 0.01, 0.1, 0.5, 0.9):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UnreadableImageError, match=r"a\.png cannot be decoded"):
            dataset[0, Flip.NONE]


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["PNG", "JPEG"]), damages=st.integers(1, 20))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_damaged_image_is_read_or_refused_with_its_name(content, write_split, seed, kind, damages):
    root = write_split(content)
    file = root / "images" / "a.png"
    Image.effect_noise((50, 80), 50).convert("RGB").save(file, kind)
    damaged, rng = bytearray(file.read_bytes()), random.Random(seed)
    for _ in range(damages):
        damaged[int(len(damaged) * rng.random() ** 3)] = rng.randrange(256)  # mostly in the header
    file.write_bytes(damaged)
    try:
        CocoDetection(SMALL, root, ["train"], train=True)[0, Flip.NONE]
    except DatasetError as error:
        assert "a.png" in str(error)  # noqa: PT017 - damage that still decodes is no failure


@pytest.mark.parametrize("outline", [[], [[1, 2.5, -3e-05]], [[1, 2], [3, 4]], {"counts": [3, 4], "size": [40, 60]}])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
def test_only_polygons_are_skipped(content, tmp_path, outline, last, indent):
    expected = copy.deepcopy(content)
    for annotation in content["annotations"]:
        bbox = annotation.pop("bbox")
        annotation |= {"bbox": bbox, "segmentation": outline} if last else {"segmentation": outline, "bbox": bbox}
    (tmp_path / "file.json").write_text(json.dumps(content, indent=indent))
    found = read_annotations(tmp_path / "file.json")
    for annotation in found["annotations"]:
        assert annotation.pop("segmentation") in (0, outline)
    assert found == expected


def test_collate_pads_right_and_bottom():
    def sample(height: int, width: int) -> Sample:
        target = Target(1, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), (height, width))
        return Sample(torch.ones(3, height, width), target)

    batch = collate([sample(4, 6), sample(5, 3)])
    assert batch.images.shape == (2, 3, 5, 6)
    assert [target.original_size for target in batch.targets] == [(4, 6), (5, 3)]
    expected = torch.ones(2, 5, 6, dtype=torch.bool)
    expected[0, :4, :6] = False
    expected[1, :5, :3] = False
    assert torch.equal(batch.mask, expected)
    assert torch.equal(batch.images, (~expected).float()[:, None].expand(-1, 3, -1, -1))


def test_loader_processes_change_nothing(content, write_split):
    dataset = CocoDetection(SMALL, write_split(content), ["train"], train=True)
    keys = [[(0, Flip.HORIZONTAL), (2, Flip.NONE)], [(1, Flip.HORIZONTAL)]]
    one, two = (
        list(DataLoader(dataset, batch_sampler=keys, collate_fn=collate, num_workers=workers)) for workers in (0, 2)
    )
    for ours, theirs in zip(one, two, strict=True):
        assert torch.equal(ours.images, theirs.images)
        for a, b in zip(ours.targets, theirs.targets, strict=True):
            assert a.image_id == b.image_id
            assert torch.equal(a.boxes, b.boxes)


def test_real_coco_equals_pycocotools(coco_mini: Path, capsys):
    from pycocotools.coco import COCO

    dataset = CocoDetection(DataConfig(resize_px=(64, 64)), coco_mini, ["val"], train=False)
    assert capsys.readouterr().out == ""
    coco = COCO(dataset.annotation_files[0])
    assert dataset.image_ids == sorted(coco.getImgIds())
    for index in range(0, len(dataset), 5):
        target = dataset[index, Flip.NONE].target
        height, width = target.original_size
        annotations = coco.loadAnns(coco.getAnnIds([target.image_id], iscrowd=False))
        assert [dataset.categories.to_id(label) for label in target.labels.tolist()] == [
            annotation["category_id"] for annotation in annotations
        ]
        x, y, w, h = np.array([annotation["bbox"] for annotation in annotations]).reshape(-1, 4).T
        expected = np.stack([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height], axis=1)
        np.testing.assert_allclose(target.boxes.numpy(), expected, atol=1e-4)
