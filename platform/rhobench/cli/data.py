"""``rhobench data``: check, show or convert a data set, or generate one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import FAILED, AsJson, command_group
from rhobench.cli.progress import progress
from rhobench.config.phrases import counted

app = command_group("Check, show or convert a data set, or generate one.")

LAYOUTS = "COCO, Roboflow, YOLO, Pascal VOC or CSV"
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help=f"Folder of a data set: {LAYOUTS}.")]
SplitOption = Annotated[list[str] | None, typer.Option(help="Split to read; repeatable. Default: all splits.")]


@app.command("check")
def check(
    folder: FolderArgument,
    split: SplitOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read only image headers, which misses truncated images and duplicates.")
    ] = False,
    num_queries: Annotated[int, typer.Option(help="Object queries of the model (model.num_queries).")] = 300,
    masks: Annotated[
        bool, typer.Option("--masks", help="Also check the segmentation of every object, for model.mask_head.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the annotations and image files of a data set before training on it."""
    from rhobench.data import check_dataset, find_layout

    layout = find_layout(folder)
    splits = split or list(layout.splits)
    with progress("reading annotations") as show:
        problems = check_dataset(
            folder,
            splits,
            depth="headers" if quick else "pixels",
            num_queries=num_queries,
            masks=masks,
            on_progress=lambda done, files: show(f"checking images: {done:,} of {files:,}"),
        )
    problems.sort(key=lambda problem: ("error", "warning", "note").index(problem.level))
    for problem in problems:
        print(f"{problem.level}: {problem.message}")
    counts = {level: sum(problem.level == level for problem in problems) for level in ("error", "warning", "note")}
    summary = ", ".join(counted(count, level) for level, count in counts.items())
    print(f"{folder} ({layout.name}): {summary} in {', '.join(splits)}")
    if as_json:
        totals = {f"{level}s": count for level, count in counts.items()}
        listed = [vars(problem) for problem in problems]
        print(json.dumps({"layout": layout.name, "splits": splits, **totals, "problems": listed}))
    raise typer.Exit(FAILED if counts["error"] else 0)


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help=f"Folder of a data set: {LAYOUTS}.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create, in COCO's layout.")],
    split: SplitOption = None,
    as_json: AsJson = False,
) -> None:
    """Write a data set in COCO's layout, with copies of its images."""
    from rhobench.data import convert_dataset

    layout, counts, notes = convert_dataset(source, out, split)
    for line in notes:
        print(f"note: {line}")
    for name, (images, objects) in counts.items():
        print(f"{name}: {counted(images, 'image')}, {counted(objects, 'object')}")
    print(f"{source} ({layout}) is written to {out}")
    if as_json:
        splits = {name: {"images": images, "objects": objects} for name, (images, objects) in counts.items()}
        print(json.dumps({"layout": layout, "dir": str(out), "splits": splits, "notes": notes}))


@app.command("show")
def show(
    folder: FolderArgument,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("data.html"),
    split: SplitOption = None,
    images: Annotated[int, typer.Option(min=1, help="Images of each split that are drawn.")] = 12,
    rho: Annotated[float, typer.Option(help="Share of tokens that an encoder would update, in (0, 1].")] = 0.3,
    short_side: Annotated[int, typer.Option(min=32, help="Shorter side of an image in the model, in pixels.")] = 800,
    as_json: AsJson = False,
) -> None:
    """Write a page of images with their boxes, sizes, classes and objects, to look at before training."""
    from rhobench.runner.show_data import show_data

    if not 0 < rho <= 1:
        raise ValueError(f"--rho {rho:g} is not allowed: it must be greater than 0 and at most 1.")
    page = show_data(folder, split, out, pictures=images, rho=rho, short_side_px=short_side)
    for line in page.notes:
        print(line)
    print(f"page: {out}")
    if as_json:
        print(json.dumps({"page": str(out), **page.as_dict()}))


@app.command("scenes")
def scenes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to create.")],
    images: Annotated[int, typer.Option(help="Training images; the validation split gets 3 for every 20.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the generator; the same seed gives the same images.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Generate a detection data set with textured backgrounds and occluded objects."""
    from rhobench.config import ScenesConfig
    from rhobench.data import generate_scenes

    config = ScenesConfig(train_images=images, val_images=max(images * 3 // 20, 1), seed=seed)
    generate_scenes(config, folder)
    print(f"{folder}: {config.train_images} training and {config.val_images} validation images of {config.size_px} px")
    if as_json:
        print(json.dumps({"dir": str(folder), "train_images": config.train_images, "val_images": config.val_images}))
