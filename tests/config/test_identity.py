"""Run ids and stored configurations stay as they are: they identify the runs of every existing store."""

from __future__ import annotations

import hashlib
import json

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_key
from rhobench.experiments import EXPERIMENTS


def test_the_key_of_the_default_run_is_fixed() -> None:
    assert run_key(RunConfig(experiment="")) == "e14598b8"


@pytest.mark.parametrize(
    ("name", "key", "content"),
    [
        ("demo", "de5f31b7", "148c124adeca3df1"),
        ("bccd", "a59bbe10", "f773343ffc36ac5e"),
        ("bccd_finetuned", "9466bd0b", "1569cd681a0316c0"),
        ("dam_target", "2827f304", "15f0ea565ee71af8"),
        ("pretraining", "410cb209", "2fad8e8e902e486f"),
        ("official_50ep", "3521ab3c", "661736b48a8f3f1c"),
        ("modern_50ep", "1e7a403a", "fb7644278483051c"),
    ],
)
def test_the_keys_and_stored_configurations_of_experiments_are_fixed(name: str, key: str, content: str) -> None:
    base = EXPERIMENTS[name]().base
    assert run_key(base) == key
    text = json.dumps(to_dict(base))  # in the order of the fields
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == content
