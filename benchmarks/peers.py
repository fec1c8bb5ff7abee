"""Third-party kernels of deformable attention to compare with, built from clones that are not in this repository.

A peer is a folder with a clone: the official kernels from github.com/fundamentalvision/Deformable-DETR (the Sparse DETR
repository has the same ones), the Triton kernels from github.com/rziga/msda-triton, or deformops from
github.com/tue-p8n/deformops, which also runs on a CPU; it needs Python 3.12 and may be an unpacked wheel.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rhobench.ops.check import Attention
from rhobench.ops.reference import sampling_points
from rhobench.ops.shapes import Form

Plain = Callable[[Tensor, list[tuple[int, int]], Tensor, Tensor], Tensor]
"""(value (N, S, H, D), spatial shapes, locations, weights) -> (N, Q, H * D), differentiable."""

OFFICIAL_HEADER = "models/ops/src/cuda/ms_deform_im2col_cuda.cuh"
TRITON_PACKAGE = "src/msda_triton"
DEFORMOPS_MODULE = "deformops/registry/msda.py"
"""Paths by which the clones are recognised."""

# The official binding does not compile with current versions of PyTorch. The kernels do, if a header that PyTorch has
# moved is provided at its old path.
_BINDING = r"""
#include <torch/extension.h>
#include <ATen/cuda/CUDAContext.h>
#include "ms_deform_im2col_cuda.cuh"

void forward(at::Tensor value, at::Tensor shapes, at::Tensor starts, at::Tensor locations, at::Tensor weights,
             at::Tensor output) {
    ms_deformable_im2col_cuda(at::cuda::getCurrentCUDAStream(), value.data_ptr<float>(), shapes.data_ptr<int64_t>(),
        starts.data_ptr<int64_t>(), locations.data_ptr<float>(), weights.data_ptr<float>(), value.size(0),
        value.size(1), value.size(2), value.size(3), shapes.size(0), locations.size(1), locations.size(4),
        output.data_ptr<float>());
}

