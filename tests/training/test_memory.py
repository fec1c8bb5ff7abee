"""A GPU that runs out of memory, mocked on the CPU: the step is restarted with a smaller micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rhobench.config import RunConfig
from rhobench.config.paths import with_value
from rhobench.model import Detector, DetectorOutput
from rhobench.training import memory, objective
from rhobench.training.batches import TrainBatch
from rhobench.training.loop import TrainingResult, train
from rhobench.training.memory import MemoryLimitError
from rhobench.training.probe_step import probe_step
from rhobench.training.status import Status
from rhobench.training.workload import estimate_workload

Write = Callable[..., Path]
Small = Callable[..., RunConfig]
Holds = Callable[[int], bool]


@pytest.fixture
def config(write_coco: Write, small: Small) -> RunConfig:
    """Two epochs of two steps of four images, with dropout."""
    return small(write_coco(train=8), model={"dropout": 0.3}, batch_size=4)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Holds], list[int]]:
    """Function that mocks the memory limit; returns the list of micro-batch sizes that will be computed."""
    compute = objective.run_model

    def to(holds: Holds) -> list[int]:
        seen: list[int] = []

        def limited(model: Detector, batch: TrainBatch) -> DetectorOutput:
            output = compute(model, batch)  # draws its dropout
            seen.append(len(batch.targets))
            if not holds(seen[-1]):
                raise torch.OutOfMemoryError("mocked")
            return output

        monkeypatch.setattr(objective, "run_model", limited)
        return seen

    return to


def run(config: RunConfig, folder: Path, report: Callable[[Status], None] = lambda status: None) -> TrainingResult:
    folder.mkdir(exist_ok=True)
    return train(config, folder, report, torch.device("cpu"))


def weights(trained: TrainingResult) -> dict[str, Tensor]:
    return trained.model.state_dict()


def metrics_of(trained: TrainingResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if "loss" in k or k == "ap"} for e in trained.progress.history]


def assert_equal(first: TrainingResult, second: TrainingResult) -> None:
    assert metrics_of(first) == metrics_of(second)
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_a_run_continues_with_the_micro_batch_that_fits_and_equals_one_with_this_setting(
    config: RunConfig, limit: Callable[[Holds], list[int]], tmp_path: Path
) -> None:
    warnings: list[str] = []
    seen = limit(lambda images: images <= 2)
    adapted = run(config, tmp_path / "adapted", lambda status: warnings.append(status.warning))
    assert seen == [4] + 4 * [2, 2], "the larger size is attempted once"
    (warning,) = [text for text in warnings if text]
    assert adapted.progress.warnings == [warning]
    assert "a micro-batch of 4 images did not fit into the memory of cpu in step 1" in warning
    assert "train.micro_batch_size=2" in warning
    given = run(with_value(config, "train.micro_batch_size", 2), tmp_path / "given")
    assert given.progress.warnings == []
    assert_equal(adapted, given)


def test_gradients_of_the_micro_batches_before_are_not_counted_twice(
    config: RunConfig, limit: Callable[[Holds], list[int]], tmp_path: Path
) -> None:
    """Memory runs out in the second half of a batch."""
    halves = iter([True, False])
    seen = limit(lambda images: images == 1 or (images == 2 and next(halves)))
    adapted = run(config, tmp_path / "adapted")
    assert seen == [4, 2, 2] + 16 * [1]
    assert len(adapted.progress.warnings) == 2
    assert_equal(adapted, run(with_value(config, "train.micro_batch_size", 1), tmp_path / "given"))


def test_a_restart_remembers_what_fits(config: RunConfig, limit: Callable[[Holds], list[int]], tmp_path: Path) -> None:
    limit(lambda images: images <= 2)
    whole = run(config, tmp_path / "whole")

    def stop(status: Status) -> None:
        if status.epoch == 1 and status.ap is not None:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(config, tmp_path / "broken", stop)
    warnings: list[str] = []
    seen = limit(lambda images: images <= 2)
    resumed = run(config, tmp_path / "broken", lambda status: warnings.append(status.warning))
    assert seen == [2, 2, 2, 2]
    assert not any(warnings), "it was reported before the restart"
    assert (resumed.progress.restarts, resumed.progress.micro_batch_size) == (1, 2)
    assert resumed.progress.warnings == whole.progress.warnings
    assert_equal(resumed, whole)


def test_a_single_image_that_does_not_fit_stops_the_run(
    config: RunConfig, limit: Callable[[Holds], list[int]], tmp_path: Path
) -> None:
    seen = limit(lambda images: False)
    with pytest.raises(MemoryLimitError, match=r"of one image does not fit into the memory of cpu: use smaller images"):
        run(config, tmp_path / "run")
    assert seen == [4, 2, 1]


def test_one_of_several_workers_raises_with_the_setting_to_use(
    config: RunConfig, limit: Callable[[Holds], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for its gradients, so the size cannot be reduced."""
    monkeypatch.setattr(memory, "worker_rank", lambda: (1, 2))
    limit(lambda images: images <= 2)
    message = r"4 images does not fit .* on worker 1 of 2.* set train.micro_batch_size=2, or"
    with pytest.raises(MemoryLimitError, match=message):
        run(config, tmp_path / "run")


def test_a_probe_does_not_reduce_the_micro_batch(config: RunConfig, limit: Callable[[Holds], list[int]]) -> None:
    limit(lambda images: images <= 2)
    work = estimate_workload(config)
    assert [probe_step(config, work, size).fits for size in (4, 2)] == [False, True]
