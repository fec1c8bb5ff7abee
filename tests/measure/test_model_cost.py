"""``rhobench cost``: its JSON output, its card, and the message for each invalid option."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rhobench.cli.app import app
from rhobench.config.model_zoo import find_model

SMALL = "sparse_detr_test_resnet"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def cost(*arguments: str) -> tuple[str, dict[str, Any]]:
    """The card, and the JSON object on the last line."""
    result = CliRunner().invoke(app, ["cost", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    *card, last = result.stdout.splitlines()
    return "\n".join(card), json.loads(last)


def test_one_image_as_card_and_json() -> None:
    card, found = cost(SMALL, "--rho", "0.2", "--size", "320x480", "--count", "official")
    assert {"model", "rho", "height", "width", "count", "params_m", "gflops", "parts"} <= set(found)
    assert (found["model"], found["rho"], found["count"]) == (SMALL, 0.2, "official")
    assert (found["height"], found["width"]) == (320, 480)
    assert found["tokens"] == 40 * 60 + 20 * 30 + 10 * 15 + 5 * 8
    assert found["updated_tokens"] == int(found["tokens"] * 0.2) + 1
    assert sum(found["parts"].values()) == pytest.approx(found["gflops"])
    assert f"{found['gflops']:.3f}" in card
    assert "official: " in card
    assert "1 for each multiply-add" in " ".join(card.split())


def test_the_mean_of_one_image_is_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = replace(find_model("detr_test_resnet"), enc_layers=1, dec_layers=1)
    for module in ("rhobench.measure.model_cost", "rhobench.config.model_zoo"):
        monkeypatch.setattr(f"{module}.find_model", lambda _: shallow)
    _, mean = cost("shallow", "--val2017", "--first", "1")
    _, single = cost("shallow", "--size", "800x1201")
    assert mean["gflops"] == pytest.approx(single["gflops"], rel=1e-12)
    assert (mean["height"], mean["images"], mean["count"]) == (None, 1, "standard")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["sparse_det_r50"], "Did you mean 'sparse_detr_r50'"),
        (["sparse_detr_convnexxt"], "timm has no model 'convnexxt'"),
        (["deformable_detr_r50", "--rho", "0.3"], "deformable_detr_r50 has no rho"),
        ([SMALL, "--rho", "1.5"], "(0, 1]"),
        ([SMALL, "--size", "800"], "HEIGHTxWIDTH"),
        ([SMALL, "--size", "0x800"], "0x800"),
        ([SMALL, "--size", "32x32"], "tokens"),
        ([SMALL, "--count", "fvcore"], "standard, official"),
        ([SMALL, "--first", "10"], "--val2017"),
        ([SMALL, "--val2017", "--first", "0"], "at least 1"),
    ],
)
def test_invalid_options_are_named(arguments: list[str], wanted: str) -> None:
    result = CliRunner().invoke(app, ["cost", *arguments])
    assert isinstance(result.exception, ValueError), result.output
    assert wanted in str(result.exception)


def test_a_backbone_without_an_early_stage_is_counted_as_trainable() -> None:
    """A ViT has no early stage to freeze, which training rejects but counting need not."""
    _, counted = cost("efficient_detr_test_vit", "--size", "256x256")
    assert counted["trainable_params_m"] == counted["params_m"]
