"""Inference on a CPU with packed convolutions: weights in the layout of oneDNN, and the activation in the same call.

Small networks are bound by the cost of each call. Here a convolution, its folded norm and its activation are one call,
whose weights are not reordered each time. PyTorch offers this only through the operators that ``torch.compile`` uses.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode


class FoldedPair(NamedTuple):
    """A convolution and the frozen norm that is folded into it."""

    name: str
    """Name of the convolution within the network."""
    convolution: Any
    activation_name: str
    """Name of the module that replaces the norm."""
    norm: Any

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Tensors that the folded weight and bias are computed from."""
        convolution, norm = self.convolution, self.norm
        return convolution.weight, convolution.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var


class Fused(NamedTuple):
    """How oneDNN names an activation."""

    name: str
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


FUSED_ACTIVATIONS: Mapping[type[nn.Module], Fused] = {
    nn.Identity: Fused("none"),
    nn.ReLU: Fused("relu"),
    nn.ReLU6: Fused("hardtanh", (0.0, 6.0)),
    nn.Hardswish: Fused("hardswish"),
    nn.SiLU: Fused("swish"),
}
"""Activations that are computed together with the convolution before them; others stay calls of their own."""


def can_pack(images: Tensor) -> bool:
    """Whether the network may run packed for these images: fp32 on a CPU with oneDNN, without gradient.

    Not while PyTorch traces or compiles the network, which packs by itself, not while its operators are observed, for
    example counted, and not under autocast.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or _get_current_dispatch_mode() is not None:
        return False
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    mkldnn = torch.backends.mkldnn
    on_cpu = images.device.type == "cpu" and images.dtype is torch.float32
    return on_cpu and mkldnn.is_available() and bool(mkldnn.enabled)


def packed_copy(body: nn.Module, pairs: Iterable[FoldedPair], folded: Mapping[str, Tensor]) -> nn.Module:
    """Copy a network with its folded convolutions packed.

    Args:
        body: network whose norms have been replaced by their activations.
        pairs: its convolutions and norms.
        folded: folded weights and biases by name.
    """
    packed = copy.deepcopy(body)
    for pair in pairs:
        convolution = pair.convolution
        if not _is_plain(convolution):
            own: Any = packed.get_submodule(pair.name)
            own.weight.data.copy_(folded[f"{pair.name}.weight"])
            own.bias.data.copy_(folded[f"{pair.name}.bias"])
            continue
        activation: Any = packed.get_submodule(pair.activation_name)
        fused = FUSED_ACTIVATIONS.get(type(activation.act))
        if fused is not None and isinstance(activation.drop, nn.Identity):
            activation.act = nn.Identity()
        else:
            fused = FUSED_ACTIVATIONS[nn.Identity]
        weight, bias = folded[f"{pair.name}.weight"], folded[f"{pair.name}.bias"]
        packed.set_submodule(pair.name, PackedConvolution(convolution, weight, bias, fused))
    return packed.eval()


def _is_plain(convolution: nn.Conv2d) -> bool:
    """Whether a convolution can be packed; another class may compute its output in another way."""
    if type(convolution) is Conv2dSame:
        return convolution.dilation == (1, 1)
    return type(convolution) is nn.Conv2d and convolution.padding_mode == "zeros" and convolution.padding != "same"


class PackedConvolution(nn.Module):
    """A convolution with bias and activation as one call of oneDNN; for inference in fp32 on a CPU."""

    def __init__(self, convolution: nn.Conv2d, weight: Tensor, bias: Tensor, activation: Fused) -> None:
        super().__init__()
        self.stride, self.dilation, self.groups = convolution.stride, convolution.dilation, convolution.groups
        self.padding = None if type(convolution) is Conv2dSame else convolution.padding
        self.activation = activation
        self.weight, self.bias = weight.detach(), bias.detach()
        self._packed: dict[tuple[int, ...], Tensor] = {}  # by the rows and columns of zeros before the kernel

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution and activation: (B, C, H, W) -> (B, C', H', W')."""
        zeros, padding = ((0, 0), self.padding) if self.padding is not None else self._same_padding(x)
        arguments = padding, self.stride, self.dilation, self.groups
        if zeros not in self._packed:
            rows, columns = zeros
            weight = functional.pad(self.weight, (columns, 0, rows, 0)).contiguous(memory_format=torch.channels_last)
            # The layout is chosen for the size of the first images and is correct for all others.
            self._packed[zeros] = torch.ops.mkldnn._reorder_convolution_weight(weight, *arguments, list(x.shape))
        name, scalars, algorithm = self.activation
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._packed[zeros], self.bias, *arguments, name, list(scalars), algorithm
        )

    def _same_padding(self, x: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Padding as in TensorFlow, which may have one row or column more at the end than at the beginning.

        oneDNN pads both sides equally, so the beginning gets the additional row or column, too, and the kernel a zero
        there. This saves the copy of the map that padding it first would make.

        Returns:
            Rows and columns of zeros before the kernel, and the padding on either side.
        """
        sides = zip(x.shape[2:], self.weight.shape[2:], self.stride, strict=True)
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side, kernel, stride in sides]
        rows, columns = (t % 2 for t in total)
        return (rows, columns), ((total[0] + rows) // 2, (total[1] + columns) // 2)
