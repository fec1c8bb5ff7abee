"""What is refused, and with which way out: files that hold no trained detector, or not one for the data."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rhobench.adapters.foreign_detector import AdapterError, FoundObjects, LabelMap, LoadRequest
from rhobench.adapters.kinds import kinds, load_detector
from rhobench.data import Categories

CPU = torch.device("cpu")


def load(path: Path, kind: str = "auto", engine: str | None = None) -> Any:
    return load_detector(LoadRequest(path=path, device=CPU, engine=engine), kind)[1]


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if "class_embed" in name)]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no weights .* random weights"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), r"has no preprocessor_config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), r"none of the kinds"),
    "one weight missing": (without_a_weight, r"lacks weights of \d+ parameters, such as .*class_embed"),
    "damaged": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), r"cannot be loaded as an object detector"),
    "not a detector": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}'),
        r"cannot be loaded as an object detector",
    ),
    "other classes": (
        lambda f: edit(f / "config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
        r"lacks weights|cannot be loaded",
    ),
}


@pytest.mark.parametrize("change", FOLDERS)
def test_folders_of_transformers(rt_detr: Path, tmp_path: Path, change: str) -> None:
    folder = Path(shutil.copytree(rt_detr, tmp_path / "copy"))
    break_it, message = FOLDERS[change]
    break_it(folder)
    with pytest.raises(AdapterError, match=message):
        load(folder)


WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no description": (lambda f: f.with_suffix(".json").unlink(), r"needs a description: write .*tiny-ssd.json"),
    "no JSON": (lambda f: f.with_suffix(".json").write_text("{"), r"cannot be read.*A valid one is"),
    "no object": (lambda f: f.with_suffix(".json").write_text("[]"), r"is not a JSON object"),
    "a misspelt field": (lambda f: edit(f.with_suffix(".json"), clases=[]), r"no field 'clases'"),
    "no model": (lambda f: edit(f.with_suffix(".json"), model=None), r"missing required field `model`"),
    "an unknown model": (lambda f: edit(f.with_suffix(".json"), model="yolo"), r"no detection model 'yolo', only"),
    "a wrong argument": (lambda f: edit(f.with_suffix(".json"), arguments={"number": 4}), r"no argument number, only"),
    "a wrong type": (lambda f: edit(f.with_suffix(".json"), arguments={"num_classes": "x"}), r"cannot be built"),
    "another head": (
        lambda f: edit(f.with_suffix(".json"), arguments={"num_classes": 7}),
        r"does not have the weights of ssdlite320_mobilenet_v3_large.*size mismatch",
    ),
    "too few names": (lambda f: edit(f.with_suffix(".json"), classes=["__background__", "cat"]), r"has 2 classes, but"),
    "no tensors": (lambda f: torch.save({"model": 3}, f), r"does not hold a state_dict"),
    "code": (lambda f: torch.save(torch.nn.Linear(1, 1), f), r"damaged or holds more than tensors"),
    "damaged": (lambda f: f.write_bytes(f.read_bytes()[:1000]), r"damaged or holds more than tensors"),
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_weights_of_torchvision(ssd: Path, tmp_path: Path, change: str) -> None:
    file = Path(shutil.copy(ssd, tmp_path))
    shutil.copy(ssd.with_suffix(".json"), tmp_path)
    break_it, message = WEIGHTS[change]
    break_it(file)
    with pytest.raises(AdapterError, match=message):
        load(file)


def test_a_name_of_a_model_is_not_a_trained_detector() -> None:
    with pytest.raises(AdapterError, match=r"no file or folder fasterrcnn_resnet50_fpn. A trained detector is needed"):
        load(Path("fasterrcnn_resnet50_fpn"), "torchvision")


def test_unknown_kinds_engines_and_files(tmp_path: Path, ssd: Path, rt_detr: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(AdapterError, match=r"x.txt is none of the kinds .*onnx: .*torchvision: .*transformers: "):
        load(tmp_path / "x.txt")
    with pytest.raises(AdapterError, match=r"no kind 'keras'.*auto or one of onnx, torchvision, transformers"):
        load(ssd, "keras")
    for path in (ssd, rt_detr):
        with pytest.raises(AdapterError, match="--engine openvino does not run"):
            load(path, engine="openvino")


@pytest.mark.parametrize(("package", "fixture"), [("transformers", "rt_detr")])
def test_a_missing_package_is_named(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, package: str, fixture: str
) -> None:
    path = request.getfixturevalue(fixture)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AdapterError, match=rf"need the package {package}.*pip install 'rhobench\[{package}\]'"):
        load(path)


def test_every_kind_says_what_it_takes() -> None:
    assert set(kinds()) == {"transformers", "torchvision", "onnx"}
    assert all(kind.TAKES for kind in kinds().values())


def categories(ids: list[int]) -> Categories:
    return Categories(tuple(ids), tuple(f"class {number}" for number in ids))


some_ids = st.lists(st.integers(1, 90), min_size=1, max_size=8, unique=True).map(sorted)


@given(ids=some_ids, extra=st.integers(0, 3), order=st.randoms())
def test_names_map_in_any_order_and_spelling(ids: list[int], extra: int, order: Any) -> None:
    names = [f"Class_{number}" for number in ids] + [f"other {i}" for i in range(extra)]
    order.shuffle(names)
    mapped = LabelMap(dict(enumerate(names)), categories(ids))
    assert {names[label]: number for label, number in mapped.category_ids.items()} == {f"Class_{n}": n for n in ids}
    assert mapped.ignored == sorted(f"other {i}" for i in range(extra))


@given(ids=some_ids, first=st.integers(0, 1))
def test_labels_without_names_follow_the_order_of_the_ids(ids: list[int], first: int) -> None:
    labels = range(first, first + len(ids))
    assert LabelMap(dict.fromkeys(labels), categories(ids)).category_ids == dict(zip(labels, ids, strict=True))


@given(ids=some_ids)
def test_labels_without_names_may_be_the_ids(ids: list[int]) -> None:
    mapped = LabelMap(dict.fromkeys(range(max(ids) + 1)), categories(ids))
    if len(ids) != max(ids) + 1:
        assert mapped.category_ids == {number: number for number in ids}


@given(ids=some_ids, difference=st.integers(1, 5))
def test_another_number_of_classes_is_refused(ids: list[int], difference: int) -> None:
    count = max(ids) + 1 + difference
    with pytest.raises(AdapterError, match=rf"has {count} classes without names.* {len(ids)} categories"):
        LabelMap(dict.fromkeys(range(count)), categories(ids))


@given(ids=some_ids)
def test_a_category_without_a_class_is_refused(ids: list[int]) -> None:
    names = [f"class {number}" for number in ids[1:]] + ["another"]
    with pytest.raises(AdapterError, match=f"no class for 'class {ids[0]}'"):
        LabelMap(dict(enumerate(names)), categories(ids))


def test_the_best_hundred_detections_are_kept_without_ignored_classes() -> None:
    mapped = LabelMap({0: "class 4", 1: "other"}, categories([4]))
    scores = torch.arange(300) / 300
    boxes = torch.tensor([[1.0, 2.0, 4.0, 8.0]]).expand(300, 4)
    found = mapped.detections(FoundObjects(boxes, scores, torch.arange(300) % 2), image_id=7)
    assert len(found) == 100
    assert found[0] == {"image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 6], "score": pytest.approx(298 / 300)}
    assert mapped.detections(FoundObjects(boxes[:0], scores[:0], scores[:0].long()), image_id=7) == []
