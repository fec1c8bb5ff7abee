"""Run ids and stored configurations stay as they are: they identify the runs of every existing store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import leaves, run_key, with_value
from rhobench.experiments import EXPERIMENTS

DEFAULTS = Path(__file__).with_name("defaults.json")


def test_a_default_never_changes() -> None:
    """Keys cover the values that differ from the defaults, so another default would give old keys another meaning."""
    current = json.loads(json.dumps(dict(leaves(RunConfig(experiment="")))))
    fixed = json.loads(DEFAULTS.read_text())
    assert {path: current.get(path) for path in fixed} == fixed
    added = current.keys() - fixed.keys()
    assert not added, f"add the defaults of new fields to {DEFAULTS.name}: {sorted(added)}"


def test_only_values_that_differ_from_the_defaults_are_part_of_the_key() -> None:
    assert run_key(RunConfig(experiment="")) == run_key(RunConfig(experiment="other")) == "44136fa3"  # of {}
    once = with_value(RunConfig(experiment=""), "train.epochs", 3)
    assert run_key(once) != run_key(RunConfig(experiment=""))
    assert run_key(with_value(once, "train.epochs", 50)) == "44136fa3"


@pytest.mark.parametrize(
    ("name", "key", "content"),
    [
        ("demo", "b2eb84e4", "9993de477d00b2f4"),
        ("bccd", "05c9d32d", "f035ffc8f0241e38"),
        ("bccd_finetuned", "bb643aa5", "952e343adb8877b7"),
        ("dam_target", "6aad10f9", "6bc39c4ebe578f33"),
        ("pretraining", "43d83e11", "4a0171b6cc729176"),
        ("official_50ep", "5239cdac", "3487453c635bc6e8"),
        ("modern_50ep", "5046641e", "3752754071021167"),
    ],
)
def test_the_keys_and_stored_configurations_of_experiments_are_fixed(name: str, key: str, content: str) -> None:
    base = EXPERIMENTS[name]().base
    assert run_key(base) == key
    text = json.dumps(to_dict(base))  # in the order of the fields
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == content
