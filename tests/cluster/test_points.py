"""Points of runs that are trained once and measured in several ways, without Ray."""

from __future__ import annotations

import io
import json
import shutil
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from rhobench.cluster.execute import execute
from rhobench.cluster.measure_runs import measure_runs
from rhobench.cluster.point_scores import MeasureError
from rhobench.cluster.run_task import RunTask
from rhobench.config import (
    BackboneConfig,
    ConfigError,
    DataConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    ScenesConfig,
    TrainConfig,
)
from rhobench.config.points import MeasureRequest, requested_points
from rhobench.measure.artifact import load_artifact
from rhobench.results import ForeignModel, Point, Record, Store, by_configuration
from rhobench.results.environment import cpu_device, usable_cores
from rhobench.results.evaluations import Evaluations
from rhobench.results.token_pictures import PictureError, read_pictures
from rhobench.runner.measure import MeasureOptions, MeasureOutcome, MeasureTargetError, measure_target
from rhobench.statistics.interval import image_interval
from rhobench.statistics.precision import average_precision, coco_stat

RHOS = (0.1, 0.25, 1.0)
CONFIG = RunConfig(
    experiment="test",
    model=ModelConfig(
        backbone=BackboneConfig(name="test_efficientnet"),
        rho=0.25,
        rho_choices=RHOS,
        num_queries=10,
        hidden_dim=32,
        num_heads=4,
        enc_layers=2,
        dec_layers=2,
        ffn_dim=32,
    ),
    data=DataConfig(scenes=ScenesConfig(train_images=6, val_images=3, size_px=96), resize_px=(96, 96)),
    train=TrainConfig(epochs=1, batch_size=2),
    measure=MeasureConfig(rhos=RHOS, warmup_iterations=1, iterations=6, rounds=2),
)


