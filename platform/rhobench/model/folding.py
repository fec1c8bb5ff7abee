"""Frozen batch norm as a part of the convolution that it follows: the map is written once instead of three times.

A frozen norm is y = x * scale + shift for each channel. Scaling the weights of the convolution is the same up to
rounding, and gradients flow through the scaling, so that training gains too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import FrozenBatchNorm2d


class FoldedBody:
    """A network whose frozen norms are computed by the convolutions before them. Parameters keep their names."""

    def __init__(self, body: nn.Module) -> None:
        """Fold what can be folded in ``body``, a network of timm, which from now on is called through this object."""
        self._body = body
        self._pairs: list[_Pair] = []
        self._kept: tuple[object, dict[str, Tensor]] | None = None
        names = {module: name for name, module in body.named_modules()}
        for convolution, norm in _convolutions_with_norms(body):
            if convolution.bias is None:  # a place for the shift, which is not saved
                del convolution.bias
                convolution.register_buffer("bias", torch.zeros_like(norm.bias), persistent=False)
            activation = _Activation(norm)
            body.set_submodule(names[norm], activation)
            self._pairs.append(_Pair(names[convolution], convolution, activation))

    def __call__(self, images: Tensor) -> Any:
        """What ``body`` gives for (B, 3, H, W) images."""
        return functional_call(self._body, self._weights(), (images,)) if self._pairs else self._body(images)

    def __getstate__(self) -> dict[str, Any]:
        """A copy folds for itself."""
        return self.__dict__ | {"_kept": None}

    def _weights(self) -> dict[str, Tensor]:
        """Weights and biases of the convolutions. Without gradient they are kept until one of their sources changes."""
        sources = [t for pair in self._pairs for t in pair.sources]
        if torch.is_grad_enabled() or any(t.is_inference() for t in sources):
            self._kept = None  # a fused optimiser changes its parameters without raising their version
            return self._fold()
        key = [(t.data_ptr(), t._version, t.dtype) for t in sources]
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._fold()
        return self._kept[1]

    def _fold(self) -> dict[str, Tensor]:
        folded: dict[str, Tensor] = {}
        for name, convolution, norm in self._pairs:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            folded[f"{name}.weight"] = convolution.weight * scale[:, None, None, None]
            folded[f"{name}.bias"] = norm.bias + (convolution.bias - norm.running_mean) * scale
        return folded


class _Pair(NamedTuple):
    name: str
    """Of the convolution in the body."""
    convolution: Any
    norm: Any

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """All that the folded weights are made of."""
        convolution, norm = self.convolution, self.norm
        return convolution.weight, convolution.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var


class _Activation(nn.Module):
    """What remains of a frozen norm: its activation, and its numbers under their names."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps: float = norm.eps
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


class _Uses(TorchDispatchMode):
    """Every tensor that was an argument, as often as it was one."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[Tensor] = []  # kept alive, so that no two have one id

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.arguments += [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _convolutions_with_norms(body: Any) -> list[tuple[Any, Any]]:
    """Pairs of a convolution and the frozen norm that nothing but reads its map, found on the meta device."""
    norms = [m for m in body.modules() if isinstance(m, (FrozenBatchNorm2d, FrozenBatchNormAct2d))]
    if not norms:
        return []
    maps: list[tuple[Any, Tensor]] = []
    read: list[tuple[Any, Tensor]] = []
    hooks = [m.register_forward_pre_hook(lambda norm, inputs: read.append((norm, inputs[0]))) for m in norms]
    hooks += [
        m.register_forward_hook(lambda convolution, _, output: maps.append((convolution, output)))
        for m in body.modules()
        if isinstance(m, nn.Conv2d)
    ]
    weightless = {name: t.to("meta") for name, t in [*body.named_parameters(), *body.named_buffers()]}
    try:
        with _Uses() as uses:
            images = torch.zeros(1, *body.pretrained_cfg["input_size"], device="meta")
            outputs = functional_call(body, weightless, (images,))
    finally:
        for hook in hooks:
            hook.remove()
    times_used = Counter(map(id, [*uses.arguments, *tree_leaves(outputs)]))
    calls = Counter(module for module, _ in [*maps, *read])
    makers = {id(output): convolution for convolution, output in maps}
    pairs = [(makers[id(given)], norm) for norm, given in read if times_used[id(given)] == 1 and id(given) in makers]
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
