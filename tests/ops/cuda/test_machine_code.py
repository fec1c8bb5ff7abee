"""Registers, spills and instructions of the kernels for each GPU generation; no GPU is needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import machine_code
import pytest

from rhobench.ops.cuda.launch import Sizes, backward_launch, forward_launch

MOST_REGISTERS = {"forward": 112, "backward": 104, "finish": 32}
"""Limit for each thread. Two blocks of 256 threads with 112 registers fit on a multiprocessor of every generation."""
MOST_INSTRUCTIONS = {
    # By kernel and storage: instructions of a warp for each query and head. The official kernels need 1,530 and 4,400.
    ("forward", 0): 310,
    ("forward", 1): 330,
    ("forward", 2): 330,
    ("backward", 0): 730,
    ("backward", 1): 600,
    ("backward", 2): 600,
}


def name_of(capability):
    return "sm_{}{}".format(*capability)


def compiled(launches, capability):
    with ThreadPoolExecutor() as pool:  # NVRTC releases the GIL
        return zip(launches, pool.map(partial(machine_code.resources, capability=capability), launches), strict=True)


@pytest.mark.parametrize("capability", machine_code.TARGETS, ids=name_of)
def test_common_variants_do_not_spill(capability):
    launches = {launch.variant: launch for launch in machine_code.common_launches()}.values()
    assert len(launches) > 50
    for launch, used in compiled(launches, capability):
        assert used.spilled_bytes == 0, launch.variant
        assert used.registers <= MOST_REGISTERS[launch.variant.kernel], launch.variant


@pytest.mark.parametrize("capability", machine_code.TARGETS, ids=name_of)
def test_other_sizes_compile(capability):
    shapes = ((40, 30), (20, 15), (10, 8), (5, 4), (3, 2))
    launches = []
    for kinds, width, levels, points in [
        ((0, 0, 0), 7, 2, 3),
        ((1, 0, 2), 24, 5, 8),
        ((2, 2, 2), 136, 1, 4),
        ((0, 1, 1), 256, 3, 1),
    ]:
        sizes = Sizes(
            images=2,
            shapes=shapes[:levels],
            heads=3,
            width=width,
            queries=333,
            points=points,
            kinds=kinds,
            fused=kinds[1] == kinds[2],
        )
        launches.append(forward_launch(sizes, machine_code.HOPPER))
        launches += [backward_launch(sizes, machine_code.HOPPER, deterministic=value) for value in (False, True)]
    assert all(used.registers <= 255 for _, used in compiled(launches, capability))


@pytest.mark.skipif(machine_code.disassembler() is None, reason="nvdisasm is missing: it comes with Triton or CUDA")
@pytest.mark.parametrize(("kernel", "kind"), MOST_INSTRUCTIONS)
def test_number_of_instructions(kernel, kind):
    if kernel == "forward":
        launch = forward_launch(machine_code.sizes_of("dense_b4", kind, fused=True), machine_code.HOPPER)
    else:
        sizes = machine_code.sizes_of("sparse10_b4", kind, fused=True)
        launch = backward_launch(sizes, machine_code.HOPPER, deterministic=False)
    assert 100 < machine_code.instructions(launch) <= MOST_INSTRUCTIONS[kernel, kind]
