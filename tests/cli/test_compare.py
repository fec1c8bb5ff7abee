from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from simulated_stores import write_simulated

from rhobench.results import Store


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, simulation: ModuleType) -> dict[str, Store]:
    """One and three seeds of three rho, of which the last two are equally good; another data set; more seeds."""
    root = tmp_path_factory.mktemp("stores")
    qualities = {0.1: 0.5, 0.5: 2.0, 1.0: 2.0}
    return {
        "one": write_simulated(root / "one", simulation, qualities),
        "three": write_simulated(root / "three", simulation, qualities, seeds=(0, 1, 2)),
        "other": write_simulated(root / "other", simulation, {0.1: 1.0}, draw=1),
        "more": write_simulated(root / "more", simulation, {0.1: 0.5}, seeds=(1, 2, 3, 4)),
    }


def text(done: object) -> str:
    return " ".join(done.stdout.split())  # type: ignore[attr-defined]


def test_two_runs_of_one_seed_say_what_they_cover(rhobench: Callable, stores: dict[str, Store]) -> None:
    runs = stores["one"].path / "runs"
    done = rhobench("compare", runs / "run-rho0.1-seed0", runs / "run-rho1-seed0", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = done.json["comparisons"]
    assert found["differs"]
    assert found["metrics"]["ap"]["covers"] == "images"
    assert found["metrics"]["ap"]["value"] == pytest.approx(found["means"][1] - found["means"][0])
    assert found["images"] == 150
    assert set(found["metrics"]) >= {"ap", "ap50", "ap75"}
    assert "run-rho1-seed0 is better than run-rho0.1-seed0: AP +" in text(done)
    assert "It covers other images and not other seeds: with one seed each" in text(done)
    assert "classes differ" in text(done)


def test_the_other_way_round_it_is_worse(rhobench: Callable, stores: dict[str, Store]) -> None:
    done = rhobench("compare", "ρ 1", "ρ 0.1", "--store", stores["one"].path)
    assert "ρ 0.1 is worse than ρ 1: AP -" in text(done)


def test_what_does_not_differ_says_how_many_images_it_takes(rhobench: Callable, stores: dict[str, Store]) -> None:
    done = rhobench("compare", "ρ 0.5", "ρ 1", "--store", stores["one"].path)
    assert "ρ 1 is not shown to differ from ρ 0.5" in text(done)
    assert "images show it (with a probability of 80 %)" in text(done)


def test_three_seeds_speak_of_trainings(rhobench: Callable, stores: dict[str, Store]) -> None:
    done = rhobench("compare", "ρ 0.1", "ρ 1", "--store", stores["three"].path, "--json")
    (found,) = done.json["comparisons"]
    assert found["seeds"] == [[0, 1, 2], [0, 1, 2]]
    assert found["metrics"]["ap"]["covers"] == "seeds and images"
    assert found["welch_p"] is not None
    assert found["mann_whitney_p"][1] == pytest.approx(0.1)
    assert "can give no less than 0.1" in text(done)


def test_one_model_at_two_rho_is_compared_with_itself(
    rhobench: Callable, stores: dict[str, Store], tmp_path: Path
) -> None:
    store = Store(tmp_path)
    for seed in (0, 1, 2):
        first, second = (f"run-rho{rho}-seed{seed}" for rho in ("0.1", "1"))
        records = {record.run_id: record for record in stores["three"].records()}
        for name, run in (("matches.npz", first), ("matches-other.npz", second)):
            store.files.write(f"runs/{first}/{name}", stores["three"].files.read(f"runs/{run}/matches.npz"))
        other = replace(records[second].points[0], matches_file="matches-other.npz")
        store.write(replace(records[first], points=[*records[first].points, other]))
    done = rhobench("compare", "ρ 0.1", "ρ 0.1→1", "--store", tmp_path, "--json")
    (found,) = done.json["comparisons"]
    assert (found["same_models"], found["differs"]) == (True, True)
    assert (found["welch_p"], found["mann_whitney_p"]) == (None, None), "the seeds are not independent"
    assert "3 trained models, each compared with itself" in text(done)


def test_seeds_without_a_partner_are_named(rhobench: Callable, stores: dict[str, Store]) -> None:
    three = stores["three"].path / "runs" / "run-rho0.1-seed0"
    done = rhobench("compare", stores["three"].path, stores["more"].path, "--json")
    (found,) = done.json["comparisons"]
    assert found["without_partner"] == [[0], [3, 4]]
    assert "Without a partner: seed 0 of" in text(done)
    assert "has no counterpart" in done.stderr
    assert rhobench("compare", three, three).returncode == 0


def test_two_stores_are_compared_in_all_their_configurations(rhobench: Callable, stores: dict[str, Store]) -> None:
    done = rhobench("compare", stores["one"].path, stores["three"].path, "--json")
    found = done.json["comparisons"]
    assert len(found) == 3
    assert all(one["p"] >= one["metrics"]["ap"]["p"] for one in found), "corrected for their number"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{one}", "nowhere"), "There is no run or store at nowhere"),
        (("ρ 7", "ρ 1", "--store", "{one}"), "no evaluated run, configuration or label 'ρ 7'"),
        (("ρ 1@0.3", "ρ 1", "--store", "{one}"), "does not name one configuration: add @RHO, one of 1"),
        (("{one}", "{one}", "--metric", "mAP"), "There is no metric 'mAP'"),
        (("{one}/runs/run-rho0.1-seed0", "{other}/runs/run-rho0.1-seed0"), "evaluated on different data"),
        (("ρ 1", "ρ 0.1", "--store", "{one}", "--metric", "segm_ap"), "have no Mask AP that can be compared"),
    ],
)
def test_wrong_requests(rhobench: Callable, stores: dict[str, Store], arguments: tuple[str, ...], message: str) -> None:
    places = {name: store.path for name, store in stores.items()}
    refusal = rhobench("compare", *(argument.format(**places) for argument in arguments)).refusal()
    assert message in refusal


