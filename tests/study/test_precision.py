"""train.precision=auto is resolved before anything runs, and never recorded."""

from __future__ import annotations

import pytest

from rhobench.config import ConfigError
from rhobench.config.paths import run_key
from rhobench.model import precision as machine
from rhobench.model.precision import PrecisionChoice, choose_precision
from rhobench.study.overrides import Overrides
from rhobench.study.precision import resolve_precision
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study
from rhobench.study.study import Study


def study(*assignments: str, axes: tuple[str, ...] = ()) -> Study:
    overrides = Overrides(axes=list(axes))
    return resolve_study(StudyRequest(experiment="rho_sweep", smoke=True, assignments=assignments, overrides=overrides))


@pytest.fixture(params=["bf16", "fp32"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The precision that this machine is fast in."""
    choice = PrecisionChoice(precision=request.param, speedup=4.0)
    monkeypatch.setattr(machine, "choose_precision", lambda device: choice)
    return request.param


def test_the_runs_are_those_of_the_resolved_precision(fast: str) -> None:
    resolved, choice = resolve_precision(study("train.precision=auto"), "local")
    named = study(f"train.precision={fast}")
    assert choice is not None
    assert str(choice) == f"precision auto is {fast} here: a bf16 matrix product runs at 4 times fp32"
    assert resolved.run_ids == named.run_ids
    assert resolved.configs == named.configs
    assert resolved.experiment.base == named.experiment.base


def test_an_axis_may_list_auto_beside_what_it_means(fast: str) -> None:
    resolved, _ = resolve_precision(study(axes=("train.precision=auto,fp32", "model.rho=0.1")), "local")
    assert {config.train.precision for config in resolved.configs} == {fast, "fp32"}
    assert len(resolved.configs) == len({run_key(config) for config in resolved.configs})
    assert resolved.run_ids == [name for name in resolved.run_ids if "auto" not in name]


def test_other_machines_cannot_be_asked(fast: str) -> None:
    with pytest.raises(ConfigError, match=r"decided by this machine.*cluster at head:6379.*rhobench doctor"):
        resolve_precision(study("train.precision=auto"), "head:6379")


def test_a_study_with_a_named_precision_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "choose_precision", None)
    own = study()
    assert resolve_precision(own, "auto") == (own, None)


@pytest.mark.parametrize(("seconds", "choice"), [((2.0, 1.0), "bf16"), ((1.4, 1.0), "fp32"), ((1.0, 35.0), "fp32")])
def test_the_machine_is_asked_by_a_timed_product(
    seconds: tuple[float, float], choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def timed(operand: torch.Tensor) -> float:
        return seconds[operand.dtype == torch.bfloat16]

    monkeypatch.setattr(machine, "_product_seconds", timed)
    found = choose_precision("cpu")
    assert found.precision == choice
    assert found.speedup == pytest.approx(seconds[0] / seconds[1])


def test_this_machine_answers() -> None:
    assert choose_precision("cpu").precision in ("fp32", "bf16")
