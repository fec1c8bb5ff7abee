"""Folding of frozen batch norms into the preceding convolutions, which saves two passes over every feature map.

A frozen norm is y = x * scale + shift per channel. Scaling the weights of the convolution gives the same result up to
rounding, and gradients flow through the scaling, so that training benefits as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import FrozenBatchNorm2d

from rhobench.model.packing import FoldedPair, can_pack, packed_copy


class FoldedBody:
    """Callable that runs a network with its frozen norms folded into the preceding convolutions.

    Names and values of parameters and buffers in the ``state_dict`` of the network stay the same.
    """

    def __init__(self, body: nn.Module) -> None:
        """Prepare the timm network ``body`` in place; from now on it must be called through this object."""
        self._body = body
        self._pairs: list[FoldedPair] = []
        self._cache: tuple[object, dict[str, Tensor]] | None = None
        self._packed: tuple[dict[str, Tensor], nn.Module] | None = None
        names = {module: name for name, module in body.named_modules()}
        for convolution, norm in _convolutions_with_norms(body):
            if convolution.bias is None:  # functional_call needs a tensor to replace by the shift; it is not saved
                del convolution.bias
                convolution.register_buffer("bias", torch.zeros_like(norm.bias), persistent=False)
            activation = _Activation(norm)
            body.set_submodule(names[norm], activation)
            self._pairs.append(FoldedPair(names[convolution], convolution, names[norm], activation))

    def __call__(self, images: Tensor) -> Any:
        """Return the output of the network for images (B, 3, H, W)."""
        if not self._pairs:
            return self._body(images)
        folded = self._folded_parameters()
        if self._cache is None or self._body.training or not can_pack(images):
            return functional_call(self._body, folded, (images,))
        if self._packed is None or self._packed[0] is not folded:
            self._packed = folded, packed_copy(self._body, self._pairs, folded)
        return self._packed[1](images)

    def __getstate__(self) -> dict[str, Any]:
        """State without the caches, which refer to the tensors of the original: a copy folds its own."""
        return self.__dict__ | {"_cache": None, "_packed": None}

    def _folded_parameters(self) -> dict[str, Tensor]:
        """Folded weights and biases by name; cached without gradient until one of their sources changes."""
        sources = [t for pair in self._pairs for t in pair.sources]
        untracked = torch.compiler.is_exporting() or any(t.is_inference() for t in sources)
        if torch.is_grad_enabled() or untracked:
            # Fused optimisers update parameters without incrementing their version, so a forward pass with gradient,
            # which may be followed by an update, invalidates the cache. Inference tensors have no version at all, and
            # those of an export no address.
            self._cache = self._packed = None
            return self._fold()
        key = [(t.data_ptr(), t._version, t.dtype) for t in sources]
        if self._cache is None or self._cache[0] != key:
            self._cache = key, self._fold()
        return self._cache[1]

    def _fold(self) -> dict[str, Tensor]:
        folded: dict[str, Tensor] = {}
        for name, convolution, _, norm in self._pairs:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            folded[f"{name}.weight"] = convolution.weight * scale[:, None, None, None]
            folded[f"{name}.bias"] = norm.bias + (convolution.bias - norm.running_mean) * scale
        return folded


class _Activation(nn.Module):
    """Replacement of a folded norm: applies its activation, and keeps its buffers under their names."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps: float = norm.eps
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(x))


class _ArgumentRecorder(TorchDispatchMode):
    """Dispatch mode that records every tensor argument of every operation, with repetitions."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[Tensor] = []  # references, so that no id is reused

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.arguments += [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _convolutions_with_norms(body: Any) -> list[tuple[Any, Any]]:
    """Find the pairs of a convolution and a frozen norm that is the only consumer of its output.

    The network is traced once on the meta device. Modules that are called more than once are excluded.
    """
    norms = [m for m in body.modules() if isinstance(m, (FrozenBatchNorm2d, FrozenBatchNormAct2d))]
    if not norms:
        return []
    conv_outputs: list[tuple[Any, Tensor]] = []
    norm_inputs: list[tuple[Any, Tensor]] = []
    hooks = [m.register_forward_pre_hook(lambda norm, inputs: norm_inputs.append((norm, inputs[0]))) for m in norms]
    hooks += [
        m.register_forward_hook(lambda convolution, _, output: conv_outputs.append((convolution, output)))
        for m in body.modules()
        if isinstance(m, nn.Conv2d)
    ]
    weightless = {name: t.to("meta") for name, t in [*body.named_parameters(), *body.named_buffers()]}
    try:
        # Hooks see the calls of modules only; the recorder also sees functions, such as the addition of a residual.
        with _ArgumentRecorder() as recorder:
            images = torch.zeros(1, *body.pretrained_cfg["input_size"], device="meta")
            outputs = functional_call(body, weightless, (images,))
    finally:
        for hook in hooks:
            hook.remove()
    # Being an output of the network counts as a use, because folding changes what the convolution returns.
    use_counts = Counter(map(id, [*recorder.arguments, *tree_leaves(outputs)]))
    calls = Counter(module for module, _ in [*conv_outputs, *norm_inputs])
    producers = {id(output): convolution for convolution, output in conv_outputs}
    pairs = [
        (producers[id(tensor)], norm)
        for norm, tensor in norm_inputs
        if use_counts[id(tensor)] == 1 and id(tensor) in producers
    ]
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
