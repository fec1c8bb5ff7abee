"""Where the time of a command went."""

from __future__ import annotations

import time

from rich.console import Console

from rhobench.results import Record
from rhobench.runner.timings import STARTING, Timings, training_parts


def test_phases_follow_each_other_and_add_up() -> None:
    began = time.monotonic()
    timings = Timings()
    for phase, seconds in (("training", 0.05), ("measuring", 0.01), ("training", 0.05)):
        timings.begin(phase)
        time.sleep(seconds)
    timings.add_parts("training", {"imports": 4.0, "steps": 0.06})
    found = timings.seconds()
    assert list(found) == [STARTING, "training", "training: imports", "training: steps", "measuring"]
    assert 0.1 <= found["training"] < 1
    assert found["training: imports"] == 4.0
    whole = sum(seconds for name, seconds in found.items() if ": " not in name)
    assert whole >= time.monotonic() - began, "the start of this process counts as well"
    with (console := Console(width=100)).capture() as captured:
        console.print(timings.table())
    assert "measuring" in captured.get()


def test_parts_of_trainings_are_summed_as_far_as_they_are_known() -> None:
    def record(**training: object) -> Record:
        return Record(run_id="a", experiment="demo", status="trained", config={}, training=training)

    records = [
        record(seconds={"imports": 2.0, "steps": 1}),
        record(seconds={"imports": 1.0}),
        record(),
        record(seconds=3),
    ]
    assert training_parts(records) == {"imports": 3.0, "steps": 1.0}
