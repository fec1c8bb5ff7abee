"""The choice of a launch, a function of the sizes and the GPU's properties alone."""

from __future__ import annotations

import itertools

import pytest
from machine_code import HOPPER, sizes_of

from rhobench.ops.cuda.launch import (
    STATIC_SHARED_BYTES,
    GpuSpec,
    Sizes,
    backward_launch,
    finish_launch,
    forward_launch,
)

LAPTOP = GpuSpec(capability=(8, 9), multiprocessors=24)


def sizes(width=32, levels=4, points=4, queries=300, kinds=(0, 0, 0), images=1, heads=8):
    shapes = tuple((2**i, 2**i + 1) for i in reversed(range(levels)))
    named = {"images": images, "shapes": shapes, "heads": heads, "width": width, "queries": queries, "points": points}
    return Sizes(**named, kinds=kinds, fused=True)


def test_tiles_are_large_unless_multiprocessors_would_be_idle():
    dense, decoder = (forward_launch(sizes_of(name, 0, fused=True), HOPPER) for name in ("dense_b4", "decoder_b4"))
    assert (dense.tile, dense.spatial) == (64, True)
    assert (decoder.tile, decoder.spatial) == (16, False)
    assert decoder.blocks >= 4 * HOPPER.multiprocessors
    on_laptop = forward_launch(sizes_of("decoder_b4", 0, fused=True), LAPTOP)
    assert on_laptop.tile == 64  # the largest that keeps 24 multiprocessors busy


@pytest.mark.parametrize("gpu_spec", [HOPPER, LAPTOP])
def test_every_launch_fits_the_gpu(gpu_spec):
    for width, levels, points, queries, kind in itertools.product(
        (1, 7, 32, 40, 256), (1, 4), (1, 4, 8, 100), (1, 300, 20_000), (0, 1)
    ):
        problem = sizes(width, levels, points, queries, (kind,) * 3)
        for launch, bytes_each in (
            (forward_launch(problem, gpu_spec), 32),
            (backward_launch(problem, gpu_spec, deterministic=False), 48),
            (backward_launch(problem, gpu_spec, deterministic=True), 48),
        ):
            assert launch.threads % 32 == 0
            assert launch.threads <= 256
            assert launch.threads <= launch.tile * problem.lanes(launch.tile)
            assert bytes_each * problem.samples * (launch.tile + 1) <= STATIC_SHARED_BYTES
            assert launch.shared_bytes <= 32 * 1024
            assert launch.blocks * launch.tile * launch.tiles_each >= problem.images * problem.heads * queries


def test_tiles_of_a_map_cover_each_pixel_once():
    problem = sizes_of("dense_b4", 0, fused=True)
    launch = forward_launch(problem, HOPPER)
    for (first_pixel, height, width, first_tile, across, _), after in itertools.zip_longest(
        launch.levels, launch.levels[1:], fillvalue=(problem.pixels, 0, 0, launch.tiles, 0, 0)
    ):
        assert first_pixel + height * width == after[0]
        assert across * 8 >= width
        assert (after[3] - first_tile) * launch.tile >= height * width
        assert after[3] - first_tile == across * -(-height // 8)


def test_only_contended_levels_are_summed_in_shared_memory():
    dense, sparse, decoder = (
        backward_launch(sizes_of(f"{name}_b4", 0, fused=True), HOPPER, deterministic=False)
        for name in ("dense", "sparse10", "decoder")
    )
    assert dict(dense.variant.defines)["COARSE"] == 1
    assert dense.shared_bytes == 4 * 13 * 17 * 32
    assert dense.tiles_each == 8
    for launch in (sparse, decoder):  # too few blocks for several tiles in each
        assert dict(launch.variant.defines)["COARSE"] == launch.shared_bytes == 0


def test_integer_sums_do_not_overflow():
    problem = sizes_of("dense_b4", 0, fused=True)
    launch = backward_launch(problem, HOPPER, deterministic=True)
    assert 2**launch.headroom >= problem.queries * problem.samples > 2 ** (launch.headroom - 1)
    assert dict(launch.variant.defines)["COARSE"] == 0
    finish = finish_launch(launch)
    assert finish.blocks * finish.threads >= 4 * 17821 * 8 * 32
    assert finish.shared_bytes == 0


def test_an_empty_problem_has_no_blocks():
    assert forward_launch(sizes(queries=0), HOPPER).blocks == 0
    assert forward_launch(sizes(images=0), HOPPER).blocks == 0


def test_too_many_samples_are_rejected():
    with pytest.raises(ValueError, match=r"takes at most 768 samples .* but got 4 levels of 200 points: use fewer"):
        forward_launch(sizes(points=200), HOPPER)


def test_the_variant_does_not_depend_on_the_batch():
    """Kernels are cached by variant, so it must not contain anything that changes from call to call."""
    one, other = sizes_of("dense", 0, fused=True), sizes_of("dense_b4", 0, fused=True)
    assert forward_launch(one, HOPPER).variant == forward_launch(other, HOPPER).variant
