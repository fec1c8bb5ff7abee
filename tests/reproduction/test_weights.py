"""Official checkpoints, from the file to a row with a verdict. The weights are made up."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rhobench.cli import main
from rhobench.config import RunConfig
from rhobench.config.model_zoo import find_model
from rhobench.data import Categories
from rhobench.experiments import published
from rhobench.inference.referenced_tokens import referenced_share
from rhobench.measure.artifact import write_artifact
from rhobench.model import build_model
from rhobench.model.official import WeightsError, official_state
from rhobench.reproduction.weights import open_data, open_weights

SIDE = 160
"""Shorter side of the images in pixels: the smallest that gives more tokens than queries."""

SWITCHES = {"with_box_refine": True, "two_stage": True, "eff_query_init": True, "eff_specific_head": True}


def write_checkpoint(file: Path, model: str, backbone: str, rho: float) -> None:
    """A file as the official code writes it, with the arguments of the training."""
    torch.manual_seed(0)
    state = official_state(build_model(find_model(model)))
    args = argparse.Namespace(backbone=backbone, rho=rho, use_enc_aux_loss=True, dilation=False, **SWITCHES)
    torch.save({"model": state, "args": args, "epoch": 49}, file)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of Sparse DETR with R50 at rho 0.1 and with Swin-T at rho 0.3."""
    folder = tmp_path_factory.mktemp("weights")
    write_checkpoint(folder / "r50_10.pth", "sparse_detr_r50", "resnet50", 0.1)
    write_checkpoint(folder / "swint_30.pth", "sparse_detr_swin_t", "swin-t", 0.3)
    return folder


def write_coco(folder: Path, name: str) -> Path:
    """Two images with COCO's own categories."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 320, "height": 240} for i in (1, 2)]
    for image in images:
        Image.new("RGB", (320, 240), (60 * image["id"], 90, 30)).save(folder / "images" / image["file_name"])  # type: ignore[operator]
    boxes = [
        {"id": i, "image_id": i, "category_id": i, "bbox": [20, 20, 120, 90], "area": 10800, "iscrowd": 0}
        for i in (1, 2)
    ]
    text = importlib.resources.files("rhobench.data").joinpath("coco_categories.json").read_text()
    content = {"images": images, "annotations": boxes, "categories": json.loads(text)}
    (folder / "annotations" / name).write_text(json.dumps(content))
    return folder


def reproduced(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["rhobench", "reproduce", *map(str, arguments), "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    assert not end.value.code, captured.err
    return json.loads(captured.out.splitlines()[-1]), captured.err


TABLE = """
from rhobench.config.published import PublishedTable, TableRow, TableSection, Trained


def two_backbones() -> PublishedTable:
    r50, swin = "sparse_detr_r50", "sparse_detr_swin_t"
    rows = (("R50", "45.3", r50, 0.1), ("Swin-T", "49.1", swin, 0.3), ("R50", "46.0", r50, 0.3))
    return PublishedTable(
        title="Two backbones",
        sections=(
            TableSection(
                title="AP on val2017",
                columns=("backbone", "rho"),
                rows=tuple(
                    TableRow(
                        names=(backbone, str(rho)),
                        published=published,
                        ours=Trained(model=model, rho=rho),
                        tolerance=0.5,
                    )
                    for backbone, published, model, rho in rows
                ),
            ),
        ),
    )
"""


def test_official_checkpoints_become_rows_with_a_verdict(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a table that is one new file, so that no other model is counted."""
    data = write_coco(tmp_path / "coco", "instances.json")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "two_backbones.py").write_text(TABLE)
    monkeypatch.setattr(published, "__path__", [*published.__path__, str(tmp_path / "tables")])
    found, errors = reproduced(
        capsys, monkeypatch, "two-backbones", "--weights", weights, "--data", data, "--short-side", SIDE
    )
    (section,) = found["sections"]
    r50, swin, other = section["rows"]
    assert [row["verdict"] for row in section["rows"]] == ["not comparable: data", "not comparable: data", "not run"]
    assert [row["found"]["runs"] for row in (r50, swin)] == [["r50_10.pth"], ["swint_30.pth"]]
    assert all(row["found"]["detail"].startswith("2 images of coco") for row in (r50, swin))
    assert r50["difference"] == pytest.approx(r50["found"]["value"] - 45.3)
    assert other["found"] is None
    models = [model for model, *_ in found["same_images"]["rows"]]
    assert models == ["sparse_detr_r50", "sparse_detr_swin_t", "sparse_detr_r50"]
    assert errors == ""


def test_the_split_is_found_by_the_names_of_the_annotations(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "coco", "instances_test.json")
    with open_data(data) as (folder, split):
        assert (folder, split) == (data, "test")
    (data / "annotations" / "instances_val2017.json").write_text("{}")
    with open_data(data) as (folder, split):
        assert (folder, split) == (data, "val2017")


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, "the folder has no weights"),
        ({"notes.txt": b"x"}, "the folder has no weights"),
        ({"model.pth": b"<!doctype html>"}, "is a web page"),
    ],
)
def test_folders_without_weights_are_refused(tmp_path: Path, files: dict[str, bytes], wanted: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=wanted), open_weights(tmp_path):
        pass


def test_a_checkpoint_without_arguments_names_the_way_out(tmp_path: Path) -> None:
    torch.save({"model": {"class_embed.0.weight": torch.zeros(91, 4)}}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match="rhobench weights import --model MODEL"), open_weights(tmp_path):
        pass


def test_tokens_that_the_decoder_reads(tmp_path: Path) -> None:
    """A decoder of one layer with one query does not read every token; with more queries it reads more."""
    data = write_coco(tmp_path / "coco", "instances_val.json")
    config = replace(
        find_model("deformable_detr_test_resnet"), hidden_dim=32, num_heads=4, enc_layers=1, dec_layers=1, ffn_dim=32
    )
    shares = []
    for queries in (1, 100):
        torch.manual_seed(0)
        model = build_model(replace(config, num_queries=queries))
        run = RunConfig(experiment="test", model=model.config)
        file = write_artifact(tmp_path / f"{queries}.safetensors", model, run, Categories(ids=(1,), names=("person",)))
        shares.append(referenced_share(file, data, "val", lambda done, total: None, 64))
    assert 0 < shares[0] < 1
    assert shares[0] < shares[1] <= 1
