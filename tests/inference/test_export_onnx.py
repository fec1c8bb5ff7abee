"""The ONNX export has the boxes and the AP of the model at every rho, in onnxruntime and OpenVINO."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rhobench.adapters import benchmark as benchmark_module
from rhobench.adapters.benchmark import BenchmarkRequest, benchmark, export_notes
from rhobench.adapters.foreign_detector import LoadRequest, Reference
from rhobench.adapters.kinds import load_detector
from rhobench.config import BackboneConfig, DataConfig, MeasureConfig, ModelConfig, RunConfig
from rhobench.config.model import FAMILIES
from rhobench.data import Categories
from rhobench.inference.export_onnx import Export, ExportError, export_onnx
from rhobench.measure.artifact import load_artifact, write_artifact
from rhobench.model import build_model
from rhobench.model.postprocess import detections

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SIDE = 96
RHOS = (0.1, 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Four images of several sizes, each with an object of each class."""
    folder = tmp_path_factory.mktemp("export") / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    random, images, annotations = np.random.default_rng(0), [], []
    for number, (height, width) in enumerate(((70, 90), (64, 64), (100, 60), (80, 80)), start=1):
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            folder / "images" / f"{number}.png"
        )
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for category, box in ((1, [5, 5, 30, 30]), (2, [20, 10, 35, 40]), (3, [0, 0, 60, 60])):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(("red", "green", "blue"), start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return DataConfig(dir=str(folder), resize_px=(SIDE, SIDE))


@pytest.fixture(scope="module")
def save(data: DataConfig) -> Callable[..., Path]:
    """Function that writes an artifact of a family to a folder."""

    def write(folder: Path, family: str = "sparse_detr") -> Path:
        torch.manual_seed(2)  # AP above 0, and another at another rho
        switches = dict(FAMILIES[family]) | ({"rho": 0.3} if family == "sparse_detr" else {})
        config = ModelConfig(
            name=family,
            backbone=BackboneConfig(name="test_resnet"),
            num_classes=3,
            num_queries=8,
            hidden_dim=32,
            num_heads=2,
            enc_layers=1,
            dec_layers=1,
            ffn_dim=32,
            **switches,
        )
        run = RunConfig(experiment="test", model=config, data=data)
        model = build_model(config)
        for name, parameter in model.named_parameters():  # new heads give every token the same score
            if "classify.weight" in name or ("box" in name and name.endswith("weight")):
                torch.nn.init.normal_(parameter, std=0.3)
        return write_artifact(
            folder / f"{family}.safetensors", model, run, Categories((1, 2, 3), ("red", "green", "blue"))
        )

    return write


@pytest.fixture(scope="module")
def sparse(save: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("onnx")
    artifact = save(folder)
    return SimpleNamespace(artifact=artifact, export=export_onnx(artifact, folder / "sparse.onnx", rhos=RHOS))


def test_the_ap_is_that_of_the_model_at_every_rho(sparse: SimpleNamespace) -> None:
    export: Export = sparse.export
    assert export.rho_is_input
    assert set(export.ap) == set(RHOS)
    assert export.largest_loss < 1e-4
    assert export.usable
    assert len({own for own, _ in export.ap.values()}) == 2, "the APs must depend on rho for the check to mean anything"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("rho", [0.05, 0.6])
def test_boxes_are_those_of_the_model_at_a_rho_that_was_not_traced(
    sparse: SimpleNamespace, engine: str, rho: float
) -> None:
    pytest.importorskip(engine)
    artifact = load_artifact(sparse.artifact)
    artifact.model.rho = rho
    _, exported = load_detector(LoadRequest(path=sparse.export.file, device=torch.device("cpu"), engine=engine))
    exported.rho = rho
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (120, 77, 3), dtype=np.uint8))
    prepared = exported.prepare(picture)
    with torch.inference_mode():
        prediction = artifact.model(torch.from_numpy(prepared[0]["images"])).prediction
    wanted = detections(prediction, torch.tensor([[120, 77]]))
    found = exported.detect(prepared)
    torch.testing.assert_close(found.scores, wanted.scores[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.boxes, wanted.boxes[0], atol=0.05, rtol=1e-3)
    assert found.labels.tolist() == wanted.labels[0].tolist()


def test_an_export_is_benchmarked_at_every_checked_rho(
    sparse: SimpleNamespace, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = MeasureConfig(iterations=3, warmup_iterations=1).timing
    monkeypatch.setattr("rhobench.adapters.timing.PROTOCOL", few)
    monkeypatch.setattr(benchmark_module, "PROTOCOL", few)
    monkeypatch.setattr(benchmark_module, "usable_cores", lambda: 1)
    request = BenchmarkRequest(path=sparse.export.file, store=str(tmp_path / "store"), data=data)
    record = benchmark(request, lambda line: None)
    assert [point.rho for point in record.points] == list(RHOS)
    for point in record.points:
        assert point.accuracy["ap"] == pytest.approx(sparse.export.ap[point.rho][1], abs=1e-6)
        assert point.gflops is None, "nobody counts the operations of an ONNX file"
        assert point.latency_ms is not None
    # The description names another AP of the model: the file is not what was checked, and its latency does not count.
    for file in (sparse.export.file, sparse.export.file.with_suffix(".json")):
        shutil.copy(file, tmp_path)
    described = json.loads((tmp_path / "sparse.json").read_text())
    described["reference"]["ap"] = {rho: ap + 0.02 for rho, ap in described["reference"]["ap"].items()}
    (tmp_path / "sparse.json").write_text(json.dumps(described))
    doubtful = benchmark(replace(request, path=tmp_path / "sparse.onnx", name="doubtful"), lambda line: None)
    assert doubtful.foreign is not None
    assert len(doubtful.foreign.notes) == len(RHOS)
    assert all(point.latency_ms is None and point.accuracy["ap"] is not None for point in doubtful.points)


def test_only_a_loss_on_the_same_data_counts() -> None:
    reference = Reference(sha256="x", dataset="coco val", ap={"0.3": 0.40, "dense": 0.5})
    assert export_notes(reference, "coco val", {0.3: 0.395}) == []
    assert export_notes(reference, "other val", {0.3: 0.1}) == []
    assert export_notes(None, "coco val", {0.3: 0.1}) == []
    (note,) = export_notes(reference, "coco val", {0.3: 0.38, None: 0.505})
    assert note.startswith("Its AP 38.0 at ρ 0.3 is not that of the model it was exported from, 40.0")


def test_a_dense_model_has_no_rho(save: Callable[..., Path], tmp_path: Path) -> None:
    export = export_onnx(save(tmp_path, "detr"), tmp_path / "detr.onnx")
    assert not export.rho_is_input
    assert set(export.ap) == {None}
    assert export.largest_loss < 1e-4
    with pytest.raises(ExportError, match=r"detr is dense: omit --rho"):
        export_onnx(tmp_path / "detr.safetensors", tmp_path / "detr.onnx", rhos=(0.3,))


def test_wrong_requests(save: Callable[..., Path], tmp_path: Path) -> None:
    artifact = save(tmp_path)
    for out, message in (("x.pth", r"ends with \.onnx"), ("no/x.onnx", "does not exist")):
        with pytest.raises(ExportError, match=message):
            export_onnx(artifact, tmp_path / out)
    with pytest.raises(ExportError, match=r"--rho 2.0 is not allowed"):
        export_onnx(artifact, tmp_path / "x.onnx", rhos=(2.0,))
    free = load_artifact(artifact)
    free_size = replace(free.config, data=replace(free.config.data, resize_px=None))
    write_artifact(artifact, free.model, free_size, free.categories)
    with pytest.raises(ExportError, match=r"--size HxW"):
        export_onnx(artifact, tmp_path / "x.onnx")
