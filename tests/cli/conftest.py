from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rhobench.cli import main
from rhobench.cluster import session


@dataclass(frozen=True)
class Done:
    """A finished command."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The object that ``--json`` printed as the last line."""
        return json.loads(self.stdout.splitlines()[-1])

    def refusal(self) -> str:
        """The sentence of a refused request, after asserting exit status 2, one line and no traceback."""
        assert self.returncode == 2, self.stdout + self.stderr
        assert "Traceback" not in self.stdout + self.stderr
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("rhobench: ")
        return lines[0].removeprefix("rhobench: ")


@pytest.fixture
def rhobench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command line in this process. It must not start Ray."""

    def no_ray(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Ray is started")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["rhobench", *map(str, arguments)])
        monkeypatch.setattr(session, "ray_session", no_ray)
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A data set of four images with one box each, as splits train and val."""
    folder = tmp_path / "cells"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(1, 5)]
    for image in images:
        Image.new("RGB", (64, 64), (40 * image["id"], 80, 20)).save(folder / "images" / image["file_name"])
    boxes = [
        {"id": i, "image_id": i, "category_id": 7, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
        for i in range(1, 5)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "cell"}]}
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
