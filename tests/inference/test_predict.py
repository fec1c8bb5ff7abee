from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from rhobench.config import BackboneConfig, DataConfig, ModelConfig, RunConfig
from rhobench.dashboards.pictures import DIMMED, OPACITY, DetectedObject, UpdatedTokens, draw
from rhobench.data import Categories
from rhobench.inference.predict import FailedImage, ImagePrediction, predict
from rhobench.measure.artifact import ArtifactError, save_artifact
from rhobench.model import build_model

CATEGORIES = Categories(ids=(1, 2, 9), names=("red", "blue", "green"))
SIZE = (160, 96)
"""Width and height of the images in pixels; the input of the model has half of each."""
TOKENS = [6 * 10, 3 * 5, 2 * 3, 1 * 2]

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that saves a small model as an artifact; keywords are fields of its ModelConfig."""

    def write(data: DataConfig | None = None, **changes: object) -> Path:
        torch.manual_seed(0)
        config = ModelConfig(
            backbone=BackboneConfig(name="test_resnet"),
            num_classes=3,
            num_queries=10,
            hidden_dim=32,
            num_heads=4,
            enc_layers=2,
            dec_layers=2,
            ffn_dim=32,
            **changes,  # type: ignore[arg-type]
        )
        data = data or DataConfig(resize_px=(SIZE[1] // 2, SIZE[0] // 2))
        run = RunConfig(experiment="test", model=config, data=data)
        return save_artifact(tmp_path, build_model(config), run, CATEGORIES)

    return write


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file


@pytest.mark.parametrize("rho", [0.1, 0.5, 1.0])
def test_rho_sets_the_number_of_updated_tokens(save: Save, photo: Path, tmp_path: Path, rho: float) -> None:
    (one,) = predict(save(rho=0.3), [photo], tmp_path / "new" / "out", rho, threshold=0.0)
    assert one.tokens == sum(TOKENS)
    assert one.updated == min(int(sum(TOKENS) * rho) + 1, sum(TOKENS))
    assert len(one.objects) == 30  # ten queries, three classes
    assert {o.name for o in one.objects} <= set(CATEGORIES.names)
    with Image.open(one.picture) as picture:
        assert picture.width > 2 * SIZE[0]


def test_masks_are_drawn_and_returned_in_coco_encoding(save: Save, photo: Path, tmp_path: Path) -> None:
    artifact = save(mask_head=True)
    (one,) = predict(artifact, [photo], tmp_path / "masks", None, threshold=0.0)
    masks = [found.mask for found in one.objects if found.mask is not None]
    assert len(masks) == len(one.objects) == 30
    written = one.as_dict()["objects"]
    for mask, found in zip(masks, written, strict=True):
        assert mask.shape == (SIZE[1], SIZE[0])
        code = found["mask"] | {"counts": found["mask"]["counts"].encode()}
        assert (coco_masks.decode(code) == mask).all()
    assert 0 < sum(mask.sum() for mask in masks) < len(masks) * masks[0].size
    boxes = draw(Image.open(photo), [replace(found, mask=None) for found in one.objects], [], "")
    with_masks = draw(Image.open(photo), one.objects, [], "")
    assert boxes.tobytes() != with_masks.tobytes()
    (plain,) = predict(save(mask_head=False), [photo], tmp_path / "boxes", None, threshold=0.0)
    assert all(set(found) == {"label", "score", "box"} for found in plain.as_dict()["objects"])


def test_a_mask_tints_exactly_its_pixels() -> None:
    mask = np.zeros((480, 480), dtype=bool)
    mask[150:350, 250:300] = True
    found = DetectedObject(label=1, name="thing", score=0.9, box=(200, 100, 400, 400), mask=mask)
    picture = np.asarray(draw(Image.new("RGB", (480, 480), "white"), [found], [], "title"))[38:, 16:].astype(int)
    tinted = 255 + np.round(OPACITY * (np.array([0xD5, 0x5E, 0x00]) - 255))
    assert (abs(picture[150:350, 250:300] - tinted) <= 1).all()
    around = picture[145:355, 245:305].copy()
    around[5:-5, 5:-5] = 255
    assert (around == 255).all()


def test_a_dense_model_updates_every_token(save: Save, photo: Path, tmp_path: Path) -> None:
    artifact = save(name="efficient_detr", rho=None)
    (one,) = predict(artifact, [photo], tmp_path / "out", None, threshold=1.0)
    assert one.updated == one.tokens == sum(TOKENS)
    assert not one.objects
    assert 0 < one.highest_score < 1
    with pytest.raises(ValueError, match=r"--rho 0.1 does not apply: this efficient_detr has a dense encoder"):
        predict(artifact, [photo], tmp_path / "out", 0.1, threshold=0.5)


def test_invalid_arguments_are_reported(save: Save, photo: Path, tmp_path: Path) -> None:
    artifact = save()
    with pytest.raises(ValueError, match=r"There is no image .*nothing.png"):
        predict(artifact, [tmp_path / "nothing.png"], tmp_path / "out", None, 0.5)
    with pytest.raises(ValueError, match=r"--rho 1.5 is not allowed"):
        predict(artifact, [photo], tmp_path / "out", 1.5, 0.5)
    with pytest.raises(ValueError, match=r"--threshold 40"):
        predict(artifact, [photo], tmp_path / "out", None, 40)
    with pytest.raises(ValueError, match=r"would overwrite the input image"):
        predict(artifact, [photo], tmp_path, None, 0.5)
    namesake = tmp_path / "other" / photo.name
    namesake.parent.mkdir()
    Image.open(photo).save(namesake)
    with pytest.raises(ValueError, match=r"Several images would be written to photo.png"):
        predict(artifact, [photo, namesake], tmp_path / "out", None, 0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"contains no images"):
        predict(artifact, [tmp_path / "empty"], tmp_path / "out", None, 0.5)


def test_a_bad_image_stops_no_other(save: Save, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.jpg").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    shapes = {"dot": (1, 1), "wide": (4, 3000), "flat": (5000, 20), "usual": SIZE}
    for name, size in shapes.items():
        Image.new("RGBA", size, (200, 20, 20, 128)).save(folder / f"{name}.png")
    Image.fromarray(np.full((40, 60), 40_000, np.uint16)).save(folder / "deep.png")
    Image.open(photo).save(folder / "usual.bmp")
    results = list(predict(save(), [folder], tmp_path / "out", None, 0.0))
    failed = [one for one in results if isinstance(one, FailedImage)]
    assert [one.image.name for one in failed] == ["broken.jpg"]
    assert "broken.jpg cannot be read as an image" in failed[0].reason
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {"dot.png", "wide.png", "flat.png", "deep.png", "usual.png.png", "usual.bmp.png"}


def test_images_of_any_shape_keep_their_aspect_ratio(save: Save, tmp_path: Path) -> None:
    """Without ``resize_px``, an image may become too small for the model; then it is named."""
    artifact = save(data=DataConfig(short_side_px=64, max_side_px=128))
    for name, size in {"dot": (1, 1), "wide": (4, 3000), "flat": (5000, 20)}.items():
        Image.new("L", size).save(tmp_path / f"{name}.png")
    images = [tmp_path / f"{name}.png" for name in ("dot", "wide", "flat")]
    results = list(predict(artifact, images, tmp_path / "out", None, 0.0))
    assert len(results) == 3
    for one in results:
        if isinstance(one, FailedImage):
            assert one.image.name in one.reason
        else:
            assert one.picture.is_file()


def test_a_run_folder_stands_for_its_model(save: Save, photo: Path, tmp_path: Path) -> None:
    folder = save().parent
    (one,) = predict(folder, [photo], tmp_path / "out", None, 0.5)
    assert isinstance(one, ImagePrediction)
    with pytest.raises(ArtifactError, match=r"The folder .* has no model.safetensors: give"):
        predict(tmp_path / "out", [photo], tmp_path / "out", None, 0.5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"PK\x03\x04rest", "`rhobench weights import`"),
        (b"\x80\x02}q", "`rhobench weights import`"),
        (b"\x89PNG\r\n", "an image"),
        (b'{"a": 1}', "a JSON file"),
        (b"\x40\0\0\0\0\0\0\0{}", "not a safetensors file, or it is incomplete"),
        (safetensors.numpy.save({"a": np.zeros(2)}), "the weights of another program"),
        (safetensors.numpy.save({"a": np.zeros(2)}, {"format": "rhobench/99"}), "another version of rhobench"),
        (safetensors.numpy.save({"a": np.zeros(2)}, {"format": "rhobench/2"}), "a damaged model of rhobench"),
    ],
)
def test_a_wrong_file_is_told_as_what_it_is(photo: Path, tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "some.file"
    file.write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        predict(file, [photo], tmp_path / "out", None, 0.5)
    assert says in str(error.value)
    assert "train the run again" not in str(error.value)


def test_updated_tokens_are_bright_at_their_position() -> None:
    image = Image.new("RGB", (480, 240), (200, 200, 200))
    kept = np.zeros((2, 4), dtype=bool)
    kept[1, 2] = True
    picture = np.asarray(draw(image, [], [UpdatedTokens(cell_px=(120, 120), updated=kept)], "title"))
    panel = picture[38:158, 512:752, 0].astype(float)  # half the size of the image, to its right
    assert (panel[65:115, 125:175] == 200).all()  # the inside of the cell; its rim is blurred by shrinking
    for dark in (panel[:55], panel[65:115, :115], panel[65:115, 185:]):
        assert (abs(dark - 200 * DIMMED) < 3).all()


def test_boxes_are_drawn_in_the_colour_of_their_class() -> None:
    image = Image.new("RGB", (480, 480), "white")
    boxes = [(100 + 150 * i, 200, 200 + 150 * i, 400) for i in (0, 1)]
    objects = [DetectedObject(label=i, name="thing", score=0.9, box=boxes[i]) for i in (0, 1)]
    picture = np.asarray(draw(image, objects, [], "title"))
    first, second = (tuple(picture[38 + 300, 16 + 100 + 150 * i]) for i in (0, 1))
    assert first == (0x00, 0x72, 0xB2)
    assert second == (0xD5, 0x5E, 0x00)
    assert picture.shape == (38 + 480 + 16, 16 + 480 + 16, 3)


@pytest.mark.parametrize(("side", "drawn"), [(160, 480), (640, 640), (4000, 900)])
def test_small_images_are_enlarged_and_large_ones_reduced(side: int, drawn: int) -> None:
    picture = draw(Image.new("RGB", (side, side // 2)), [], [], "title")
    assert picture.width == 16 + drawn + 16
