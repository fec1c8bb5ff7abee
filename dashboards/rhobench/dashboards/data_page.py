"""The page of a data set: images with boxes, sizes, classes, objects, and the tokens that boxes cover."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
from PIL import Image
from plotly.offline import get_plotlyjs

from rhobench.config.phrases import counted
from rhobench.dashboards.figures.style import INK, SERIES, canvas
from rhobench.dashboards.markup import escaped, list_card
from rhobench.dashboards.pictures import COLOURS

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$css
.pictures { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.pictures figure { margin: 0; } .pictures svg { width: 100%; height: auto; display: block; border-radius: 8px; }
.pictures figcaption { font-size: 12px; color: var(--muted); overflow-wrap: anywhere; }
.pictures rect { fill: transparent; stroke-width: 2; vector-effect: non-scaling-stroke; }
</style>
<script>$plotly</script>
</head>
<body>
<header><div><h1>$title</h1><p class="sub">$subtitle</p></div></header>
<main>
  <div class="numbers">$numbers</div>
  $notes
  <div class="figures">$figures</div>
  $pictures
</main>
</body>
</html>
""")


@dataclass(frozen=True, kw_only=True)
class Box:
    """One annotated object on a picture."""

    label: int
    """Index of the class, which chooses the colour."""
    name: str
    """Name of the class."""
    corners: tuple[float, ...]
    """x0, y0, x1, y1 in pixels of the picture."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image with its boxes."""

    name: str
    """Name of the file."""
    caption: str
    """Line below the picture."""
    image: Image.Image
    """The image at the size of the page."""
    boxes: Sequence[Box]
    """Annotated objects."""


@dataclass(frozen=True, kw_only=True)
class SplitView:
    """What a split holds; lists are in the order of its images."""

    name: str
    """Name of the split."""
    sizes: Sequence[tuple[int, int]]
    """(width, height) of each image in pixels."""
    objects: Sequence[int]
    """Objects of each image."""
    classes: Mapping[str, int]
    """Objects of each class, by name."""
    object_px: Sequence[float]
    """Square root of the area of each box, in pixels of the model's input."""
    covered: Sequence[float]
    """Share of the tokens of each image whose centre lies in a box."""
    pictures: Sequence[Picture]
    """Images that are drawn."""


@dataclass(frozen=True, kw_only=True)
class DataPage:
    """Content of the page."""

    folder: str
    """Folder of the data set."""
    layout: str
    """Name of its layout."""
    rho: float
    """Share of the tokens that an encoder would update."""
    short_side_px: int
    """Shorter side of an image in the model, in pixels."""
    splits: Sequence[SplitView]
    """The splits."""
    notes: Sequence[str]
    """Warnings and notes of the check."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers of the page as JSON-ready values."""
        return {
            "layout": self.layout,
            "rho": self.rho,
            "splits": {
                split.name: {
                    "images": len(split.sizes),
                    "objects": sum(split.objects),
                    "classes": dict(split.classes),
                    "most_objects": max(split.objects, default=0),
                    "covered_more_than_rho": sum(share > self.rho for share in split.covered),
                }
                for split in self.splits
            },
            "notes": list(self.notes),
        }