def test_the_front_is_printed_with_its_uncertainty(rhobench: Callable, stores: dict[str, Store]) -> None:
    done = rhobench("pareto", stores["one"].path, "--json")
    assert done.returncode == 0, done.stderr
    assert "● 2 of 3 configurations on the front" in text(done)
    assert "~ not shown to differ from the best cheaper configuration." in text(done)
    assert "Intervals: 95 % over images, for these trained models and not for other seeds." in text(done)
    rows = done.json["front"]
    assert [row["not_different"] for row in rows] == [False, False, True]
    assert rows[0]["membership"] == "certain"
    assert rows[0]["band_low"] <= rows[0]["ap"] <= rows[0]["band_high"]


def test_equal_models_are_no_front(rhobench: Callable, tmp_path: Path, simulation: ModuleType) -> None:
    store = write_simulated(tmp_path, simulation, {0.1: 1.0, 1.0: 1.0}, images=40, draw=2)
    done = rhobench("pareto", store.path)
    assert "No front: none of the 2 configurations is shown to differ from another in AP" in text(done)


def test_disturbed_times_are_marked_and_named(rhobench: Callable, tmp_path: Path, simulation: ModuleType) -> None:
    store = write_simulated(tmp_path, simulation, {0.1: 0.5, 1.0: 2.5})
    for record in store.records():
        (point,) = record.points
        status = "shared" if point.rho == 1 else "ok"
        store.write(replace(record, points=[replace(point, latency_ms=30.0 + point.rho, timing_status=status)]))
    printed = text(rhobench("pareto", store.path, "--x", "latency_ms"))
    assert "* shared" in printed
    assert "1 not eligible for the front because of their time: 1 shared" in printed
    assert "● 1 of 2 configurations on the front" in printed
