"""Published tables: what was printed, how our own value is found, and which difference counts as a reproduction.

A table is data. The values of rhobench are found elsewhere by the kind of each row: cost models are counted, accuracy
and speed come from the runs of a store or from official weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FIRST_IMAGES = "first100"
"""Value of ``Counted.images``: GFLOPs are the mean over the first 100 images of val2017."""

SAME_SIZE = "800x1066"
"""Size of a 640x480 image after resizing, the most frequent one in val2017."""

CORR = "corr"
"""``Contrast.metric``: share of the decoder's attention that the selected tokens receive at the end of the training."""


FREE_FIELDS = frozenset(
    {"backbone.weights", "backbone.weights_prefix", "backbone.frozen", "num_classes", "attention_backend", "dropout"}
)
"""Fields of ``ModelConfig`` in which a trained model may differ from the named model of a row."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """Arithmetic on published numbers, which needs no model of ours."""

    value: float
    """Result."""
    arithmetic: str
    """How it follows from the published numbers, such as "1 - 113.4 / 184.8"; empty: the row says it."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Cost of one of our models, counted by the official rules."""

    model: str
    """Name of the model, for ``rhobench.config.model_zoo.find_model``."""
    rho: float | None = None
    """Share of the encoder tokens that are updated; None: that of the model."""
    metric: Literal["gflops", "params_m"] = "gflops"
    """GFLOPs per image, or millions of trainable parameters without the auxiliary heads of the encoder."""
    images: str = SAME_SIZE
    """Images of the GFLOPs: HEIGHTxWIDTH or ``FIRST_IMAGES``."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Share of the operations of a dense model that a sparse one saves, in percent."""

    model: str
    """Name of the sparse model."""
    rho: float
    """Share of the encoder tokens that are updated."""
    dense: str
    """Name of the dense model."""
    scope: Literal["model", "encoder", "linear layers"] = "model"
    """What is counted: the whole model; everything in the encoder, with the scoring network; or only the linear layers
    of the encoder, of which the value projection runs on all tokens."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Accuracy of a model that was trained as published, in percent: mean over its runs."""

    model: str
    """Name of the model."""
    rho: float | None = None
    """Share of the encoder tokens that are updated in training and at inference; None: a dense encoder."""
    metric: str = "ap"
    """Name of an accuracy metric."""
    epochs: int = 50
    """Epochs of the training."""
    pretraining: str | None = None
    """Part of the name of the file with the initial weights of the backbone, such as "scrl"; None: ImageNet labels."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``ModelConfig`` that differ from those of the named model, such as ``enc_layers``."""


@dataclass(frozen=True, kw_only=True)
class SpeedRatio:
    """FPS of a model divided by that of a baseline on the same machine by the same protocol."""

    model: str
    """Name of the model."""
    rho: float | None
    """Share of the encoder tokens that are updated; None: a dense encoder."""
    baseline: str
    """Name of the dense model that is divided by."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Difference of two kinds of runs that agree in everything else: the second minus the first, in percent.

    Any experiment in a store can answer it, whatever its data and model.
    """

    first: Mapping[str, Any]
    """Values by column of ``Store.frame()`` of the runs that are compared with."""
    second: Mapping[str, Any]
    """Values by the same columns of the runs that the difference is signed for."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Values by column that both sides have."""
    free: tuple[str, ...] = ()
    """Paths of further fields in which the sides may differ."""
    metric: str = "ap"
    """Name of an accuracy metric, or ``CORR``."""


@dataclass(frozen=True, kw_only=True)
class Referenced:
    """Share of the encoder tokens that the decoder reads, in percent: its attention map is above zero there."""

    model: str
    """Name of the model."""


Ours = Printed | Counted | Saved | Trained | SpeedRatio | Contrast | Referenced
"""How the value that is compared with a published one is found."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One published value and how it is compared."""

    names: tuple[str, ...]
    """What the value is of: one text for each of ``TableSection.columns``."""
    ours: Ours | None
    """How our own value is found; None: rhobench has no such model."""
    published: str | None = None
    """Published number as printed, with its decimals; None: only a direction or a bound was published, or nothing."""
    tolerance: float | None = None
    """Largest absolute difference from ``published`` that counts as reproduced."""
    above: float | None = None
    """With a ``Contrast`` whose numbers were not published: the difference is larger than this."""
    at_least: float | None = None
    """Likewise: it is at least this."""
    experiment: str | None = None
    """Experiment that trains the missing run; None: there is none, or none is needed."""
    gpu_hours: float = 0.0
    """Estimated GPU hours of that run."""
    device: str = ""
    """Device that the published number was measured on; empty: it does not depend on one."""

    def __post_init__(self) -> None:
        assert (self.tolerance is None) or self.published is not None, self.names
        assert sum(each is not None for each in (self.tolerance, self.above, self.at_least)) <= 1, self.names

    @property
    def needs_runs(self) -> bool:
        """Whether our value comes from trained models."""
        return not isinstance(self.ours, Printed | Counted | Saved)


@dataclass(frozen=True, kw_only=True)
class TableSection:
    """Rows of one quantity, or the evidence on one claim."""

    title: str
    """Quantity with its unit, or the claim."""
    columns: tuple[str, ...]
    """Headers of ``TableRow.names``."""
    rows: tuple[TableRow, ...]
    """The rows in the published order."""
    digits: int = 1
    """Decimals of our values."""
    claim: bool = False
    """Whether the rows are evidence on one claim, which is summed up."""
    only_with_runs: bool = False
    """Whether the section is left out as long as none of its rows has a run."""
    notes: tuple[str, ...] = ()
    """Sentences on sources and tolerances."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table, a figure or the claims of a publication."""

    title: str
    """Title for readers."""
    sections: tuple[TableSection, ...]
    """Its quantities."""
    notes: tuple[str, ...] = ()
    """Sentences on sources and contradictions."""

    @property
    def experiments(self) -> dict[str, float]:
        """Experiments that train its rows, with the estimated GPU hours of their rows."""
        rows = {(row.experiment, row.names[:3]): row for section in self.sections for row in section.rows}
        hours: dict[str, float] = {}
        for (name, _), row in rows.items():
            if name is not None:
                hours[name] = hours.get(name, 0.0) + row.gpu_hours
        return hours
