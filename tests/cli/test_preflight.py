"""Requests that cannot work are refused with sentences before anything starts, in seconds and without much memory."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - so that models are checked in this process, whose memory is measured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhobench.config import RunConfig, sweep
from rhobench.config.paths import leaves

Rhobench = Callable[..., Any]

PATHS = [path for path, _ in leaves(RunConfig(experiment=""))]

MOST_SECONDS, MOST_GROWTH_MIB = 60, 600
"""Limits of a request here, beside other tests; by itself one takes less than 5 s and 1 GB, most of it for imports."""


def sentences(done: Any) -> list[str]:
    """The sentences of a refused request, after asserting that nothing else was printed."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines
    assert all(line.startswith("rhobench: ") for line in lines), done.stderr
    return [line.removeprefix("rhobench: ") for line in lines]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHOBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "preflight-cache"))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--set", "model.ffn_dim=-1"], ["model.ffn_dim=-1 is not allowed: it must be at least 1"]),
        (["--set", "model.ffn_dim=0"], ["model.ffn_dim=0 is not allowed: it must be at least 1"]),
        (["--set", "model.backbone.name=nonsense"], ["timm has no model 'nonsense'. Similar names"]),
        (["--set", "model.backbone.name=resnett50"], ["Similar names: resnet50"]),
        (["--set", "model.backbone.name="], ["model.backbone.name='' is not allowed"]),
        (["--set", "model.backbone.weights=/nonexistent"], ["model.backbone.weights='/nonexistent' does not exist"]),
        (["--set", "model.backbone.weights=package:no_such_thing"], ["'no_such_thing' is not installed"]),
        (["--set", "model.attention_backend=foo"], ["one of auto, reference, cpu, cuda"]),
        (["--set", "model.attention_backend=cuda"], ["needs a device of type 'cuda'"]),
        (
            ["--set", "model.num_queries=100000"],
            ["num_queries=100000 is not allowed: the smallest input", "534 tokens"],
        ),
        (["--set", "model.num_feature_levels=1000"], ["a single cell already; it must be at most 6"]),
        (
            ["--set", "model.hidden_dim=32", "--set", "data.resize_px=64,64"],
            ["model.hidden_dim=32 is not allowed: the smallest input has 64x64 pixels, where level 4 is a single cell"],
        ),
        (["--set", "model.enc_layers=4294967296"], ["it must be at most 1,000 layers"]),
        (["--set", "model.hidden_dim=1048576"], ["model.hidden_dim=1048576", "GiB of the device"]),
        (["--set", "model.num_classes=2"], ["model.num_classes=2", "6 categories"]),
        (["--set", "data.val_split=train"], ["trains on the same images"]),
        (["--set", "data.train_splits=train,train"], ["'train' is named twice"]),
        (["--set", "data.train_splits=train,val"], ["trains on the validation split 'val'"]),
        (["--set", "data.train_splits=test"], ["generated scenes have the splits 'train' and 'val'"]),
        (["--set", "data.resize_px=100000,100000"], ["an image of 100000x100000 pixels takes"]),
        (["--set", "model.rho=1e-320"], ["this share keeps none"]),
        (["--set", "train.lr=1e308"], ["the rate must be at most 1"]),
        (["--set", "train.batch_size=10000"], ["there are 2000 training images"]),
        (["--set", "loss.box_weight=1e308"], ["overflow"]),
        (["--set", "data.loader_workers=1000000"], ["at most 256 processes"]),
        (["--set", "train.fork_from=/tmp"], ["There is no run in /tmp"]),
        (["--set", "train.fork_from=/nonexistent"], ["There is no run at /nonexistent"]),
        (["--axis", "model.backbone.name=a,b/c,../x"], ["'a'", "'b/c'", "'../x'"]),
        (["--store", "s3:/bucket/x"], ["did you mean s3://bucket/x?"]),
        (["--axis", f"train.lr={','.join(f'{i + 1}e-9' for i in range(10_001))}"], ["has 40,004 runs", "--yes"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_cannot_work_is_refused(rhobench: Rhobench, arguments: list[str], wanted: list[str]) -> None:
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = "\n".join(sentences(rhobench("run", "rho_sweep", "--dry-run", *arguments)))
    for part in wanted:
        assert part in text
    assert time.perf_counter() - started < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10 < MOST_GROWTH_MIB


def test_all_problems_of_a_plan_are_told_at_once(rhobench: Rhobench) -> None:
    settings_ = ["data.val_split=train", "train.lr=5", "model.num_queries=9999", "model.num_classes=1"]
    found = sentences(rhobench("run", "rho_sweep", *(part for one in settings_ for part in ("--set", one))))
    assert len(found) == len(settings_)
    for setting in settings_:
        assert sum(setting.partition("=")[0] in sentence.partition("is not")[0] for sentence in found) == 1


def test_a_plan_beyond_a_year_is_estimated_and_asks_for_confirmation(rhobench: Rhobench, tmp_path: Path) -> None:
    forever = ["run", "rho_sweep", "--set", "train.epochs=99999999999", "--store", tmp_path / "store"]
    planned = rhobench(*forever, "--dry-run")
    assert planned.returncode == 0
    assert "years of compute: to start it, add --yes" in planned.stdout
    (sentence,) = sentences(rhobench(*forever))
    assert "add --yes" in sentence
    assert not (tmp_path / "store").exists()
    with pytest.raises(AssertionError, match="Ray is started"):
        rhobench(*forever, "--yes")


def test_a_quoted_tilde_is_the_home_folder(rhobench: Rhobench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="Ray is started"):
        rhobench("run", "rho_sweep", "--smoke", "--store", "~/x")
    assert (tmp_path / "home" / "x" / "experiments" / "rho_sweep.json").is_file()
    assert not (tmp_path / "~").exists()


def test_images_that_are_also_validated_on_are_refused(rhobench: Rhobench, dataset: Path) -> None:
    text = "\n".join(
        sentences(rhobench("run", "rho_sweep", "--dry-run", "--data", dataset, "--set", "train.batch_size=2"))
    )
    assert "4 of the validation images are also in split 'train', such as 1.png" in text


GIGANTIC = st.sampled_from([2**31, 2**32, 2**63 - 1, 10**30, 1e30, 1e308])
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.floats(-1, 1),
    GIGANTIC,
    GIGANTIC.map(lambda number: -number),
    st.sampled_from([1e-320, 5e-324, 1e-30, math.nan, math.inf, -math.inf]),
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", "none", "true", "\0", "ρ", "a" * 5000, "../x", "train", "val"]),
    NUMBERS.map(str),
    st.lists(NUMBERS, max_size=4).map(lambda numbers: ",".join(map(str, numbers))),
)


@settings(
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(path=st.sampled_from(PATHS), value=TEXTS)
def test_any_value_of_any_field_is_refused_or_works(rhobench: Rhobench, path: str, value: str) -> None:
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = rhobench("run", "rho_sweep", "--smoke", "--dry-run", "--set", f"{path}={value}")
    if done.returncode == 2:
        sentences(done)
    else:  # 1: the plan is listed, and says that no run fits on this machine
        assert done.returncode == 0 or "No run fits" in done.stdout, done.stdout + done.stderr
    assert time.perf_counter() - started < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10 < MOST_GROWTH_MIB


def test_a_missing_tracker_is_refused_by_a_dry_run_too(rhobench: Rhobench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    for mode in (["--dry-run"], []):
        assert "pip install wandb" in sentences(rhobench("run", "rho_sweep", *mode, "--log-to", "wandb"))[0]
