"""A training that is killed and resumed is bitwise equal to an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rhobench.config import DataConfig, RunConfig, ScenesConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import with_value, with_values
from rhobench.training import loop
from rhobench.training.checkpoint import MAX_TO_KEEP, CheckpointError, find_checkpoint, read_checkpoint
from rhobench.training.loop import TrainingResult, train
from rhobench.training.meter import MEASURED
from rhobench.training.progress import Progress
from rhobench.training.random_states import random_states, restore_random_states
from rhobench.training.status import Status, TrainingInterruptedError

CLOCKED = (
    "seconds",
    "train_seconds",
    "eval_seconds",
    "cpu_seconds",
    "gpu_seconds",
    "restarts",
    "warnings",
    *MEASURED,
)
CPU = torch.device("cpu")
Write = Callable[..., Path]
Small = Callable[..., RunConfig]


class Interrupted(Exception):
    """Simulates a machine failure."""


@pytest.fixture
def config(small: Small, tmp_path: Path) -> RunConfig:
    """Two epochs of five steps on generated scenes, with every kind of state that a restart could lose."""
    run_config = small(
        tmp_path,
        model={"dropout": 0.3, "num_feature_levels": 3},
        epochs=2,
        schedule="cosine",
        ema_decay=0.9,
        checkpoint_every_seconds=0.0,
    )
    scenes = ScenesConfig(train_images=10, val_images=3, size_px=64)
    return replace(run_config, data=DataConfig(scenes=scenes, resize_px=(64, 64)))


def end_of(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of the last checkpoint of a training, without timings."""
    file, damaged = find_checkpoint(folder)
    assert file is not None
    assert damaged == []
    tensors, state = read_checkpoint(file)
    progress = {name: value for name, value in state["progress"].items() if name not in CLOCKED}
    progress["history"] = [{k: v for k, v in e.items() if k not in CLOCKED} for e in progress["history"]]
    return tensors, state | {"progress": progress}


def progress_of(folder: Path) -> Progress:
    file, _ = find_checkpoint(folder)
    assert file is not None
    return Progress(**read_checkpoint(file)[1]["progress"])


def assert_same_end(first: Path, second: Path) -> None:
    (tensors, state), (others, other_state) = end_of(first), end_of(second)
    assert tensors.keys() == others.keys()
    assert {name.split(".")[0] for name in tensors} == {"model", "average", "optimizer"}
    assert [name for name, value in tensors.items() if not torch.equal(value, others[name])] == []
    assert state == other_state


def test_a_training_killed_within_an_epoch_and_resumed_is_bitwise_equal(config: RunConfig, tmp_path: Path) -> None:
    """Parameters, their average, AdamW's moments, schedule, random states, history."""
    config_file = tmp_path / "config.json"
    config_file.write_text(json.dumps(to_dict(config)))
    whole, killed, moments = tmp_path / "whole", tmp_path / "killed", ["3:step", "1:writing", "3:written", "1:renamed"]
    subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("kill_and_resume.py")),
            str(config_file),
            str(whole),
            str(killed),
            *moments,
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=200,
    )
    assert_same_end(killed, whole)
    # The second process was killed before it had written a checkpoint, so its start is not counted.
    assert [progress_of(folder).restarts for folder in (whole, killed)] == [0, 3]


def interrupt(config: RunConfig, folder: Path, at: float) -> None:
    """Train until ``at`` epochs are done."""

    def stop(status: Status) -> None:
        if status.epoch >= at:
            raise Interrupted

    folder.mkdir(exist_ok=True)
    with pytest.raises(Interrupted):
        train(config, folder, stop, CPU)


def finish(config: RunConfig, folder: Path) -> tuple[TrainingResult, list[str]]:
    """Train to the end; return the result and the reported warnings."""
    warnings: list[str] = []
    folder.mkdir(exist_ok=True)
    trained = train(config, folder, lambda status: warnings.append(status.warning), CPU)
    return trained, [warning for warning in warnings if warning]


