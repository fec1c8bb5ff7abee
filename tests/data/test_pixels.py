from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rhobench.config import DataConfig
from rhobench.data import DatasetError, check_dataset
from rhobench.data.coco import CocoDetection
from rhobench.data.pixels import decode
from rhobench.data.transforms import Flip

ORIENTATION = 0x0112


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def oriented(file: Path, image: Image.Image, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(file, exif=exif)
    return file


@given(orientation=st.integers(0, 9), width=st.integers(2, 40), height=st.integers(2, 40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_orientation_is_followed_where_the_annotated_size_is_the_turned_one(tmp_path, orientation, width, height):
    stored = noise(width, height)
    file = oriented(tmp_path / "turned.png", stored, orientation)
    shown = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    assert decode(file).tobytes() == shown.tobytes()  # without annotations: as viewers show it
    assert decode(file, (width, height)).tobytes() == stored.tobytes()  # as in COCO's tools
    if shown.size != stored.size:
        assert decode(file, shown.size).tobytes() == shown.tobytes()
    assert decode(file, (999, 999)).size == stored.size  # a wrong size is refused by the data set, which names both


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode):
    file = tmp_path / ("image.jpg" if mode in ("CMYK", "YCbCr") else "image.png")
    Image.new("RGB", (8, 8), (254, 254, 254)).convert(mode).save(file)
    image = decode(file)
    assert image.mode == "RGB"
    assert abs(np.asarray(image, int) - 254).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_upper_8_of_16_bits_are_read(tmp_path, suffix, seed):
    values = np.random.default_rng(seed).integers(0, 2**16, (7, 9), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    pixels = np.asarray(decode(tmp_path / f"deep.{suffix}"))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[..., None], 3, axis=2))


def test_16_bit_colour_follows_the_same_rule(tmp_path: Path):
    """Written by hand, since Pillow does not write such files."""
    import struct
    import zlib

    values = np.random.default_rng(0).integers(0, 2**16, (4, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "deep.png")), values >> 8)


def test_fractions_are_scaled_and_other_numbers_refused(tmp_path: Path):
    fractions = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(fractions).save(tmp_path / "fractions.tif")
    np.testing.assert_allclose(np.asarray(decode(tmp_path / "fractions.tif"))[..., 0], fractions * 255, atol=0.51)
    for values in (fractions * 300, fractions - 1, (fractions * 10**6).astype(np.int32), fractions * np.nan):
        Image.fromarray(values).save(tmp_path / "other.tif")
        with pytest.raises(ValueError, match="store 8 or 16 bits"):
            decode(tmp_path / "other.tif")


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_read_over_white(tmp_path: Path, kind):
    image = Image.new("RGBA", (4, 2), (10, 10, 10, 255))
    image.paste((10, 10, 10, 0), (0, 0, 2, 2))
    image.convert(kind).save(tmp_path / "image.png")
    pixels = np.asarray(decode(tmp_path / "image.png"), int)
    assert (pixels[:, :2] == 255).all()
    assert abs(pixels[:, 2:] - 10).max() < 6  # a palette has other colours


@pytest.mark.parametrize("name", ["frames.gif", "frames.png", "pages.tif", "frames.webp"])
def test_the_first_of_several_pictures_is_read(tmp_path: Path, content, write_split, name):
    first, *others = (Image.new("RGB", (50, 80), colour) for colour in ("red", "lime", "blue"))
    root = write_split(content)
    content["images"][1]["file_name"] = name
    write_split(content)
    first.save(root / "images" / name, save_all=True, append_images=others, lossless=True)
    assert abs(np.asarray(decode(root / "images" / name), int) - (255, 0, 0)).max() < 3
    notes = [problem.message for problem in check_dataset(root, ["train"], depth="headers")]
    assert any(f"1 file with several frames or pages: {name} (3); only the first is read" in note for note in notes)


def test_the_check_says_how_pixels_are_read(content, write_split):
    root = write_split(content)
    Image.fromarray(np.full((80, 50), 4000, np.uint16)).save(root / "images" / "a.png")
    Image.new("RGBA", (60, 40)).save(root / "images" / "b.png")
    problems = {p.message.partition(": ")[2]: p.level for p in check_dataset(root, ["train"], depth="pixels")}
    assert problems["1 image with more than 8 bits a pixel: a.png; the upper 8 bits are read."] == "note"
    assert problems["1 image with transparency: b.png; they are read over white."] == "note"
    (dark,) = [message for message in problems if "nearly black" in message]
    assert problems[dark] == "warning"
    assert "above 4000 of 65,535" in dark


def test_values_that_do_not_fit_are_errors_of_the_check_and_of_the_training(content, write_split):
    root = write_split(content)
    Image.fromarray(np.full((80, 50), 10**6, np.int32)).save(root / "images" / "a.png", "TIFF")
    (problem,) = [p for p in check_dataset(root, ["train"], depth="pixels") if p.level == "error"]
    assert "store 8 or 16 bits" in problem.message
    with pytest.raises(DatasetError, match="store 8 or 16 bits"):
        CocoDetection(DataConfig(resize_px=(8, 8)), root, ["train"], train=False)[0, Flip.NONE]
