"""Training with sampled rho: each step draws the same rho on all workers and after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rhobench.config import RunConfig
from rhobench.model import Detector
from rhobench.training.loop import train
from rhobench.training.status import Status

Write = Callable[..., Path]
Small = Callable[..., RunConfig]
CHOICES = (0.1, 0.5, 1.0)


class Interrupted(Exception):
    """Simulates a machine failure."""


def losses(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if "loss" in name or name == "ap"} for entry in history]


@pytest.mark.parametrize("scoring", ["dam", "random"])
def test_a_resumed_training_draws_the_same_rho(
    write_coco: Write, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scoring: str
) -> None:
    config = small(write_coco(train=6), model={"rho_choices": CHOICES, "scoring": scoring}, epochs=3)
    drawn: list[float | None] = []
    begin_step = Detector.begin_step

    def record(model: Detector, seed: int, step: int) -> None:
        begin_step(model, seed, step)
        drawn.append(model.active_rho)

    monkeypatch.setattr(Detector, "begin_step", record)

    def stop(status: Status) -> None:
        if status.epoch == 2:
            raise Interrupted

    def run(name: str, report: Callable[[Status], None] = lambda status: None) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        return train(config, tmp_path / name, report, torch.device("cpu"))

    whole = run("whole")
    expected, drawn[:] = drawn.copy(), []
    with pytest.raises(Interrupted):
        run("broken", stop)
    resumed = run("broken")
    assert resumed.progress.restarts == 1
    assert drawn == expected
    assert len(expected) == 9
    assert len(set(expected)) > 1
    assert losses(resumed.progress.history) == losses(whole.progress.history)
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in resumed.model.state_dict().items())


def test_workers_draw_the_same(
    write_coco: Write, small: Small, tmp_path: Path, two_workers: Callable[..., list[dict[str, Any]]]
) -> None:
    model = {"rho_choices": CHOICES, "scoring": "random"}
    config = small(write_coco(train=5, val=3), model=model, epochs=3, batch_size=4, num_workers=2)
    first, second = (worker["whole"]["losses"] for worker in two_workers(config, tmp_path / "shared", 2))
    (tmp_path / "alone").mkdir()
    alone = train(config, tmp_path / "alone", lambda status: None, torch.device("cpu"))
    for one, two, both in zip(first, second, alone.progress.history, strict=True):  # an epoch is one step
        assert (one + two) / 2 == pytest.approx(both["loss"], rel=1e-3)
