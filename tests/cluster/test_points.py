"""Points of a run that is trained once and measured at several rho, without Ray."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from rhobench.cluster.execute import execute
from rhobench.cluster.measure_runs import measure_runs
from rhobench.cluster.run_task import RunTask
from rhobench.config import (
    BackboneConfig,
    DataConfig,
    MeasureConfig,
    ModelConfig,
    RunConfig,
    ScenesConfig,
    TrainConfig,
)
from rhobench.measure.artifact import load_artifact
from rhobench.results import Store, by_configuration
from rhobench.results.evaluations import Evaluations
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
    measure=MeasureConfig(rhos=RHOS, warmup_iterations=1, iterations=4, rounds=2),
)


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
        measure_runs(str(folder), ["sampled", "plain"], threads=1)
    # A run has its own process; the following tests may need denormal numbers.
    torch.set_flush_denormal(False)
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
    assert sampled[["ap", "latency_ms", "latency_p90_ms", "fps", "params_m"]].notna().all().all()
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
    samples = pd.read_parquet(folder / "samples.parquet")
    assert samples.groupby("rho").size().to_dict() == dict.fromkeys(RHOS, 4)
    point = store.frame().query("run_id == 'sampled' and rho_infer == 0.1").iloc[0]
    assert samples.query("rho == 0.1")["latency_ms"].median() == pytest.approx(point["latency_ms"])
    found = pd.read_parquet(folder / "detections.parquet")
    assert set(found["rho"]) == set(RHOS)
    assert found.groupby("rho")["image_id"].nunique().to_dict() == dict.fromkeys(RHOS, 3)


def test_the_artifact_still_has_the_rho_of_its_configuration(store: Store) -> None:
    artifact = load_artifact(store.run_dir("sampled") / "model.safetensors")
    assert artifact.model.rho == 0.25
    selection = artifact.model(torch.zeros(1, 3, 96, 96)).selection
    assert selection is not None
    assert selection.index.shape[1] == int(sum((12 * 12, 6 * 6, 3 * 3, 2 * 2)) * 0.25) + 1
