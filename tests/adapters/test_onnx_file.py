"""ONNX files of others: every meaning that a description can give to outputs leads to the same boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import box_convert

from rhobench.adapters.engines import Graph
from rhobench.adapters.foreign_detector import AdapterError, LoadRequest
from rhobench.adapters.kinds.onnx_file import OnnxDescription, OnnxDetector, load

HEIGHT, WIDTH = 32, 64
"""Size of the input."""


def detector(
    described: OnnxDescription, outputs: Mapping[str, np.ndarray], seen: list[Any] | None = None
) -> OnnxDetector:
    def run(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if seen is not None:
            seen.append(dict(inputs))
        return outputs

    return OnnxDetector(Graph(run=run, inputs=("images",), outputs=tuple(outputs)), described, "onnxruntime")


@settings(max_examples=30)
@given(
    box_format=st.sampled_from(["xyxy", "xywh", "cxcywh"]),
    unit=st.sampled_from(["original", "input", "relative"]),
    corners=st.lists(st.tuples(*[st.floats(0.1, 0.4)] * 2, *[st.floats(0.5, 0.9)] * 2), min_size=1, max_size=5),
    size=st.tuples(st.integers(20, 300), st.integers(20, 300)),
    batched=st.booleans(),
)
def test_boxes_in_any_format_and_unit_are_the_same_pixels(
    box_format: Any, unit: Any, corners: list[Any], size: tuple[int, int], batched: bool
) -> None:
    height, width = size
    relative = torch.tensor(corners)
    scale = {"original": (width, height), "input": (WIDTH, HEIGHT), "relative": (1, 1)}[unit]
    written = box_convert(relative * torch.tensor([*scale, *scale]), "xyxy", box_format)
    count = len(corners)
    outputs = {
        "boxes": written.numpy()[None] if batched else written.numpy(),
        "scores": np.linspace(0.9, 0.1, count, dtype=np.float32)[None],
        "labels": np.arange(count)[None],
    }
    described = OnnxDescription(height=HEIGHT, width=WIDTH, box_format=box_format, box_unit=unit, classes=["a"] * 5)
    made = detector(described, outputs)
    found = made.detect(made.prepare(Image.new("RGB", (width, height))))
    torch.testing.assert_close(
        found.boxes, relative * torch.tensor([width, height, width, height]), rtol=1e-4, atol=1e-2
    )
    assert found.labels.tolist() == list(range(count))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_logits_give_the_best_hundred_classes_of_queries(activation: Any) -> None:
    random = np.random.default_rng(0)
    classes = 3 + (activation == "softmax")
    logits = random.normal(size=(1, 60, classes)).astype(np.float32)
    boxes = random.uniform(0.2, 0.4, (1, 60, 4)).astype(np.float32)
    described = OnnxDescription(
        height=HEIGHT,
        width=WIDTH,
        labels=None,
        activation=activation,
        box_format="cxcywh",
        box_unit="relative",
        classes=["a", "b", "c"],
    )
    made = detector(described, {"boxes": boxes, "scores": logits})
    found = made.detect(made.prepare(Image.new("RGB", (50, 40))))
    known = torch.from_numpy(logits[0])
    scores = known.sigmoid() if activation == "sigmoid" else known.softmax(-1)[:, :-1].max(-1).values
    expected = scores.flatten().sort(descending=True).values[:100]
    torch.testing.assert_close(found.scores, expected)
    query, label = divmod(int(known.sigmoid().argmax()), classes)
    if activation == "sigmoid":
        assert int(found.labels[0]) == label
        pixels = box_convert(torch.from_numpy(boxes[0, query]), "cxcywh", "xyxy") * torch.tensor([50, 40, 50, 40])
        torch.testing.assert_close(found.boxes[0], pixels)


def test_inputs_have_the_size_scale_and_order_of_the_description() -> None:
    seen: list[Any] = []
    described = OnnxDescription(
        height=HEIGHT,
        width=WIDTH,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.25, 0.25, 0.25),
        sizes="orig_target_sizes",
        size_order="width_height",
        rho="rho",
        classes=["a"],
    )
    empty = {"boxes": np.zeros((1, 0, 4), np.float32), "scores": np.zeros((1, 0)), "labels": np.zeros((1, 0), np.int64)}
    made = detector(described, empty, seen)
    made.rho = 0.25
    found = made.detect(made.prepare(Image.new("RGB", (50, 40), (255, 0, 255))))
    assert len(found.boxes) == 0
    (inputs,) = seen
    assert inputs["images"].shape == (1, 3, HEIGHT, WIDTH)
    assert inputs["images"][0, :, 0, 0].tolist() == [2.0, -2.0, 2.0]
    assert inputs["orig_target_sizes"].tolist() == [[50, 40]]
    assert inputs["rho"] == np.float32(0.25)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An ONNX file whose outputs are constants."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    constants = {
        "boxes": np.array([[[1, 2, 11, 22]]], np.float32),
        "scores": np.array([[0.5]], np.float32),
        "labels": np.array([[0]]),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))
        for name, value in constants.items()
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", types.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [
            helper.make_tensor_value_info(name, types.INT64 if name == "labels" else types.FLOAT, list(value.shape))
            for name, value in constants.items()
        ],
    )
    path = tmp_path / "constant.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    described = {"height": HEIGHT, "width": WIDTH, "classes": ["a"]}
    path.with_suffix(".json").write_text(json.dumps(described))
    return path


def request(path: Path, engine: str | None = None) -> LoadRequest:
    return LoadRequest(path=path, device=torch.device("cpu"), engine=engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_file_of_others_runs_in_both_engines(file: Path, engine: str) -> None:
    pytest.importorskip(engine)
    loaded = load(request(file, engine))
    found = loaded.detect(loaded.prepare(Image.new("RGB", (50, 40))))
    assert [values.tolist() for values in found] == [[pytest.approx([1, 2, 11, 22])], [0.5], [0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "pixels"}, r"names the inputs pixels, but those of constant.onnx are images"),
        ({"rho": "rho"}, r"names the inputs images, rho, but"),
        ({"scores": "logits"}, r"names the outputs boxes, labels, logits, but those .* are boxes, scores, labels"),
        ({"labels": None}, r"give either labels, .* or activation"),
        ({"activation": "sigmoid"}, r"give either labels"),
        ({"box_unit": "cm"}, r"cannot be read.*A valid one is"),
        ({"classes": None}, r"cannot be read"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(file: Path, changes: dict[str, Any], message: str) -> None:
    described = json.loads(file.with_suffix(".json").read_text()) | changes
    file.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(AdapterError, match=message):
        load(request(file))


def test_damaged_files_and_unknown_engines_are_refused(file: Path) -> None:
    with pytest.raises(AdapterError, match=r"no engine 'tensorrt'.*onnxruntime, openvino"):
        load(request(file, "tensorrt"))
    file.write_bytes(b"not ONNX")
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
        with pytest.raises(AdapterError, match=f"{engine} cannot load .*constant.onnx"):
            load(request(file, engine))
