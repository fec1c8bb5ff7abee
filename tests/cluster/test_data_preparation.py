"""Which data are prepared before the runs start, in a process of their own, and the errors of that process."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhobench.cluster import data_preparation, sweep
from rhobench.config import DataConfig, RunConfig, ScenesConfig
from rhobench.config.conversion import to_dict


@pytest.mark.parametrize(("images", "many"), [(2, False), (3, True)])
def test_few_images_are_not_worth_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, many: bool
) -> None:
    monkeypatch.setattr(sweep, "FEW_IMAGES", 3)
    (tmp_path / "images").mkdir()
    (tmp_path / "instances_train.json").touch()
    for number in range(images):
        (tmp_path / "images" / f"{number}.jpg").touch()
    assert sweep._has_many_images(DataConfig(dir=str(tmp_path))) == many
    assert sweep._has_many_images(DataConfig(scenes=ScenesConfig(train_images=images, val_images=1))) == many
    assert sweep._has_many_images(DataConfig(dir=str(tmp_path / "on the nodes only")))


@pytest.mark.parametrize(("message", "last"), [("", "MemoryError"), ("too large", "MemoryError: too large")])
def test_an_error_keeps_its_type_and_trace_also_without_words(
    monkeypatch: pytest.MonkeyPatch, message: str, last: str
) -> None:
    def fail(config: object) -> None:
        raise MemoryError(*([message] if message else []))

    monkeypatch.setattr(data_preparation, "prepare_data", fail)
    problem = data_preparation.prepare(to_dict(RunConfig(experiment="test")), threads=1)
    assert problem is not None
    assert problem.strip().splitlines()[-1] == last
    assert "in fail" in problem
