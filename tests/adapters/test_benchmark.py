"""A foreign detector gets the boxes and the AP of its own library, and a place on the front of our runs."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from rhobench.adapters import benchmark as module
from rhobench.adapters.benchmark import BenchmarkRequest, benchmark
from rhobench.adapters.foreign_detector import LoadRequest
from rhobench.adapters.kinds import load_detector
from rhobench.config import DataConfig, MeasureConfig
from rhobench.dashboards import front_table
from rhobench.dashboards.figures.pareto import pareto
from rhobench.results import ForeignModel, Point, Record, Store, by_configuration
from rhobench.results.evaluations import Evaluations

Found = dict[str, torch.Tensor]

CATEGORIES = 3
"""Number of categories of the tiny data set."""


@pytest.fixture(autouse=True)
def _few_timed_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    few = MeasureConfig(iterations=3, warmup_iterations=1).timing
    for part in ("timing", "benchmark"):
        monkeypatch.setattr(f"rhobench.adapters.{part}.PROTOCOL", few)
    monkeypatch.setattr(module, "usable_cores", lambda: 1)


def by_transformers(folder: Path, pictures: Sequence[Image.Image]) -> list[Found]:
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    model, processor = AutoModelForObjectDetection.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = [model(**processor(images=picture, return_tensors="pt")) for picture in pictures]
    return [
        processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(p.height, p.width)])[0]
        for output, p in zip(outputs, pictures, strict=True)
    ]


def by_torchvision(file: Path, pictures: Sequence[Image.Image]) -> list[Found]:
    from torchvision.models import detection
    from torchvision.transforms.functional import to_tensor

    arguments = json.loads(file.with_suffix(".json").read_text())["arguments"]
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, **arguments).eval()
    model.load_state_dict(torch.load(file)["model"])
    with torch.no_grad():
        return model([to_tensor(picture) for picture in pictures])


LIBRARIES: dict[str, tuple[Callable[..., list[Found]], int]] = {
    "rt_detr": (by_transformers, 0),
    "ssd": (by_torchvision, 1),
}
"""Fixture of a detector, with the code of its library and its first label."""


@pytest.fixture(params=LIBRARIES)
def detector(request: pytest.FixtureRequest, pictures: Sequence[Image.Image]) -> tuple[Path, list[Found], int]:
    """Path of a detector, what its library finds in the pictures, and its first label."""
    path = request.getfixturevalue(request.param)
    library, first_label = LIBRARIES[request.param]
    return path, library(path, pictures), first_label


def ground_truth(found: list[Found], first_label: int) -> list[tuple[list[list[float]], list[int]]]:
    """Annotations that the detector finds in part: some of its own detections, shrunk."""
    objects = []
    for image in found:
        known = [i for i, label in enumerate(image["labels"].tolist()) if label - first_label < CATEGORIES][:12:2]
        boxes = [_shrunk(image["boxes"][i].tolist(), 0.05 * step) for step, i in enumerate(known)]
        objects.append((boxes, [int(image["labels"][i]) - first_label for i in known]))
    return objects


def _shrunk(box: list[float], share: float) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - share * (x1 - x0), y1 - share * (y1 - y0)]


def reference_ap(file: Path, found: list[Found], first_label: int) -> float:
    """AP of what a library found, by pycocotools alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        ids = sorted(truth.getCatIds())
        results = [
            {
                "image_id": number,
                "category_id": ids[label - first_label],
                "bbox": [x, y, x1 - x, y1 - y],
                "score": score,
            }
            for number, image in enumerate(found, start=1)
            for (x, y, x1, y1), label, score in zip(
                image["boxes"].tolist(), image["labels"].tolist(), image["scores"].tolist(), strict=True
            )
            if label - first_label < CATEGORIES
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def test_boxes_equal_those_of_the_library(
    detector: tuple[Path, list[Found], int], pictures: Sequence[Image.Image]
) -> None:
    path, expected, _ = detector
    _, loaded = load_detector(LoadRequest(path=path, device=torch.device("cpu")))
    with torch.inference_mode():
        for picture, wanted in zip(pictures, expected, strict=True):
            found = loaded.detect(loaded.prepare(picture))
            assert len(found.boxes) > 10
            torch.testing.assert_close(found.boxes, wanted["boxes"], atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(found.scores, wanted["scores"], atol=1e-5, rtol=1e-4)
            assert found.labels.tolist() == wanted["labels"].tolist()


def test_the_record_has_the_ap_of_the_library(
    detector: tuple[Path, list[Found], int], write_data: Callable[..., Path], tmp_path: Path
) -> None:
    path, found, first_label = detector
    data = write_data(tmp_path / "data", ground_truth(found, first_label))
    store = Store(tmp_path / "store")
    request = BenchmarkRequest(path=path, store=str(tmp_path / "store"), data=DataConfig(dir=str(data)))
    record = benchmark(request, lambda line: None)
    expected = reference_ap(data / "annotations" / "instances_val.json", found, first_label)
    (point,) = record.points
    assert expected > 0.05
    assert point.accuracy["ap"] == pytest.approx(expected, abs=1e-6)
    assert point.gflops is not None
    assert point.gflops > 0
    assert point.latency_ms is not None
    assert point.latency_ms > 0
    assert record.foreign is not None
    assert record.foreign.ignored_classes == (["zebra"] if first_label == 0 else [])
    assert store.read(record.run_id) == record
    (row,) = store.frame().to_dict("records")
    assert (row["model"], row["backbone"]) == (path.stem, record.foreign.kind)
    evaluation = Evaluations(store).of(row)
    assert evaluation is not None, "it can be compared with our runs image by image"
    assert point.accuracy_bounds["ap_low"] <= expected <= point.accuracy_bounds["ap_high"]
    assert set(point.ap_by_class) == {c["name"] for c in record.categories}
    assert row["model.hidden_dim"] != row["model.hidden_dim"], "it has no model settings of ours"
    # Measured again, it replaces its record instead of counting as a second seed.
    again = benchmark(request, lambda line: None)
    assert again.run_id == record.run_id
    assert len(store.frame()) == 1


def own_record(rho: float, ap: float, latency_ms: float, data: str) -> Record:
    run = f"demo-rho{rho}"
    point = Point(
        rho=rho,
        accuracy={"ap": ap},
        gflops=10 * rho,
        flops_count="standard",
        latency_ms=latency_ms,
        protocol="p/1",
        device="cpu",
        threads=2,
        batch_size=1,
        backend="cpu",
    )
    config: dict[str, Any] = {"experiment": "demo", "model": {"rho": rho}, "data": {"dir": data}}
    return Record(run_id=run, experiment="demo", status="completed", config=config, points=[point])


def foreign_record(
    name: str, ap: float, latency_ms: float, data: str, gflops: float | None, rho: float | None
) -> Record:
    own = own_record(0.5, ap, latency_ms, data)
    point = replace(own.points[0], rho=rho, backend="onnxruntime", gflops=gflops)
    foreign = ForeignModel(name=name, kind="onnx", architecture="X", engine="onnxruntime", source="x", sha256=name)
    config = {"experiment": "benchmark", "data": {"dir": data}}
    return replace(own, run_id=f"benchmark-{name}", config=config, foreign=foreign, points=[point])


def test_foreign_detectors_are_series_on_the_front_of_our_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in (
        own_record(0.1, 0.40, 10.0, "coco"),
        own_record(1.0, 0.45, 40.0, "coco"),
        foreign_record("fast", 0.42, 5.0, "coco", 3.0, None),
        foreign_record("slow", 0.41, 50.0, "coco", None, None),
        foreign_record("export", 0.44, 20.0, "coco", None, 0.3),
        foreign_record("elsewhere", 0.99, 1.0, "bccd", None, None),
    ):
        store.write(record)
    frame = store.frame()
    rows = by_configuration(frame, "latency_ms").set_index("label")
    assert set(rows.index) == {"ρ 0.1", "ρ 1", "fast", "slow", "export · ρ 0.3", "elsewhere"}
    on_coco = rows[rows["dataset"] == "coco val"]
    assert set(on_coco[on_coco["on_front"]].index) == {"fast", "export · ρ 0.3", "ρ 1"}
    assert on_coco["setting"].nunique() == 1
    assert rows.loc["fast", "series"].startswith("fast · onnx")
    # Not counted is not zero: it is not on the axis of operations.
    assert set(by_configuration(frame, "gflops")["label"]) == {"ρ 0.1", "ρ 1", "fast"}
    names = {trace.name for trace in pareto(frame, "latency_ms").data}
    assert {"fast · onnx · coco val", "sparse_detr · resnet50 · coco val"} <= names


def test_the_table_names_our_model_once_where_the_others_have_their_labels(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(own_record(0.1, 0.40, 10.0, "coco"))
    store.write(foreign_record("fast", 0.42, 5.0, "coco", 3.0, None))
    lines = printed_table(store)
    assert "sparse_detr · resnet50" in lines[0]
    assert not [line for line in lines[1:] if "model" in line or "sparse_detr" in line]
    store.write(foreign_record("elsewhere", 0.99, 1.0, "bccd", None, None))
    lines = printed_table(store)
    assert "sparse_detr · resnet50" in lines[0]
    assert any("[1]" in line for line in lines), "the settings differ, so every row names its own"


def test_the_table_tells_which_command_repeats_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(own_record(0.1, 0.40, 10.0, "coco"))
    store.write(foreign_record("fast", 0.42, 5.0, "coco", 3.0, None))

    def told(*disturbed: str) -> str:
        frame = store.frame()
        frame.loc[frame["run_id"].str.startswith(disturbed), "timing_status"] = "unstable"
        (console := Console(width=400, file=io.StringIO())).print(front_table(frame, "latency_ms"))
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    (own,) = {record.run_id for record in store.records() if record.foreign is None}
    assert "quiet machine: `rhobench measure STORE`." in told(own)
    assert "quiet machine: `rhobench benchmark PATH`." in told("benchmark")
    assert "quiet machine: `rhobench measure STORE` and `rhobench benchmark PATH`." in told(own, "benchmark")


def printed_table(store: Store) -> list[str]:
    printed = io.StringIO()
    Console(width=120, file=printed).print(front_table(store.frame(), "latency_ms"))
    return printed.getvalue().splitlines()


def test_the_data_is_that_of_the_store(tmp_path: Path, some_data: Path, ssd: Path) -> None:
    place = tmp_path / "store"
    with pytest.raises(ValueError, match=r"no runs yet.*--data DIR|no store"):
        benchmark(BenchmarkRequest(path=ssd, store=str(place)), lambda line: None)
    store = Store(place)
    store.write(own_record(0.1, 0.4, 10.0, str(some_data)))
    record = benchmark(BenchmarkRequest(path=ssd, store=str(place), name="ours-too"), lambda line: None)
    assert record.config["data"]["dir"] == str(some_data)
    assert store.frame()["dataset"].nunique() == 1
    store.write(foreign_record("other", 0.4, 10.0, "elsewhere", None, None))
    with pytest.raises(ValueError, match=r"2 data sets \(data val, elsewhere val\).*--data DIR"):
        benchmark(BenchmarkRequest(path=ssd, store=str(place)), lambda line: None)
