"""Loading of backbones from checkpoints with any naming scheme, and rejection of files that do not fit."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from rhobench.config import BackboneConfig
from rhobench.model.backbone import Backbone
from rhobench.model.pretrained import BackboneError, LoadedWeights

NAME, SWIN = "test_resnet", "swin_tiny_patch4_window7_224"
State = dict[str, Tensor]
Load = Callable[..., tuple[State, LoadedWeights]]


def weights(seed: int = 0, name: str = NAME, **options: Any) -> State:
    """State_dict of the timm model with random values."""
    generator = torch.Generator().manual_seed(seed)
    state = timm.create_model(name, **options).state_dict()
    return {k: torch.rand(v.shape, generator=generator) if v.is_floating_point() else v for k, v in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def numbered(state: State) -> State:
    """Rename as torch.nn.Sequential(*network.children()) does: conv1 and bn1, then an activation and a pool."""
    number = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    parts = {key: key.split(".", 1) for key in state}
    return {f"{number[p[0]]}.{p[1]}": state[key] for key, p in parts.items() if p[0] in number}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a function that saves a checkpoint and loads a backbone from it -> state_dict and provenance."""

    def from_checkpoint(content: Any, name: str = NAME, prefix: str | None = None) -> tuple[State, LoadedWeights]:
        torch.save(content, tmp_path / "file.pth")
        config = BackboneConfig(name=name, weights=str(tmp_path / "file.pth"), weights_prefix=prefix, frozen="none")
        backbone = Backbone(config)
        assert backbone.loaded is not None
        return backbone.body.state_dict(), backbone.loaded

    return from_checkpoint


@pytest.mark.parametrize(
    ("wrap", "prefix", "names"),
    [
        (lambda state: state, "", "timm names"),
        (lambda state: under("module.", state), "module.", "timm names"),
        (lambda state: {"state_dict": under("module.backbone.", state)}, "state_dict.module.backbone.", "timm names"),
        (lambda state: {"model": under("backbone.0.body.", state)}, "model.backbone.0.body.", "timm names"),
        (
            lambda state: {
                "online_network_state_dict": under("encoder.", numbered(state)),
                "target_network_state_dict": under("encoder.", numbered(weights(1))),
                "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
                "epoch": 200,
            },
            "online_network_state_dict.encoder.",
            "Sequential indices",
        ),
        (
            lambda state: {
                "state_dict": under("module.encoder_q.", state) | under("module.encoder_k.", weights(1)),
                "args": argparse.Namespace(arch="resnet"),
            },
            "state_dict.module.encoder_q.",
            "timm names",
        ),
        (
            lambda state: {"student": under("backbone.", weights(1)), "teacher": under("backbone.", state)},
            "teacher.backbone.",
            "timm names",
        ),
    ],
    ids=["plain", "data-parallel", "nested", "DETR", "SCRL", "MoCo", "DINO"],
)
def test_a_backbone_is_found_under_any_prefix(
    load: Load, wrap: Callable[[State], Any], prefix: str, names: str
) -> None:
    state = weights()
    body, loaded = load(wrap(state))
    assert (loaded.prefix, loaded.names) == (prefix, names)
    assert all(torch.equal(value, state[key]) for key, value in body.items())
    assert set(loaded.used) == {key for key in body if "num_batches" not in key}
    assert not set(loaded.used.values()) & set(loaded.unused)


def test_used_and_unused_keys_are_reported(load: Load) -> None:
    state = weights()
    _, loaded = load({"state_dict": under("module.", state), "queue": torch.zeros(4, 4)})
    assert loaded.used["bn1.weight"] == "state_dict.module.bn1.weight"
    counters = {f"state_dict.module.{key}" for key in state if key.endswith("num_batches_tracked")}
    assert set(loaded.unused) == {"state_dict.module.fc.weight", "state_dict.module.fc.bias", "queue"} | counters
    record = loaded.as_record()
    assert record["used"] == f"{len(loaded.used)} tensors"
    assert record["unused"].endswith(f"and {len(loaded.unused) - 3} more")
    assert len(record["sha256"]) == 64


def test_counters_of_norms_are_optional(load: Load) -> None:
    """Checkpoints of old torch versions and of frozen norms have none."""
    state = weights()
    body, _ = load({key: value for key, value in state.items() if "num_batches" not in key})
    assert all(torch.equal(value, state[key]) for key, value in body.items() if "num_batches" not in key)


def test_a_missing_tensor_is_reported(load: Load) -> None:
    state = under("encoder_q.", weights())
    del state["encoder_q.layer3.0.bn2.weight"]
    with pytest.raises(
        BackboneError, match=r"with the prefix 'encoder_q.', has 74 of its 75 .*missing: layer3.0.bn2.weight; wrong"
    ):
        load(state)


def test_a_tensor_of_another_shape_is_reported(load: Load) -> None:
    with pytest.raises(BackboneError, match=r"missing: none; wrong shape: bn1.bias\. Use weights of that model"):
        load(weights() | {"bn1.bias": torch.zeros(3)})


def test_a_prefix_selects_one_of_several_networks(load: Load) -> None:
    first, second = weights(0), weights(1)
    content = {"model": first, "model_ema": second}
    with pytest.raises(
        BackboneError, match=r"the prefixes 'model.', 'model_ema.': choose one with model.backbone.weights_prefix"
    ):
        load(content)
    for prefix, state in (("model", first), ("model_ema.", second)):
        body, loaded = load(content, prefix=prefix)
        assert loaded.prefix == prefix.rstrip(".") + "."
        assert torch.equal(body["bn1.weight"], state["bn1.weight"])
    with pytest.raises(BackboneError, match="less than half of the timm model's names under the prefix 'mode'"):
        load(content, prefix="mode")


@pytest.mark.parametrize("prefix", ["", "online_network_state_dict.encoder."])
def test_a_swin_with_official_names_is_loaded(load: Load, prefix: str) -> None:
    """Patch merging ends a stage there and begins the next in timm; index tables are computed, not loaded."""
    state = weights(name=SWIN)
    official = {
        key.replace(f"layers.{i}.downsample", f"layers.{i - 1}.downsample")
        if f"layers.{i}.downsample" in key
        else key: v
        for key, v in state.items()
        for i in [int(key.split(".")[1]) if key.startswith("layers.") else 0]
    }
    tables = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}
    body, loaded = load(under(prefix, official | tables), name=SWIN)
    assert loaded.names == "official Swin names"
    assert torch.equal(body["layers.0.downsample.reduction.weight"], state["layers.1.downsample.reduction.weight"])
    assert torch.equal(body["layers.2.blocks.5.mlp.fc2.weight"], state["layers.2.blocks.5.mlp.fc2.weight"])
    assert body["layers.0.blocks.0.attn.relative_position_index"][0, 0] == 84
    assert set(loaded.unused) == {
        prefix + key for key in (*tables, "norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias")
    }


def test_code_in_a_checkpoint_is_not_executed(load: Load, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"file.pth would execute pathlib.*save only its state_dict"):
        load(weights() | {"path": tmp_path})
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(BackboneError, match=r"text.pth is damaged or not a weights file"):
        Backbone(BackboneConfig(name=NAME, weights=str(tmp_path / "text.pth")))