TIMING = CONFIG.measure.timing


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One run that is trained with sampled rho and measured at three, and one with a single rho."""
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder)
    plain = replace(CONFIG, model=replace(CONFIG.model, rho_choices=()), measure=replace(CONFIG.measure, rhos=()))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RHOBENCH_CACHE", str(folder / "cache"))
        for name, config in (("sampled", CONFIG), ("plain", plain)):
            execute(RunTask(run_id=name, config=config, folder=store.run_dir(name)), lambda status: None)
        requests = {
            name: MeasureRequest(points=requested_points(config), again=False)
            for name, config in (("sampled", CONFIG), ("plain", plain))
        }
        measure_runs(str(folder), requests, TIMING, threads=1)
    torch.set_num_threads(threads)
    return store


def test_a_run_has_a_point_for_every_rho(store: Store) -> None:
    frame = store.frame()
    assert (frame["status"] == "completed").all()
    sampled = frame[frame["run_id"] == "sampled"].set_index("rho_infer")
    assert sorted(sampled.index) == list(RHOS)
    assert (sampled["rho"] == 0.25).all()
    assert sampled["gflops"].sort_index().is_monotonic_increasing
    assert sampled["gflops"].nunique() == 3
    assert sampled[["ap", "latency_ms", "fps", "params_m", "timing_status"]].notna().all().all()
    assert frame[frame["run_id"] == "plain"]["rho_infer"].tolist() == [0.25]
    assert len(by_configuration(frame)) == 4
    assert (frame["busy_cores"] >= 0).all()


def test_every_point_has_an_interval_and_the_matches_that_it_comes_from(store: Store) -> None:
    frame = store.frame().query("run_id == 'sampled'")
    assert frame["matches_file"].nunique() == len(RHOS)
    evaluations = Evaluations(store, with_matches=True)
    for row in frame.to_dict("records"):
        evaluation = evaluations.of(row)
        assert evaluation is not None
        assert evaluation.matches["bbox"].num_images == 3
        value = coco_stat(average_precision(evaluation.matches["bbox"]), 0)
        assert value == pytest.approx([row["ap"]])
        assert row["ap_low"] <= row["ap"] <= row["ap_high"]
        expected = image_interval(row["ap"], evaluation.replicates["ap"])
        assert (row["ap_low"], row["ap_high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert not store.problems


def test_samples_and_detections_contain_their_rho(store: Store) -> None:
    folder = store.run_dir("sampled")
    point = store.frame().query("run_id == 'sampled' and rho_infer == 0.1").iloc[0]
    samples = pd.read_parquet(folder / point["samples_file"])
    assert samples.groupby(["rho", "phase"]).size().to_dict() == {
        (rho, phase): count for rho in RHOS for phase, count in (("timed", 6), ("warm-up", 3))
    }
    timed = samples.query("rho == 0.1 and phase == 'timed'")
    assert timed["latency_ms"].median() == pytest.approx(point["latency_ms"])
    assert set(samples["protocol"]) == {TIMING.id} == {point["protocol"]}
    found = pd.read_parquet(folder / "detections.parquet")
    assert set(found["rho"]) == set(RHOS)
    assert found.groupby("rho")["image_id"].nunique().to_dict() == dict.fromkeys(RHOS, 3)


def test_the_artifact_still_has_the_rho_of_its_configuration(store: Store) -> None:
    artifact = load_artifact(store.run_dir("sampled") / "model.safetensors")
    assert artifact.model.rho == 0.25
    selection = artifact.model(torch.zeros(1, 3, 96, 96)).selection
    assert selection is not None
    assert selection.index.shape[1] == int(sum((12 * 12, 6 * 6, 3 * 3, 2 * 2)) * 0.25) + 1


def test_pictures_show_the_kept_tokens_at_every_rho(store: Store) -> None:
    pictures = read_pictures(store.files, "sampled")
    assert len({picture.image_id for picture in pictures}) == len(pictures) == 3
    for picture in pictures:
        image = Image.open(io.BytesIO(b64decode(picture.jpeg)))
        assert (image.format, image.size) == ("JPEG", (96, 96))
        assert [point.rho for point in picture.points] == [0.25, 0.1, 1.0]
        for point in picture.points:
            assert (point.rows, point.columns, point.tokens, point.levels) == (12, 12, 144 + 36 + 9 + 4, 4)
            assert point.updated == min(int(193 * (point.rho or 1)) + 1, 193)
            kept = np.frombuffer(b64decode(point.kept), np.uint8)
            assert kept.max() <= 4
            assert (kept == 4).all() == (point.rho == 1.0), "every token of every level only at rho 1"
            attention = np.frombuffer(b64decode(point.attention or ""), np.uint8)
            assert attention.max() == 255
    assert (store.run_dir("sampled") / "pictures.json").stat().st_size < 60_000


@pytest.mark.parametrize("damage", ["", "[]", '{"pictures": [{}]}', '{"pictures": 1}'])
def test_a_damaged_file_of_pictures_is_refused(store: Store, damage: str, tmp_path: Path) -> None:
    other = Store(tmp_path)
    other.run_dir("run").mkdir(parents=True)
    (other.run_dir("run") / "pictures.json").write_text(damage)
    with pytest.raises(PictureError, match="cannot be read"):
        read_pictures(other.files, "run")
    text = (store.run_dir("sampled") / "pictures.json").read_text().replace('"rows":12', '"rows":13', 1)
    (other.run_dir("run") / "pictures.json").write_text(text)
    with pytest.raises(PictureError, match="not rows times columns"):
        read_pictures(other.files, "run")
    assert read_pictures(other.files, "none") == []


def test_the_manifest_tells_how_to_measure_again(store: Store) -> None:
    folder = store.run_dir("plain")
    point = store.frame().query("run_id == 'plain'").iloc[0]
    manifest = json.loads((folder / point["manifest_file"]).read_text())
    assert manifest["command"] == (
        f"rhobench measure {folder} --protocol latency --scope detector --rho 0.25 --precision fp32 --batch 1"
    )
    assert manifest["artifact"]["sha256"] == point["artifact_sha256"]
    assert manifest["protocol"]["sha256"] == TIMING.sha256
    assert manifest["samples_file"] == point["samples_file"]
    assert list(manifest["annotations_sha256"]) == ["instances_val.json"]
    (measured,) = manifest["points"]
    assert len(measured["conditions"]["canary_ms"]) == 2
    assert manifest["host"]["threads"] == 1


@pytest.fixture
def copy(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A copy of the store, which a test may measure again."""
    monkeypatch.setenv("RHOBENCH_CACHE", str(store.path / "cache"))
    shutil.copytree(store.path / "runs", tmp_path / "copy" / "runs")
    threads = torch.get_num_threads()
    yield Store(tmp_path / "copy")
    torch.set_num_threads(threads)


