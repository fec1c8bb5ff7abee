from __future__ import annotations

from io import StringIO

from rich.console import Console

from rhobench.dashboards import front_table
from rhobench.results import Store


def printed(store: Store, x: str) -> str:
    console = Console(width=120, record=True, file=StringIO())
    console.print(front_table(store.frame(), x))
    return console.export_text()


def test_front_is_marked_and_sorted_by_cost(store: Store) -> None:
    lines = [line.strip() for line in printed(store, "gflops").splitlines() if "resnet" in line]
    assert [line.startswith("●") for line in lines] == [True, True, True, True, False]
    assert lines[0].split("   ")[-1].strip() == "2"
    for text, line in zip(("0.52", "0.55", "0.60", "0.68", "0.70"), lines, strict=True):
        assert text in line
    assert "52.1 ± 0.1" in lines[0]


def test_what_is_not_shown_is_counted(store: Store) -> None:
    assert "1 failed." in printed(store, "gflops")
    assert "1 failed, 1 not measured." in " ".join(printed(store, "fps").split())
