"""Data of a published table compared with our own values, with a verdict for every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rhobench.config.published import Ours, Printed, PublishedTable, TableRow, TableSection

Verdict = Literal["match", "off", "within noise", "not comparable: device", "not comparable: data", "not run"]
"""match: within the tolerance, or on the published side of a bound. within noise: outside, but the interval of our
value does not exclude the published one. off: neither. not comparable: our value is of another device or of other data.
not run: rhobench has no value."""

Evidence = Literal["printed", "counted", "runs", "weights"]
"""Where our value comes from: arithmetic on published numbers, the counter, runs of a store, or official weights."""

CLAIM_WORDS = {"match": "supports it", "off": "contradicts it", "within noise": "undecided"}
"""What a verdict on a piece of evidence says about its claim."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Our own value of a row."""

    value: float
    """The value in the unit of the row."""
    evidence: Evidence
    """Where it comes from."""
    low: float | None = None
    """Lower end of its 95 % interval; None: the value is exact, or the interval is unknown."""
    high: float | None = None
    """Upper end."""
    runs: tuple[str, ...] = ()
    """Ids of the runs, or names of the weights, behind it."""
    not_comparable: Literal["device", "data"] | None = None
    """Why it must not be judged; None: it may."""
    detail: str = ""
    """How it was found, in words: arithmetic, device or data."""

    @property
    def exact(self) -> bool:
        """Whether it has no noise."""
        return self.evidence in ("printed", "counted")


@dataclass(frozen=True, kw_only=True)
class ReproducedRow:
    """A published value and our own."""

    names: tuple[str, ...]
    """What the value is of."""
    published: str | None
    """Published value or bound as printed; None: nothing was published."""
    found: Found | None
    """Our value; None: there is none."""
    difference: float | None
    """Our value minus the published one; None without a published number or without our value."""
    tolerance: float | None
    """Largest absolute difference that counts as reproduced."""
    verdict: Verdict | None
    """The verdict; None: nothing was published to compare with."""
    experiment: str | None
    """Experiment that trains the missing run."""
    gpu_hours: float
    """Estimated GPU hours of that run."""
    device: str
    """Device that the published number was measured on."""


