"""The verdict of the paired test in the comparison of the page is that of ``rhobench compare``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
from report_page import embedded
from simulated_stores import add_precision, write_simulated

from rhobench.dashboards import write_report
from rhobench.results import Store, by_configuration, describe_missing_front, paired_tests
from rhobench.results.comparison import describe_difference, describe_p
from rhobench.results.sides import compare_arguments
from rhobench.results.uncertainty import with_uncertainty
from rhobench.statistics.difference import holm


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory, simulation: ModuleType) -> Store:
    """Three rho, of which the last two are equally good."""
    folder = tmp_path_factory.mktemp("simulated")
    return write_simulated(folder, simulation, {0.1: 0.5, 0.5: 2.5, 1.0: 2.5}, images=60)


def test_only_the_best_points_are_tested_and_the_others_counted(
    simulated: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = paired_tests.paired_tests(simulated, simulated.frame())
    assert len(found["points"]) == len(found["tests"]) == 3
    assert found["untested"] == 0
    monkeypatch.setattr(paired_tests, "MAX_TESTED", 2)
    found = paired_tests.paired_tests(simulated, simulated.frame())
    assert set(simulated.frame().loc[found["points"], "rho_infer"]) == {0.5, 1.0}
    assert found["untested"] == 1


def test_points_that_were_evaluated_on_other_images_are_not_tested(tmp_path: Path, simulation: ModuleType) -> None:
    store = write_simulated(tmp_path, simulation, {0.1: 0.5}, images=40)
    write_simulated(tmp_path, simulation, {0.5: 2.5}, images=40, draw=1)
    assert len(store.frame()) == 2
    assert paired_tests.paired_tests(store, store.frame())["tests"] == []


def test_a_damaged_evaluation_is_reported_and_the_page_is_written(tmp_path: Path, simulation: ModuleType) -> None:
    store = write_simulated(tmp_path / "store", simulation, {0.1: 0.5, 0.5: 2.5}, images=40)
    (store.run_dir("run-rho0.1-seed0") / "matches.npz").write_bytes(b"damaged")
    page = write_report(store, tmp_path / "report.html")
    assert embedded(page)["data"]["paired"]["tests"] == []
    assert "matches.npz cannot be used" in page.read_text(encoding="utf-8")


@pytest.mark.browser
def test_the_comparison_shows_the_verdict_of_rhobench_compare(
    simulated: Store, visit: Callable[..., Any], tmp_path: Path
) -> None:
    page = visit(
        write_report(simulated, tmp_path / "report.html"),
        "#compare=run-rho1-seed0@1,run-rho0.1-seed0@0.1,run-rho0.5-seed0@0.5",
    )
    *verdicts, scope = page.locator("#compare .verdict p").all_inner_texts()
    place = str(simulated.path)
    compared = [compare_arguments("run-rho1-seed0", f"run-rho{rho}-seed0", "ap", place)[0][0] for rho in (0.1, 0.5)]
    assert [c.differs for c in compared] == [True, False]
    for verdict, one, p in zip(verdicts, compared, holm([c.p for c in compared]), strict=True):
        words = "is worse than" if p < 0.05 else "is not shown to differ from"
        assert words in verdict
        assert describe_difference(one.difference, "ap") in verdict.replace("−", "-")
        assert verdict.endswith(f"{describe_p(p)}.")
    assert "corrected for 2 comparisons" in scope
    assert "not for other seeds" in scope


@pytest.mark.browser
def test_points_of_a_run_at_one_rho_are_compared_as_different_ones(
    tmp_path: Path, simulation: ModuleType, visit: Callable[..., Any]
) -> None:
    """As after ``rhobench measure --precision fp32 --precision bf16``."""
    store = write_simulated(tmp_path / "store", simulation, {0.1: 2.5, 1.0: 2.5})
    add_precision(store, "run-rho0.1-seed0", simulation, 0.5)
    page = visit(write_report(store, tmp_path / "report.html"))
    boxes = page.locator("#runs tbody input")
    for number in range(boxes.count()):
        boxes.nth(number).check()
    assert page.locator("#compare thead th").count() == 3
    table = page.locator("#compare").inner_text()
    assert "fp32" in table
    assert "bf16" in table
    keys = "run-rho0.1-seed0@0.1,run-rho0.1-seed0@0.1~2,run-rho1-seed0@1"
    assert sorted(unquote(page.url.partition("compare=")[2]).split(",")) == keys.split(",")
    page = visit(tmp_path / "report.html", f"#compare={keys}")
    verdicts = page.locator("#compare .verdict p").all_inner_texts()
    assert "is worse than" in verdicts[0]
    assert "is not shown to differ from" in verdicts[1]


CASES = [(quality, seeds) for quality in (2.5, 2.35, 2.2) for seeds in ((0, 1), (0, 1, 2))]
"""Quality of the detector at rho 0.1, where that of rho 0.5 and 1 is 2.5, and the seeds of all three."""


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, simulation: ModuleType) -> list[tuple[Store, bool]]:
    """A store for each case, and whether `rhobench pareto` says that nothing differs in it."""
    found = []
    for number, (quality, seeds) in enumerate(CASES):
        folder = tmp_path_factory.mktemp(f"case{number}")
        store = write_simulated(folder, simulation, {0.1: quality, 0.5: 2.5, 1.0: 2.5}, images=60, seeds=seeds)
        rows = with_uncertainty(store.frame(), store=store)
        found.append((store, describe_missing_front(rows, "ap") is not None))
    return found


def test_configurations_are_tested_as_for_the_front_in_the_terminal(judged: list[tuple[Store, bool]]) -> None:
    assert {flat for _, flat in judged} == {True, False}
    overlapping = 0
    for store, flat in judged:
        frame = store.frame()
        found = paired_tests.paired_tests(store, frame)["configurations"]
        assert len(found["sides"]) == len(found["tests"]) == 3
        assert any(p * 3 < 0.05 for _, _, p in found["tests"]) != flat
        rows = by_configuration(frame)
        overlapping += rows["ap_low"].max() <= rows["ap_high"].min() and not flat
    assert overlapping, "the cases cannot show that the tests decide, and not the intervals"


def test_seeds_whose_time_may_be_compared_are_tested_as_well(judged: list[tuple[Store, bool]]) -> None:
    store, _ = judged[0]
    frame = store.frame()
    frame["latency_ms"] = 10 * frame["rho_infer"]
    of_one = (frame["seed"] == 1) & (frame["rho_infer"] == 0.5)
    frame["timing_status"] = frame["timing_status"].astype(object).mask(of_one, "unstable").where(of_one, "ok")
    found = paired_tests.paired_tests(store, frame)["configurations"]
    pairs = {(i, j) for i, j, _ in found["tests"]}
    for x in ("gflops", "latency_ms"):
        sides = [
            frame.index[frame["run_id"].isin(row["run_ids"]) & (frame["rho_infer"] == row["rho_infer"])].tolist()
            for row in by_configuration(frame, x).to_dict("records")
        ]
        numbers = [found["sides"].index(side) for side in sides]
        assert all((i, j) in pairs or (j, i) in pairs for i, j in itertools.combinations(numbers, 2))
    assert len(found["sides"]) == 4


@pytest.mark.browser
def test_the_page_has_a_front_where_the_terminal_has_one(
    judged: list[tuple[Store, bool]], visit: Callable[..., Any], tmp_path: Path
) -> None:
    for number, (store, flat) in enumerate(judged):
        page = visit(write_report(store, tmp_path / f"report{number}.html"), "")
        assert page.locator("#summary-gflops").inner_text().startswith("no front: none of the 3") == flat, CASES[number]
