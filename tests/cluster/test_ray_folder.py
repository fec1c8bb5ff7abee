"""Removal of the folders for the state of Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from rhobench.cluster.ray_folder import DRIVER, ray_folder
from rhobench.results import Store

DRIVER_CODE = """
import sys
from rhobench.cluster.ray_folder import ray_folder
from rhobench.results import Store
with ray_folder(Store(sys.argv[1])):
    print("running", flush=True)
    sys.stdin.read()
"""


def test_the_folder_of_a_killed_driver_is_removed_and_that_of_a_living_one_kept(tmp_path: Path) -> None:
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER_CODE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for driver in drivers:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "running\n"
    assert len(list((tmp_path / ".ray").iterdir())) == 2
    os.kill(drivers[0].pid, signal.SIGKILL)
    drivers[0].wait()
    with ray_folder(Store(tmp_path)) as folder:
        assert len(list((tmp_path / ".ray").iterdir())) == 2, "the new folder and that of the living driver"
        assert Path(folder).is_dir()
    assert drivers[1].communicate("")[0] == ""
    assert not (tmp_path / ".ray").exists()


def test_the_folder_of_another_host_is_kept(tmp_path: Path) -> None:
    other = tmp_path / ".ray" / "rhobench-other"
    other.mkdir(parents=True)
    (other / DRIVER).write_text("another-host")
    with ray_folder(Store(tmp_path)):
        pass
    assert other.exists()
