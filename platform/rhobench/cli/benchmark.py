"""``rhobench benchmark``: measure a detector of another library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhobench.cli.options import FAILED, AsJson, absolute_place
from rhobench.cli.progress import progress
from rhobench.config.phrases import counted

if TYPE_CHECKING:
    from rhobench.results import Point

SHOWN = ("ap", "ap50", "gflops", "params_m", "latency_ms")
"""Metrics that are printed."""


def benchmark(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", exists=True, help="Folder of transformers, weights of torchvision, or ONNX file."
        ),
    ],
    store: Annotated[str, typer.Option(metavar="DIR|URL", help="Store to record it in, with our runs.")],
    name: Annotated[
        str | None, typer.Option(help="Name in tables and figures. Default: that of the file or folder.")
    ] = None,
    kind: Annotated[str, typer.Option(help="auto, transformers, torchvision or onnx.")] = "auto",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="COCO-format data set. Default: that of the runs in the store.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="With --data: split to evaluate on.")] = "val",
    rho: Annotated[
        list[float] | None, typer.Option(help="Share of the tokens to update, if it is an input; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    engine: Annotated[
        str | None, typer.Option(help="Engine of an ONNX file: onnxruntime (default) or openvino.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a detector of another library: AP, GFLOPs and latency, on one front with our runs."""
    from rhobench.adapters.benchmark import BenchmarkRequest
    from rhobench.adapters.benchmark import benchmark as run_benchmark
    from rhobench.config import DataConfig

    request = BenchmarkRequest(
        path=path,
        kind=kind,
        name=name,
        store=absolute_place(store),
        data=None if data is None else DataConfig(dir=str(data.absolute()), val_split=split),
        device=device,
        engine=engine,
        rhos=tuple(rho or ()),
    )
    with progress() as show:
        record = run_benchmark(request, show)
    foreign = record.foreign
    assert foreign is not None
    print(f"{foreign.name}: {foreign.architecture}, {foreign.kind}, run by {foreign.engine}")
    for point in record.points:
        print(f"  {'' if point.rho is None else f'ρ {point.rho:g}: '}{_values(point)}")
    if foreign.ignored_classes:
        left_out = counted(len(foreign.ignored_classes), "class", "classes")
        print(f"  {left_out} left out, which the data set does not have")
    for note in foreign.notes:
        print(f"  {note}")
    print(f"  recorded as {record.run_id}: `rhobench pareto {store}` shows it beside the others")
    if as_json:
        points = [point.flat() for point in record.points]
        print(json.dumps({"store": request.store, "run_id": record.run_id, "foreign": vars(foreign), "points": points}))
    raise typer.Exit(FAILED if foreign.notes else 0)


def _values(point: Point) -> str:
    """Metrics of a point in one line; null values were not counted or not measured."""
    from rhobench.config.metrics import METRICS

    values = point.flat()
    return ", ".join(
        f"{METRICS[name].title} {'–' if values[name] is None else METRICS[name].format(values[name])}" for name in SHOWN
    )
