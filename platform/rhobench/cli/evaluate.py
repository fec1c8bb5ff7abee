"""``rhobench evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhobench.cli.options import ArtifactArgument, AsJson
from rhobench.cli.progress import progress
from rhobench.config.phrases import counted

if TYPE_CHECKING:
    from rich.table import Table

    from rhobench.inference.evaluate import ArtifactEvaluation


def evaluate(
    artifact: ArtifactArgument,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR", exists=True, file_okay=False, help="Data set: COCO, Roboflow, YOLO, Pascal VOC or CSV."
        ),
    ],
    split: Annotated[str | None, typer.Option(help="Split. Default: the validation split of the training.")] = None,
    rho: Annotated[float | None, typer.Option(help="Share of the tokens to update. Default: as trained.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the detections as COCO results.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on a data set: all COCO numbers, by class and size, with 95 % intervals over images."""
    from rich.console import Console

    from rhobench.inference.evaluate import evaluate_artifact

    with progress("evaluating") as show:
        done = evaluate_artifact(
            artifact, data, split, rho, lambda finished, total: show(f"evaluating: {finished:,} of {total:,} images")
        )
    console = Console(highlight=False)
    for note in done.notes:
        print(note, file=sys.stderr)
    share = "dense encoder" if done.rho is None else f"ρ {done.rho:g}"
    images, detections = counted(done.num_images, "image"), counted(len(done.detections), "detection")
    print(f"{data}, split {done.split}: {images}, {share}, {detections}")
    console.print(_stats(done))
    console.print(_classes(done))
    if out is not None:
        done.write_detections(out)
        print(out)
    if as_json:
        print(json.dumps(done.as_dict()))


def _stats(done: ArtifactEvaluation) -> Table:
    from rich import box
    from rich.table import Table

    from rhobench.config.metrics import METRICS
    from rhobench.inference.evaluate import STATS, value_text

    by_place = {(m.coco.iou_type, m.coco.index): m.name for m in METRICS.values() if m.coco}
    known = any(end is not None for end in done.bounds.values())
    caption = "in brackets: 95 % over images" if known else "no intervals: one image"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("")
    kinds = done.accuracy.stats
    for kind in kinds:
        table.add_column("masks" if kind == "segm" else "boxes", justify="right")
    values = done.accuracy.metrics | done.bounds
    for index, label in enumerate(STATS):
        cells = []
        for kind, stats in kinds.items():
            name = by_place.get((kind, index))
            cells.append(METRICS["ap"].format(stats[index]) if name is None else value_text(name, values))
        table.add_row(label, *cells)
    return table


def _classes(done: ArtifactEvaluation) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from rhobench.config.metrics import METRICS
    from rhobench.inference.evaluate import SIZES, value_text
    from rhobench.results import printable

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("class", overflow="fold")
    for name in SIZES:
        table.add_column(METRICS[name].label, justify="right", no_wrap=True)
    for name, values in done.classes.items():
        others = [METRICS[size].format(values[size]) for size in SIZES if size != "ap"]
        table.add_row(escape(printable(name)), value_text("ap", values), *others)
    return table