def quiet(text: str) -> None:
    pass


def test_measuring_again_adds_points_and_leaves_the_others(copy: Store) -> None:
    before = {record.run_id: record for record in copy.records()}
    options = MeasureOptions(protocol=TIMING, rhos=(0.1,), precisions=("fp32", "bf16"), batch_sizes=(2,), threads=1)
    outcome = measure_target(str(copy.run_dir("sampled")), options, quiet)
    record = copy.read("sampled")
    assert record is not None
    assert copy.read("plain") == before["plain"]
    assert record.points[:3] == before["sampled"].points
    exact, reduced = record.points[3:]
    assert [(p.rho, p.precision, p.batch_size) for p in (exact, reduced)] == [(0.1, "fp32", 2), (0.1, "bf16", 2)]
    assert exact.accuracy == before["sampled"].points[1].accuracy, "images of one size need no padding"
    assert reduced.ap_difference is not None
    assert exact.ap_difference is None
    assert len({point.matches_file for point in record.points}) == 4, "only the evaluation in bf16 is a new one"
    files = {point.samples_file for point in record.points}
    assert len(files) == 2
    assert all((copy.run_dir("sampled") / str(name)).is_file() for name in files)
    assert "ΔAP" in rendered(outcome)
    assert TIMING.id in rendered(outcome)


def rendered(outcome: Any) -> str:
    console = Console(file=StringIO(), width=250)
    console.print(outcome.card())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_reasons_that_differ_in_their_numbers_only_are_told_once() -> None:
    widths = [f"the 95 % interval is {width} % of the latency wide" for width in (6, 11, 7)]
    points = [
        Point(rho=rho, timing_reason=reason)
        for rho, reason in zip((0.5, 0.1, 1.0, 0.3, 0.2), (None, *widths, "the machine was busy"), strict=True)
    ]
    told = rendered(MeasureOutcome(protocol=TIMING, points={"a": points}))
    assert f"3 of 5 times not eligible for a front: for example, {widths[0]}." in told
    assert "1 of 5 times not eligible for a front: the machine was busy." in told
    assert "11 %" not in told
    rows = [line.split()[1] for line in told.splitlines() if line.strip().startswith("ρ ")]
    assert rows == ["dtype", "0.1", "0.2", "0.3", "0.5", "1"]


def test_detectors_of_other_libraries_in_a_store_are_left_out_and_named(copy: Store) -> None:
    foreign = ForeignModel(name="x", kind="onnx", architecture="X", engine="onnxruntime", source="x", sha256="0")
    config = {"experiment": "benchmark"}
    other = Record(run_id="benchmark-x", experiment="benchmark", status="completed", config=config, foreign=foreign)
    copy.write(other)
    outcome = measure_target(str(copy.path), MeasureOptions(protocol=TIMING, threads=1), quiet)
    assert set(outcome.points) == {"plain", "sampled"}
    assert outcome.as_dict()["foreign"] == ["x"]
    assert "Not measured: 1 detector of other libraries (x). `rhobench benchmark" in rendered(outcome)
    assert copy.read("benchmark-x") == other
    with pytest.raises(MeasureTargetError, match=r"only detectors of other libraries \(x\). `rhobench bench"):
        measure_target(str(copy.run_dir("benchmark-x")), MeasureOptions(protocol=TIMING, threads=1), quiet)


