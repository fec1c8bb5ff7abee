"""What an argument of a comparison names, in a store whose models were measured again at another precision."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from simulated_stores import add_precision, write_simulated

from rhobench.results import Store
from rhobench.results.comparison import ComparisonError
from rhobench.results.sides import compare_arguments


@pytest.fixture
def store(tmp_path: Path, simulation: ModuleType) -> Store:
    store = write_simulated(tmp_path, simulation, {0.1: 0.5, 1.0: 2.0})
    for rho in (0.1, 1.0):
        add_precision(store, f"run-rho{rho:g}-seed0", simulation, 0.1)
    return store


@pytest.mark.parametrize(
    "named",
    [
        ("ρ 0.1", "ρ 1"),  # the labels before the second measurement
        ("ρ 0.1 · fp32", "ρ 1 · fp32"),
        ("run-rho0.1-seed0", "run-rho1-seed0"),
        ("run-rho0.1-seed0", "ρ 1"),
        ("run-rho0.1-seed0@0.1", "run-rho1-seed0@1"),
    ],
)
def test_models_are_compared_as_trained_unless_a_label_says_otherwise(store: Store, named: tuple[str, str]) -> None:
    ((one,), problems) = compare_arguments(*named, "ap", str(store.path))
    frame = store.frame()
    values = frame[frame["precision"] == "fp32"].set_index("rho")["ap"]
    assert one.difference.value == pytest.approx(values[1.0] - values[0.1])
    assert problems == []


def test_a_label_names_another_precision(store: Store) -> None:
    ((one,), _) = compare_arguments("ρ 1 · bf16", "ρ 1 · fp32", "ap", str(store.path))
    assert one.differs
    assert one.difference.value > 0


def test_the_labels_are_listed_where_none_is_named(store: Store) -> None:
    with pytest.raises(ComparisonError, match=r"label 'ρ 0.3'; its labels are ρ 0.1, ρ 1, ρ 0.1 · fp32"):
        compare_arguments("ρ 0.3", "ρ 1", "ap", str(store.path))
