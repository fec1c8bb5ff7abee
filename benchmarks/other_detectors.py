"""Put our Sparse DETR, an RT-DETR of transformers, an SSD of torchvision and an ONNX export on one front.

    python benchmarks/other_detectors.py STORE [--cpu-seconds 120] [--epochs 2] [--train-only]

Everything is trained on the scenes of `rhobench run demo`, for minutes only: the front shows how detectors get onto it,
not which of them is better. The two foreign detectors are trained here, from scratch and for the same CPU time, and
written as their libraries write them; everything else is a command, which is printed before it is run. With
``--train-only``, the two are trained on the images of a store that is there, into STORE/detectors, and nothing else is
done.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.ops import box_convert

from rhobench.config import DataConfig
from rhobench.config.conversion import from_dict
from rhobench.data import prepare_data
from rhobench.data.coco import CocoDetection
from rhobench.data.transforms import Flip
from rhobench.results import Store

BATCH = 8
RHOS = (0.1, 0.3, 1.0)


def main() -> None:
    """Train, run all commands and print the two fronts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", type=Path, help="folder for the store, the detectors and the report")
    parser.add_argument("--cpu-seconds", type=float, default=120.0, help="CPU time of each foreign training")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of each of our trainings")
    parser.add_argument("--train-only", action="store_true", help="only train the two, on the images of the store")
    options = parser.parse_args()
    torch.manual_seed(0)
    folder = options.store.absolute()
    files = folder / "detectors"
    files.mkdir(parents=True, exist_ok=True)
    if not options.train_only:
        rhos = ",".join(f"{rho:g}" for rho in RHOS)  # of one training, which draws rho in every step
        settings = ("--set", f"measure.rhos={rhos}", "--set", f"train.epochs={options.epochs}")
        rhobench("run", "demo", "--store", folder, *settings)
    images = training_images(Store(folder))
    train_rt_detr(images, options.cpu_seconds, files / "rt-detr")
    train_ssd(images, options.cpu_seconds, files / "ssdlite.pth")
    if not options.train_only:
        measure(folder, files)


def measure(folder: Path, files: Path) -> None:
    """Export one of our models, measure the three, and print the fronts."""
    own = next(folder.glob("runs/demo-seed0-*")) / "model.safetensors"
    rhos = [word for rho in RHOS for word in ("--rho", f"{rho:g}")]
    rhobench("weights", "onnx", own, "--out", files / "sparse-detr.onnx", *rhos)
    rhobench("benchmark", files / "rt-detr", "--store", folder)
    rhobench("benchmark", files / "ssdlite.pth", "--store", folder)
    rhobench("benchmark", files / "sparse-detr.onnx", "--store", folder, "--name", "onnxruntime")
    rhobench("benchmark", files / "sparse-detr.onnx", "--store", folder, "--name", "openvino", "--engine", "openvino")
    for x in ("gflops", "latency_ms"):
        rhobench("pareto", folder, "--x", x)
    rhobench("report", folder, "--out", folder / "report.html")


def rhobench(*words: object) -> None:
    """Print and run a command."""
    arguments = [str(word) for word in words]
    print(f"\n$ rhobench {shlex.join(arguments)}", flush=True)
    subprocess.run([str(Path(sys.executable).with_name("rhobench")), *arguments], check=True)


def training_images(store: Store) -> CocoDetection:
    """Training images of the runs in a store, with pixels in [0, 1], because both libraries normalise by themselves."""
    data = from_dict(DataConfig, store.records()[0].config["data"])
    data = replace(data, pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
    return CocoDetection(data, prepare_data(data), ("train",), train=True)


def batches(images: CocoDetection, cpu_seconds: float) -> Iterator[list[Any]]:
    """Batches of random samples until the CPU time is used up."""
    end = time.process_time() + cpu_seconds
    while time.process_time() < end:
        yield [images[int(i), Flip.NONE] for i in torch.randint(len(images), (BATCH,))]


def fit(name: str, model: nn.Module, losses: Iterator[Tensor]) -> None:
    """Minimise the losses that ``model`` returns for its batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-4)
    history = []
    for loss in losses:
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    print(f"\n{name}: {len(history)} steps, loss {history[0]:.2f} to {history[-1]:.2f}", flush=True)


def train_rt_detr(images: CocoDetection, cpu_seconds: float, out: Path) -> None:
    """Train a small RT-DETR and write it by ``save_pretrained``."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

    names = dict(enumerate(images.categories.names))
    backbone = RTDetrResNetConfig(
        embedding_size=32,  # that of the first stage, whose shortcut would otherwise halve the map
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        id2label=names,
        label2id={name: label for label, name in names.items()},
        encoder_hidden_dim=64,
        encoder_in_channels=[64, 96, 128],
        encoder_ffn_dim=128,
        encoder_attention_heads=4,
        d_model=64,
        num_queries=50,
        num_denoising=0,
        decoder_in_channels=[64, 64, 64],
        decoder_ffn_dim=128,
        decoder_attention_heads=4,
        decoder_layers=2,
        hidden_expansion=0.5,
    )
    model = RTDetrForObjectDetection(config).train()

    def losses() -> Iterator[Tensor]:
        for samples in batches(images, cpu_seconds):
            labels = [{"class_labels": s.target.labels, "boxes": s.target.boxes} for s in samples]
            yield model(pixel_values=torch.stack([s.image for s in samples]), labels=labels).loss

    fit("rt-detr", model, losses())
    model.save_pretrained(out)
    RTDetrImageProcessor(
        size=dict(zip(("height", "width"), images[0, Flip.NONE].image.shape[1:], strict=True))
    ).save_pretrained(out)


def _sides(image: Tensor) -> Tensor:
    """Width, height, width and height of an image (3, H, W) in pixels."""
    height, width = image.shape[1:]
    return torch.tensor([width, height, width, height])


def train_ssd(images: CocoDetection, cpu_seconds: float, out: Path) -> None:
    """Train an SSDlite of torchvision and write its weights with their description."""
    classes = ["__background__", *images.categories.names]
    described = {
        "model": "ssdlite320_mobilenet_v3_large",
        "arguments": {"num_classes": len(classes)},
        "classes": classes,
    }
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(classes))
    model.train()

    def losses() -> Iterator[Tensor]:
        for samples in batches(images, cpu_seconds):
            targets = [
                {
                    "boxes": box_convert(s.target.boxes, "cxcywh", "xyxy") * _sides(s.image),
                    "labels": s.target.labels + 1,
                }
                for s in samples
            ]
            yield sum(model([s.image for s in samples], targets).values(), start=torch.tensor(0.0))

    fit("ssdlite", model, losses())
    torch.save(model.state_dict(), out)
    out.with_suffix(".json").write_text(json.dumps(described, indent=1))


if __name__ == "__main__":
    main()