def test_the_same_point_measured_again_takes_its_place(copy: Store) -> None:
    options = MeasureOptions(protocol=TIMING, threads=1)
    measure_target(str(copy.path), options, quiet)
    for record in copy.records():
        assert len(record.points) == (3 if record.run_id == "sampled" else 1)
        assert len(list(copy.run_dir(record.run_id).glob("samples-*.parquet"))) == 2, "raw samples are never replaced"


@pytest.mark.ray
def test_every_kind_of_device_of_a_cluster_gets_its_points(copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOBENCH_CACHE", str(copy.path / "cache"))
    outcome = measure_target(str(copy.run_dir("plain")), MeasureOptions(protocol=TIMING, each_device=True), quiet)
    assert not outcome.problems
    assert {point.device for point in outcome.points["plain"]} == {cpu_device()}, "there is no GPU here"
    record = copy.read("plain")
    assert record is not None
    assert [(point.device, point.threads) for point in record.points][-1] == (cpu_device(), usable_cores())


def test_each_device_applies_to_runs(copy: Store, tmp_path: Path) -> None:
    file = shutil.copy(copy.run_dir("plain") / "model.safetensors", tmp_path)
    with pytest.raises(MeasureTargetError, match="belongs to no run"):
        measure_target(str(file), MeasureOptions(protocol=TIMING, each_device=True), quiet)
    with pytest.raises(ConfigError, match="omit --device and --threads"):
        MeasureOptions(protocol=TIMING, each_device=True, threads=1)
    with pytest.raises(ConfigError, match="give both, or neither"):
        MeasureOptions(protocol=TIMING, address="auto")


def test_another_resolution_has_its_own_accuracy_and_operations(copy: Store) -> None:
    options = MeasureOptions(protocol=TIMING, resolutions=((128, 128),), threads=1)
    measure_target(str(copy.run_dir("plain") / "model.safetensors"), options, quiet)
    record = copy.read("plain")
    assert record is not None
    own, larger = record.points
    assert (larger.height, larger.width) == (128, 128)
    assert (larger.gflops or 0) > (own.gflops or 0)
    assert larger.accuracy_batch_size == 1
    assert larger.matches_file != own.matches_file
    evaluations = Evaluations(copy)
    for row in copy.frame().query("run_id == 'plain'").to_dict("records"):
        assert evaluations.of(row) is not None, "every point has its interval, and can be compared image by image"
    assert larger.accuracy_bounds.keys() == own.accuracy_bounds.keys()
    with pytest.raises(MeasureError, match=r"cannot be run at 32x32.*another --resolution"):
        measure_target(
            str(copy.run_dir("plain")), MeasureOptions(protocol=TIMING, resolutions=((32, 32),), threads=1), quiet
        )


def test_a_model_without_a_record_is_measured_on_given_data(copy: Store, tmp_path: Path) -> None:
    file = shutil.copy(copy.run_dir("plain") / "model.safetensors", tmp_path / "mine.safetensors")
    outcome = measure_target(str(file), MeasureOptions(protocol=TIMING, threads=1), quiet)
    (point,) = outcome.points["mine.safetensors"]
    assert point.accuracy["ap"] is not None
    assert (tmp_path / str(point.samples_file)).is_file()


def test_what_cannot_be_measured_is_refused(copy: Store, tmp_path: Path) -> None:
    for record in copy.records():
        copy.write(replace(record, status="failed", reason="x"))
    with pytest.raises(MeasureTargetError, match="no trained run"):
        measure_target(str(copy.path), MeasureOptions(protocol=TIMING, threads=1), quiet)
    with pytest.raises(ValueError, match=r"--rho 1\.5 is not allowed"):
        MeasureOptions(protocol=TIMING, rhos=(1.5,))
    with pytest.raises(ValueError, match="--precision int8 is not a precision"):
        MeasureOptions(protocol=TIMING, precisions=("int8",))
