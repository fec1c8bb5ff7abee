from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rhobench.config import ConfigError
from rhobench.dashboards.runs_list import run_table, runs_table, select_rows
from rhobench.results import Store


def printed(table: object, width: int = 80) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        (["rho=0.1"], 2),
        (["rho!=0.1"], 8),
        (["rho=dense"], 1),
        (["model.rho<=0.25", "seed=0"], 2),
        (["enc_layers=6", "status=failed"], 1),
        (["backbone=resnet18"], 1),
        (["use_enc_aux_loss=yes"], 10),
        ([" gflops > 0.6 "], 3),
    ],
)
def test_conditions_select_rows(store: Store, conditions: list[str], count: int) -> None:
    assert len(select_rows(store.frame(), conditions, None)) == count


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("rho", "is not a condition"),
        ("roh=0.1", "Did you mean 'rho'?"),
        ("rho=small", "is a number"),
        ("use_enc_aux_loss=3", "is true or false"),
    ],
)
def test_a_wrong_condition_is_refused_with_the_way_out(store: Store, condition: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        select_rows(store.frame(), [condition], None)


@given(number=st.floats(0.01, 1), factor=st.sampled_from([1, 3, 7]))
def test_a_number_as_typed_equals_the_same_number_as_computed(number: float, factor: int) -> None:
    import pandas as pd

    frame = pd.DataFrame({"rho": [number * factor / factor], "run_id": ["a"]})
    assert len(select_rows(frame, [f"rho={number}"], None)) == 1
    assert len(select_rows(frame, [f"rho!={number}"], None)) == 0


def test_the_best_value_comes_first(store: Store) -> None:
    frame = store.frame()
    assert select_rows(frame, [], "ap")["ap"].iloc[0] == frame["ap"].max()
    assert select_rows(frame, [], "latency_ms")["latency_ms"].iloc[0] == frame["latency_ms"].min()


def test_the_list_fits_80_columns_and_names_what_varies(store: Store) -> None:
    frame = store.frame()
    text = printed(runs_table(frame, frame))
    assert max(map(len, text.splitlines())) <= 80
    for words in ("resnet18 · dense", "failed", "55.2", "Latency (ms)", "10 of 10 runs."):
        assert words in " ".join(text.split())
    assert "10 of 10 runs" in printed(runs_table(frame, frame, limit=2)), "the caption counts all"


def test_the_card_of_a_run_has_its_results_and_settings(store: Store) -> None:
    record = next(record for record in store.records() if record.status == "completed")
    frame = store.frame()
    text = printed(run_table(record, frame[frame["run_id"] == record.run_id]), width=100)
    for words in (record.run_id, "completed", "train.lr", "0.0002", "GFLOPs (per image)", "a CPU"):
        assert words in text
