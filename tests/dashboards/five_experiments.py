"""A store of five experiments with several seeds, as a group of people has after a few months."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, with_values
from rhobench.results import Point, Record, Store, write_record

PARTS = {"backbone": 0.35, "projections": 0.05, "scorer": 0.01, "encoder": 0.4, "decoder": 0.15, "heads": 0.04}
CLASSES = ("disc", "square", "triangle", "star", "cross", "ring")


def five_experiments(folder: Path) -> Store:
    """Write the records of 61 runs with made-up numbers that follow the settings."""
    store, draw = Store(folder), random.Random(1)
    for seed in (0, 1, 2):
        for rho in (0.1, 0.2, 0.3, 0.4, 0.5, 1.0, None):
            _add(store, draw, "rho_sweep", seed, (rho,), {"model.rho": rho})
    for rho in (0.1, 0.2, 0.3, 0.5):
        rhos = (0.1, 0.2, 0.3, 0.5)
        _add(store, draw, "rho_map", 0, rhos, {"model.rho": rho, "measure.rhos": rhos})
    for seed in (0, 1):
        for layers in (2, 3, 4, 6):
            for aux in (True, False):
                settings = {"model.rho": 0.3, "model.enc_layers": layers, "model.use_enc_aux_loss": aux}
                _add(store, draw, "encoder_depth", seed, (0.3,), settings)
    for scoring in ("dam", "objectness", "random"):
        for rho in (0.1, 0.2, 0.3, 0.5):
            _add(store, draw, "scoring", 0, (rho,), {"model.rho": rho, "model.scoring": scoring})
    for backbone in ("resnet50", "swin_tiny_patch4_window7_224"):
        for queries in (100, 300):
            for lr in (1e-4, 2e-4):
                settings = {"model.backbone.name": backbone, "model.num_queries": queries, "train.lr": lr}
                _add(store, draw, "backbones", 0, (0.3,), settings | {"model.rho": 0.3})
    return store


def _add(
    store: Store,
    draw: random.Random,
    experiment: str,
    seed: int,
    rhos: tuple[float | None, ...],
    settings: dict[str, Any],
) -> None:
    config = with_values(RunConfig(experiment=experiment, seed=seed), settings)
    name = run_id(config, tuple(settings))
    record = Record(
        run_id=name,
        experiment=experiment,
        status="completed",
        config=to_dict(config),
        environment={"packages": {"torch": "2.14"}},
        history=[
            {"epoch": e, "loss": 12 / e, "ap": 0.45 * (1 - 2.0**-e), "corr_mask_attn_map_dec_all": 0.3 + 0.05 * e}
            for e in range(1, 9)
        ],
        points=[_point(draw, config, rho) for rho in rhos],
        protocols={"latency-v1": "One call, image decoding not included."},
        cost={"train_seconds": 1000 + 500 * draw.random()},
    )
    write_record(store.run_dir(name), record)


def _point(draw: random.Random, config: RunConfig, rho: float | None) -> Point:
    share = 1.2 if rho is None else rho
    gflops = 100 + 120 * share * config.model.enc_layers / 6
    ms = 20 + 22 * share + draw.gauss(0, 0.7)
    ap = 0.46 - 0.15 * max(0, 0.5 - share) ** 1.5 - 0.02 * (6 - config.model.enc_layers) / 6 + draw.gauss(0, 0.002)
    ap -= {"random": 0.03, "objectness": 0.015}.get(config.model.scoring, 0) * (1 - share)
    ap += 0.02 * config.model.backbone.name.startswith("swin") + 0.01 * config.model.use_enc_aux_loss
    return Point(
        rho=rho,
        protocol="latency-v1",
        device="a CPU",
        backend="cpu",
        threads=2,
        batch_size=1,
        precision="fp32",
        height=800,
        width=1066,
        accuracy={"ap": ap, "ap50": 1.4 * ap, "ap75": 1.05 * ap, "ap_s": 0.6 * ap, "ap_m": 1.04 * ap, "ap_l": 1.3 * ap},
        ap_by_class={name: ap + draw.gauss(0, 0.05) for name in CLASSES},
        gflops=gflops,
        flops_count="standard",
        gflops_by_part={part: gflops * weight for part, weight in PARTS.items()},
        ms_by_part={part: 30 * weight for part, weight in PARTS.items()},
        params_m=40.9,
        latency_ms=ms,
        latency_p10_ms=0.95 * ms,
        latency_p90_ms=1.12 * ms,
        latency_samples=60,
        fps=1000 / ms,
        busy_cores=0.05,
    )
