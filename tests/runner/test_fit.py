"""What `rhobench run --fit` concludes, and that running out of memory is an answer, not an end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rhobench.config import BackboneConfig, DataConfig, MeasureConfig, ModelConfig, RunConfig, ScenesConfig, TrainConfig
from rhobench.config.paths import to_dict
from rhobench.runner import fit as fit_module
from rhobench.runner.fit import Fit, FitError, Fitted, fit, run_in_subprocess
from rhobench.study.resolve import resolve
from rhobench.training.probe_step import StepProbe
from rhobench.training.workload import BatchShape, Workload

SHAPE = BatchShape(height=64, width=64, objects=2)
WORK = Workload(
    worst=SHAPE,
    typical=SHAPE,
    scored=SHAPE,
    scored_images=8,
    train_images=1000,
    val_images=80,
    num_classes=2,
    load_seconds=0.01,
)
TRIED = StepProbe(
    micro_batch_size=4, fits=True, peak_gib=1.0, worst_step_seconds=2.0, step_seconds=0.5, score_seconds=0.05
)
CONFIG = RunConfig(
    experiment="test",
    model=ModelConfig(
        backbone=BackboneConfig(name="test_efficientnet"),
        num_queries=10,
        hidden_dim=32,
        num_heads=4,
        enc_layers=1,
        dec_layers=1,
    ),
    data=DataConfig(scenes=ScenesConfig(train_images=16, val_images=4, size_px=64), resize_px=(64, 64)),
    train=TrainConfig(epochs=10, batch_size=16, eval_every_epochs=5),
)


def fitted(config: RunConfig, *tried: StepProbe, runs: int = 1) -> Fitted:
    return Fitted(run_ids=[f"test-seed{i}-abc" for i in range(runs)], config=config, work=WORK, tried=list(tried))


@pytest.mark.parametrize(
    ("changes", "data", "seconds"),
    [
        # 620 steps of 0.5 s that wait for 16 images of 10 ms; 2 scorings of 80 images of 50 ms and 10 ms.
        ({}, {}, 620 * (0.5 + 0.16) + 2 * 80 * 0.06),
        # Loaders work beside the step, and are faster than it; scoring is slower than two loaders.
        ({}, {"loader_workers": 2}, 620 * 0.5 + 2 * 80 * 0.05),
        # Two workers have half the images each.
        ({"num_workers": 2}, {}, 620 * (0.5 + 0.08) + 2 * 40 * 0.06),
        ({"eval_every_epochs": 3}, {}, 620 * 0.66 + 4 * 80 * 0.06),
    ],
)
def test_hours_are_those_of_steps_images_and_scorings(
    changes: dict[str, Any], data: dict[str, Any], seconds: float
) -> None:
    config = replace(CONFIG, train=replace(CONFIG.train, **changes), data=replace(CONFIG.data, **data))
    assert fitted(config, TRIED).hours == pytest.approx(seconds / 3600)


def test_every_further_rho_is_another_scoring() -> None:
    more = replace(CONFIG, measure=MeasureConfig(rhos=(0.1, 0.5)))
    hours, more_hours = fitted(CONFIG, TRIED).hours, fitted(more, TRIED).hours
    assert hours is not None
    assert more_hours == pytest.approx(hours + 2 * 80 * 0.06 / 3600)


def test_money_is_for_the_devices_of_all_workers_and_seeds() -> None:
    two = replace(CONFIG, train=replace(CONFIG.train, num_workers=2))
    first, second = fitted(CONFIG, TRIED, runs=3), fitted(two, replace(TRIED, micro_batch_size=8))
    whole = Fit(configurations=[first, second], price_per_hour=2.5)
    assert first.hours is not None
    assert second.hours is not None
    assert whole.device_hours == pytest.approx(3 * first.hours + 2 * second.hours)
    assert whole.price == pytest.approx(2.5 * (3 * first.hours + 2 * second.hours))
    assert whole.micro_batch_size == 4
    screen = StringIO()
    Console(file=screen, width=160).print(whole.card())
    assert "--set train.micro_batch_size=4" in screen.getvalue()
    assert "All 4 runs: about" in screen.getvalue()
    assert "at 2.5 an hour" in screen.getvalue()


def test_a_run_that_does_not_fit_has_no_hours_and_no_price() -> None:
    small = StepProbe(micro_batch_size=1, fits=False, reason="out of memory")
    whole = Fit(configurations=[fitted(CONFIG, TRIED), fitted(CONFIG, small)], price_per_hour=2.5)
    assert (whole.micro_batch_size, whole.device_hours, whole.price) == (None, None, None)
    assert any("Not every run fits" in sentence for sentence in whole.sentences())


def test_sizes_go_down_until_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def tries(config: RunConfig, work: Workload, size: int) -> StepProbe:
        seen.append(size)
        return replace(TRIED, micro_batch_size=size, fits=size <= 3)

    monkeypatch.setattr(fit_module, "try_apart", tries)
    monkeypatch.setattr(fit_module, "workload_of", lambda config: WORK)
    study = resolve("demo", ["train.batch_size=12", "train.num_workers=2", "model.rho=0.5"], None, smoke=False)
    whole = fit(study, None)
    assert seen == [6, 3]
    assert whole.micro_batch_size == 3


def test_memory_that_runs_out_ends_the_trial_and_not_the_parent() -> None:
    """The parent has 3 GB and asks for images of 6 GB, as on a machine without more memory."""
    work = asdict(replace(WORK, worst=BatchShape(height=6000, width=6000, objects=2)))
    code = (
        "import json, resource, sys; from rhobench.runner import fit; from rhobench.config import RunConfig;"
        "from rhobench.config.paths import from_dict; from rhobench.training.workload import BatchShape, Workload;"
        "config, work = json.load(sys.stdin);"
        "work |= {name: BatchShape(**work[name]) for name in ('worst', 'typical', 'scored')};"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30));"
        "tried = fit.try_apart(from_dict(RunConfig, config), Workload(**work), 16);"
        "print(tried.fits, tried.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([to_dict(CONFIG), work]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "False out of memory\n", done.stderr


def test_a_trial_that_the_system_kills_is_one_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(fit_module.subprocess, "run", lambda *a, **k: killed)
    tried = run_in_subprocess(CONFIG, WORK, 4)
    assert (tried.fits, tried.reason) == (False, "killed by the system: out of memory")


def test_a_trial_that_fails_for_another_reason_says_which() -> None:
    """Not taken for a lack of memory, or the next smaller size would fail in the same way."""
    backbone = BackboneConfig(name="no_such_model")
    with pytest.raises(FitError, match=r"not for want of memory: timm has no model 'no_such_model'"):
        run_in_subprocess(replace(CONFIG, model=replace(CONFIG.model, backbone=backbone)), WORK, 4)


def test_fit_needs_no_ray_and_says_what_to_set(tmp_path: Any) -> None:
    arguments = ["run", "official_50ep", "--smoke", "--fit", "--json", "--price-per-hour=2", "--set=model.rho=0.1"]
    code = (
        "import sys; from rhobench.cli.app import app; status = app(sys.argv[1:], standalone_mode=False);"
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *shown, last = done.stdout.splitlines()
    found = json.loads(last)
    assert found["micro_batch_size"] == 8
    assert found["price"] == pytest.approx(2 * found["device_hours"])
    (tried,) = found["configurations"][0]["tried"]
    assert tried["fits"]
    assert any("--set train.micro_batch_size=8" in line for line in shown)
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
