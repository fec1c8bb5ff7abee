"""``rhobench predict`` and ``rhobench cost``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import FAILED, ArtifactArgument, AsJson, report_problems
from rhobench.config.phrases import counted


def predict(
    artifact: ArtifactArgument,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE...", exists=True, help="Image files, and folders of which all images are taken."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the annotated images.")],
    rho: Annotated[float | None, typer.Option(help="Share of the tokens to update. Default: as trained.")] = None,
    threshold: Annotated[float, typer.Option(help="Minimum score of the objects shown.")] = 0.4,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "fp32",
    as_json: AsJson = False,
) -> None:
    """Draw the detections of a model, and the tokens that its encoder updates at each level."""
    from rhobench.inference.predict import FailedImage
    from rhobench.inference.predict import predict as predict_images

    predicted, failed = [], []
    for one in predict_images(artifact, images, out, rho, threshold, precision):
        if isinstance(one, FailedImage):
            failed.append(one.as_dict())
            report_problems([one.reason])
        else:
            predicted.append(one.as_dict())
            objects = counted(len(one.objects), "object")
            print(f"{one.picture}: {objects}, {one.updated:,} of {one.tokens:,} tokens updated")
    if predicted and not any(one["objects"] for one in predicted):
        highest = max(one["highest_score"] for one in predicted)
        report_problems([f"No detection reaches --threshold {threshold:g}; the highest score is {highest:.2f}."])
    if as_json:
        print(json.dumps({"images": predicted, "failed": failed}))
    if failed:
        raise typer.Exit(FAILED)


def cost(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="FAMILY_BACKBONE, such as sparse_detr_r50; any timm backbone."),
    ],
    rho: Annotated[float | None, typer.Option(help="Share of the encoder tokens to update.")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the input in pixels.")] = "800x1066",
    val2017: Annotated[bool, typer.Option("--val2017", help="Average over the image sizes of COCO val2017.")] = False,
    first: Annotated[int | None, typer.Option(metavar="N", help="With --val2017: only its first N images.")] = None,
    count: Annotated[
        str, typer.Option(help="standard (a multiply-add is 2 operations) or official (as published).")
    ] = "standard",
    as_json: AsJson = False,
) -> None:
    """Count the parameters and operations of a model, without weights."""
    from rich.console import Console

    from rhobench.config.model_zoo import find_model

    if first is not None and not val2017:
        raise ValueError("--first limits the images of --val2017: add --val2017.")
    find_model(model)  # raises for an unknown model, before torch is imported
    from rhobench.measure.model_cost import mean_cost, model_cost

    with Console(stderr=True).status(f"counting {model}"):
        counted = mean_cost(model, rho, first, count) if val2017 else model_cost(model, rho, size, count)
    Console(highlight=False).print(counted.card())
    if as_json:
        print(json.dumps(counted.as_dict()))
