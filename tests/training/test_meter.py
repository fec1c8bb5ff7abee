"""Status reports, loss spikes and the history of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rhobench.config import RunConfig
from rhobench.training import meter
from rhobench.training.loop import train
from rhobench.training.meter import SPIKE, WINDOW, EpochMeter, SpikeMonitor
from rhobench.training.status import Status


def test_a_spike_is_a_loss_above_three_times_the_median_of_those_before() -> None:
    watch = SpikeMonitor()
    assert [watch.update(100.0 if i == 0 else 2.0) for i in range(WINDOW)] == [None] * WINDOW  # the window is not full
    assert watch.update(SPIKE * 2.0) is None
    assert watch.update(SPIKE * 2.0 + 0.1) == 2.0
    assert watch.update(2.0) is None


def test_spikes_are_in_the_history(
    write_coco: Callable[..., Path], small: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "WINDOW", 2)
    monkeypatch.setattr(meter, "SPIKE", 0.5)  # every loss from the third on is then a spike
    progress = train(small(write_coco()), tmp_path, lambda status: None, torch.device("cpu")).progress
    assert [entry["spikes"] for entry in progress.history] == [0, 2]
    assert [(spike["epoch"], spike["step"]) for spike in progress.spikes] == [(2, 1), (2, 2)]
    assert all(spike["loss"] > 0.5 * spike["median"] > 0 for spike in progress.spikes)


def test_speed_counts_the_steps_since_the_start_and_the_wait_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    reports: list[Status] = []
    sums = {"loss": torch.tensor(6.0), "loss_ce": torch.tensor(3.0)}
    epoch = EpochMeter(2, 3, 10, None, reports.append, done=3, sums=sums, batch_size=16)
    for _ in range(5):
        epoch.every = 8  # reports after the eighth step of the epoch, the fifth since the start
        epoch.add(torch.tensor(2.0), {"loss_ce": torch.tensor(1.0)}, lr=0.5, waited=0.5)
    (status,) = reports
    assert (status.step, status.loss, status.terms, status.lr) == (28, 2.0, {"loss_ce": 1.0}, 0.5)
    assert status.images_per_second == 5 * 16 / 10
    assert status.data_wait == 5 * 0.5 / 10
    assert status.seconds_left == pytest.approx(2 * 10 / 5)


def test_the_rate_in_the_history_is_that_of_the_last_step_of_the_epoch(
    write_coco: Callable[..., Path], small: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = small(write_coco(), epochs=3, lr=1e-3, schedule="step", lr_drop_epoch=2)
    progress = train(config, tmp_path, lambda status: None, torch.device("cpu")).progress
    assert [entry["lr"] for entry in progress.history] == pytest.approx([1e-3, 1e-3, 1e-4])
