"""Cost of a model by name, as ``rhobench cost`` shows it: FLOPs by part, and parameters."""

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
    """An invalid option of ``rhobench cost``."""


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Cost of a model for one image."""

    model: str
    """Name of the model."""
    rho: float | None
    """Share of the encoder tokens that are updated; None: the encoder is dense."""
    cost: FlopCount
    """Operations and parameters."""
    published_gmacs: float
    """10^9 operations by the convention "official", 1 for each multiply-add, as published tables call GFLOPs."""

    def as_dict(self) -> dict[str, Any]:
        """Fields of the ``--json`` output."""
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
            "published_gmacs": self.published_gmacs,
            "parts": cost.parts,
            "own_rules": list(cost.own_rules),
            "tokens": cost.tokens,
            "updated_tokens": cost.updated_tokens,
        }

    def card(self) -> RenderableType:
        """Text and table for the terminal."""
        cost, parameters = self.cost, self.cost.parameters
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("part")
        for name in (_unit(cost.count), "share"):
            table.add_column(name, justify="right")
        for part, gflops in cost.parts.items():
            table.add_row(part, f"{gflops:.3f}", f"{100 * gflops / cost.gflops:.1f} %")
        table.add_section()
        table.add_row("all", f"{cost.gflops:.3f}", "100.0 %", style="bold")
        rules = f" Counted by rules of rhobench: {', '.join(cost.own_rules)}." if cost.own_rules else ""
        return Group(
            f"{self.model}{_rho_suffix(self.rho)} at {cost.height}×{cost.width}: {cost.updated_tokens:,} of "
            f"{cost.tokens:,} tokens updated",
            f"{parameters.total / 1e6:.2f} M parameters, {parameters.trainable / 1e6:.2f} M of them trainable, "
            f"{parameters.encoder_aux / 1e6:.2f} M of these used only by auxiliary losses of the encoder",
            table,
            f"{self.published_gmacs:.3f} GMACs as published: the official code counts 1 for each multiply-add, and its "
            "tables call the result GFLOPs",
            f"{cost.count}: {CONVENTIONS[cost.count].description}{rules}",
        )


@dataclass(frozen=True, kw_only=True)
class MeanCost:
    """Mean cost of a model over images of val2017."""

    model: str
    """Name of the model."""
    rho: float | None
    """Share of the encoder tokens that are updated; None: the encoder is dense."""
    count: str
    """Convention of the count."""
    images: int
    """Number of images."""
    different_sizes: int
    """Number of distinct image sizes."""
    passes: int
    """Counted forward passes; the costs of all other sizes follow from them exactly."""
    gflops: float
    """Mean per image in 10^9 operations."""
    params_m: float
    """Millions of parameters, trainable or not."""

    def as_dict(self) -> dict[str, Any]:
        """Fields of the ``--json`` output, with those of a single image; size and parts are empty."""
        return vars(self) | {"height": None, "width": None, "parts": {}}

    def card(self) -> RenderableType:
        """Text and table for the terminal."""
        return (
            f"{self.model}{_rho_suffix(self.rho)}: {self.gflops:.3f} {_unit(self.count)}, mean of {self.images:,} "
            f"images of val2017 in {self.different_sizes} sizes (exact, from {self.passes} counted passes)\n"
            f"{self.params_m:.2f} M parameters\n"
            f"{self.count}: {CONVENTIONS[self.count].description}"
        )


def model_cost(name: str, rho: float | None, size: str, count: str) -> ModelCost:
    """Count the cost of a model for one image; no weights are needed.

    Args:
        name: name of the model.
        rho: share of the encoder tokens to update; None: that of the model.
        size: image size in pixels as "HEIGHTxWIDTH".
        count: name of the convention.

    Raises:
        ValueError: an argument is invalid.
    """
    config, (height, width) = _model_config(name, rho), parse_size(size)
    model = _build(config)
    cost = count_flops(model, height, width, count=count)
    published = cost if cost.count == "official" else count_flops(model, height, width, count="official")
    return ModelCost(model=name, rho=config.rho, cost=cost, published_gmacs=published.gflops)


def mean_cost(name: str, rho: float | None, first: int | None, count: str) -> MeanCost:
    """Mean cost of a model over val2017, with images resized as in the official evaluation.

    Args:
        name: name of the model.
        rho: share of the encoder tokens to update; None: that of the model.
        first: number of images to average over, from the first; None: all of them.
        count: name of the convention.

    Raises:
        ValueError: an argument is invalid.
    """
    # As the end of a slice, a negative number would drop images from the end instead.
    if first is not None and first < 1:
        raise CostRequestError(f"--first {first} selects no image: it must be at least 1.")
    config, sizes = _model_config(name, rho), val2017_sizes()[:first]
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


def _model_config(name: str, rho: float | None) -> ModelConfig:
    config = find_model(name)
    if rho is None:
        return config
    if config.rho is None:
        raise CostRequestError(f"{name} has no rho, because its encoder updates all tokens: omit --rho.")
    return replace(config, rho=rho)


def _build(config: ModelConfig) -> Detector:
    """Build the model; a backbone without early stages to freeze, such as a ViT, counts as trainable."""
    try:
        return build_model(config)
    except NoEarlyStageError:
        return build_model(replace(config, backbone=replace(config.backbone, frozen="none")))


def parse_size(size: str) -> tuple[int, int]:
    """Height and width from text such as "800x1066"; CostRequestError if it is no size."""
    # × is what ``card`` prints, so its sizes can be pasted.
    sides = re.fullmatch(r"(\d+)[x×](\d+)", size)
    if sides is None:
        raise CostRequestError(f"--size {size!r} is not a size: use HEIGHTxWIDTH in pixels, such as 800x1066.")
    return int(sides[1]), int(sides[2])


def _unit(count: str) -> str:
    """Unit of 10^9 operations of a convention, with what a multiply-add counts."""
    return f"GFLOPs ({CONVENTIONS[count].per_multiply_add} per multiply-add)"


def _rho_suffix(rho: float | None) -> str:
    return "" if rho is None else f" ρ {rho:g}"