@pytest.mark.parametrize("steps", [1, 5, 7])  # within an epoch, at the end of one, and within the next
def test_an_interrupted_training_loses_no_step(config: RunConfig, tmp_path: Path, steps: int) -> None:
    config = replace(config, train=replace(config.train, checkpoint_every_seconds=3600.0))
    calls = iter(range(1, 100))
    (tmp_path / "stopped").mkdir()
    with pytest.raises(TrainingInterruptedError):
        train(config, tmp_path / "stopped", lambda status: None, CPU, lambda: next(calls) == steps)
    file, _ = find_checkpoint(tmp_path / "stopped")
    assert file is not None
    assert file.name.startswith(f"checkpoint-{steps:09d}-")
    finish(config, tmp_path / "stopped")
    finish(config, tmp_path / "whole")
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_the_steps_of_an_epoch_are_saved_before_its_evaluation(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation takes minutes on many images, longer than a machine waits that is about to be shut down."""

    def killed(*arguments: object, **options: object) -> None:
        raise Interrupted

    config = replace(config, train=replace(config.train, checkpoint_every_seconds=3600.0, eval_every_epochs=1))
    (tmp_path / "stopped").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", killed)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "stopped", lambda status: None, CPU)
    progress = progress_of(tmp_path / "stopped")
    assert (progress.epoch, progress.step) == (0, 5)
    finish(config, tmp_path / "stopped")
    finish(config, tmp_path / "whole")
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("change", [{"precision": "fp16"}, {"micro_batch_size": 1}])
def test_other_settings_resume_exactly(config: RunConfig, tmp_path: Path, change: dict[str, Any]) -> None:
    """In fp16, the loss scale and its growth counter are part of the checkpoint."""
    config = replace(config, train=replace(config.train, **change))
    interrupt(config, tmp_path / "broken", 0.6)
    for name in ("broken", "whole"):
        finish(config, tmp_path / name)
    assert_same_end(tmp_path / "broken", tmp_path / "whole")


def test_channels_last_weights_resume_exactly(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safetensors stores no memory format, and fused AdamW assumes that moments have that of the weights."""
    build = loop.build_detector
    monkeypatch.setattr(loop, "build_detector", lambda *given: build(*given).to(memory_format=torch.channels_last))
    interrupt(config, tmp_path / "broken", 0.6)
    for name in ("broken", "whole"):
        finish(config, tmp_path / name)
    assert_same_end(tmp_path / "broken", tmp_path / "whole")


def test_cached_features_resume_exactly(config: RunConfig, tmp_path: Path) -> None:
    frozen = replace(config.model, backbone=replace(config.model.backbone, frozen="all"))
    config = replace(config, model=frozen, train=replace(config.train, cache_features=True))
    interrupt(config, tmp_path / "broken", 1.4)
    for name in ("broken", "whole"):
        finish(config, tmp_path / name)
    assert_same_end(tmp_path / "broken", tmp_path / "whole")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def test_a_damaged_checkpoint_is_skipped_with_a_warning_for_the_previous_one(config: RunConfig, tmp_path: Path) -> None:
    finish(config, tmp_path / "whole")
    interrupt(config, tmp_path / "interrupted", 1.6)
    for damage in (truncate, flip_a_byte, empty, Path.unlink):
        broken = tmp_path / damage.__name__
        shutil.copytree(tmp_path / "interrupted", broken)
        newest = max(broken.glob("checkpoint-*"))
        damage(newest)
        trained, warnings = finish(config, broken)
        assert_same_end(broken, tmp_path / "whole")
        assert trained.progress.warnings == warnings
        if damage is Path.unlink:  # a missing file cannot be noticed
            assert warnings == []
            continue
        (warning,) = warnings
        assert re.search(
            rf"{newest.name} is damaged; it was skipped .*; the training resumes from the previous one, checkpoint-0",
            warning,
        )
        assert newest.with_suffix(".damaged").exists()


def test_with_only_damaged_checkpoints_the_training_starts_from_scratch(config: RunConfig, tmp_path: Path) -> None:
    interrupt(config, tmp_path / "broken", 0.8)
    damaged = list((tmp_path / "broken").glob("checkpoint-*"))
    assert len(damaged) == MAX_TO_KEEP
    for file in damaged:
        truncate(file)
    trained, warnings = finish(config, tmp_path / "broken")
    assert len(warnings) == MAX_TO_KEEP
    assert all("there is no earlier checkpoint, so the training starts from scratch" in warning for warning in warnings)
    assert trained.progress.restarts == 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.lr", 0.5, r"train\.lr is 0\.001 there and 0\.5 here"),
        ("seed", 3, r"seed is 0 there and 3 here"),
        ("model.dropout", 0.0, r"model\.dropout is 0\.3 there and 0\.0 here"),
        ("train.precision", "bf16", r"train\.precision is 'fp32' there and 'bf16' here"),
    ],
)
def test_the_checkpoint_of_another_run_is_rejected(
    config: RunConfig, tmp_path: Path, path: str, value: Any, message: str
) -> None:
    interrupt(config, tmp_path / "run", 0.4)
    with pytest.raises(CheckpointError, match=rf"{message}.*rhobench run \.\.\. --fork .*run$"):
        finish(with_value(config, path, value), tmp_path / "run")


def test_other_annotations_are_another_run(write_coco: Write, small: Small, tmp_path: Path) -> None:
    root = write_coco()
    config = small(root)
    interrupt(config, tmp_path / "run", 1.0)
    file = root / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"bbox": [4,', '"bbox": [5,'))
    with pytest.raises(CheckpointError, match=r"the annotations of the data set have changed\."):
        finish(config, tmp_path / "run")


def test_execution_settings_may_change(config: RunConfig, tmp_path: Path) -> None:
    interrupt(config, tmp_path / "run", 0.4)
    changes = {"data.loader_workers": 1, "train.checkpoint_every_seconds": 60.0, "measure.iterations": 5}
    trained, warnings = finish(with_values(config, changes), tmp_path / "run")
    assert (trained.progress.restarts, warnings) == (1, [])


def test_checkpoints_within_an_epoch_follow_the_interval(config: RunConfig, tmp_path: Path) -> None:
    config = with_value(config, "train.checkpoint_every_seconds", 3600.0)
    interrupt(config, tmp_path / "run", 0.8)
    assert list((tmp_path / "run").glob("checkpoint-*")) == []
    interrupt(config, tmp_path / "run", 1.0)
    assert progress_of(tmp_path / "run").epoch == 1


def test_every_random_generator_resumes() -> None:
    states = random_states(CPU)
    before = torch.rand(3), np.random.rand(3), np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
    restore_random_states(json.loads(json.dumps(states)), CPU)
    after = torch.rand(3), np.random.rand(3), np.random.randn(), random.gauss(0, 1)  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1].tolist() == after[1].tolist()
    assert before[2:] == after[2:]