def write_data_page(page: DataPage, out: Path) -> Path:
    """Write a self-contained page, which opens offline in any browser, to ``out`` and return ``out``."""
    figures = (_classes(page), _objects(page), _object_sizes(page), _image_sizes(page), _coverage(page))
    text = PAGE.substitute(
        title=escaped(f"Data set {Path(page.folder).name}"),
        subtitle=escaped(f"{page.folder} · layout {page.layout} · shorter side {page.short_side_px} px in the model"),
        css=files("rhobench.dashboards").joinpath("page", "report.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        numbers="".join(_number_card(page, split) for split in page.splits),
        notes=list_card("Warnings and notes", map(escaped, page.notes)),
        figures="".join(_card(figure) for figure in figures),
        pictures="".join(_pictures(split) for split in page.splits),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    return out


def _number_card(page: DataPage, split: SplitView) -> str:
    objects, images = sum(split.objects), len(split.sizes)
    missed = sum(share > page.rho for share in split.covered)
    classes = counted(len(split.classes), "class", "classes")
    details = f"{counted(objects, 'object')} in {classes}, at most {max(split.objects, default=0)} in an image"
    crowded = f"; boxes cover more tokens than rho {page.rho:g} keeps in {counted(missed, 'image')}"
    title = escaped(f"Images in {split.name}")
    return f"<div><span>{title}</span><b>{images:,}</b><small>{escaped(details + crowded)}</small></div>"


def _card(figure: go.Figure) -> str:
    title = figure.layout.title
    head = f"<h2>{escaped(title.text)}</h2><p class='sub'>{escaped(title.subtitle.text)}</p>"
    figure.update_layout(title=None, margin_t=28, height=340)
    plot = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
    return f"<section class='card'>{head}<div class='plot'>{plot}</div></section>"


def _classes(page: DataPage) -> go.Figure:
    figure = canvas("Objects by class", "A class with few objects in training is learned badly")
    for split, colour in zip(page.splits, _colours(page), strict=True):
        figure.add_bar(x=list(split.classes), y=list(split.classes.values()), name=split.name, marker_color=colour)
    return figure.update_layout(barmode="group", yaxis_title="objects")


def _objects(page: DataPage) -> go.Figure:
    figure = canvas("Objects in an image", "model.num_queries must exceed the largest number")
    _histograms(figure, page, [split.objects for split in page.splits])
    return figure.update_layout(xaxis_title="objects in an image", yaxis_title="share of the images, %")


def _object_sizes(page: DataPage) -> go.Figure:
    figure = canvas("Size of the objects", "Square root of the area of a box in the model; below 8 px it is one token")
    _histograms(figure, page, [split.object_px for split in page.splits])
    return figure.update_layout(xaxis_title="pixels of the model's input", yaxis_title="share of the objects, %")


def _image_sizes(page: DataPage) -> go.Figure:
    figure = canvas("Size of the images", "Width and height in pixels of the files")
    for split, colour in zip(page.splits, _colours(page), strict=True):
        counts: dict[tuple[int, int], int] = {}
        for size in split.sizes:
            counts[size] = counts.get(size, 0) + 1
        figure.add_scatter(
            x=[width for width, _ in counts],
            y=[height for _, height in counts],
            text=[f"{split.name}: {counted(number, 'image')}" for number in counts.values()],
            name=split.name,
            mode="markers",
            marker={"color": colour, "size": 9, "opacity": 0.7},
        )
    return figure.update_layout(xaxis_title="width", yaxis_title="height")


def _coverage(page: DataPage) -> go.Figure:
    figure = canvas(
        "Tokens that boxes cover",
        f"Right of the line, rho {page.rho:g} keeps fewer tokens than the boxes of an image have",
    )
    _histograms(figure, page, [[100 * share for share in split.covered] for split in page.splits])
    figure.add_vline(x=100 * page.rho, line={"color": INK, "dash": "dash"})
    return figure.update_layout(
        xaxis_title="share of the tokens with their centre in a box, %", yaxis_title="share of the images, %"
    )


def _histograms(figure: go.Figure, page: DataPage, values: Sequence[Sequence[float]]) -> None:
    for split, colour, numbers in zip(page.splits, _colours(page), values, strict=True):
        figure.add_histogram(x=list(numbers), name=split.name, histnorm="percent", marker_color=colour, opacity=0.7)
    figure.update_layout(barmode="overlay")


def _colours(page: DataPage) -> list[str]:
    return [SERIES[number % len(SERIES)] for number in range(len(page.splits))]


def _pictures(split: SplitView) -> str:
    drawn = "".join(map(_picture, split.pictures))
    head = f"<h2>{escaped(split.name)}: images with their boxes</h2>"
    return f"<section class='card'>{head}<div class='pictures'>{drawn}</div></section>"


def _picture(picture: Picture) -> str:
    """The image with its boxes as vectors, whose class is shown on hovering."""
    stream = io.BytesIO()
    picture.image.save(stream, "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
    width, height = picture.image.size
    boxes = "".join(
        f"<rect x='{x0:.1f}' y='{y0:.1f}' width='{x1 - x0:.1f}' height='{y1 - y0:.1f}' "
        f"stroke='{COLOURS[box.label % len(COLOURS)]}'><title>{escaped(box.name)}</title></rect>"
        for box in picture.boxes
        for x0, y0, x1, y1 in [box.corners]
    )
    names = {box.name: COLOURS[box.label % len(COLOURS)] for box in picture.boxes}
    legend = " ".join(f"<b style='color:{colour}'>{escaped(name)}</b>" for name, colour in names.items())
    label = escaped(f"{picture.name} with {counted(len(picture.boxes), 'box', 'boxes')}")
    return (
        f"<figure><svg viewBox='0 0 {width} {height}' role='img' aria-label='{label}'>"
        f"<image href='{source}' width='{width}' height='{height}'/>{boxes}</svg>"
        f"<figcaption>{escaped(picture.name)}: {escaped(picture.caption)} {legend}</figcaption></figure>"
    )
