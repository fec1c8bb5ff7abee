"""The command line as users see it: names, JSON, and one sentence for each wrong request."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rhobench = Callable[..., Any]


def test_experiments_lists_names_with_json(rhobench: Rhobench) -> None:
    done = rhobench("experiments", "--json")
    assert done.returncode == 0
    listed = json.loads(done.stdout.splitlines()[-1])["experiments"]
    assert {"rho_sweep", "bccd"} <= {row["name"] for row in listed}
    assert next(row for row in listed if row["name"] == "rho_sweep")["runs"] == 4


@pytest.fixture
def planned(rhobench: Rhobench) -> Callable[..., tuple[dict, str]]:
    """The JSON object and the text that ``run ARGUMENTS --dry-run`` prints."""

    def run(*arguments: object, status: int = 0) -> tuple[dict, str]:
        done = rhobench("run", *arguments, "--dry-run", "--json")
        assert done.returncode == status, done.stdout + done.stderr
        *shown, last = done.stdout.splitlines()
        return json.loads(last), "\n".join(shown)

    return run


Planned = Callable[..., tuple[dict, str]]


def names(plan: dict) -> list[str]:
    """Of the runs, without their seeds and keys."""
    return [run["run_id"].rsplit("-seed", 1)[0] for run in plan["runs"]]


def test_another_family_may_be_set_in_place_of_the_varied_rho(planned: Planned) -> None:
    plan, _ = planned("rho_sweep", "--set", "model.name=efficient_detr", "--set", "model.rho=none")
    assert names(plan) == ["rho_sweep-rhodense"]


def test_dry_run_lists_runs_resources_rates_and_cost(planned: Planned, tmp_path: Path) -> None:
    batch = ["--set", "train.batch_size=32", "--set", "train.lr_rule=linear", "--set", "train.micro_batch_size=4"]
    plan, shown = planned("rho_sweep", *batch, "--price-per-hour", 2, "--store", tmp_path / "new")
    assert names(plan) == ["rho_sweep-rho1.0", "rho_sweep-rho0.5", "rho_sweep-rho0.25", "rho_sweep-rho0.1"]
    for run in plan["runs"]:
        assert run["run_id"].endswith(run["key"])
        assert run["run_id"] in shown
        assert (run["batch_size"], run["rates"]["base"], run["state"]) == (32, pytest.approx(0.002), "to do")
        assert run["resources"] == {"workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0.0}
    hours = [run["estimated_hours"] for run in plan["runs"]]
    assert hours == sorted(hours, reverse=True)
    assert plan["estimated_hours"] == pytest.approx(sum(hours)) == pytest.approx(0.2)
    assert plan["price"] == pytest.approx(0.4)
    assert "that rho_sweep declares" in plan["estimated_from"]
    assert plan["fits"] is True
    assert plan["at_once"] >= 1
    assert (
        "Each step takes 32 images on 1 worker, in micro-batches of 4, with learning rates base 0.002, backbone 4e-05, "
        "linear_proj 0.002 (linear from a batch of 16)"
    ) in shown
    assert not (tmp_path / "new").exists(), "a dry run writes nothing"


def test_dry_run_tells_that_no_run_fits(planned: Planned) -> None:
    plan, shown = planned("rho_sweep", "--set", "train.cpus_per_worker=5000", status=1)
    assert (plan["fits"], plan["at_once"]) == (False, 0)
    assert "but a run needs 1 x 5,000 CPUs. Lower" in shown


def test_setting_a_varied_field_pins_it(planned: Planned) -> None:
    assert names(planned("rho_sweep", "--set", "model.rho=0.2")[0]) == ["rho_sweep-rho0.2"]


def test_a_run_beside_the_product_is_listed_and_takes_what_is_set(planned: Planned) -> None:
    sampled = f"-rho_choices{7 * '0.1_'}1.0"
    each = [f"rho_sampled-rho{rho}" for rho in ("1.0", "0.5", "0.25", "0.1")]
    assert Counter(names(planned("rho_sampled")[0])) == dict.fromkeys([*each, f"rho_sampled-rho0.25{sampled}"], 3)
    pinned = names(planned("rho_sampled", "--set", "model.rho=0.3")[0])
    assert set(pinned) == {"rho_sampled-rho0.3", f"rho_sampled-rho0.3{sampled}"}


def test_what_varies_can_be_said_on_the_command_line(planned: Planned) -> None:
    grid = ["--axis", "model.rho=0.1,0.5", "--axis", "model.enc_layers=1,2", "--seeds", "3,4"]
    plan, _ = planned("rho_sweep", *grid, "--exclude", "model.rho=0.5,model.enc_layers=2", "--order", "cheapest")
    values = [tuple(run["varied"].values()) for run in plan["runs"]]
    assert values == [(0.1, 1, 3), (0.1, 1, 4), (0.1, 2, 3), (0.1, 2, 4), (0.5, 1, 3), (0.5, 1, 4)]
    drawn, _ = planned("rho_sweep", "--range", "train.lr=1e-4:1e-2:log", "--samples", 3)
    again, _ = planned("rho_sweep", "--range", "train.lr=1e-4:1e-2:log", "--samples", 4)
    assert [run["run_id"] for run in drawn["runs"]] == [run["run_id"] for run in again["runs"]][:3]
    assert all(1e-4 <= run["varied"]["train.lr"] <= 1e-2 for run in again["runs"])


def test_runs_that_optuna_will_choose_are_counted(planned: Planned) -> None:
    plan, shown = planned("search", "--smoke")
    assert plan["runs"] == []
    assert plan["chosen_later"]["count"] == 4
    assert plan["chosen_later"]["objectives"] == {"ap": "max", "gflops": "min"}
    assert plan["estimated_hours"] > 0
    assert "4 runs, which Optuna chooses from earlier results for high ap and low gflops" in shown


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["run", "demoo", "--dry-run"], "Did you mean 'demo'"),
        (["run", "rho_sweep", "--dry-run", "--set", "train.epoch=3"], "Did you mean 'train.epochs'"),
        (["run", "rho_sweep", "--dry-run", "--set", "train.epochs=three"], "takes a whole number"),
        (["run", "rho_sweep", "--dry-run", "--set", "train.epochs"], "PATH=VALUE"),
        (["run", "rho_sweep", "--dry-run", "--set", "model.rho=1.5"], "(0, 1]"),
        (["run", "rho_sweep", "--dry-run", "--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["run", "bccd", "--dry-run"], "--data DIR"),
        (["run", "rho_sweep", "--dry-run", "--fork", "/nowhere/at/all"], "no run at /nowhere/at/all"),
        (["run", "rho_sweep", "--log-to", "comet"], "--log-to comet is not supported"),
        (["run", "rho_sweep", "--price-per-hour", "2"], "add one of them"),
        (["run", "rho_sweep", "--range", "model.rho=0.1:1", "--dry-run"], "--samples N"),
        (["run", "search", "--fit"], "--sampler sobol"),
        (["pareto", "/nowhere/at/all"], "/nowhere/at/all"),
        (["report", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_wrong_requests_get_one_sentence(rhobench: Rhobench, arguments: list[str], wanted: str) -> None:
    assert wanted in rhobench(*arguments).refusal()


def test_box_outside_its_image_is_named(rhobench: Rhobench, dataset: Path) -> None:
    file = dataset / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][2]["bbox"] = [50, 10, 40, 20]
    file.write_text(json.dumps(content))
    sentence = rhobench("run", "rho_sweep", "--dry-run", "--data", dataset).refusal()
    assert "instances_train.json" in sentence
    assert "annotation 3" in sentence
    checked = rhobench("data", "check", dataset)
    assert checked.returncode == 1
    assert "annotation 3" in checked.stdout


def test_a_truncated_image_fails_the_check_unless_it_is_quick(rhobench: Rhobench, dataset: Path) -> None:
    file = dataset / "images" / "3.png"
    file.write_bytes(file.read_bytes()[:-40])
    checked = rhobench("data", "check", dataset, "--json")
    assert checked.returncode == 1
    *text, last = checked.stdout.splitlines()
    found = json.loads(last)
    assert (found["errors"], found["warnings"]) == (2, 1)  # in both splits, which share their images
    assert [problem["level"] for problem in found["problems"]] == ["error", "error", "warning"]
    assert all(problem["message"] in line for problem, line in zip(found["problems"], text, strict=False))
    assert text[-1].endswith("(COCO): 2 errors, 1 warning, 0 notes in train, val")
    quick = rhobench("data", "check", dataset, "--quick", "--json")
    assert quick.returncode == 0
    assert json.loads(quick.stdout.splitlines()[-1])["errors"] == 0


def test_a_mistake_in_every_box_is_one_sentence(rhobench: Rhobench, dataset: Path) -> None:
    file = dataset / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    box = content["annotations"][0]
    content["annotations"] = [{**box, "id": number, "bbox": [8, 8, 300, 30]} for number in range(1, 151)]
    file.write_text(json.dumps(content))
    checked = rhobench("data", "check", dataset, "--split", "train", "--json")
    assert checked.returncode == 1
    *text, last = checked.stdout.splitlines()
    assert len([line for line in text if line.startswith("error")]) == 1
    assert "150 boxes of 150 beyond the image" in text[0]
    assert "and 147 more" in text[0]
    assert json.loads(last)["errors"] == 1


def test_scenes_are_a_valid_data_set(rhobench: Rhobench, tmp_path: Path) -> None:
    made = rhobench("data", "scenes", tmp_path / "scenes", "--images", 20, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.splitlines()[-1])["train_images"] == 20
    assert rhobench("data", "check", tmp_path / "scenes").returncode == 0
    again = rhobench("data", "scenes", tmp_path / "scenes", "--images", 20)
    assert "scenes" in again.refusal()


def test_occupied_store_is_refused_before_anything_starts(rhobench: Rhobench, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "experiments").mkdir(parents=True)
    from rhobench.config.conversion import to_dict
    from rhobench.experiments import EXPERIMENTS

    base = to_dict(EXPERIMENTS["rho_sweep"]().base)
    base["train"]["epochs"] = 77
    (store / "experiments" / "rho_sweep.json").write_text(json.dumps({"base": base}))
    sentence = rhobench("run", "rho_sweep", "--store", store).refusal()
    assert "train.epochs" in sentence
    assert "77" in sentence
    assert "--store" in sentence
    shutil.rmtree(store)
