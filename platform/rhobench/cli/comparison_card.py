"""A comparison of two models or configurations for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from rhobench.config.metrics import metric
from rhobench.config.phrases import counted
from rhobench.results import printable
from rhobench.results.comparison import Comparison, describe_difference, describe_p

MAX_CLASSES = 10
"""Classes listed at most: those that differ, by the size of their differences."""


def comparison_card(compared: Comparison) -> Group:
    """Sentences on a comparison, with tables of its metrics and of the classes that differ."""
    sentences = [escape(printable(sentence)) for sentence in compared.sentences()]
    return Group(*sentences, _metrics(compared), *_classes(compared))


def _metrics(compared: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "difference", "p"):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, difference in compared.metrics.items():
        p = describe_p(difference.p)
        table.add_row(metric(name).label, describe_difference(difference, name), p)
    return table


def _classes(compared: Comparison) -> list[Table | str]:
    differing = [name for name, d in compared.classes.items() if d.differs(compared.class_p[name])]
    count = len(compared.classes)
    if not differing:
        return [f"No class is shown to differ in AP ({counted(count, 'class', 'classes')}, Holm)."]
    differing.sort(key=lambda name: -abs(compared.classes[name].value))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class")
    table.add_column("difference in AP", justify="right")
    table.add_column("p (Holm)", justify="right")
    for name in differing[:MAX_CLASSES]:
        cells = describe_difference(compared.classes[name], "ap"), describe_p(compared.class_p[name])
        table.add_row(escape(printable(name)), *cells)
    return [f"{len(differing)} of {count} classes differ:", table]
