"""What is said of the losses while a training runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rhobench.config import RunConfig
from rhobench.training import meter, train
from rhobench.training.meter import SPIKE, WINDOW, SpikeWatch


def test_a_spike_is_a_loss_above_three_times_the_median_of_those_before() -> None:
    watch = SpikeWatch()
    assert [watch.see(100.0 if i == 0 else 2.0) for i in range(WINDOW)] == [None] * WINDOW  # too few to compare with
    assert watch.see(SPIKE * 2.0) is None
    assert watch.see(SPIKE * 2.0 + 0.1) == 2.0
    assert watch.see(2.0) is None


def test_spikes_are_in_the_history(
    write_coco: Callable[..., Path], small: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "WINDOW", 2)
    monkeypatch.setattr(meter, "SPIKE", 0.5)  # then every loss is one, from the third on
    progress = train(small(write_coco()), tmp_path, lambda status: None, torch.device("cpu")).progress
    assert [entry["spikes"] for entry in progress.history] == [0, 2]
    assert [(spike["epoch"], spike["step"]) for spike in progress.spikes] == [(2, 1), (2, 2)]
    assert all(spike["loss"] > 0.5 * spike["median"] > 0 for spike in progress.spikes)