@dataclass(frozen=True, kw_only=True)
class ReproducedSection:
    """Rows of one quantity, or the evidence on one claim."""

    title: str
    """Quantity with its unit, or the claim."""
    columns: tuple[str, ...]
    """Headers of ``ReproducedRow.names``."""
    rows: tuple[ReproducedRow, ...]
    """Rows in the published order."""
    digits: int
    """Decimals of our values."""
    conclusion: str | None
    """What the evidence says about a claim; None: the section is no claim."""

    @property
    def has_runs(self) -> bool:
        """Whether a value comes from runs or weights."""
        return any(row.found is not None and not row.found.exact for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class SameImages:
    """Our GFLOPs of the models of a table on the same images."""

    images: tuple[str, ...]
    """Headers of the columns of ``rows``: a size, or a mean over images."""
    rows: tuple[tuple[str, float | None, tuple[float, ...], float | None], ...]
    """Model, rho, GFLOPs for each of ``images``, and the share that is saved against the dense encoder or None."""


@dataclass(frozen=True, kw_only=True)
class ReproducedTable:
    """A published table compared with our own values."""

    table: str
    """Name of the table on the command line."""
    title: str
    """Title for readers."""
    sections: tuple[ReproducedSection, ...]
    """Its quantities."""
    same_images: SameImages | None = None
    """Our cost of its models; None: it was not counted."""
    notes: tuple[str, ...] = field(default=())
    """Sentences on sources, counting rules and tolerances."""

    @property
    def reproduced(self) -> bool:
        """Whether none of our own values is off."""
        return not any(
            row.verdict == "off" and row.found is not None and row.found.evidence != "printed"
            for section in self.sections
            if section.conclusion is None  # contradicted claims are a finding, not a failure
            for row in section.rows
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary of all fields with the verdicts."""
        return asdict(self) | {"reproduced": self.reproduced}


def arithmetic(ours: Ours) -> Found | None:
    """Our value of a row that follows from published numbers."""
    if not isinstance(ours, Printed):
        return None
    return Found(value=ours.value, evidence="printed", detail=ours.arithmetic)


def reproduce_rows(
    name: str,
    table: PublishedTable,
    find: Callable[[Ours], Found | None],
    *,
    sections: Callable[[TableSection], bool] = lambda section: True,
    same_images: SameImages | None = None,
    notes: tuple[str, ...] = (),
) -> ReproducedTable:
    """Compare every row of a published table with our own value.

    Args:
        name: name of the table on the command line.
        table: the published table.
        find: function that finds our value; None: there is none.
        sections: which sections are compared.
        same_images: our cost of its models.
        notes: sentences that precede those of the table.
    """
    wanted = [section for section in table.sections if sections(section)]
    compared = [(section, _section(section, find)) for section in wanted]
    shown = [(section, ours) for section, ours in compared if not section.only_with_runs or ours.has_runs]
    own = (note for section, _ in shown for note in section.notes)
    return ReproducedTable(
        table=name,
        title=table.title,
        sections=tuple(ours for _, ours in shown),
        same_images=same_images,
        notes=tuple(dict.fromkeys((*notes, *own, *table.notes))),
    )


def _section(section: TableSection, find: Callable[[Ours], Found | None]) -> ReproducedSection:
    rows = tuple(_row(row, find(row.ours) if row.ours is not None else None) for row in section.rows)
    return ReproducedSection(
        title=section.title,
        columns=section.columns,
        rows=rows,
        digits=section.digits,
        conclusion=_conclusion(rows) if section.claim else None,
    )


def _row(row: TableRow, found: Found | None) -> ReproducedRow:
    difference = found.value - float(row.published) if row.published is not None and found is not None else None
    return ReproducedRow(
        names=row.names,
        published=_published(row),
        found=found,
        difference=difference,
        tolerance=row.tolerance,
        verdict=judge(row, found),
        experiment=row.experiment,
        gpu_hours=row.gpu_hours,
        device=row.device,
    )


def _published(row: TableRow) -> str | None:
    if row.above is not None:
        return f"> {row.above:g}"
    if row.at_least is not None:
        return f"≥ {round(row.at_least, 6) + 0.0:g}".replace("-", "−")
    return row.published


def judge(row: TableRow, found: Found | None) -> Verdict | None:
    """Verdict on our value of a row; None: nothing was published to compare with."""
    if found is None:
        return "not run"
    if row.tolerance is None and row.above is None and row.at_least is None:
        return None
    if found.not_comparable == "device":
        return "not comparable: device"
    if found.not_comparable == "data":
        return "not comparable: data"
    if row.tolerance is not None and row.published is not None:
        published = float(row.published)
        if abs(found.value - published) <= row.tolerance:
            return "match"
        inside = found.low is not None and found.high is not None and found.low <= published <= found.high
        return "within noise" if inside else "off"
    return _judge_bound(row, found)


def _judge_bound(row: TableRow, found: Found) -> Verdict:
    """A bound is met if the whole interval lies on its side; without an interval nothing can be said about runs."""
    bound = row.above if row.above is not None else row.at_least
    assert bound is not None
    low, high = (found.value, found.value) if found.exact else (found.low, found.high)
    if low is None or high is None:
        return "within noise"
    if low > bound or (row.above is None and low == bound):
        return "match"
    return "off" if high < bound or (row.above is not None and found.exact) else "within noise"


def _conclusion(rows: tuple[ReproducedRow, ...]) -> str:
    """Such as "printed: 2 support it, 4 contradict it; runs: 3 not run"."""
    kinds: dict[str, Counter[str]] = {}
    for row in rows:
        kinds.setdefault(row.names[0], Counter())[row.verdict or "not run"] += 1
    parts = []
    for kind, counts in kinds.items():
        words = [f"{count} {_agree(CLAIM_WORDS.get(verdict, verdict), count)}" for verdict, count in counts.items()]
        parts.append(f"{kind}: {', '.join(words)}")
    return "; ".join(parts)


def _agree(words: str, count: int) -> str:
    """A verb that agrees with its number."""
    return words if count == 1 else words.replace("supports", "support").replace("contradicts", "contradict")
