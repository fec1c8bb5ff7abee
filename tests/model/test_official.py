"""Conversion to and from official names: exact keys, lossless in both directions, and messages for misfits."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rhobench.config import FAMILIES, BackboneConfig, ModelConfig
from rhobench.config.model_zoo import find_model
from rhobench.model import Detector, build_model
from rhobench.model.official import WeightsError, load_official, official_state

Build = Callable[..., Detector]

OFFICIAL_KEYS: dict[str, dict[str, Any]] = json.loads(
    gzip.decompress((Path(__file__).parent / "official_keys.json.gz").read_bytes())
)
"""Model -> key -> (shape, dtype), as the official code lists them (spec section 11)."""

SWITCHES: dict[str, dict[str, Any]] = {
    "detr": {"two_stage": False, "with_box_refine": False, "use_enc_aux_loss": False, "num_feature_levels": 1},
    "deformable_detr": {"two_stage": False, "with_box_refine": False, "use_enc_aux_loss": False},
    "refined_deformable_detr": {"two_stage": False, "refine_single_stage": True, "use_enc_aux_loss": False},
    "two_stage_deformable_detr": {"eff_query_init": False, "eff_specific_head": False, "use_enc_aux_loss": False},
    "efficient_detr": {"use_enc_aux_loss": False},
    "sparse_detr": {},
}


def on_meta(config: ModelConfig) -> Detector:
    with torch.device("meta"):
        return build_model(config)


def small(build: Build, family: str, **changes: Any) -> Detector:
    dense = {} if family == "sparse_detr" else {"rho": None}
    return build(name=family, **(SWITCHES[family] | dense | changes))


def refusal(model: Detector, state: dict[str, Tensor]) -> str:
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_official(model, state)
    after = model.state_dict()
    assert all(tensor.is_meta or torch.equal(tensor, after[key]) for key, tensor in before.items())
    return str(error.value)


@pytest.mark.parametrize("name", OFFICIAL_KEYS)
def test_keys_shapes_and_types_are_the_official_ones(name: str) -> None:
    model, _, no_heads = name.partition(" without")
    config = find_model(model)
    state = official_state(on_meta(replace(config, use_enc_aux_loss=False) if no_heads else config))
    ours = {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()}
    assert ours == OFFICIAL_KEYS[name]


def test_swin_b_has_the_official_layout() -> None:
    """By its official configuration it is Swin-T with 18 blocks in the third stage and 4/3 of the width."""
    tiny = OFFICIAL_KEYS["sparse_detr_swin_t"]
    expected = {}
    for key, (shape, dtype) in tiny.items():
        wider = key.startswith(("backbone.", "input_proj."))
        expected[key] = [_wider(key, shape) if wider else shape, dtype]
        if match := re.fullmatch(r"(backbone\.0\.body\.layers\.2\.blocks\.)5(\..*)", key):
            expected |= {f"{match[1]}{block}{match[2]}": expected[key] for block in range(6, 18)}
    state = official_state(on_meta(find_model("sparse_detr_swin_b")))
    assert {k: [list(t.shape), str(t.dtype).removeprefix("torch.")] for k, t in state.items()} == expected


def _wider(key: str, shape: list[int]) -> list[int]:
    """Scale channels and heads from Swin-T to Swin-B; kernels, windows and the transformer width of 256 stay."""
    if key.endswith("relative_position_bias_table"):
        return [shape[0], 4 * shape[1] // 3]
    return [4 * size // 3 if size % 96 == 0 else size for size in shape]


@pytest.mark.parametrize(
    "key",
    [
        "transformer.encoder.layers.0.self_attn.in_proj_weight",
        "transformer.encoder.layers.5.norm2.bias",
        "transformer.decoder.layers.0.multihead_attn.out_proj.weight",
        "transformer.decoder.layers.5.norm3.weight",
        "transformer.decoder.norm.weight",
        "class_embed.weight",
        "bbox_embed.layers.2.bias",
        "query_embed.weight",
        "input_proj.weight",
        "backbone.0.body.layer4.2.conv3.weight",
    ],
)
def test_detr_has_the_keys_of_its_own_code(key: str) -> None:
    assert key in official_state(on_meta(find_model("detr_r50")))


@pytest.mark.parametrize("refines", [False, True])
def test_a_single_stage_decoder_lists_the_box_heads_that_refine(build: Build, refines: bool) -> None:
    """As in the code of Deformable DETR, where class heads are listed once."""
    state = official_state(small(build, "refined_deformable_detr", refine_single_stage=refines))
    assert ("transformer.decoder.bbox_embed.1.layers.2.bias" in state) == refines
    assert "transformer.decoder.class_embed.1.bias" not in state


def test_detr_has_as_many_parameters_as_its_own_code_prints() -> None:
    parameters = on_meta(find_model("detr_r50")).parameters()
    assert sum(p.numel() for p in parameters if p.requires_grad) == 41_302_368


@pytest.mark.parametrize("family", SWITCHES)
def test_official_names_convert_back_losslessly(build: Build, family: str, images: Tensor) -> None:
    model, other = small(build, family), small(build, family)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    loaded = load_official(other, {f"module.{key}": tensor for key, tensor in official_state(model).items()})
    assert (loaded.missing, loaded.ignored) == ([], [])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with torch.no_grad():
        assert torch.equal(model(images).prediction.logits, other(images).prediction.logits)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_official_names_are_unique_for_all_switches(build: Build, data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(list(FAMILIES)))
    free = {"with_box_refine", "two_stage", "eff_query_init", "eff_specific_head", "use_enc_aux_loss"}
    switches = {name: data.draw(st.booleans(), label=name) for name in sorted(free - set(FAMILIES[family]))}
    layers = {"enc_layers": data.draw(st.integers(1, 3)), "dec_layers": data.draw(st.integers(1, 3))}
    fixed = {"rho": data.draw(st.sampled_from([None, 0.3])), **FAMILIES[family]}
    model = build(name=family, **switches, **layers, **fixed)
    named = official_state(model)
    assert len({id(tensor) for tensor in named.values()}) == len(model.state_dict())
    indices = sorted({int(key.split(".")[1]) for key in named if key.startswith("class_embed.") and family != "detr"})
    heads = model.config.dec_layers + model.config.two_stage
    heads += model.config.enc_layers - 1 if model.config.use_enc_aux_loss else 0
    assert indices == ([] if family == "detr" else list(range(heads)))


def test_one_name_of_a_head_is_enough(build: Build) -> None:
    """A safetensors file has no shared tensors and keeps any one of their names."""
    model = small(build, "sparse_detr")
    state = official_state(model)
    pruned = {key: t for key, t in state.items() if not key.startswith(("class_embed.", "bbox_embed."))}
    load_official(small(build, "sparse_detr"), pruned)
    shared = official_state(small(build, "deformable_detr"))
    del shared["class_embed.0.weight"], shared["class_embed.0.bias"]
    load_official(small(build, "deformable_detr"), shared)


def test_names_of_one_head_must_agree(build: Build) -> None:
    state = official_state(small(build, "sparse_detr"))
    state["transformer.decoder.class_embed.1.bias"] = state["class_embed.1.bias"] + 1
    message = refusal(small(build, "sparse_detr"), state)
    assert "class_embed.1.bias and transformer.decoder.class_embed.1.bias differ" in message


def test_separate_heads_do_not_load_where_all_layers_share_one(build: Build) -> None:
    state = official_state(small(build, "refined_deformable_detr", refine_single_stage=False))
    message = refusal(small(build, "deformable_detr"), state)
    assert "class_embed.0.weight and class_embed.1.weight differ" in message


def test_counters_are_ignored_and_reported(build: Build) -> None:
    state = official_state(small(build, "sparse_detr"))
    counters = {"total_ops", "transformer.total_params", "backbone.0.body.bn1.num_batches_tracked"}
    loaded = load_official(small(build, "sparse_detr"), state | {key: torch.zeros(1) for key in counters})
    assert set(loaded.ignored) == counters


def test_missing_and_unexpected_keys_are_reported(build: Build) -> None:
    state = official_state(small(build, "sparse_detr"))
    state["transformer.extra"] = state.pop("transformer.level_embed")
    message = refusal(small(build, "sparse_detr"), state)
    assert "1 missing: transformer.level_embed; 1 unexpected: transformer.extra" in message
    many = state | {f"extra.{i}": torch.zeros(1) for i in range(14)}
    assert "15 unexpected: extra.0, extra.1, extra.10 and 12 more" in refusal(small(build, "sparse_detr"), many)


def test_shapes_and_types_must_fit(build: Build) -> None:
    state = official_state(small(build, "sparse_detr"))
    state["transformer.level_embed"] = state["transformer.level_embed"][:3]
    state["transformer.enc_output.bias"] = state["transformer.enc_output.bias"].long()
    message = refusal(small(build, "sparse_detr"), state)
    assert "transformer.level_embed is float32 (3, 32) instead of float32 (4, 32)" in message
    assert "transformer.enc_output.bias is int64 (32,) instead of float32 (32,)" in message
    with pytest.raises(WeightsError, match="level_embed"):
        load_official(small(build, "sparse_detr"), state, strict=False)


def test_an_index_table_must_equal_that_of_the_model(build: Build) -> None:
    backbone = BackboneConfig(name="swin_tiny_patch4_window7_224")
    state = official_state(small(build, "deformable_detr", backbone=backbone))
    key = "backbone.0.body.layers.0.blocks.0.attn.relative_position_index"
    state[key] = state[key].flip(0)
    message = refusal(small(build, "deformable_detr", backbone=backbone), state)
    assert f"1 wrong: {key} differs from the index table of the model" in message


@pytest.mark.parametrize("in_file", [False, True])
def test_missing_or_unexpected_encoder_heads_name_the_switch(build: Build, in_file: bool) -> None:
    state = official_state(small(build, "sparse_detr", use_enc_aux_loss=in_file))
    message = refusal(small(build, "sparse_detr", use_enc_aux_loss=not in_file), state)
    assert f"These are the weights of this model with use_enc_aux_loss={in_file}." in message
    load_official(small(build, "sparse_detr", use_enc_aux_loss=in_file), state)


def test_weights_of_another_named_model_are_recognised() -> None:
    shapes = official_state(on_meta(find_model("efficient_detr_r50")))
    state = {key: torch.zeros_like(tensor, device="cpu") for key, tensor in shapes.items()}
    message = refusal(on_meta(find_model("sparse_detr_r50")), state)
    assert message.startswith("The weights do not fit sparse_detr on resnet50: 50 missing: transformer.enc_mask_pred")
    assert message.endswith("These are the weights of efficient_detr_r50.")


def test_a_non_strict_load_reports_what_differs(build: Build) -> None:
    model, state = small(build, "sparse_detr"), official_state(small(build, "sparse_detr"))
    kept = model.get_parameter("level_embed").clone()
    state["extra"] = state.pop("transformer.level_embed") + 1
    loaded = load_official(model, state, strict=False)
    assert (loaded.missing, loaded.ignored) == (["transformer.level_embed"], ["extra"])
    assert torch.equal(model.get_parameter("level_embed"), kept)
