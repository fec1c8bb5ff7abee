"""The check of backends, used by ``rhobench doctor`` and the benchmark, accepts right and reports wrong results."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rhobench.ops import available_backends, check
from rhobench.ops.check import DTYPES, check_backend, compare, exact_results, small_inputs
from rhobench.ops.shapes import FORMS, SHAPES, attend, make_inputs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", available_backends())
def test_every_backend_passes(backend, dtype):
    compared = check_backend(backend, dtype=DTYPES[dtype])
    assert [one.summary for one in compared if not one.agrees] == []
    assert {(one.form, one.problem) for one in compared} == {
        (form, problem) for form in FORMS for problem in small_inputs(torch.float32, "cpu")
    }
    assert all(one.errors.keys() == one.limits.keys() and len(one.errors) >= 4 for one in compared)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [name for name in SHAPES if not name.endswith("_b4")])
def test_large_maps_do_not_cost_precision(shape, form):
    """Pixel coordinates of large maps leave float32 few digits for the position between two pixels."""
    problem = replace(SHAPES[shape], queries=200, kind="sparse" if SHAPES[shape].kind == "encoder" else "decoder")
    compared = compare("cpu", exact_results(form, make_inputs(problem)), shape)
    assert compared.agrees, compared.summary
    assert max(compared.errors.values()) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_no_sample_is_at_a_pixel_centre(form):
    inputs = make_inputs(replace(SHAPES["sparse10"], queries=50), torch.bfloat16)
    arguments = inputs.differentiable("plain")
    sizes = torch.tensor([(w, h) for h, w in inputs.spatial_shapes])[:, None]
    pixels = arguments["sampling_locations"].double() * sizes - 0.5
    assert float((pixels - pixels.round()).abs().min()) > 0.9e-3


@pytest.fixture
def exact():
    return exact_results("fused", small_inputs(torch.float32, "cpu")["one-pixel map"])


def wrong(change):
    """The reference with an error of the kind ``change``."""

    def attention(form, arguments, shapes, index):
        arguments = dict(arguments)
        output = attend(form, arguments, shapes, index, "reference")
        if change == "output":
            output = output * 1.001
        elif change == "gradient":
            output = output + 0 * arguments["sampling_offsets"].sum() + 1e-3 * (arguments["value"] * 1e-3).sum()
        elif change == "shape":
            output = output[:, :-1]
        elif change == "NaN":
            output = output * float("nan")
        return output

    return attention


@pytest.mark.parametrize("change", ["output", "gradient", "shape", "NaN"])
def test_a_wrong_result_is_detected(exact, change):
    compared = compare("cpu", exact, "one-pixel map", wrong(change))
    assert not compared.agrees
    assert "limit" in compared.summary or compared.message


def test_the_worst_tensor_is_named(exact):
    compared = compare("cpu", exact, "one-pixel map", wrong("NaN"))
    assert "relative error of nan" in compared.summary


def test_an_exception_in_a_backend_is_reported(monkeypatch):
    def broken(*arguments, backend):
        if backend == "cpu":
            raise RuntimeError("launch failed: out of registers\nand much more")
        return attend(*arguments, backend)

    monkeypatch.setattr(check, "attend", broken)
    compared = check_backend("cpu")
    assert {one.summary for one in compared} == {"launch failed: out of registers"}
    assert not any(one.agrees for one in compared)


def test_an_unknown_backend_is_rejected():
    with pytest.raises(ValueError, match=r"backend='tpu' is unknown: use one of \('auto', 'reference', 'cpu'"):
        check_backend("tpu")
