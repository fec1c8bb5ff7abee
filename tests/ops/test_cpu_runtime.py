"""The CPU backend in a program: opcheck, torch.compile, threads, forks and several processes."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rhobench.ops import deformable_attention, fused_deformable_attention
from rhobench.ops.cpu import launch
from rhobench.ops.torch_op import flat_sizes


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


@pytest.mark.parametrize("form", ["plain", "points", "boxes"])
def test_opcheck(make_problem, make_fused_problem, form):
    references = index = None
    if form == "plain":
        value, shapes, points, weights = make_problem()
    else:
        value, shapes, references, points, weights = make_fused_problem(boxes=form == "boxes")
        references, index = references.requires_grad_(), torch.arange(9).flip(0).expand(2, -1)
    leaves = [tensor.requires_grad_() for tensor in (value, points, weights)]
    arguments = leaves[0], flat_sizes(shapes), *leaves[1:], references, index
    verdicts = torch.library.opcheck(torch.ops.rhobench.deformable_attention.cpu, arguments)
    assert set(verdicts.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_without_a_graph_break(make_fused_problem, backend):
    value, shapes, *inputs = make_fused_problem()
    leaves = [tensor.requires_grad_() for tensor in (value, *inputs)]

    def layer(value, *inputs):
        return fused_deformable_attention(value.relu(), shapes, *inputs).tanh()

    results = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend=backend)):
        output = function(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    torch.testing.assert_close(*results)


def test_results_are_bitwise_reproducible(problem):
    expected = gradients(problem)
    for _ in range(10):
        assert_identical(gradients(problem), expected)


@pytest.mark.parametrize("openmp", [True, False])
def test_two_threads_give_bitwise_the_same_results(problem, openmp, monkeypatch):
    if not openmp:  # as if PyTorch was built without OpenMP
        monkeypatch.setattr(launch, "_openmp", lambda: None)
    expected = gradients(problem)
    torch.set_num_threads(2)
    assert_identical(gradients(problem), expected)
    assert torch.get_num_threads() == 2


def test_a_kernel_uses_the_number_of_threads_of_pytorch():
    callers = []
    started = threading.Barrier(2)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def kernel(_job):
        callers.append(threading.get_native_id())
        started.wait(timeout=20)  # both are in the kernel at the same time

    torch.set_num_threads(2)
    assert launch.threads(tasks=1) == 1
    launch.run(ctypes.cast(kernel, ctypes.c_void_p).value, 0, launch.threads(tasks=8))
    assert len(set(callers)) == 2


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
    """Results of the program above in a new interpreter, after this process has compiled the kernels."""
    value = torch.zeros(1, 4, 1, 24, requires_grad=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    output = deformable_attention(value, [(2, 2)], torch.zeros(1, 1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1, 1))
    output.sum().backward()
    torch.set_num_threads(threads)
    return finish(start(PROGRAM))


def start(program, **environment):
    """Start ``program`` in a new interpreter."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment
    return subprocess.Popen([sys.executable, "-c", program], env=env, stdout=-1, stderr=-1, text=True)


def finish(process):
    """Wait for the process and return the JSON that it printed."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return json.loads(output)


def test_import_is_lightweight(second_process):
    assert second_process["heavy"] == []


def test_a_second_process_compiles_nothing(second_process):
    assert second_process["hits"] == [1, 1]


def test_a_forked_child_can_launch(second_process):
    assert second_process["child"] == 0


def test_two_processes_may_compile_at_once(tmp_path):
    both = [start(PROGRAM, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert [finish(process)["child"] for process in both] == [0, 0]
    assert finish(start(PROGRAM, NUMBA_CACHE_DIR=str(tmp_path)))["hits"] == [1, 1]


def test_without_a_writable_cache_folder_it_still_works(tmp_path):
    assert finish(start(PROGRAM, XDG_CACHE_HOME="/proc/none", TMPDIR=str(tmp_path)))["child"] == 0


LOADER = """
import json
import torch
from rhobench.ops import deformable_attention

def attend(seed):
    torch.manual_seed(seed)
    locations, weights = torch.rand(1, 3, 1, 1, 1, 2), torch.ones(1, 3, 1, 1, 1)
    return deformable_attention(torch.rand(1, 4, 1, 24), [(2, 2)], locations, weights)

torch.set_num_threads(2)
expected = torch.cat([attend(seed) for seed in range(8)])  # the kernels have run before the workers fork
loader = torch.utils.data.DataLoader(
    range(8), 4, num_workers=2, collate_fn=lambda s: torch.cat([attend(i) for i in s]), multiprocessing_context="fork"
)
print(json.dumps(torch.equal(torch.cat(list(loader)), expected)))
"""


def test_it_works_in_forked_data_loader_workers():
    assert finish(start(LOADER)) is True
