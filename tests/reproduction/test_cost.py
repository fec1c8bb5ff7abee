"""The reproduced table: its rows, its verdicts and its command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from rhobench.cli.app import app
from rhobench.config.model_zoo import find_model
from rhobench.data.val2017 import val2017_sizes
from rhobench.experiments.published import FIRST_IMAGES, TABLES, table1
from rhobench.measure import FlopCount, count_flops
from rhobench.model import build_model
from rhobench.reproduction import cost as reproduce
from rhobench.results.reproduction import Comparison, CostTable

SMALL = replace(find_model("detr_test_resnet"), enc_layers=1, dec_layers=1)
SIZE = (480, 640)


@pytest.fixture(scope="module")
def cost() -> FlopCount:
    """Cost of a small model that is in no paper."""
    torch.set_num_threads(1)
    return count_flops(build_model(SMALL), *SIZE, count="official")


@pytest.fixture(scope="module")
def reproduced(cost: FlopCount) -> Iterator[CostTable]:
    """A table with a value at one size that is reproduced, and a mean that deviates."""
    of_size = replace(
        table1()[0],
        model="small",
        counted_on="480x640",
        gflops=f"{cost.gflops:.1f}",
        params_m=f"{cost.parameters.published / 1e6:.1f}",
    )
    of_images = replace(of_size, counted_on=FIRST_IMAGES, gflops="1000")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLES, "small", lambda: [of_size, of_images])
        patch.setattr(reproduce, "find_model", lambda name: {"small": SMALL}[name])
        yield reproduce.reproduce_cost("small")


def invoked(*arguments: str) -> str:
    """Error message of a wrong request."""
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


def test_table_1_has_all_rows_with_known_models() -> None:
    rows = table1()
    assert len(rows) == 17
    assert sum(row.model.startswith("sparse") for row in rows) == 10
    assert all(find_model(row.model).rho is None for row in rows if row.rho is None)
    assert all(row.source for row in rows)


def test_sizes_are_those_of_val2017() -> None:
    sizes = val2017_sizes()
    assert len(sizes) == 5000
    assert sizes[0] == (800, 1201)
    assert sizes.count((800, 1066)) == 1319


def test_a_row_is_compared_on_the_images_of_the_published_value(reproduced: CostTable, cost: FlopCount) -> None:
    of_size, of_images = reproduced.rows
    assert of_size.counted_on == "480×640"
    assert of_size.gflops.ours == pytest.approx(cost.gflops, rel=1e-12)
    assert of_size.params_m.ours == cost.parameters.published / 1e6
    assert of_size.gflops.tolerance == pytest.approx(0.06)
    assert of_size.reproduced
    assert of_images.counted_on == "first 100"
    assert of_images.gflops.ours == of_images.gflops_mean_first
    assert of_images.gflops.tolerance == pytest.approx(30)
    assert not of_images.reproduced
    assert not reproduced.reproduced


def test_all_rows_have_values_on_the_same_images(reproduced: CostTable, cost: FlopCount) -> None:
    of_size, of_images = reproduced.rows
    assert cost.gflops < of_size.gflops_same_size < of_size.gflops_mean_first < of_size.gflops_mean_all
    assert of_size.gflops_mean_all == of_images.gflops_mean_all
    assert (reproduced.same_size, reproduced.first_images, reproduced.all_images) == ((800, 1066), 100, 5000)


def test_a_difference_above_the_tolerance_is_not_reproduced() -> None:
    assert Comparison(published="105.4", ours=105.354, tolerance=0.06).reproduced
    assert not Comparison(published="105.4", ours=105.33, tolerance=0.06).reproduced


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["table2", "--cost-only"], "Did you mean 'table1'"),
        (["figure", "--cost-only"], "Choose one of table1"),
        (["table1"], "rhobench reproduce table1 --cost-only"),
        (["table1", "--cost-only", "--format", "html"], "text, markdown, latex, json"),
    ],
)
def test_wrong_requests_are_refused_with_a_hint(arguments: list[str], wanted: str) -> None:
    assert wanted in invoked("reproduce", *arguments)


@pytest.mark.parametrize(("kept", "status"), [(1, 0), (2, 1)])
def test_the_exit_status_is_that_of_the_verdict(
    monkeypatch: pytest.MonkeyPatch, reproduced: CostTable, kept: int, status: int
) -> None:
    monkeypatch.setattr(reproduce, "reproduce_cost", lambda *_: replace(reproduced, rows=reproduced.rows[:kept]))
    result = CliRunner().invoke(app, ["reproduce", "table1", "--cost-only", "--json"])
    assert result.exit_code == status
    assert json.loads(result.stdout.splitlines()[-1])["reproduced"] is (status == 0)
