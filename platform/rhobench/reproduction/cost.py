"""Our own costs of the models in published tables, by the official rules, on the images of the published values."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from rhobench.config.model_zoo import find_model
from rhobench.config.published import FIRST_IMAGES, SAME_SIZE, Counted, Ours, PublishedTable, Saved, Trained
from rhobench.data.val2017 import val2017_sizes
from rhobench.measure.encoder_cost import linear_layers_saved
from rhobench.measure.flop_rules import OFFICIAL
from rhobench.measure.flops import FlopCount, build_on_meta, count_flops, count_parameters
from rhobench.measure.sizes import SizeCosts
from rhobench.model import Detector
from rhobench.results.reproduction import Found, SameImages

FIRST = 100
"""Number of images that DETR, and following it the official code, averages over."""

BASELINE = "efficient_detr"
"""Model family with a dense encoder that otherwise equals Sparse DETR."""

COUNTING = f"GFLOPs: {OFFICIAL.description}"
"""Sentence on the counting rules."""


class CostCounter:
    """Counts each model once per image size and rho; no weights are needed."""

    def __init__(self, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """
        Args:
            on_progress: called with the name of a model before it is counted, which takes seconds.
        """
        self._on_progress = on_progress
        self._model = cache(self._build)
        self._pass = cache(self._count)
        self._mean = cache(self._count_mean)

    def find(self, ours: Ours) -> Found | None:
        """Our value of a row that is counted; None: the row is of another kind."""
        if isinstance(ours, Counted):
            return Found(value=self._counted(ours), evidence="counted")
        return Found(value=100 * self._saved(ours), evidence="counted") if isinstance(ours, Saved) else None

    def same_images(self, table: PublishedTable) -> SameImages | None:
        """Our GFLOPs of the models of a table on one image size; None: the table has none."""
        rows = [row.ours for section in table.sections for row in section.rows]
        models = dict.fromkeys(
            (ours.model, ours.rho)
            for ours in rows
            if isinstance(ours, Counted) or (isinstance(ours, Trained) and not ours.settings)
        )
        if not models:
            return None
        found = []
        for model, rho in models:
            gflops = self._pass(model, SAME_SIZE, rho).gflops
            dense = self._pass(model.replace("sparse_detr", BASELINE), SAME_SIZE, None).gflops
            found.append((model, rho, (gflops,), None if rho is None else 1 - gflops / dense))
        return SameImages(images=(SAME_SIZE.replace("x", "×"),), rows=tuple(found))

    def _counted(self, row: Counted) -> float:
        if row.metric == "params_m":
            return count_parameters(self._model(row.model)).published / 1e6
        if row.images == FIRST_IMAGES:
            return self._mean(row.model, row.rho)
        return self._pass(row.model, row.images, row.rho).gflops

    def _saved(self, row: Saved) -> float:
        if row.scope == "linear layers":
            return linear_layers_saved(self._model(row.model), row.rho)
        sparse, dense = (self._pass(row.model, SAME_SIZE, row.rho), self._pass(row.dense, SAME_SIZE, None))
        if row.scope == "model":
            return 1 - sparse.gflops / dense.gflops
        # The scoring network runs for the encoder alone.
        own = sparse.parts["encoder"] + sparse.parts.get("scorer", 0.0)
        return 1 - own / dense.parts["encoder"]

    def _build(self, name: str) -> Detector:
        self._on_progress(name)
        return build_on_meta(find_model(name))

    def _count(self, name: str, size: str, rho: float | None) -> FlopCount:
        height, width = map(int, size.split("x"))
        model = self._model(name)
        self._on_progress(name)
        return count_flops(model, height, width, count=OFFICIAL.name, rho=rho)

    def _count_mean(self, name: str, rho: float | None) -> float:
        sizes = val2017_sizes()[:FIRST]
        return SizeCosts(self._model(name), sizes, count=OFFICIAL.name).mean_gflops(sizes, rho)
