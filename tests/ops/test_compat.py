"""The operator under other implementations' names, and inside the models of ``transformers``."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from rhobench.ops import compat, deformable_attention, patching
from rhobench.ops.check import relative_error
from rhobench.ops.compat import patch_transformers

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models


def original(name: str, attribute: str):
    return getattr(importlib.import_module(f"transformers.models.{name}.modeling_{name}"), attribute)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the values with which patched models have called the operator."""
    seen = []

    def record(value, *others, **named):
        seen.append(tuple(value.shape))
        return deformable_attention(value, *others, **named)

    monkeypatch.setattr(patching, "deformable_attention", record)
    return seen


@pytest.mark.parametrize("function", [compat.MSDeformAttnFunction, compat.MultiScaleDeformableAttnFunction])
def test_the_official_functions_signature(make_problem, function):
    value, shapes, locations, weights = make_problem()
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    starts = torch.tensor([0, 35])
    core = original("oneformer", "multi_scale_deformable_attention")
    expected = core(leaves[0], shapes, *leaves[1:])
    # 64 does not divide the two images, which the official kernels refuse
    for output in (
        function.apply(leaves[0], torch.tensor(shapes), starts, *leaves[1:], 64),
        compat.multi_scale_deformable_attn_pytorch(leaves[0], torch.tensor(shapes), *leaves[1:]),
        compat.ms_deform_attn_core_pytorch(leaves[0], torch.tensor(shapes), *leaves[1:]),
    ):
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
        for ours, other in zip(
            torch.autograd.grad(output.square().sum(), leaves),
            torch.autograd.grad(expected.square().sum(), leaves, retain_graph=True),
            strict=True,
        ):
            assert relative_error(ours, other.double()) < 1e-5


def test_levels_that_start_elsewhere_are_refused(make_problem):
    value, shapes, *points = make_problem()
    with pytest.raises(ValueError, match=r"value_level_start_index is \[0, 36\], but levels .* start at \[0, 35\]"):
        compat.MSDeformAttnFunction.apply(value, torch.tensor(shapes), torch.tensor([0, 36]), *points, 64)


@pytest.mark.parametrize("name", tiny_models.BUILDERS)
def test_a_patched_model_computes_the_same(name, calls):
    model, inputs = tiny_models.build(name), tiny_models.inputs_of(name)
    inputs["pixel_values"].requires_grad_()
    leaves = [inputs["pixel_values"], *(p for p in model.parameters() if p.requires_grad)]

    def results():
        outputs = tiny_models.outputs_of(model, inputs)
        loss = sum(output.square().mean() for output in outputs)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [
            *(output.detach() for output in outputs),
            torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]),
        ]

    expected = results()
    assert calls == []
    with patch_transformers():
        patched = results()
    count = len(calls)
    assert count >= 2  # in every layer
    for ours, other in zip(patched, expected, strict=True):
        assert relative_error(ours, other.double()) < 1e-5
    for ours, other in zip(results(), expected, strict=True):
        assert torch.equal(ours, other)
    assert len(calls) == count


def test_every_model_with_the_operator_is_found():
    with patch_transformers() as patch:
        models = {name.split(".")[2] for name in patch.names}
        assert patch_transformers().names == []  # they are patched already
    assert models >= {*tiny_models.BUILDERS, "lw_detr", "mm_grounding_dino", "omdet_turbo", "rf_detr", "deimv2"}
    folder = Path(importlib.import_module("transformers").__file__).parent / "models"
    sampling = {file.parent.name for file in folder.glob("*/modeling_*.py") if "sampling_locations" in file.read_text()}
    assert models == sampling


@pytest.mark.parametrize("name", ["deformable_detr", "d_fine"])
def test_models_built_before_during_and_after(name, calls):
    inputs = tiny_models.inputs_of(name)
    before = tiny_models.build(name)
    patch = patch_transformers()
    during = tiny_models.build(name)
    counts = []
    for model in (before, during):
        tiny_models.outputs_of(model, inputs)
        counts.append(len(calls))
    assert counts[1] == 2 * counts[0] > 0
    patch.undo()
    patch.undo()
    for model in (before, during, tiny_models.build(name)):
        tiny_models.outputs_of(model, inputs)
    assert len(calls) == counts[1]


def test_a_patched_model_compiles_and_exports():
    model, inputs = tiny_models.build("deformable_detr"), tiny_models.inputs_of("deformable_detr")
    with patch_transformers(), torch.no_grad():
        expected = tiny_models.outputs_of(model, inputs)
        graphs = []

        def backend(graph, example):
            graphs.append(graph)
            return graph

        compiled = torch.compile(lambda **inputs: tiny_models.outputs_of(model, inputs), backend=backend)
        torch.testing.assert_close(compiled(**inputs), expected)
        operators = [node.target for graph in graphs for node in graph.graph.nodes]
        assert torch.ops.rhobench.deformable_attention.cpu in operators
        exported = torch.export.export(model, (), inputs, strict=False)
        found = exported.module()(**inputs)
        torch.testing.assert_close([found.logits, found.pred_boxes], expected)
    assert "rhobench.deformable_attention.cpu" in str(exported.graph)


def test_a_layer_that_keeps_the_function_compiles():
    model, seen = tiny_models.build("d_fine"), []
    layer = next(module for module in model.modules() if "ms_deformable_attn_core" in vars(module))
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    with patch_transformers(), torch.no_grad():
        tiny_models.outputs_of(model, tiny_models.inputs_of("d_fine"))
        hook.remove()
        args, kwargs = seen[0]
        compiled = torch.compile(layer.forward, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(*args, **kwargs), layer(*args, **kwargs))


@pytest.mark.parametrize("num_points", [[4, 4], [3, 6], [1, 2]])
def test_levels_may_differ_in_points(make_problem, num_points, caplog):
    value, shapes, locations, weights = make_problem(points=sum(num_points))
    locations, weights = locations[:, :, :, 0].requires_grad_(), weights[:, :, :, 0].requires_grad_()
    leaves = value.requires_grad_(), locations, weights
    results = []
    for patched in (False, True):
        patch = patch_transformers() if patched else None
        function = original("rt_detr_v2", "multi_scale_deformable_attention_v2")
        output = function(value, shapes, locations, weights, num_points)
        results.append([output.detach(), *torch.autograd.grad(output.square().sum(), leaves)])
        if patch is not None:
            with caplog.at_level(logging.WARNING, "rhobench.ops"):
                function(value, shapes, locations, weights, num_points, method="discrete")
            assert "method='discrete' is no deformable attention" in caplog.text
            patch.undo()
    for ours, other in zip(*results, strict=True):
        assert relative_error(ours, other.double()) < 1e-5


def test_wrong_backends_and_missing_packages_are_reported(monkeypatch):
    with pytest.raises(ValueError, match="backend='tpu' is unknown"):
        patch_transformers(backend="tpu")
    monkeypatch.setattr(patching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install transformers"):
        patch_transformers()