void backward(at::Tensor grad, at::Tensor value, at::Tensor shapes, at::Tensor starts, at::Tensor locations,
              at::Tensor weights, at::Tensor grad_value, at::Tensor grad_locations, at::Tensor grad_weights) {
    ms_deformable_col2im_cuda(at::cuda::getCurrentCUDAStream(), grad.data_ptr<float>(), value.data_ptr<float>(),
        shapes.data_ptr<int64_t>(), starts.data_ptr<int64_t>(), locations.data_ptr<float>(), weights.data_ptr<float>(),
        value.size(0), value.size(1), value.size(2), value.size(3), shapes.size(0), locations.size(1),
        locations.size(4), grad_value.data_ptr<float>(), grad_locations.data_ptr<float>(),
        grad_weights.data_ptr<float>());
}
"""
_DECLARATIONS = """
using T = at::Tensor;
void forward(T, T, T, T, T, T);
void backward(T, T, T, T, T, T, T, T, T);
"""


def find_peers(folders: list[Path]) -> tuple[dict[str, Attention], dict[str, str]]:
    """Build the kernels in the folders.

    Returns:
        The operators by name, and for each folder whose kernels cannot be used the reason.
    """
    found: dict[str, Attention] = {}
    failed: dict[str, str] = {}
    for folder in folders:
        try:
            if (folder / OFFICIAL_HEADER).is_file():
                found["official"] = _with_both_forms(official(folder))
            elif (folder / TRITON_PACKAGE).is_dir():
                found["msda-triton"] = _with_both_forms(msda_triton(folder))
            elif deformops_root(folder) is not None:
                found["deformops"] = _with_both_forms(deformops(folder))
            else:
                paths = OFFICIAL_HEADER, TRITON_PACKAGE, DEFORMOPS_MODULE
                failed[str(folder)] = f"it contains none of {', '.join(paths)}"
        except Exception as error:  # third-party code may raise anything
            failed[str(folder)] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
    return found, failed


def official(folder: Path) -> Plain:
    """Compile the kernels of Deformable DETR with nvcc for the GPU of this machine."""
    extension = build_official(folder)

    class Operator(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, shapes: Tensor, starts: Tensor, *points: Tensor) -> Tensor:
            ctx.save_for_backward(value, shapes, starts, *points)
            # Zeros, as in the official binding: clearing the output is part of its time.
            output = value.new_zeros(len(value), points[0].shape[1], value.shape[2] * value.shape[3])
            extension.forward(value, shapes, starts, *points, output)
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            value, shapes, starts, *points = ctx.saved_tensors
            grads = [torch.zeros_like(tensor) for tensor in (value, *points)]
            extension.backward(grad.contiguous(), value, shapes, starts, *points, *grads)
            return grads[0], None, None, *grads[1:]

    known: dict[tuple[tuple[int, int], ...], tuple[Tensor, Tensor]] = {}

    def attend(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        if tuple(shapes) not in known:  # copied to the device only once: the copy cannot be captured in a CUDA graph
            sizes = torch.tensor(shapes, device=value.device)
            areas = sizes.prod(1)
            known[tuple(shapes)] = sizes, areas.cumsum(0) - areas
        return Operator.apply(value, *known[tuple(shapes)], locations.contiguous(), weights.contiguous())

    return attend


def build_official(folder: Path) -> Any:
    """Compile the official header with the binding above, which needs nvcc and a C++ compiler."""
    from torch.utils.cpp_extension import load_inline

    build_folder = Path(tempfile.mkdtemp())
    (build_folder / "THC").mkdir()
    (build_folder / "THC" / "THCAtomics.cuh").write_text("#include <ATen/cuda/Atomic.cuh>\n")
    headers = [(folder / OFFICIAL_HEADER).parent, build_folder]
    for cuda in _cuda_of_pytorch():  # nvcc may be installed without headers and libraries
        headers.append(cuda / "include")
        for library in (cuda / "lib").glob("libcudart.so.*"):
            (build_folder / "libcudart.so").symlink_to(library)
    return load_inline(
        "official_deformable_attention",
        cpp_sources=_DECLARATIONS,
        cuda_sources=_BINDING,
        functions=["forward", "backward"],
        extra_include_paths=[str(header) for header in headers],
        extra_cuda_cflags=["-O3"],
        extra_ldflags=[f"-L{build_folder}"],
        with_cuda=True,
    )


def _cuda_of_pytorch() -> list[Path]:
    """Folders of the CUDA headers and libraries that were installed with PyTorch."""
    packages = importlib.util.find_spec("nvidia")
    places = packages.submodule_search_locations if packages else None
    return [folder for place in places or [] for folder in Path(place).glob("cu[0-9]*")]


def msda_triton(folder: Path) -> Plain:
    """Import the Triton kernels of rziga/msda-triton."""
    sys.path.insert(0, str(folder / "src"))
    operator = importlib.import_module("msda_triton.frontend").triton_multiscale_deformable_attention
    known: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def attend(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        sizes = known.setdefault(tuple(shapes), torch.tensor(shapes, device=value.device))
        return operator(value, sizes, locations, weights, "zeros", False).flatten(2)

    return attend


def deformops_root(folder: Path) -> Path | None:
    """The folder to import deformops from: of a clone or of an unpacked wheel."""
    return next((root for root in (folder, folder / "src") if (root / DEFORMOPS_MODULE).is_file()), None)


def deformops(folder: Path) -> Plain:
    """Import deformops: Triton kernels on a GPU, plain PyTorch on a CPU, as it chooses by itself."""
    sys.path.insert(0, str(deformops_root(folder)))
    operator = importlib.import_module("deformops.registry").msda
    known: dict[tuple[tuple[int, int], ...], tuple[Tensor, Tensor]] = {}

    def attend(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
        if tuple(shapes) not in known:
            sizes = torch.tensor(shapes, device=value.device)
            known[tuple(shapes)] = sizes, sizes.prod(1).cumsum(0) - sizes.prod(1)
        # It wants weights in the dtype of the value
        return operator(value, *known[tuple(shapes)], locations, weights.to(value.dtype))

    return attend


def _with_both_forms(plain: Plain) -> Attention:
    """Add the fused form to a plain operator, with softmax and sampling locations computed by PyTorch."""

    def attend(form: Form, arguments: dict[str, Tensor], shapes: list[tuple[int, int]], index: Tensor | None) -> Tensor:
        value, *others = arguments.values()
        if form == "fused":
            others = list(sampling_points(shapes, *others, query_index=index))
        return plain(value, shapes, *others)

    return attend
