"""Counted costs of published tables, and what every table must have."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rhobench.config import ConfigError, RunConfig
from rhobench.config.model_zoo import find_model
from rhobench.config.paths import value_at
from rhobench.config.published import FIRST_IMAGES, Contrast, Counted, Ours, Saved, TableRow, Trained
from rhobench.config.sweep import SweepOptions
from rhobench.data.val2017 import val2017_sizes
from rhobench.experiments import EXPERIMENTS, published
from rhobench.experiments.published import TABLES, PublishedTableError, find_table
from rhobench.experiments.published._detectors import table1_rows
from rhobench.experiments.published.table1 import rounding
from rhobench.measure import count_flops
from rhobench.model import build_model
from rhobench.reproduction import cost
from rhobench.reproduction.cost import CostCounter
from rhobench.reproduction.reproduce import reproduce_table
from rhobench.study.grid import expand_runs
from rhobench.study.study import Study

SMALL = replace(find_model("detr_test_resnet"), enc_layers=1, dec_layers=1)
SPARSE = replace(find_model("sparse_detr_test_resnet"), enc_layers=2, dec_layers=1, num_queries=12)
DENSE = replace(find_model("efficient_detr_test_resnet"), enc_layers=2, dec_layers=1, num_queries=12)


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are in no paper."""
    torch.set_num_threads(1)
    models = {"small": SMALL, "sparse_detr_small": SPARSE, "efficient_detr_small": DENSE}
    monkeypatch.setattr(cost, "find_model", models.__getitem__)


def rows_of(name: str) -> list[TableRow]:
    return [row for section in find_table(name).sections for row in section.rows]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_states_what_it_compares(name: str) -> None:
    table = find_table(name)
    assert table.title
    assert table.sections
    for section in table.sections:
        assert all(len(row.names) == len(section.columns) for row in section.rows)
        assert len({row.names for row in section.rows}) == len(section.rows), "rows have different names"
    for row in rows_of(name):
        assert row.tolerance is None or row.tolerance > 0
        assert row.published is None or float(row.published) is not None
        assert row.experiment is None or row.experiment in EXPERIMENTS
        for field in ("model", "dense", "baseline"):
            find_model(getattr(row.ours, field, "detr_r50"))


def test_table_1_has_all_rows_of_the_paper() -> None:
    rows = table1_rows()
    assert len(rows) == 22
    assert sum(row.model is None for row in rows) == 5, "Faster R-CNN and PnP-DETR"
    assert sum((row.model or "").startswith("sparse") for row in rows) == 10
    accuracy = [row for row in rows_of("table1") if isinstance(row.ours, Trained) and row.ours.metric == "ap"]
    assert [row.published for row in accuracy] == [row.ap for row in rows if row.model]


def test_the_experiments_of_table_1_train_its_rows() -> None:
    trained = {
        (run.model.name, run.model.backbone.name.partition(".")[0], run.model.rho)
        for name in ("table1_r50", "table1_swin_t")
        for run in expand_runs(EXPERIMENTS[name]())
    }
    wanted = {
        (find_model(row.model).name, find_model(row.model).backbone.name, row.rho)
        for row in table1_rows()
        if row.model and row.epochs == 50
    }
    assert trained == wanted


def is_run(config: RunConfig, values: Mapping[str, Any]) -> bool:
    """Whether a run has the values of a row, by columns of ``Store.frame()``."""
    paths = {"rho": "model.rho", "model": "model.name"}
    paths |= {name: f"model.{name}" for name in ("enc_layers", "use_enc_aux_loss")}
    inferred = values.get("rho_infer", config.model.rho)
    own = {name: value for name, value in values.items() if name != "rho_infer"}
    return inferred in (config.model.rho, *config.measure.rhos) and all(
        value_at(config, paths.get(name, name)) == value for name, value in own.items()
    )


@pytest.mark.parametrize("name", TABLES)
def test_the_experiment_of_a_row_trains_both_sides(name: str) -> None:
    for row in rows_of(name):
        if isinstance(row.ours, Contrast) and row.experiment is not None:
            runs = expand_runs(EXPERIMENTS[row.experiment]())
            for side in (row.ours.first, row.ours.second):
                assert any(is_run(run, {**side, **row.ours.where}) for run in runs), (row.names, side)


def test_sizes_are_those_of_val2017() -> None:
    sizes = val2017_sizes()
    assert len(sizes) == 5000
    assert sizes[0] == (800, 1201)
    assert sizes.count((800, 1066)) == 1319


def test_tolerance_is_that_of_the_last_digit() -> None:
    assert [rounding(text) for text in ("105.4", "128.0", "41")] == pytest.approx([0.06, 0.06, 0.6])


def value(ours: Ours) -> float:
    found = CostCounter().find(ours)
    assert found is not None
    return found.value


@pytest.mark.usefixtures("small_models")
def test_costs_are_those_of_the_counter() -> None:
    model = build_model(SMALL)
    alone = count_flops(model, 480, 640, count="official")
    assert value(Counted(model="small", images="480x640")) == pytest.approx(alone.gflops, rel=1e-12)
    assert value(Counted(model="small", metric="params_m")) == alone.parameters.published / 1e6
    sizes = val2017_sizes()[:100]
    mean = sum(count_flops(model, *size, count="official").gflops * sizes.count(size) for size in set(sizes)) / 100
    assert value(Counted(model="small", images=FIRST_IMAGES)) == pytest.approx(mean, rel=1e-9)


