"""Writing the page takes time in proportion to the number of runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rhobench.dashboards import write_report
from rhobench.results import Store

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from store_scale import make_store


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], float]:
    """Function that returns the processor time of the report of a store with N runs, each with a setting of its own."""

    def measure(runs: int) -> float:
        folder = tmp_path_factory.mktemp(f"runs-{runs}")
        make_store(folder, runs)
        started = time.process_time()
        page = write_report(Store(folder), folder / "report.html")
        assert page.stat().st_size < 6e6
        return time.process_time() - started

    measure(8)  # imports, and Plotly's script
    return measure


def test_the_page_of_200_runs_takes_less_than_2_s(seconds: Callable[[int], float]) -> None:
    assert min(seconds(200) for _ in range(2)) < 2  # another process on the core inflates one of them


def test_five_times_the_runs_take_far_less_than_25_times_as_long(seconds: Callable[[int], float]) -> None:
    """Quadratic steps would take 25 times as long; the fixed part makes it less than five times."""
    few = seconds(100)
    assert seconds(500) < 8 * few
