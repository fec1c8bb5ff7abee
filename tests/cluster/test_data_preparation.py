"""Which data are prepared before the runs start, in a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhobench.cluster import sweep
from rhobench.config import DataConfig, ScenesConfig


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
