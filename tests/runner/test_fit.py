"""`rhobench run --fit`: its estimates, and that running out of memory is a result."""

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
from rhobench.config.conversion import to_dict
from rhobench.runner import fit as fit_module
from rhobench.runner.fit import ConfigurationFit, FitError, FitReport, measure_fit, run_in_subprocess
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study
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
PROBE = StepProbe(
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


def fit_of(config: RunConfig, *probes: StepProbe, runs: int = 1) -> ConfigurationFit:
    ids = [f"test-seed{i}-abc" for i in range(runs)]
    return ConfigurationFit(run_ids=ids, config=config, workload=WORK, probes=list(probes))


@pytest.mark.parametrize(
    ("changes", "data", "seconds"),
    [
        # 620 steps of 0.5 s that wait for 16 images of 10 ms; 2 evaluations of 80 images of 50 ms and 10 ms.
        ({}, {}, 620 * (0.5 + 0.16) + 2 * 80 * 0.06),
        # Loader processes overlap with the step and are faster; the evaluation is slower than the loading.
        ({}, {"loader_workers": 2}, 620 * 0.5 + 2 * 80 * 0.05),
        # Two workers process half of the images each.
        ({"num_workers": 2}, {}, 620 * (0.5 + 0.08) + 2 * 40 * 0.06),
        ({"eval_every_epochs": 3}, {}, 620 * 0.66 + 4 * 80 * 0.06),
    ],
)
def test_hours_consist_of_steps_data_loading_and_evaluations(
    changes: dict[str, Any], data: dict[str, Any], seconds: float
) -> None:
    config = replace(CONFIG, train=replace(CONFIG.train, **changes), data=replace(CONFIG.data, **data))
    assert fit_of(config, PROBE).hours == pytest.approx(seconds / 3600)


def test_every_further_rho_adds_an_evaluation() -> None:
    more = replace(CONFIG, measure=MeasureConfig(rhos=(0.1, 0.5)))
    hours, more_hours = fit_of(CONFIG, PROBE).hours, fit_of(more, PROBE).hours
    assert hours is not None
    assert more_hours == pytest.approx(hours + 2 * 80 * 0.06 / 3600)


def test_price_covers_all_workers_and_seeds() -> None:
    two = replace(CONFIG, train=replace(CONFIG.train, num_workers=2))
    first, second = fit_of(CONFIG, PROBE, runs=3), fit_of(two, replace(PROBE, micro_batch_size=8))
    report = FitReport(configurations=[first, second], price_per_hour=2.5)
    assert first.hours is not None
    assert second.hours is not None
    assert report.device_hours == pytest.approx(3 * first.hours + 2 * second.hours)
    assert report.price == pytest.approx(2.5 * (3 * first.hours + 2 * second.hours))
    assert report.micro_batch_size == 4
    screen = StringIO()
    Console(file=screen, width=160).print(report.card())
    assert "--set train.micro_batch_size=4" in screen.getvalue()
    assert "All 4 runs: about" in screen.getvalue()
    assert "at 2.5 per worker-hour" in screen.getvalue()


def test_run_that_does_not_fit_has_no_hours_and_no_price() -> None:
    small = StepProbe(micro_batch_size=1, fits=False, reason="out of memory")
    report = FitReport(configurations=[fit_of(CONFIG, PROBE), fit_of(CONFIG, small)], price_per_hour=2.5)
    assert (report.micro_batch_size, report.device_hours, report.price) == (None, None, None)
    assert any("Some runs do not fit" in line for line in report.summary())


def test_sizes_decrease_until_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def probe(config: RunConfig, work: Workload, size: int) -> StepProbe:
        seen.append(size)
        return replace(PROBE, micro_batch_size=size, fits=size <= 3)

    monkeypatch.setattr(fit_module, "run_in_subprocess", probe)
    monkeypatch.setattr(fit_module, "estimate_workload", lambda config: WORK)
    study = resolve_study(
        StudyRequest(
            experiment="rho_sweep", assignments=["train.batch_size=12", "train.num_workers=2", "model.rho=0.5"]
        )
    )
    report = measure_fit(study, None)
    assert seen == [6, 3]
    assert report.micro_batch_size == 3


def test_out_of_memory_ends_the_probe_but_not_the_parent() -> None:
    """The parent is limited to 3 GB and probes images of 6 GB, as on a machine without more memory."""
    work = asdict(replace(WORK, worst=BatchShape(height=6000, width=6000, objects=2)))
    code = (
        "import json, resource, sys; from rhobench.runner import fit; from rhobench.config import RunConfig;"
        "from rhobench.config.conversion import from_dict; from rhobench.training.workload import BatchShape, Workload;"
        "config, work = json.load(sys.stdin);"
        "work |= {name: BatchShape(**work[name]) for name in ('worst', 'typical', 'scored')};"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30));"
        "tried = fit.run_in_subprocess(from_dict(RunConfig, config), Workload(**work), 16);"
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


def test_probe_killed_by_the_system_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(fit_module.subprocess, "run", lambda *a, **k: killed)
    tried = run_in_subprocess(CONFIG, WORK, 4)
    assert (tried.fits, tried.reason) == (False, "killed by the system: out of memory")


def test_probe_that_fails_for_another_reason_raises() -> None:
    """Otherwise the next smaller size would be probed and fail in the same way."""
    backbone = BackboneConfig(name="no_such_model")
    with pytest.raises(FitError, match=r"not for lack of memory: timm has no model 'no_such_model'"):
        run_in_subprocess(replace(CONFIG, model=replace(CONFIG.model, backbone=backbone)), WORK, 4)


def test_fit_needs_no_ray_and_names_the_setting(tmp_path: Any) -> None:
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