@pytest.mark.usefixtures("small_models")
def test_savings_are_those_of_the_counter() -> None:
    row = Saved(model="sparse_detr_small", rho=0.1, dense="efficient_detr_small")
    sparse = count_flops(build_model(SPARSE), 800, 1066, count="official", rho=0.1)
    dense = count_flops(build_model(DENSE), 800, 1066, count="official")
    assert value(row) == pytest.approx(100 * (1 - sparse.gflops / dense.gflops))
    encoder = sparse.parts["encoder"] + sparse.parts["scorer"]
    assert value(replace(row, scope="encoder")) == pytest.approx(100 * (1 - encoder / dense.parts["encoder"]))


def test_linear_layers_of_the_official_encoder_save_82_percent() -> None:
    """Of 753,664 multiply-adds a token, the value projection has 65,536 and runs on all tokens."""
    row = Saved(model="sparse_detr_r50", rho=0.1, dense="efficient_detr_r50", scope="linear layers")
    for rho, saved in ((0.1, 82.2), (0.2, 73.0), (0.3, 63.9), (0.4, 54.8), (0.5, 45.7)):
        expected = 100 * (1 - (65536 + rho * (753664 - 65536)) / 753664)
        assert value(replace(row, rho=rho)) == pytest.approx(expected)
        assert expected == pytest.approx(saved, abs=0.05)


ADDED = """
from rhobench.config.published import Counted, Printed, PublishedTable, TableRow, TableSection


def added_table() -> PublishedTable:
    counted = TableRow(names=("small",), published="1000", ours=Counted(model="small"), tolerance=0.5)
    printed = TableRow(names=("small",), published="2.5", ours=Printed(value=2.5, arithmetic="5 / 2"), tolerance=0.1)
    return PublishedTable(
        title="Added as one file",
        sections=(
            TableSection(title="GFLOPs", columns=("model",), rows=(counted,), notes=("A note.",)),
            TableSection(title="a ratio", columns=("model",), rows=(printed,)),
        ),
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A further folder in which tables are found."""
    monkeypatch.setattr(published, "__path__", [*published.__path__, str(tmp_path)])
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(f"{published.__name__}.{file.stem}", None)


@pytest.mark.usefixtures("small_models")
def test_a_table_is_added_by_one_file(folder: Path, run_command: Callable[..., Any]) -> None:
    (folder / "added_table.py").write_text(ADDED)
    assert "added-table" in TABLES
    done = reproduce_table("added-table", cost_only=True)
    assert [[row.verdict for row in section.rows] for section in done.sections] == [["off"], ["match"]]
    status, out, _ = run_command("reproduce", "added-table", "--cost-only")
    assert status == 1, "a counted value is off"
    assert "Added as one file: GFLOPs" in out
    assert "A note." in out
    status, out, _ = run_command("reproduce")
    assert (status, "added-table        Added as one file" in out) == (0, True)


def test_a_file_without_its_function_is_reported(folder: Path) -> None:
    (folder / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.py is not a published table: define a function empty\(\) there"):
        find_table("empty")


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(PublishedTableError, match="Did you mean 'encoder-share'"):
        find_table("encoder_shares")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["tabel1"], "Did you mean 'table1'"),
        (["zzz"], "Choose one of table1, claims"),
        (["table1", "--format", "pdf"], "text, markdown, latex, json, html"),
        (["table1", "/nowhere/at/all"], "/nowhere/at/all"),
        (["table1", "one", "--store", "two"], "given twice"),
        (["table1", "one", "--cost-only"], "leave out the store"),
        (["table1", "--weights", "DIR"], "add --data DIR"),
        (["table1", "--data", "DIR"], "add one of them"),
        (["table1", "--weights", "/nowhere/at/all", "--data", "DATA"], "/nowhere/at/all"),
        (["table1", "--weights", "DIR", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["table1", "--dry-run"], "add --run"),
        (["encoder-share", "--run"], "leave out --run"),
        (["table1", "--run"], "add --data DIR"),
        (["table1", "--short-side", "160"], "--weights"),
    ],
)
def test_wrong_requests_get_one_sentence(
    run_command: Callable[..., Any], tmp_path: Path, arguments: list[str], wanted: str
) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text("{}")
    places = {"DIR": str(tmp_path), "DATA": str(tmp_path)}
    status, _, errors = run_command("reproduce", *(places.get(each, each) for each in arguments))
    assert status == 2
    assert len(errors.splitlines()) == 1
    assert wanted in errors


MISSING = """
from rhobench.config.published import Contrast, PublishedTable, TableRow, TableSection


def missing_runs() -> PublishedTable:
    weights = Contrast(
        first={"model.backbone.weights": None}, second={"model.backbone.weights": "package:timm"}, where={"rho": 0.25}
    )
    row = TableRow(names=("pretrained",), ours=weights, above=0.0, experiment="pretraining")
    section = TableSection(title="AP pretrained minus AP from random weights", columns=("weights",), rows=(row,))
    return PublishedTable(title="Missing runs", sections=(section,))
"""


@pytest.mark.parametrize(("arguments", "starts", "status"), [(["--dry-run"], 0, 0), ([], 1, 0), ([], 1, 1)])
def test_missing_runs_are_planned_then_started(
    folder: Path,
    run_command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    starts: int,
    status: int,
) -> None:
    (folder / "missing_runs.py").write_text(MISSING)
    store, started = folder / "store", []

    def start(study: Study, place: str, options: SweepOptions) -> int:
        started.append((study.experiment.base.experiment, place, options.address))
        (store / "runs").mkdir(parents=True)
        return status

    monkeypatch.setattr("rhobench.cli.run.start", start)
    found, out, _ = run_command("reproduce", "missing-runs", store, "--run", *arguments)
    assert found == status
    assert "2 runs: 2 to do" in out
    assert "0.8 CPU core hours" in out
    assert started == [("pretraining", str(store), "local")] * starts
    shown = "AP pretrained minus AP" in out
    assert shown == (starts == 1 and status == 0), "after the runs the table is printed"
    assert "not run" in out or not shown
