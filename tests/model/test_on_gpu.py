"""Models on a GPU: the kernels and the reference implementation agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rhobench.config import LossConfig
from rhobench.model import MODELS, build_model
from rhobench.model.criterion import losses, weighted_sum
from rhobench.model.matcher import Objects
from rhobench.ops import cuda


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    reason = cuda.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sparse_detr_r50", "deformable_detr_r50"])
def test_kernels_and_reference_agree_in_a_whole_model(name):
    config = replace(MODELS[name], num_classes=5, dropout=0.0)
    images, mask = torch.randn(2, 3, 192, 256, device="cuda"), torch.zeros(2, 192, 256, dtype=torch.bool, device="cuda")
    mask[1, 100:] = True
    objects = [
        Objects(labels=torch.tensor([1, 3], device="cuda"), boxes=torch.rand(2, 4, device="cuda") * 0.3 + 0.2)
        for _ in range(2)
    ]
    found = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        model = build_model(replace(config, attention_backend=backend)).to("cuda").train()
        output = model(images, mask)
        loss = weighted_sum(losses(output, objects, LossConfig(), 4), LossConfig())
        loss.backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        found.append((output.prediction.boxes, loss, torch.stack(norms).norm()))
    for kernels, reference in zip(*found, strict=True):
        torch.testing.assert_close(kernels, reference, atol=1e-3, rtol=1e-3)
