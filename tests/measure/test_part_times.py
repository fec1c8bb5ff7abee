from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rhobench.data.coco import Batch, Target
from rhobench.measure.flops import count_flops
from rhobench.measure.part_times import part_times
from rhobench.measure.timed_calls import TimedModel
from rhobench.model import Detector

SIDE = 128


def timed(model: Detector, **fields: Any) -> TimedModel:
    target = Target(0, torch.zeros(0), torch.zeros(0, 4), (SIDE, SIDE))
    batch = Batch(torch.rand(1, 3, SIDE, SIDE), torch.zeros(1, SIDE, SIDE, dtype=torch.bool), (target,))
    return TimedModel(model=model, batches=[batch], **fields)


@pytest.mark.parametrize("changes", [{}, {"rho": None}, {"two_stage": True, "with_box_refine": True}])
def test_the_parts_are_those_whose_operations_are_counted(
    build: Callable[..., Detector], changes: dict[str, Any]
) -> None:
    model = build(**changes)
    times = part_times({0: timed(model)})[0]
    counted = {part for part, operations in count_flops(model, SIDE, SIDE).parts.items() if operations}
    assert counted - {"other"} <= set(times)
    assert all(ms >= 0 for ms in times.values())


def test_a_slow_module_is_seen_in_its_part_and_no_hook_stays(
    build: Callable[..., Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    usual = model.encoder.forward

    def slow(*arguments: Any, **keywords: Any) -> Any:
        time.sleep(0.03)
        return usual(*arguments, **keywords)

    monkeypatch.setattr(model.encoder, "forward", slow)
    started = time.perf_counter()
    times = part_times({0: timed(model)})[0]
    whole = time.perf_counter() - started
    assert times["encoder"] >= 30
    assert times["decoder"] < 30
    assert sum(times.values()) <= 1e3 * whole
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_compiled_model_has_no_parts(build: Callable[..., Detector]) -> None:
    assert part_times({0: timed(build(), compiled=True)}) == {0: {}}


def test_points_take_turns_although_they_share_a_model(
    build: Callable[..., Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    usual, rhos = model.encoder.forward, []

    def noted(*arguments: Any, **keywords: Any) -> Any:
        rhos.append(model.rho)
        return usual(*arguments, **keywords)

    monkeypatch.setattr(model.encoder, "forward", noted)
    times = part_times({rho: timed(model, rho=rho) for rho in (0.1, 1.0)})
    assert rhos[:4] == [0.1, 1.0, 0.1, 1.0]
    assert set(times) == {0.1, 1.0}
    assert times[0.1].keys() == times[1.0].keys()
