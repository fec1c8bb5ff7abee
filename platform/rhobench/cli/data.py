"""``rhobench data``: check a data set, or generate one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import FAILED, AsJson, command_group

app = command_group("Check a data set, or generate one.")

SHOWN_PROBLEMS = 100
"""Problems printed as text at most; one mistake in a converter can cause one for every object."""


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with images/ and annotations/.")],
    split: Annotated[list[str] | None, typer.Option(help="Split to check; repeatable. Default: all splits.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Read only image headers, which misses truncated images and duplicates.")
    ] = False,
    num_queries: Annotated[int, typer.Option(help="Object queries of the model (model.num_queries).")] = 300,
    masks: Annotated[
        bool, typer.Option("--masks", help="Also check the segmentation of every object, for model.mask_head.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the annotations and image files of a COCO-format data set before training on it."""
    from rich.console import Console

    from rhobench.data import check_dataset

    found = sorted(p.stem.removeprefix("instances_") for p in folder.glob("annotations/instances_*.json"))
    with Console(stderr=True).status("reading annotations") as status:
        problems = check_dataset(
            folder,
            split or found or ["train"],  # without annotation files, the check reports that of "train" as missing
            depth="headers" if quick else "pixels",
            num_queries=num_queries,
            masks=masks,
            on_progress=lambda done, files: status.update(f"checking images: {done:,} of {files:,}"),
        )
    problems.sort(key=lambda problem: ("error", "warning", "note").index(problem.level))
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"{problem.level}: {problem.message}")
    if len(problems) > SHOWN_PROBLEMS:
        print(f"... and {len(problems) - SHOWN_PROBLEMS:,} more; --json lists all of them")
    counts = {level: sum(problem.level == level for problem in problems) for level in ("error", "warning", "note")}
    summary = ", ".join(f"{count:,} {level}{'' if count == 1 else 's'}" for level, count in counts.items())
    print(f"{folder}: {summary} in {', '.join(split or found) or 'no split'}")
    if as_json:
        totals = {f"{level}s": count for level, count in counts.items()}
        print(json.dumps({**totals, "problems": [vars(problem) for problem in problems]}))
    raise typer.Exit(FAILED if counts["error"] else 0)


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
