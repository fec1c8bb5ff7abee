"""``rhobench predict`` and ``rhobench cost``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import AsJson


def predict(
    artifact: Annotated[Path, typer.Argument(help="A model.safetensors, of a run or of `rhobench weights import`.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the pictures.")],
    rho: Annotated[float | None, typer.Option(help="Share of the tokens to update; as trained without this.")] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score that is shown.")] = 0.4,
    as_json: AsJson = False,
) -> None:
    """Draw what a model finds in images, beside the tokens that its encoder updates at each level."""
    from rhobench.inference.predict import predict as predict_images

    predicted = []
    for one in predict_images(artifact, images, out, rho, threshold):
        predicted.append(one.as_dict())
        print(f"{one.picture}: {len(one.objects)} objects, {one.updated:,} of {one.tokens:,} tokens updated")
    if as_json:
        print(json.dumps({"images": predicted}))


def cost(
    model: Annotated[str, typer.Argument(help="A named model, such as sparse_detr_r50, or FAMILY_ANYTIMMBACKBONE.")],
    rho: Annotated[float | None, typer.Option(help="Share of the encoder tokens to update.")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the image in pixels.")] = "800x1066",
    val2017: Annotated[bool, typer.Option("--val2017", help="The mean over COCO val2017 instead of one size.")] = False,
    first: Annotated[int | None, typer.Option(help="With --val2017: its first so many images.")] = None,
    count: Annotated[str, typer.Option(help="standard: 2 for a multiply-add. official: as published.")] = "standard",
    as_json: AsJson = False,
) -> None:
    """Count parameters and operations of a model. Needs no weights."""
    from rich.console import Console

    from rhobench.measure.model_cost import mean_cost, model_cost

    if first is not None and not val2017:
        raise ValueError("--first chooses among the images of val2017: add --val2017.")
    with Console(stderr=True).status(f"counting {model}"):
        counted = mean_cost(model, rho, first, count) if val2017 else model_cost(model, rho, size, count)
    Console(highlight=False).print(counted.card())
    if as_json:
        print(json.dumps(counted.as_dict()))
