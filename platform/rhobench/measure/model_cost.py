"""What a model costs, by its name: for ``rhobench cost``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from rhobench.config import ModelConfig
from rhobench.config.model_zoo import find_model
from rhobench.data.val2017 import val2017_sizes
from rhobench.measure.flop_rules import CONVENTIONS
from rhobench.measure.flops import FlopCount, count_flops, count_parameters
from rhobench.measure.sizes import SizeCosts
from rhobench.model import Detector, build_model
from rhobench.model.backbone import NoEarlyStageError


class CostRequestError(ValueError):
    """A cost that was asked for in a way that cannot be answered."""


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Cost of a model for one image."""

    model: str
    rho: float | None
    cost: FlopCount

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        cost = self.cost
        return {
            "model": self.model,
            "rho": self.rho,
            "height": cost.height,
            "width": cost.width,
            "count": cost.count,
            "params_m": cost.params_m,
            "trainable_params_m": cost.parameters.trainable / 1e6,
            "published_params_m": cost.parameters.published / 1e6,
            "gflops": cost.gflops,
            "parts": cost.parts,
            "own_rules": list(cost.own_rules),
            "tokens": cost.tokens,
            "updated_tokens": cost.updated_tokens,
        }

    def card(self) -> RenderableType:
        """For the terminal."""
        cost, parameters = self.cost, self.cost.parameters
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("part")
        for name in ("GFLOPs", "share"):
            table.add_column(name, justify="right")
        for part, gflops in cost.parts.items():
            table.add_row(part, f"{gflops:.3f}", f"{gflops / cost.gflops:.1%}")
        table.add_section()
        table.add_row("all", f"{cost.gflops:.3f}", "100.0%", style="bold")
        rules = f" Counted by rules of our own: {', '.join(cost.own_rules)}." if cost.own_rules else ""
        return Group(
            f"{self.model}{_rho_suffix(self.rho)} at {cost.height}×{cost.width}: {cost.updated_tokens:,} of {cost.tokens:,} "
            "tokens updated",
            f"{parameters.total / 1e6:.2f} M parameters, {parameters.trainable / 1e6:.2f} M of them trainable, "
            f"{parameters.encoder_aux / 1e6:.2f} M of these for losses on the encoder alone",
            table,
            f"{cost.count}: {CONVENTIONS[cost.count].sentence}{rules}",
        )


@dataclass(frozen=True, kw_only=True)
class MeanCost:
    """Mean cost of a model over images of val2017."""

    model: str
    rho: float | None
    count: str
    images: int
    different_sizes: int
    passes: int
    """That were counted; the other sizes follow from them exactly."""
    gflops: float
    params_m: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``; it has the keys of one image, without a size and without parts."""
        return vars(self) | {"height": None, "width": None, "parts": {}}

    def card(self) -> RenderableType:
        """For the terminal."""
        return (
            f"{self.model}{_rho_suffix(self.rho)}: {self.gflops:.3f} GFLOPs, mean of {self.images:,} images of val2017 in "
            f"{self.different_sizes} sizes (exact, from {self.passes} counted passes)\n"
            f"{self.params_m:.2f} M parameters\n"
            f"{self.count}: {CONVENTIONS[self.count].sentence}"
        )


def model_cost(name: str, rho: float | None, size: str, count: str) -> ModelCost:
    """Cost of the model called ``name`` for an image of ``size`` ("HxW"), freshly built, without weights.

    Raises:
        ValueError: there is no such model, rho, size or convention.
    """
    config, (height, width) = _config(name, rho), _parse_size(size)
    return ModelCost(model=name, rho=config.rho, cost=count_flops(_build(config), height, width, count=count))


def mean_cost(name: str, rho: float | None, first: int | None, count: str) -> MeanCost:
    """Mean cost over the ``first`` images of val2017, resized as in the official evaluation; None: all of them.

    Raises:
        ValueError: there is no such model, rho or convention, or ``first`` is not positive.
    """
    if first is not None and first < 1:
        raise CostRequestError(f"--first {first} leaves no image: give at least 1.")
    config, sizes = _config(name, rho), val2017_sizes()[:first]
    model = _build(config)
    costs = SizeCosts(model, sizes, count=count)
    return MeanCost(
        model=name,
        rho=config.rho,
        count=count,
        images=len(sizes),
        different_sizes=len(set(sizes)),
        gflops=costs.mean_gflops(sizes),
        passes=costs.passes,
        params_m=count_parameters(model).total / 1e6,
    )


def _config(name: str, rho: float | None) -> ModelConfig:
    config = find_model(name)
    if rho is None:
        return config
    if config.rho is None:
        raise CostRequestError(f"{name} has no rho: its encoder updates all tokens. Leave --rho out.")
    return replace(config, rho=rho)


def _build(config: ModelConfig) -> Detector:
    """The model; where no part of its backbone can be frozen, as of a ViT, all of it counts as trainable."""
    try:
        return build_model(config)
    except NoEarlyStageError:
        return build_model(replace(config, backbone=replace(config.backbone, frozen="none")))


def _parse_size(size: str) -> tuple[int, int]:
    sides = re.fullmatch(r"(\d+)[x×](\d+)", size)
    if sides is None:
        raise CostRequestError(f"--size {size!r} is no size: write HEIGHTxWIDTH in pixels, such as 800x1066.")
    return int(sides[1]), int(sides[2])


def _rho_suffix(rho: float | None) -> str:
    return "" if rho is None else f" ρ {rho:g}"
