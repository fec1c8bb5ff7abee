"""One published table from all sources: counted costs, official weights, the runs of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rhobench.config.published import Ours, Printed, TableSection
from rhobench.experiments import EXPERIMENTS
from rhobench.experiments.published import find_table
from rhobench.results import Store
from rhobench.results.published_runs import PublishedRuns
from rhobench.results.reproduction import Found, ReproducedTable, arithmetic, reproduce_rows

Finder = Callable[[Ours], Found | None]


def reproduce_table(
    name: str,
    *,
    store: Store | None = None,
    weights: Path | None = None,
    data: Path | None = None,
    short_side_px: int | None = None,
    cost_only: bool = False,
    on_progress: Callable[[str], None] = lambda _: None,
    problems: list[str] | None = None,
) -> ReproducedTable:
    """Compare a published table with our own values.

    A row takes the first value that is found: arithmetic or a counted cost, then weights, then runs.

    Args:
        name: name of the table.
        store: store of runs; None: no runs.
        weights: folder with official checkpoints or our own models; None: no weights.
        data: COCO data set of ``weights``.
        short_side_px: length of the shorter side of the images for ``weights``; None: 800, as published.
        cost_only: whether sections that need runs or weights are left out.
        on_progress: called with a description of the current step.
        problems: list that gets one message for each file that could not be used.

    Raises:
        PublishedTableError: there is no such table.
        WeightsError: a file of ``weights`` cannot be read.
        DatasetError: ``data`` is no COCO data set.
    """
    from rhobench.reproduction.cost import COUNTING, CostCounter  # imports torch, which no wrong request waits for

    table, costs = find_table(name), CostCounter(on_progress)
    finders: list[Finder] = [arithmetic, costs.find]
    with ExitStack() as stack:
        folder = None
        if weights is not None and data is not None:
            from rhobench.reproduction.weights import WeightsFolder, open_data, open_weights

            root, split = stack.enter_context(open_data(data))
            files = stack.enter_context(open_weights(weights))
            folder = WeightsFolder(files, root, split, short_side_px=short_side_px, on_progress=on_progress)
            finders.append(folder.find)
        if store is not None:
            finders.append(PublishedRuns(store).find)
        counted = any(_is_counted(section) for section in table.sections)
        same_images = costs.same_images(table)
        done = reproduce_rows(
            name,
            table,
            lambda ours: next(filter(None, (find(ours) for find in finders)), None),
            sections=lambda section: not cost_only or not all(row.needs_runs for row in section.rows),
            same_images=same_images,
            notes=(COUNTING,) if counted or same_images else (),
        )
    if not cost_only:
        done = replace(done, notes=(*_how_to_run(done), *done.notes))
    if problems is not None:
        if folder is not None:
            unused = [each.name for each in folder.files if each.name not in folder.used]
            problems += [f"{file} belongs to no row of {name} and was not evaluated." for file in unused]
        problems += store.problems if store is not None else []
    return done


def _how_to_run(done: ReproducedTable) -> Iterator[str]:
    """Yield a sentence on each experiment that trains a row without a run."""
    rows = (row for section in done.sections for row in section.rows if row.verdict == "not run")
    for name in dict.fromkeys(row.experiment for row in rows if row.experiment is not None):
        experiment = EXPERIMENTS[name]()
        gpu, cpu = f"{experiment.gpu_hours:,.0f} V100 hours", f"{experiment.cpu_hours:g} CPU core hours"
        cost = gpu if experiment.gpu_hours else cpu
        yield f"Not run: `rhobench run {name}`, which --run starts, trains such rows; all its runs take about {cost}."


def _is_counted(section: TableSection) -> bool:
    return any(not row.needs_runs and not isinstance(row.ours, Printed) for row in section.rows)
