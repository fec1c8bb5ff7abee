from __future__ import annotations

import subprocess
import sys
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rhobench.config import ConfigError
from rhobench.dashboards.runs_list import runs_table, select_rows, unmatched
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
        ("num_classes=3", "could be model.num_classes or data.scenes.num_classes"),
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


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        (
            "rho=0.3",
            "No run has rho=0.3: rho is 0.1, 0.25, 0.5, 1, none in training; "
            "rho_infer, that of the measurement, is 0.1, 0.25, 0.5, 1, none.",
        ),
        ("status=stopped", "No run has status=stopped: status is completed, failed."),
        ("train.epochs>1000", "No run has train.epochs>1000: train.epochs is 50."),
        ("use_enc_aux_loss=no", "No run has use_enc_aux_loss=no: use_enc_aux_loss is True."),
    ],
)
def test_a_condition_that_no_run_fulfils_names_the_values_that_there_are(
    store: Store, condition: str, sentence: str
) -> None:
    assert unmatched(store.frame(), [condition]) == [sentence]
    assert unmatched(store.frame(), ["seed=0"]) == []
    assert unmatched(store.frame().iloc[:0], [condition]) == []


def test_lists_need_neither_figures_nor_statistics() -> None:
    code = "import sys, rhobench.dashboards.runs_list, rhobench.dashboards.run_card\n"
    code += "sys.exit(', '.join({'plotly', 'scipy', 'torch', 'ray'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
