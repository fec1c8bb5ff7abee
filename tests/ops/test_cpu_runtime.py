"""How the CPU backend behaves in a program: with torch.compile, threads, forks and other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
import torch

from rhobench.ops import cpu, deformable_attention


@pytest.fixture
def problem(make_problem):
    value, shapes, locations, weights = make_problem([(9, 8), (4, 4)], queries=150, heads=3)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)], shapes


def gradients(problem, attention=deformable_attention):
    (value, locations, weights), shapes = problem
    output = attention(value, shapes, locations, weights)
    return [output, *torch.autograd.grad(output.square().sum(), (value, locations, weights))]


def assert_identical(results, expected):
    assert all(torch.equal(one, other) for one, other in zip(results, expected, strict=True))


def test_operator_fulfils_pytorchs_contract(make_problem):
    value, shapes, locations, weights = make_problem()
    sizes = [size for shape in shapes for size in shape]
    arguments = value.requires_grad_(), sizes, locations.requires_grad_(), weights.requires_grad_()
    verdicts = torch.library.opcheck(torch.ops.rhobench.deformable_attention.default, arguments)
    assert set(verdicts.values()) == {"SUCCESS"}


def test_compiles_without_a_graph_break(problem):
    compiled = torch.compile(deformable_attention, fullgraph=True, backend="aot_eager")
    assert_identical(gradients(problem, compiled), gradients(problem))


def test_repeats_bit_for_bit(problem):
    expected = gradients(problem)
    for _ in range(10):
        assert_identical(gradients(problem), expected)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one CPU core")
def test_two_threads_give_the_bits_of_one(problem):
    expected = gradients(problem)
    torch.set_num_threads(2)
    assert_identical(gradients(problem), expected)
    assert numba.get_num_threads() == 2
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_launches_from_two_python_threads(problem, threads):
    torch.set_num_threads(threads)
    expected = gradients(problem)
    with ThreadPoolExecutor(2) as pool:
        for results in pool.map(lambda _: gradients(problem), range(40)):
            assert_identical(results, expected)


PROGRAM = """
import json, os, sys
import torch
from rhobench.ops import deformable_attention

heavy = [name for name in ("numba", "ray", "timm") if name in sys.modules]
torch.set_num_threads(2)
shapes = (1, 4, 1, 24), (1, 1, 1, 1, 1, 2), (1, 1, 1, 1, 1)
value, locations, weights = (torch.full(shape, 0.5, requires_grad=True) for shape in shapes)

def attend():
    output = deformable_attention(value, [(2, 2)], locations, weights)
    output.sum().backward()
    return output.sum().item()

attend()
child = os.fork()
if child == 0:
    os._exit(0 if attend() == 24 * 0.5 * 0.5 else 1)
exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

from rhobench.ops.cpu import kernels
made = [make(24, 1, 0, 0, 0, False) for make in (kernels.forward_kernel, kernels.backward_kernel)]
print(json.dumps({"heavy": heavy, "child": exit_code, "hits": [kernel.cache_hits for kernel in made]}))
"""


@pytest.fixture(scope="module")
def second_process():
    """What the program above sees in a fresh interpreter, after this process has compiled the kernels."""
    value = torch.zeros(1, 4, 1, 24, requires_grad=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    output = deformable_attention(value, [(2, 2)], torch.zeros(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))
    output.sum().backward()
    torch.set_num_threads(threads)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_is_light(second_process):
    assert second_process["heavy"] == []


def test_a_second_process_compiles_nothing(second_process):
    assert second_process["hits"] == [1, 1]


def test_a_forked_child_can_launch(second_process):
    assert second_process["child"] == 0


def test_cache_folder_is_the_users_or_private(tmp_path, monkeypatch):
    def cache_dir():
        return cpu.cache_dir.__wrapped__()

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_dir().parent == tmp_path / "home" / "rhobench" / "numba"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    shared = cache_dir()
    assert shared.is_relative_to(tmp_path)
    assert shared.parents[1].stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: -1)  # the folder in the shared place belongs to somebody else
    foreign = tmp_path / "rhobench--1" / "numba"
    foreign.mkdir(parents=True)
    assert not cache_dir().is_relative_to(foreign)
