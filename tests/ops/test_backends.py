"""The registry of backends: a sub-package of ``rhobench.ops`` is a backend, without an edit of any other file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rhobench import ops
from rhobench.ops import available_backends, backends, deformable_attention, resolve_backend
from rhobench.ops.backends import BACKENDS
from rhobench.ops.check import DTYPES, check_backend
from rhobench.ops.torch_op import flat_sizes

DOUBLE = '''
"""A backend in one file: the reference in float64, on CPU tensors."""

import torch

from rhobench.ops import reference
from rhobench.ops.backends import Backend

calls = []


def attend(value, sizes, points, weights, reference_points, query_index):
    shapes = list(zip(sizes[::2], sizes[1::2]))
    if reference_points is None:
        return reference.deformable_attention(value, shapes, points, weights)
    return reference.fused_deformable_attention(value, shapes, reference_points, points, weights, query_index)


def forward(value, sizes, *tensors):
    calls.append("forward")
    return attend(value.double(), sizes, *tensors).to(value.dtype).contiguous()


def backward(grad_output, value, sizes, points, weights, reference_points, query_index, needs_reference):
    calls.append("backward")
    if reference_points is not None and query_index is not None:  # a row for each query
        rows = query_index[:, :, None, None].expand(-1, -1, *reference_points.shape[2:])
        reference_points = reference_points.gather(1, rows)
    tensors = [value, points, weights] + ([] if reference_points is None else [reference_points])
    leaves = [tensor.detach().double().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        output = attend(leaves[0], sizes, *leaves[1:3], leaves[3] if len(leaves) == 4 else None, None)
    gradients = torch.autograd.grad(output, leaves, grad_output.double())
    first_three = [gradient.to(tensor.dtype).contiguous() for gradient, tensor in zip(gradients, tensors)][:3]
    grad_reference = gradients[3].float().contiguous() if needs_reference else value.new_empty(0, dtype=torch.float32)
    return *first_three, grad_reference


BACKEND = Backend(name="double", device_type="cpu", forward=forward, backward=backward)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder in which ``rhobench.ops`` looks for sub-packages; what is found there is removed afterwards."""
    before = dict(BACKENDS), set(backends._imported), set(sys.modules)
    monkeypatch.setattr(ops, "__path__", [*ops.__path__, str(tmp_path)])
    yield tmp_path
    BACKENDS.clear()
    BACKENDS.update(before[0])
    backends._imported.intersection_update(before[1])
    for name in set(sys.modules) - before[2]:
        if name.startswith("rhobench.ops."):
            del sys.modules[name]


def add(package: Path, name: str, source: str) -> None:
    (package / name).mkdir()
    (package / name / "__init__.py").write_text(source)


def test_a_backend_is_one_file(package, make_fused_problem):
    add(package, "double", DOUBLE)
    assert available_backends() == ("reference", "cpu", "double")
    assert resolve_backend("cpu") == "cpu"  # "auto" does not change when a backend is added
    assert resolve_backend("cpu", "double") == "double"
    with pytest.raises(ValueError, match=r"backend='double' needs tensors on 'cpu', but they are on 'cuda'"):
        resolve_backend("cuda", "double")

    for dtype in DTYPES.values():
        compared = check_backend("double", dtype=dtype)
        assert [one.summary for one in compared if not one.agrees] == []

    calls = sys.modules["rhobench.ops.double"].calls
    calls.clear()
    value, shapes, references, *others = make_fused_problem()
    leaves = [tensor.requires_grad_() for tensor in (value, references, *others)]
    output, expected = (
        ops.fused_deformable_attention(leaves[0], shapes, *leaves[1:], backend=name) for name in ("double", "cpu")
    )
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert calls == ["forward", "backward"]


def test_an_added_operator_fulfils_pytorchs_contract(package, make_fused_problem):
    add(package, "contract", DOUBLE.replace('name="double"', 'name="contract"'))
    resolve_backend("cpu", "contract")
    value, shapes, references, *others = make_fused_problem()
    arguments = value.requires_grad_(), flat_sizes(shapes), *others, references.requires_grad_(), None
    assert set(torch.library.opcheck(torch.ops.rhobench.deformable_attention.contract, arguments).values()) == {
        "SUCCESS"
    }


def test_a_new_backend_is_found_by_its_name(package, make_problem):
    add(package, "twice", DOUBLE.replace('name="double"', 'name="twice"'))
    problem = make_problem()
    torch.testing.assert_close(deformable_attention(*problem, backend="twice"), deformable_attention(*problem))


def test_a_backend_that_cannot_run_is_known_but_not_available(package):
    source = DOUBLE.replace('name="double"', 'name="absent", unavailable_reason=lambda: "there is no such device"')
    add(package, "absent", source)
    assert "absent" not in available_backends()
    assert BACKENDS["absent"].unavailable_reason() == "there is no such device"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("", ImportError, r"rhobench\.ops\.wrong is no backend: it must define BACKEND"),
        (DOUBLE.replace('name="double"', 'name="cpu"'), ValueError, "defines backend 'cpu', but that name is taken"),
        (DOUBLE.replace('name="double"', 'name="auto"'), ValueError, "but that name is taken"),
    ],
)
def test_a_sub_package_that_is_no_backend_is_named(package, source, error, message):
    add(package, "wrong", source)
    with pytest.raises(error, match=message):
        available_backends()


def test_backends_are_found_where_only_this_folder_is_on_the_path():
    root = Path(ops.__file__).parents[2]
    code = (
        "import sys; from rhobench.ops.backends import BACKENDS; print(*BACKENDS, "
        "*{'numba', 'cupy', 'llvmlite', 'cuda.bindings.nvrtc'} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd="/", capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["cpu", "cuda"]
